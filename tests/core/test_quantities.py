"""Numbers as people and programs give them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dwsconv.core.quantities import (
    Unit,
    digits_telling,
    humanize,
    is_whole,
    parse_quantity,
    rounded_up,
    whole_number,
)
from pytest_dwsconv.errors import FormatError, InputError


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


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("4.2M", Unit.COUNT, 4_200_000),
        ("600k", Unit.COUNT, 600_000),
        ("1.2G", Unit.COUNT, 1_200_000_000),
        ("5_000_000", Unit.COUNT, 5_000_000),
        (" 5 m ", Unit.COUNT, 5_000_000),
        ("0", Unit.COUNT, 0),
        (7, Unit.COUNT, 7),
        (2.5, Unit.COUNT, 2.5),
        ("7.6MiB", Unit.BYTES, 7.6 * 1024**2),
        ("2KiB", Unit.BYTES, 2048),
        ("500kB", Unit.BYTES, 500_000),
        ("1GB", Unit.BYTES, 10**9),
        ("12", Unit.BYTES, 12),
        ("5ms", Unit.SECONDS, 0.005),
        ("12us", Unit.SECONDS, 12e-6),
        ("1s", Unit.SECONDS, 1),
    ],
)
def test_quantities(text: object, unit: Unit, value: float) -> None:
    assert parse_quantity(text, unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["5Q", "-3", "", "nan", True, math.nan, math.inf, -1, None, "1e6", "5 5", "M", "5__0"]
)
def test_what_is_no_count(text: object) -> None:
    with pytest.raises(FormatError) as error:
        parse_quantity(text)
    assert str(error.value) == (
        f"{text!r} is not a quantity: write a number from 0, with k, M or G if wanted, as in 600k "
        "or 4.2M"
    )


@pytest.mark.parametrize(
    ("text", "unit", "accepted"),
    [
        ("5M", Unit.BYTES, "B, kB, MB, GB, KiB, MiB or GiB"),
        ("5", Unit.SECONDS, "us, ms or s"),
        ("5MB", Unit.SECONDS, "us, ms or s"),
    ],
)
def test_a_suffix_of_another_unit_is_refused(text: str, unit: Unit, accepted: str) -> None:
    with pytest.raises(FormatError, match=accepted):
        parse_quantity(text, unit)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (5_210_000, Unit.COUNT, "5.21M"),
        (5_000_000, Unit.COUNT, "5M"),
        (999_999, Unit.COUNT, "1M"),
        (999, Unit.COUNT, "999"),
        (0, Unit.COUNT, "0"),
        (1_820_000_000, Unit.COUNT, "1.82G"),
        (7.6 * 1024**2, Unit.BINARY_BYTES, "7.6MiB"),
        (46_758_048, Unit.BYTES, "46.76MB"),
        (0.0123, Unit.SECONDS, "12.3ms"),
    ],
)
def test_humanize(value: float, unit: Unit, text: str) -> None:
    assert humanize(value, unit) == text


@given(st.integers(0, 10**15))
def test_what_humanize_writes_can_be_read(value: int) -> None:
    assert parse_quantity(humanize(value)) == pytest.approx(value, rel=0.006)


@pytest.mark.parametrize(
    ("value", "number"), [(np.float64(5e6), 5e6), (np.int64(7), 7), (np.float32(0.5), 0.5)]
)
def test_numbers_of_numpy_become_pythons(value: object, number: float) -> None:
    read = parse_quantity(value)
    assert (read, type(read)) == (number, type(number))
    with pytest.raises(FormatError):
        parse_quantity(-value)  # type: ignore[operator]  # a number of NumPy


ENORMOUS: dict[str, Any] = {
    "301 digits": "9" * 301,
    "5000 digits": "9" * 5000,
    "a suffix too many": "9" * 300 + "k",
    "an int of 401 digits": 10**400,
    "an int of 5001 digits": 10**5000,
    "a float": 1e301,
}


@pytest.mark.parametrize("value", ENORMOUS.values(), ids=ENORMOUS.keys())
def test_a_number_that_no_float_can_be_reckoned_with_is_not_a_quantity(value: Any) -> None:
    with pytest.raises(FormatError, match=r"is not a quantity: it is above 10\^300"):
        parse_quantity(value)


def test_the_largest_quantity_can_be_written() -> None:
    assert humanize(parse_quantity("9" * 300)).endswith("G")


@pytest.mark.parametrize(
    ("value", "limit", "digits"),
    [(5.0, 5.004, 3), (5_210_000, 5_209_999, 6), (7, 8, 2), (1, 1 + 1e-16, 15), (0.1, 0.3, 2)],
)
def test_digits_tell_a_value_from_its_limit(value: float, limit: float, digits: int) -> None:
    assert digits_telling(value, limit, Unit.COUNT) == digits


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (0, Unit.COUNT, "0"),
        (47, Unit.COUNT, "47"),
        (1000.5, Unit.COUNT, "1.1k"),
        (123_456, Unit.COUNT, "124k"),
        (999_999, Unit.COUNT, "1M"),
        (3_070_000, Unit.COUNT, "3.1M"),
        (5440, Unit.BINARY_BYTES, "5.4KiB"),
        (2_400_000_000_001, Unit.BYTES, "2401GB"),
    ],
)
def test_a_limit_is_rounded_up_to_what_the_number_keeps(
    value: float, unit: Unit, written: str
) -> None:
    assert rounded_up(value, unit) == written
    assert parse_quantity(written, unit) >= value
