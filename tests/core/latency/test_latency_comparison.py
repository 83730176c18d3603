"""What a comparison of two networks says in words."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_dwsconv.core.latency.comparison import (
    Comparison,
    Conditions,
    MemoryFormat,
    Runtime,
)
from pytest_dwsconv.errors import InputError


@pytest.mark.parametrize(
    ("ratio", "low", "high", "said"),
    [
        (2.0, 1.6, 2.5, "2x faster (1.60 to 2.50x; "),
        (0.5, 0.4, 0.625, "2x slower (1.60 to 2.50x; "),
        (1.0, 0.95, 1.05, "no difference (0.95 to 1.05x; "),
    ],
)
def test_the_interval_contains_the_ratio_that_is_said(
    ratio: float, low: float, high: float, said: str
) -> None:
    found = Comparison(2 * ratio, 2.0, ratio, low, high, 0.05, 20, Conditions(1), 1)
    assert str(found).startswith(said)


def test_conditions_that_are_given_as_words_are_those_that_they_name() -> None:
    given: Any = {"memory_format": "channels_last", "runtime": "torch.compile"}
    found = Conditions(1, **given)
    assert found.memory_format is MemoryFormat.CHANNELS_LAST
    assert found.runtime is Runtime.COMPILED


@pytest.mark.parametrize("given", [{"memory_format": "chanels_last"}, {"runtime": "cpu"}])
def test_other_words_are_refused(given: Any) -> None:
    with pytest.raises(InputError, match=r"is one of .*, not '"):
        Conditions(1, **given)
