"""Quantities written by people (``4.2M``, ``7.6MiB``, ``5ms``), and budgets that a report is held to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, NamedTuple

from pytest_dwsconv.errors import FormatError, InputError
from pytest_dwsconv.report import Finding, Report, saved_params


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


def parse_quantity(value: object, unit: Unit = Unit.COUNT) -> float:
    """The number in ``value``: a count, bytes or seconds. Numbers stand for themselves, text may have a suffix.

    Case does not matter. ``k``, ``kB`` and so on are powers of 1000, ``KiB`` and so on of 1024.

    Raises:
        FormatError: ``value`` cannot be read; it lists what is accepted.
    """
    if not isinstance(value, bool) and isinstance(value, Real):
        number = int(value) if isinstance(value, Integral) else float(value)  # of NumPy's numbers too
        if 0 <= number < math.inf:
            return number
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    factors = {suffix.lower(): factor for suffix, factor in _READ[unit].items()}
    if match is None or match[2].lower() not in factors:
        raise FormatError(f"{value!r} is not a quantity: write {_ACCEPTED[unit]}")
    exact = Decimal(match[1]) * factors[match[2].lower()]
    return int(exact) if exact == int(exact) else float(exact)


def humanize(value: float, unit: Unit = Unit.COUNT) -> str:
    """The number in the unit that suits it, at most two decimals: ``5.21M``."""
    return _text(value, _scale(value, unit), 2)


class _Scale(NamedTuple):
    suffix: str
    factor: float


def _scale(value: float, unit: Unit) -> _Scale:
    """The largest unit that the value fills once rounded to two decimals, or the smallest there is."""
    scales = [_Scale(suffix, float(factor)) for suffix, factor in _SUFFIXES[unit].items()]
    chosen = scales[0]
    for smaller, larger in pairwise(scales):
        if round(value / smaller.factor, 2) * smaller.factor >= larger.factor:
            chosen = larger
    return chosen


def _text(value: float, scale: _Scale, digits: int) -> str:
    number = f"{value / scale.factor:.{digits}f}"
    return (number.rstrip("0").rstrip(".") if "." in number else number) + scale.suffix


def _digits(value: float, limit: float, unit: Unit) -> int:
    """The fewest decimals, from two, that show a value and its limit as different, and their difference too."""
    scale, limit_scale = _scale(value, unit), _scale(limit, unit)
    for digits in range(2, 15):
        different = _text(value, scale, digits) != _text(limit, limit_scale, digits)
        if different and round(abs(value - limit) / scale.factor, digits) > 0:
            return digits
    return 15


@dataclass(frozen=True)
class Budget:
    """What a model may cost at most; ``None`` is no limit.

    ``params``, ``macs`` and ``candidates`` are counts. ``size``, ``size_fp16`` and ``size_int8`` are the bytes of
    the parameters at four, two and one bytes each, ``activations`` the bytes of activations at their peak.
    ``latency`` is seconds on ``target``, and needs a measurement. Each is given as ``parse_quantity`` reads it.
    """

    params: float | str | None = None
    macs: float | str | None = None
    size: float | str | None = None
    size_fp16: float | str | None = None
    size_int8: float | str | None = None
    activations: float | str | None = None
    candidates: float | str | None = None
    latency: float | str | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        if {_allowed(self, name) for name in (*LIMITS, "latency")} == {None}:
            raise InputError(f"a budget without a limit checks nothing: give any of {_accepted()}")
        if (self.latency is None) != (self.target is None):
            raise InputError("a budget's latency and target go together, as in latency='5ms', target='edgetpu'")

    @classmethod
    def of(cls, arguments: Mapping[str, float | str | None]) -> Budget:
        """The budget of these keyword arguments.

        Raises:
            InputError: an argument no limit goes by, or no limit at all.
            FormatError: a limit that is not a quantity.
        """
        unknown = sorted(arguments.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"a budget has no argument {unknown[0]!r}: it takes {_accepted()}")
        return cls(**arguments)  # type: ignore[arg-type]  # a target that is no text finds no backend


@dataclass(frozen=True)
class _Limit:
    """One thing that can be limited: how to read it, and what replacing a convolution takes off."""

    noun: str
    unit: Unit
    actual: Callable[[Report], int | None]
    saved: Callable[[Finding], int]


def _size(bytes_each: int, dtype: str) -> _Limit:
    return _Limit(
        f"of {dtype} parameters",
        Unit.BYTES,
        lambda report: report.params * bytes_each,
        lambda finding: saved_params(finding) * bytes_each,
    )


LIMITS = {
    "params": _Limit("parameters", Unit.COUNT, lambda report: report.params, saved_params),
    "macs": _Limit(
        "MACs",
        Unit.COUNT,
        lambda report: report.macs,
        lambda finding: (finding.macs or 0) - (finding.separable_macs or 0),
    ),
    "size": _size(4, "float32"),
    "size_fp16": _size(2, "float16"),
    "size_int8": _size(1, "int8"),
    "activations": _Limit(
        "of activations at their peak", Unit.BYTES, lambda report: report.peak_activations, lambda finding: 0
    ),
    "candidates": _Limit("candidates", Unit.COUNT, lambda report: len(report.candidates), lambda finding: 1),
}
"""What a report alone tells, by the name that ``Budget`` calls it."""


def _accepted() -> str:
    *names, last = (field.name for field in fields(Budget))
    return f"{', '.join(names)} and {last}"


def _allowed(budget: Budget, name: str) -> float | None:
    value = getattr(budget, name)
    try:
        return None if value is None else parse_quantity(value, LIMITS[name].unit if name in LIMITS else Unit.SECONDS)
    except FormatError as error:
        raise FormatError(f"the budget's {name} {error}") from error


@dataclass(frozen=True)
class Violation:
    """A limit that a model exceeds.

    ``replacements`` are the fewest candidates whose replacement brings the model under ``limit``, the largest
    saving first, and ``attainable`` is what it would then be. Where ``attainable`` is above ``limit`` they are
    all that help.
    """

    model: str
    name: str
    unit: Unit
    limit: float
    actual: int
    replacements: tuple[str, ...]
    attainable: int

    def __str__(self) -> str:
        digits = _digits(self.actual, self.limit, self.unit)
        scale = _scale(self.actual, self.unit)
        actual, over = (_text(number, scale, digits) for number in (self.actual, self.actual - self.limit))
        limit = _text(self.limit, _scale(self.limit, self.unit), digits)
        noun = LIMITS[self.name].noun if actual != "1" else LIMITS[self.name].noun.removesuffix("s")
        return f"{self.model} has {actual} {noun}, the budget is {limit} ({over} over). {self._advice()}"

    def _advice(self) -> str:
        if not self.replacements:
            return "No convolution in it that could be made separable would lower that."
        if self.attainable > self.limit:
            return f"Making every candidate separable would only bring it to {self._reached()}."
        return f"Making {_listed(self.replacements)} separable would bring it to {self._reached()}."

    def _reached(self) -> str:
        if self.attainable == self.limit:
            return humanize(self.attainable, self.unit)
        digits = _digits(self.attainable, self.limit, self.unit)
        return _text(self.attainable, _scale(self.attainable, self.unit), digits)


def violations(report: Report, budget: Budget) -> tuple[Violation, ...]:
    """The limits of ``budget`` that the model exceeds, in the order of ``Budget``'s fields; latency is not among them.

    Raises:
        InputError: MACs or activations are limited and the report has none.
    """
    return tuple(
        _violation(report, budget, name, allowed, actual)
        for name in LIMITS
        if (allowed := _allowed(budget, name)) is not None and (actual := _actual(report, name)) > allowed
    )


class Held(NamedTuple):
    """One limit that a model was held to, and what the model has; ``violation`` says it in words, empty within it."""

    name: str
    noun: str
    unit: Unit
    limit: float
    actual: float
    violation: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain text and numbers by name."""
        return {**self._asdict(), "unit": self.unit.value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Held:
        """What ``to_dict`` described."""
        return cls(**{**data, "unit": Unit(data["unit"])})


def held(report: Report, budget: Budget) -> tuple[Held, ...]:
    """Every limit of ``budget`` with how the model stands to it, in the order of ``Budget``'s fields.

    Raises:
        InputError: MACs are limited and the report has none.
    """
    exceeded = {violation.name: str(violation) for violation in violations(report, budget)}
    return tuple(
        Held(
            name,
            limit.noun,
            _written_unit(getattr(budget, name), limit.unit),
            allowed,
            _actual(report, name),
            exceeded.get(name, ""),
        )
        for name, limit in LIMITS.items()
        if (allowed := _allowed(budget, name)) is not None
    )


def enough(report: Report, budget: Budget) -> tuple[Finding, ...]:
    """Candidates whose replacement brings the model under every limit at once, none of which could be left out.

    Under a single limit they are the fewest there are. Empty where all candidates together would not do.

    Raises:
        InputError: MACs or activations are limited and the report has none.
    """
    excess = {violation.name: violation.actual - violation.limit for violation in violations(report, budget)}
    left, chosen = dict(excess), []
    helpful = list(report.candidates)
    while helpful and max(left.values(), default=0) > 0:
        best = max(helpful, key=lambda finding: _helps(finding, left))
        helpful.remove(best)
        chosen.append(best)
        left = {name: rest - LIMITS[name].saved(best) for name, rest in left.items()}
    if max(left.values(), default=0) > 0:
        return ()
    for finding in reversed(chosen.copy()):
        without = {name: rest + LIMITS[name].saved(finding) for name, rest in left.items()}
        if max(without.values()) <= 0:
            chosen.remove(finding)
            left = without
    return tuple(chosen)


def _helps(finding: Finding, left: Mapping[str, float]) -> tuple[float, int]:
    """The share of what is left over the limits that replacing this convolution takes off; then its parameters."""
    over = {name: rest for name, rest in left.items() if rest > 0}
    return sum(min(LIMITS[name].saved(finding) / rest, 1.0) for name, rest in over.items()), saved_params(finding)


def _actual(report: Report, name: str) -> int:
    actual = LIMITS[name].actual(report)
    if actual is None:
        raise InputError(
            f"the budget limits {'MACs' if name == 'macs' else name} and none were counted for {report.model}: "
            "give an input size, as in (1, 3, 224, 224)"
        )
    return actual


def _violation(report: Report, budget: Budget, name: str, allowed: float, actual: int) -> Violation:
    saved = LIMITS[name].saved
    helpful = [finding for finding in report.candidates if saved(finding) > 0]
    attainable, replacements = actual, []
    for finding in sorted(helpful, key=lambda f: (saved(f), saved_params(f)), reverse=True):
        if attainable <= allowed:
            break
        attainable -= saved(finding)
        replacements.append(finding.name)
    unit = _written_unit(getattr(budget, name), LIMITS[name].unit)
    return Violation(report.model, name, unit, allowed, actual, tuple(replacements), attainable)


def _written_unit(value: object, unit: Unit) -> Unit:
    """Bytes are shown in the family of units that the budget is written in."""
    binary = unit is Unit.BYTES and isinstance(value, str) and "i" in value.lower()
    return Unit.BINARY_BYTES if binary else unit


def _listed(names: tuple[str, ...]) -> str:
    *most, last = map(_spoken, names)
    return f"{', '.join(most)} and {last}" if most else last


def _spoken(name: str) -> str:
    """A layer's name in a sentence: those of a Sequential are numbers, and that of the model itself is empty."""
    if not name:
        return "the model itself"
    return f"layer {name}" if name[0].isdigit() else name
