"""Budgets, and what a report that is held to one says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from pytest_dwsconv.core.findings import Finding, ReportData, saved_params
from pytest_dwsconv.core.limits import LimitCheck
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.quantities import Unit, parse_quantity
from pytest_dwsconv.errors import FormatError, InputError


@dataclass(frozen=True)
class Budget:
    """What a model may cost at most; ``None`` is no limit.

    ``params``, ``macs`` and ``candidates`` are counts. ``size``, ``size_fp16`` and ``size_int8``
    are the bytes of the parameters at four, two and one bytes each, ``activations`` the bytes of
    activations at their peak. ``latency`` is seconds on ``target``, and needs a measurement;
    ``latency_predicted`` is seconds on an Edge TPU, and needs no device. Each is given as
    ``parse_quantity`` reads it. ``macs`` and ``activations`` are per sample: the batch
    that the model was analysed with makes no difference.
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
    latency_predicted: float | str | None = None

    def __post_init__(self) -> None:
        if {_allowed(self, name) for name in (*LIMITS, *_LATENCIES)} == {None}:
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
            raise InputError(
                f"a budget has no argument {quoted(unknown[0])}: it takes {_accepted()}"
            )
        return cls(**arguments)  # type: ignore[arg-type]  # a target that is not text finds no backend


@dataclass(frozen=True)
class _Limit:
    """One thing that can be limited: how to read it, and what replacing a convolution takes off."""

    noun: str
    unit: Unit
    total: Callable[[ReportData], int | None]
    saved: Callable[[Finding], int]
    per_sample: bool = False


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
        per_sample=True,
    ),
    "size": _size(4, "float32"),
    "size_fp16": _size(2, "float16"),
    "size_int8": _size(1, "int8"),
    "activations": _Limit(
        "of activations at their peak",
        Unit.BYTES,
        lambda report: report.peak_activations,
        lambda finding: 0,
        per_sample=True,
    ),
    "candidates": _Limit(
        "candidates", Unit.COUNT, lambda report: len(report.candidates), lambda finding: 1
    ),
}
"""What a report alone tells, by the name that ``Budget`` calls it."""

_LATENCIES = ("latency", "latency_predicted")
"""What it takes a measurement or a prediction to tell, in seconds."""


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


def check_limits(report: ReportData, budget: Budget) -> tuple[LimitCheck, ...]:
    """How a model stands to each limit of a budget, in the order of ``Budget``'s fields.

    MACs and activations are per sample (see ``ReportData.batch_size``), so that the size of the
    batch makes no difference. Latencies, measured or predicted, are not in a report, and not among
    the limits checked.

    Raises:
        InputError: MACs or activations are limited and the report has none.
    """
    limits = ((name, _allowed(budget, name)) for name in LIMITS)
    return tuple(_check(report, budget, name, limit) for name, limit in limits if limit is not None)


def violations(report: ReportData, budget: Budget) -> tuple[LimitCheck, ...]:
    """The limits of ``budget`` that the model exceeds, as ``check_limits`` gives them.

    Raises:
        InputError: MACs or activations are limited and the report has none.
    """
    return tuple(check for check in check_limits(report, budget) if check.exceeded)


def _check(report: ReportData, budget: Budget, name: str, allowed: float) -> LimitCheck:
    limit, samples = LIMITS[name], _samples(report, name)
    total = _total(report, name)
    left, replacements = total, []
    if total > allowed * samples:
        helpful = [finding for finding in report.candidates if limit.saved(finding) > 0]
        helpful.sort(key=lambda f: (limit.saved(f), saved_params(f)), reverse=True)
        for finding in helpful:
            if left <= allowed * samples:
                break
            left -= limit.saved(finding)
            replacements.append(finding.name)
    return LimitCheck(
        report.model,
        name,
        limit.noun + (per_sample_of(report) if limit.per_sample else ""),
        _written_unit(getattr(budget, name), limit.unit),
        allowed,
        _share(total, samples),
        tuple(replacements),
        _share(left, samples),
    )


def _samples(report: ReportData, name: str) -> int:
    """By how many a total is divided before it is compared with its limit."""
    return (report.batch_size or 1) if LIMITS[name].per_sample else 1


def _share(total: int, samples: int) -> float:
    return total / samples if total % samples else total // samples


def per_sample_of(report: ReportData) -> str:
    """Of which input a figure per sample is, as a phrase to follow the figure's noun."""
    if not report.input_shapes:
        return ""
    shapes = " and ".join(" x ".join(map(str, shape)) for shape in report.input_shapes)
    if report.batch_size is None:
        return f" for input {shapes}, in which no batch size is seen"
    if report.batch_size == 1:
        return f" for input {shapes}"
    return f" per sample of input {shapes}"


def enough(report: ReportData, budget: Budget) -> tuple[Finding, ...]:
    """Candidates whose replacement brings the model under every limit at once.

    None of them could be left out. Under a single limit they are the fewest there are. Empty where
    all candidates together would not do.

    Raises:
        InputError: MACs or activations are limited and the report has none.
    """
    over = {
        check.name: _total(report, check.name) - check.limit * _samples(report, check.name)
        for check in violations(report, budget)
    }
    chosen: list[Finding] = []
    helpful = list(report.candidates)
    while max(over.values(), default=0) > 0:
        # the order holds until a limit is met, which then has no say in it any more
        helpful.sort(key=lambda finding: _help(finding, over), reverse=True)
        taken = _until_a_limit_is_met(helpful, over)
        if not taken:
            return ()
        chosen += taken
        helpful = helpful[len(taken) :]
    return _without_superfluous(chosen, over)


def _help(finding: Finding, over: Mapping[str, float]) -> tuple[float, float, int]:
    """How much replacing this convolution helps, in order of importance.

    The share of what is over each limit that it takes off, at most all of it; the same without that
    bound; its parameters.
    """
    shares = [LIMITS[name].saved(finding) / rest for name, rest in over.items() if rest > 0]
    return sum(min(share, 1.0) for share in shares), sum(shares), saved_params(finding)


def _until_a_limit_is_met(helpful: Sequence[Finding], over: dict[str, float]) -> list[Finding]:
    """The first of these that together meet one of the limits; ``over`` becomes what is left.

    Empty if not even all of them meet one.
    """
    unmet = [name for name, rest in over.items() if rest > 0]
    for count, finding in enumerate(helpful, start=1):
        for name in over:
            over[name] -= LIMITS[name].saved(finding)
        if any(over[name] <= 0 for name in unmet):
            return list(helpful[:count])
    return []


def _without_superfluous(chosen: Sequence[Finding], over: dict[str, float]) -> tuple[Finding, ...]:
    """Leave out what the others make up for, the last chosen first."""
    needed = []
    for finding in reversed(chosen):
        without = {name: rest + LIMITS[name].saved(finding) for name, rest in over.items()}
        if max(without.values()) <= 0:
            over = without
        else:
            needed.append(finding)
    return tuple(reversed(needed))


def _total(report: ReportData, name: str) -> int:
    total = LIMITS[name].total(report)
    if total is None:
        noun = "MACs" if name == "macs" else name
        raise InputError(
            f"the budget limits {noun} and none were counted for {report.model}: "
            "give an input size, as in (1, 3, 224, 224)"
        )
    return total


def _written_unit(value: object, unit: Unit) -> Unit:
    """Bytes are shown in the family of units that the budget is written in."""
    binary = unit is Unit.BYTES and isinstance(value, str) and "i" in value.lower()
    return Unit.BINARY_BYTES if binary else unit
