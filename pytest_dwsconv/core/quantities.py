"""Quantities as people write them: ``4.2M``, ``7.6MiB``, ``5ms``."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from numbers import Integral, Real
from operator import index
from typing import NamedTuple, TypeGuard

from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.errors import FormatError, InputError

LARGEST = 10**300
"""No number that is read may be larger: up to here a float holds it, and a few times it."""


def is_whole(value: object, least: float = -math.inf) -> TypeGuard[int]:
    """Whether this is an int from ``least`` on; True and False are not numbers here."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def whole_number(name: str, value: object, least: int = 1) -> int:
    """An argument that has to be a whole number; one of NumPy becomes an int.

    Raises:
        InputError: it is not a whole number, or is below ``least``.
    """
    number = index(value) if isinstance(value, Integral) else None
    if isinstance(value, bool) or number is None or not least <= number <= LARGEST:
        raise InputError(f"{name} must be a whole number from {least}, not {quoted(value)}")
    return number


class Unit(str, Enum):
    """What a quantity counts; it settles which suffixes are read and written."""

    COUNT = "count"
    BYTES = "bytes"
    BINARY_BYTES = "bytes in powers of 1024"
    SECONDS = "seconds"


_SUFFIXES: dict[Unit, dict[str, Decimal]] = {
    Unit.COUNT: {"": Decimal(1), "k": Decimal("1e3"), "M": Decimal("1e6"), "G": Decimal("1e9")},
    Unit.BYTES: {"B": Decimal(1), "kB": Decimal("1e3"), "MB": Decimal("1e6"), "GB": Decimal("1e9")},
    Unit.BINARY_BYTES: {
        "B": Decimal(1),
        "KiB": Decimal(1024),
        "MiB": Decimal(1024**2),
        "GiB": Decimal(1024**3),
    },
    Unit.SECONDS: {"us": Decimal("1e-6"), "ms": Decimal("1e-3"), "s": Decimal(1)},
}
"""From small to large."""

_BYTES = {"": Decimal(1), **_SUFFIXES[Unit.BYTES], **_SUFFIXES[Unit.BINARY_BYTES]}
_READ = {**_SUFFIXES, Unit.BYTES: _BYTES, Unit.BINARY_BYTES: _BYTES}
_BYTES_ACCEPTED = "a number from 0, with B, kB, MB, GB, KiB, MiB or GiB if wanted, as in 7.6MiB"
_ACCEPTED = {
    Unit.COUNT: "a number from 0, with k, M or G if wanted, as in 600k or 4.2M",
    Unit.BYTES: _BYTES_ACCEPTED,
    Unit.BINARY_BYTES: _BYTES_ACCEPTED,
    Unit.SECONDS: "a number from 0 with us, ms or s, as in 5ms",
}
_QUANTITY = re.compile(r"(\d+(?:_\d+)*(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE | re.ASCII)


def mebibytes(size: float) -> str:
    """Bytes as in ``3.1 MiB``; below a tenth of one as in ``40 KiB``."""
    if 0 < size < 2**20 / 10:
        return f"{size / 2**10:.0f} KiB" if size >= 2**10 else f"{size:.0f} B"
    return f"{size / 2**20:.1f} MiB"


def parse_quantity(value: object, unit: Unit = Unit.COUNT) -> float:
    """The number in ``value``: a count, bytes or seconds.

    Numbers stand for themselves, text may have a suffix. Case does not matter. ``k``, ``kB`` and so
    on are powers of 1000, ``KiB`` and so on of 1024.

    Raises:
        FormatError: ``value`` cannot be read; it lists what is accepted.
    """
    if not isinstance(value, bool) and isinstance(value, Real):
        # of NumPy's numbers too
        number = int(value) if isinstance(value, Integral) else float(value)
        if LARGEST < number < math.inf:
            raise FormatError(f"{quoted(value)} is not a quantity: it is above 10^300")
        if 0 <= number <= LARGEST:
            return number
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    factors = {suffix.lower(): factor for suffix, factor in _READ[unit].items()}
    if match is None or match[2].lower() not in factors:
        raise FormatError(f"{quoted(value)} is not a quantity: write {_ACCEPTED[unit]}")
    exact = Decimal(match[1]) * factors[match[2].lower()]
    if exact > LARGEST:
        raise FormatError(f"{quoted(value)} is not a quantity: it is above 10^300")
    return int(exact) if exact == int(exact) else float(exact)


def humanize(value: float, unit: Unit = Unit.COUNT) -> str:
    """The number in the unit that suits it, at most two decimals: ``5.21M``."""
    return written(value, scale_of(value, unit), 2)


def rounded_up(value: float, unit: Unit) -> str:
    """A limit that the number just keeps: ``3.1M`` for 3,070,000, ``124k`` for 123,456."""
    factor = scale_of(value, unit).factor
    step = max(1, factor / 10 if value < 10 * factor else factor)
    return humanize(math.ceil(value / step) * step, unit)


class Scale(NamedTuple):
    suffix: str
    factor: float


def scale_of(value: float, unit: Unit) -> Scale:
    """The largest unit that the value fills, rounded to two decimals; else the smallest."""
    scales = [Scale(suffix, float(factor)) for suffix, factor in _SUFFIXES[unit].items()]
    chosen = scales[0]
    for smaller, larger in pairwise(scales):
        if round(value / smaller.factor, 2) * smaller.factor >= larger.factor:
            chosen = larger
    return chosen


def written(value: float, scale: Scale, digits: int) -> str:
    number = f"{value / scale.factor:.{digits}f}"
    return (number.rstrip("0").rstrip(".") if "." in number else number) + scale.suffix


def digits_telling(value: float, limit: float, unit: Unit) -> int:
    """The fewest decimals, from two, that show a value, its limit and their difference apart."""
    scale, limit_scale = scale_of(value, unit), scale_of(limit, unit)
    for digits in range(2, 15):
        different = written(value, scale, digits) != written(limit, limit_scale, digits)
        if different and round(abs(value - limit) / scale.factor, digits) > 0:
            return digits
    return 15


def told_apart(value: float, limit: float | None) -> tuple[str, str]:
    """A number and its limit, both with as few digits, from three, as show which is larger."""
    if limit is None:
        return f"{value:.3g}", ""
    for digits in range(3, 17):
        written = f"{value:.{digits}g}", f"{limit:.{digits}g}"
        if written[0] != written[1]:
            break
    return written


def parse_share(name: str, value: object, example: str) -> float:
    """The share in ``value``, from 0 to 1: as a number, or in percent, as in ``98%``.

    ``example`` is one in percent, as what ``name`` usually is.

    Raises:
        InputError: ``value`` is not a share.
    """
    share = math.nan
    if isinstance(value, str):
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)(\s*%)?", value.strip(), re.ASCII):
            share = float(Decimal(match[1]) / (100 if match[2] else 1))
    elif not isinstance(value, bool) and isinstance(value, Real):
        share = float(value)
    if not 0 <= share <= 1:
        plain = f"{float(example.rstrip('%')) / 100:g}"
        raise InputError(
            f'{name} {quoted(value)} is not a share: write it as in "{example}" or {plain}'
        )
    return share
