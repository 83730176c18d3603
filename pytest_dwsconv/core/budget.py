"""Budgets, and what a report that is held to one says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import NamedTuple

from pytest_dwsconv.core.findings import Finding, ReportData, inputs_of, saved_params
from pytest_dwsconv.core.limits import LimitCheck
from pytest_dwsconv.core.measurement import LatencyLimit
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.policy import matches
from pytest_dwsconv.core.quantities import Unit, parse_quantity
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.errors import FormatError, InputError

LayerLimits = Mapping[str, Mapping[str, "float | str | None"]]
"""Limits by name, for each shell-style pattern of convolutions."""


@dataclass(frozen=True)
class Budget:
    """What a model may cost at most; ``None`` is no limit.

    ``params``, ``macs`` and ``candidates`` are counts. ``size``, ``size_fp16`` and ``size_int8``
    are the bytes of the parameters at four, two and one bytes each, ``activations`` the bytes of
    activations at their peak. ``latency`` is seconds on ``target``, and needs a measurement; it may
    be relative, and has a ``percentile`` and a ``tolerance``, as ``LatencyLimit`` has.
    ``latency_predicted`` is seconds on an Edge TPU, and needs no device. Each is given as
    ``parse_quantity`` reads it. ``macs`` and ``activations`` are per sample: the batch
    that the model was analysed with makes no difference.

    ``layers`` limits parts of the model: ``{"layer4.*": {"params": "2M"}}`` is for the sum over all
    convolutions of such names. It takes the limits in ``LAYER_LIMITS``.

    Raises:
        InputError: there is no limit at all, or one that layers cannot have.
        FormatError: a limit is not a quantity.
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
    layers: LayerLimits | None = field(default=None, hash=False)
    percentile: float | str | None = None
    tolerance: float | str | None = None

    def __post_init__(self) -> None:
        is_predicted = self.latency_predicted is not None
        if is_predicted:
            _number("latency_predicted", self.latency_predicted, Unit.SECONDS)
        if (self.latency is None) != (self.target is None):
            missing = "latency='5ms'" if self.latency is None else "target='cpu'"
            raise InputError(
                f"a budget's latency and target go together: give {missing}, say, as well"
            )
        if not bounds_of(self) and self.latency_limit is None and not is_predicted:
            raise InputError(f"a budget without a limit checks nothing: give any of {_accepted()}")

    @property
    def latency_limit(self) -> LatencyLimit | None:
        """The measured latency that is allowed.

        Raises:
            InputError: there is a percentile or a tolerance and no latency, or it cannot be one.
            FormatError: the latency or its tolerance cannot be read.
        """
        own = {name: getattr(self, name) for name in ("percentile", "tolerance")}
        given = {name: value for name, value in own.items() if value is not None}
        if self.latency is not None:
            try:
                return LatencyLimit(self.latency, **given)
            except FormatError as error:
                raise FormatError(f"the budget's latency {error}") from error
        if given:
            name = next(iter(given))
            raise InputError(f"a budget's {name} is its latency's: give latency and target too")
        return None

    @classmethod
    def of(cls, arguments: Mapping[str, float | str | LayerLimits | None]) -> Budget:
        """The budget of these keyword arguments.

        Raises:
            InputError: an argument no limit goes by, or no limit at all.
            FormatError: a limit that is not a quantity.
        """
        unknown = sorted(arguments.keys() - {each.name for each in fields(cls)})
        if unknown:
            raise InputError(
                f"a budget has no argument {quoted(unknown[0])}: it takes {_accepted()}"
            )
        return cls(**arguments)  # type: ignore[arg-type]  # a target that is not text finds no backend


class Bound(NamedTuple):
    """One limit: ``name`` as ``Budget`` calls it, ``layers`` the pattern of what it is on.

    ``written`` is ``limit`` as the budget has it.
    """

    name: str
    layers: str
    limit: float
    written: object


def bounds_of(budget: Budget) -> list[Bound]:
    """The limits of a budget on what a report tells, the whole model's first."""
    found = []
    for name, limit in LIMITS.items():
        value = getattr(budget, name)
        if value is not None:
            found.append(Bound(name, "", _number(name, value, limit.unit), value))
    for layers, limits in _checked_layers(budget.layers).items():
        for name, value in limits.items():
            if value is not None:
                number = _number(f"{layers} {name}", value, LIMITS[name].unit)
                found.append(Bound(name, layers, number, value))
    return found


def _number(name: str, value: object, unit: Unit) -> float:
    try:
        return parse_quantity(value, unit)
    except FormatError as error:
        raise FormatError(f"the budget's {name} {error}") from error


def _checked_layers(layers: object) -> LayerLimits:
    if layers is None:
        return {}
    example = 'as in layers={"layer4.*": {"params": "2M"}}'
    if not isinstance(layers, Mapping):
        raise InputError(f"layers must be limits by pattern, not {quoted(layers)}: {example}")
    for pattern, limits in layers.items():
        if not (isinstance(pattern, str) and pattern and isinstance(limits, Mapping) and limits):
            raise InputError(f"layers needs a pattern and its limits, {example}")
        for name in limits:
            if name not in LAYER_LIMITS:
                accepted = ", ".join(LAYER_LIMITS)
                raise InputError(
                    f"layers cannot be limited in {quoted(name)}: {quoted(pattern)} takes "
                    f"{accepted}"
                )
    return layers


@dataclass(frozen=True)
class _Limit:
    """One thing that can be limited: how to read it, and what replacing a convolution takes off.

    ``of_layer`` is what one convolution has of it; None for what does not add up over layers.
    """

    noun: str
    unit: Unit
    total: Callable[[ReportData], int | None]
    saved: Callable[[Finding], int]
    of_layer: Callable[[Finding], int] | None
    per_sample: bool = False


def _size(bytes_each: int, dtype: str) -> _Limit:
    return _Limit(
        f"of {dtype} parameters",
        Unit.BYTES,
        lambda report: report.params * bytes_each,
        lambda finding: saved_params(finding) * bytes_each,
        lambda finding: (finding.params or 0) * bytes_each,
    )


LIMITS = {
    "params": _Limit(
        "parameters",
        Unit.COUNT,
        lambda report: report.params,
        saved_params,
        lambda finding: finding.params or 0,
    ),
    "macs": _Limit(
        "MACs",
        Unit.COUNT,
        lambda report: report.macs,
        lambda finding: (finding.macs or 0) - (finding.separable_macs or 0),
        lambda finding: finding.macs or 0,
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
        None,
        per_sample=True,
    ),
    "candidates": _Limit(
        "candidates",
        Unit.COUNT,
        lambda report: len(report.candidates),
        lambda finding: 1,
        lambda finding: int(finding.verdict is Verdict.CANDIDATE),
    ),
}
"""What a report alone tells, by the name that ``Budget`` calls it."""
LAYER_LIMITS = tuple(name for name, limit in LIMITS.items() if limit.of_layer is not None)
"""Those that part of a model can have."""


def _accepted() -> str:
    *names, last = (each.name for each in fields(Budget))
    return f"{', '.join(names)} and {last}"


def check_limits(report: ReportData, budget: Budget) -> tuple[LimitCheck, ...]:
    """How a model stands to each limit of a budget, in the order of ``Budget``'s fields.

    MACs and activations are per sample (see ``ReportData.batch_size``), so that the size of the
    batch makes no difference. Latencies, measured or predicted, are not in a report, and not among
    the limits checked.

    Raises:
        InputError: MACs or activations are limited and the report has none, or layers are that the
            model does not have.
    """
    return tuple(_check(report, bound) for bound in bounds_of(budget))


def violations(report: ReportData, budget: Budget) -> tuple[LimitCheck, ...]:
    """The limits of ``budget`` that the model exceeds, as ``check_limits`` gives them.

    Raises:
        InputError: as ``check_limits`` does.
    """
    return tuple(check for check in check_limits(report, budget) if check.exceeded)


def excess(report: ReportData, check: LimitCheck) -> float:
    """By how much the model, with all its samples, is over a limit."""
    total = _total(report, check.name, check.layers)
    return total - check.limit * _samples(report, check.name)


def saved_of(check: LimitCheck, finding: Finding) -> int:
    """What replacing this convolution takes off what a limit is on."""
    return LIMITS[check.name].saved(finding) if _is_in(finding, check.layers) else 0


def layers_of(report: ReportData, pattern: str) -> tuple[Finding, ...]:
    """The convolutions that a pattern of layers is for; all, where it is empty."""
    return tuple(finding for finding in report.findings if _is_in(finding, pattern))


def _is_in(finding: Finding, pattern: str) -> bool:
    return not pattern or matches((finding.name, *finding.aliases), (pattern,))


def _check(report: ReportData, bound: Bound) -> LimitCheck:
    limit, samples = LIMITS[bound.name], _samples(report, bound.name)
    total = _total(report, bound.name, bound.layers)
    left, replacements = total, []
    if total > bound.limit * samples:
        helpful = [
            finding
            for finding in report.candidates
            if _is_in(finding, bound.layers) and limit.saved(finding) > 0
        ]
        helpful.sort(key=lambda f: (limit.saved(f), saved_params(f)), reverse=True)
        for finding in helpful:
            if left <= bound.limit * samples:
                break
            left -= limit.saved(finding)
            replacements.append(finding.name)
    where = f" in its convolutions {bound.layers}" if bound.layers else ""
    return LimitCheck(
        report.model,
        bound.name,
        limit.noun + where + (per_sample_of(report) if limit.per_sample else ""),
        _written_unit(bound.written, limit.unit),
        bound.limit,
        _share(total, samples),
        tuple(replacements),
        _share(left, samples),
        bound.layers,
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
    shapes = inputs_of(report)
    if report.batch_size is None:
        return f" for input {shapes}, in which no batch size is seen"
    if report.batch_size == 1:
        return f" for input {shapes}"
    return f" per sample of input {shapes}"


def _total(report: ReportData, name: str, layers: str) -> int:
    """What the model has of a limit, or those of its convolutions that ``layers`` is for."""
    limit = LIMITS[name]
    total = limit.total(report)
    if total is None:
        noun = "MACs" if name == "macs" else name
        raise InputError(
            f"the budget limits {noun} and none were counted for {report.model}: "
            "give an input size, as in (1, 3, 224, 224)"
        )
    if not layers:
        return total
    assert limit.of_layer is not None  # a budget takes no other limit for layers
    found = layers_of(report, layers)
    if not found:
        raise InputError(_no_such_layers(report, layers))
    return sum(map(limit.of_layer, found))


def _no_such_layers(report: ReportData, pattern: str) -> str:
    said = f"the budget limits layers {quoted(pattern)}, and no convolution of {report.model} has "
    said += "such a name"
    names = [finding.name for finding in report.findings]
    if any(name.startswith(f"{pattern}.") for name in names):
        return f"{said}: for those inside it write {quoted(pattern + '.*')}"
    similar = get_close_matches(pattern, names, 1) or names[:1]
    return f"{said}; one is called {quoted(similar[0])}" if similar else said


def _written_unit(value: object, unit: Unit) -> Unit:
    """Bytes are shown in the family of units that the budget is written in."""
    binary = unit is Unit.BYTES and isinstance(value, str) and "i" in value.lower()
    return Unit.BINARY_BYTES if binary else unit
