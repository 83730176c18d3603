"""Budgets, and what a report that is held to one says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from pytest_dwsconv.core.findings import Finding, ReportData, saved_params
from pytest_dwsconv.core.quantities import (
    Unit,
    digits_telling,
    humanize,
    parse_quantity,
    scale_of,
    written,
)
from pytest_dwsconv.errors import FormatError, InputError


@dataclass(frozen=True)
class Budget:
    """What a model may cost at most; ``None`` is no limit.

    ``params``, ``macs`` and ``candidates`` are counts. ``size``, ``size_fp16`` and ``size_int8``
    are the bytes of the parameters at four, two and one bytes each, ``activations`` the bytes of
    activations at their peak. ``latency`` is seconds on ``target``, and needs a measurement. Each
    is given as ``parse_quantity`` reads it.
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
            raise InputError(
                "a budget's latency and target go together, as in latency='5ms', target='edgetpu'"
            )

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
    actual: Callable[[ReportData], int | None]
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
        "of activations at their peak",
        Unit.BYTES,
        lambda report: report.peak_activations,
        lambda finding: 0,
    ),
    "candidates": _Limit(
        "candidates", Unit.COUNT, lambda report: len(report.candidates), lambda finding: 1
    ),
}
"""What a report alone tells, by the name that ``Budget`` calls it."""


def _accepted() -> str:
    *names, last = (field.name for field in fields(Budget))
    return f"{', '.join(names)} and {last}"


def _allowed(budget: Budget, name: str) -> float | None:
    value = getattr(budget, name)
    try:
        return (
            None
            if value is None
            else parse_quantity(value, LIMITS[name].unit if name in LIMITS else Unit.SECONDS)
        )
    except FormatError as error:
        raise FormatError(f"the budget's {name} {error}") from error


@dataclass(frozen=True)
class Violation:
    """A limit that a model exceeds.

    ``replacements`` are the fewest candidates whose replacement brings the model under ``limit``,
    the largest saving first, and ``attainable`` is what it would then be. Where ``attainable`` is
    above ``limit`` they are all that help.
    """

    model: str
    name: str
    unit: Unit
    limit: float
    actual: int
    replacements: tuple[str, ...]
    attainable: int

    def __str__(self) -> str:
        digits = digits_telling(self.actual, self.limit, self.unit)
        scale = scale_of(self.actual, self.unit)
        actual, over = (
            written(number, scale, digits) for number in (self.actual, self.actual - self.limit)
        )
        limit = written(self.limit, scale_of(self.limit, self.unit), digits)
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
        digits = digits_telling(self.attainable, self.limit, self.unit)
        return written(self.attainable, scale_of(self.attainable, self.unit), digits)


def violations(report: ReportData, budget: Budget) -> tuple[Violation, ...]:
    """The limits of ``budget`` that the model exceeds, in the order of ``Budget``'s fields; latency
    is not among them.

    Raises:
        InputError: MACs or activations are limited and the report has none.
    """
    return tuple(
        _violation(report, budget, name, allowed, actual)
        for name in LIMITS
        if (allowed := _allowed(budget, name)) is not None
        and (actual := _actual(report, name)) > allowed
    )


class Held(NamedTuple):
    """One limit that a model was held to, and what the model has; ``violation`` says it in words,
    empty within it.
    """

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


def held(report: ReportData, budget: Budget) -> tuple[Held, ...]:
    """Every limit of ``budget`` with how the model stands to it, in the order of ``Budget``'s
    fields.

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


def enough(report: ReportData, budget: Budget) -> tuple[Finding, ...]:
    """Candidates whose replacement brings the model under every limit at once, none of which could
    be left out.

    Under a single limit they are the fewest there are. Empty where all candidates together would
    not do.

    Raises:
        InputError: MACs or activations are limited and the report has none.
    """
    excess = {
        violation.name: violation.actual - violation.limit
        for violation in violations(report, budget)
    }
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
    """The share of what is left over the limits that replacing this convolution takes off; then its
    parameters.
    """
    over = {name: rest for name, rest in left.items() if rest > 0}
    return sum(
        min(LIMITS[name].saved(finding) / rest, 1.0) for name, rest in over.items()
    ), saved_params(finding)


def _actual(report: ReportData, name: str) -> int:
    actual = LIMITS[name].actual(report)
    if actual is None:
        raise InputError(
            f"the budget limits {'MACs' if name == 'macs' else name} and none were counted for "
            f"{report.model}: "
            "give an input size, as in (1, 3, 224, 224)"
        )
    return actual


def _violation(
    report: ReportData, budget: Budget, name: str, allowed: float, actual: int
) -> Violation:
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
    """A layer's name in a sentence: those of a Sequential are numbers, and that of the model itself
    is empty.
    """
    if not name:
        return "the model itself"
    return f"layer {name}" if name[0].isdigit() else name
