"""Numbers as people and programs give them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytest_dwsconv.core.quantities import is_whole, whole_number
from pytest_dwsconv.errors import InputError


@pytest.mark.parametrize("value", [True, 1.0, "1", None, np.int64(1), -1])
def test_what_is_not_a_whole_number_from_0(value: object) -> None:
    assert not is_whole(value, 0)


@pytest.mark.parametrize("value", [0, 1, 10**400])
def test_what_is_a_whole_number_from_0(value: object) -> None:
    assert is_whole(value, 0)


def test_a_whole_number_of_numpy_becomes_an_int() -> None:
    assert type(whole_number("steps", np.int64(7))) is int


@pytest.mark.parametrize("value", [True, 1.0, "1", None, np.float64(1), 0, [1]])
def test_an_argument_that_is_not_a_whole_number_is_named(value: Any) -> None:
    with pytest.raises(InputError) as error:
        whole_number("steps", value)
    assert str(error.value) == f"steps must be a whole number from 1, not {value!r}"
