"""The choice of one option per layer, against trying all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from pytest_dwsconv.fit.allocation import Amounts, Limited, least_loss


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choice_within_the_limits_loses_less(seed: int) -> None:
    random = np.random.default_rng(seed)
    losses = [[0.0, *random.random(3)] for _ in range(4)]
    amounts = [[[4.0, *random.integers(1, 4, 3)] for _ in range(4)] for _ in range(2)]
    limits = [Limited(amounts[0], 11), Limited(amounts[1], 12)]

    def keeps(places: tuple[int, ...]) -> bool:
        return all(_total(limit.amounts, places) <= limit.limit for limit in limits)

    best = min(filter(keeps, product(range(4), repeat=4)), key=lambda p: _total(losses, p))
    found = least_loss(losses, limits)
    assert found is not None
    assert keeps(tuple(found))
    assert _total(losses, found) == pytest.approx(_total(losses, best))


def test_a_limit_of_billions_is_kept_to_the_last_one() -> None:
    losses = [
        [0.0, 0.06147969, 5.697359e-07, 0.61871923, 1.427672e-04, 5.545029e-07],
        [0.0, 4.610793e-06, 1.886960e-03, 3.665115e-04, 0.01750039, 0.03840835],
        [0.0, 8.997508e-12, 0.19761636, 4.822747e-04, 2.476277e-06, 0.09137257],
    ]
    amounts = [
        [1_000_000_000, 279_842_645, 838_171_884, 913_394_222, 487_961_689, 536_812_253],
        [1_000_000_000, 601_048_054, 200_572_702, 725_275_906, 169_883_563, 566_744_385],
        [1_000_000_000, 990_730_506, 945_842_581, 69_836_382, 838_580_440, 281_914_885],
    ]
    found = least_loss(losses, [Limited(amounts, 1_976_440_746)])
    assert found is not None
    assert _total(amounts, found) <= 1_976_440_746


def test_a_limit_that_no_choice_keeps_has_none() -> None:
    assert least_loss([[0.0, 1.0]], [Limited([[3.0, 2.0]], 1)]) is None


def test_layers_may_have_different_numbers_of_options() -> None:
    assert least_loss([[0.0], [0.0, 1.0, 2.0]], [Limited([[5.0], [5.0, 3.0, 1.0]], 8)]) == [0, 1]


def _total(amounts: Amounts, places: Sequence[int]) -> float:
    return sum(row[place] for row, place in zip(amounts, places, strict=True))
