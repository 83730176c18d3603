"""What an analysis found, as plain data that survives pickle and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

from pytest_dwsconv.core.conv import ConvSpec, Kind, Order
from pytest_dwsconv.core.jsonio import OMITTED, Document, Positive
from pytest_dwsconv.core.latency.evidence import Evidence, Provenance
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.errors import FormatError, InputError

_DOCUMENT = Document("report", 1, "make the report again")
MIB = 1024 * 1024

_Data = TypeVar("_Data", bound="ReportData")


class Origin(str, Enum):
    """How a row or a report was obtained."""

    META = "forward on meta tensors"
    REAL = "forward on real tensors"
    NOT_EXECUTED = "not executed"
    ATTRIBUTES = "module attributes, no forward"


@dataclass(frozen=True)
class Finding:
    """One convolution, its verdict, and its cost before and after.

    ``macs`` and ``separable_macs`` are summed over ``calls``; the shapes in ``spec`` are those of
    the first call. ``separable_params`` and ``separable_macs`` are the cost at the report's
    multiplier and at ``order``, for candidates only; no ``order`` is that of the report. Elsewhere
    ``None`` means not known.

    Of the first call: ``input_bytes`` and ``output_bytes`` of its activations, and the arithmetic
    intensity before and after, in MACs per byte when input, parameters, output and whatever lies
    between the two parts of the replacement are each moved once (the roofline model, Williams et
    al. 2009). The shares are of the model's parameters and MACs. ``followed_by`` names the
    normalisation and the activation that alone use the output. ``evidence`` is what is known of the
    latency with this convolution replaced; it plays no part in whether two findings are equal.
    """

    name: str
    spec: ConvSpec
    verdict: Verdict
    code: str
    reason: str
    params: int | None
    macs: int | None
    separable_params: Positive | None
    separable_macs: int | None
    origin: Origin
    type_name: str
    calls: int = 0
    aliases: tuple[str, ...] = ()
    input_bytes: int | None = None
    output_bytes: int | None = None
    arithmetic_intensity: float | None = None
    separable_intensity: float | None = None
    params_share: float | None = None
    macs_share: float | None = None
    followed_by: tuple[str, ...] = ()
    order: Order | None = field(default=None, metadata=OMITTED)
    evidence: tuple[Evidence, ...] = field(default=(), compare=False, metadata=OMITTED)

    @property
    def kind(self) -> Kind:
        return self.spec.kind

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        return self.spec.input_shape

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        return self.spec.output_shape

    @property
    def saving(self) -> float | None:
        """Parameters of the original over parameters of the replacement."""
        if self.params is None or self.separable_params is None:
            return None
        return self.params / self.separable_params


@dataclass(frozen=True)
class Layer:
    """One module of a model, convolution or not, with what is its own and not its children's.

    ``params`` are counted where they are registered first. ``macs`` are of all calls, and None
    without a forward. ``output_shape`` is that of the last call, None where it is not known.
    """

    name: str
    type_name: str
    params: int
    macs: int | None
    calls: int
    output_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Memory:
    """The estimate people know from torchsummary, in bytes.

    ``activations`` is twice the outputs of every module call (forward and backward); containers
    (``Sequential``, ``ModuleList``, the separable convolutions of this package) and the model
    itself are not counted again.
    """

    inputs: int
    activations: int
    params: int

    @property
    def total(self) -> int:
        return self.inputs + self.activations + self.params


@dataclass(frozen=True)
class ReportData:
    """All convolutions of one model, with the model's own totals; ``Report`` adds what prints it.

    ``params`` and ``macs`` are of the whole model, ``macs`` over convolutions and matrix
    multiplications. ``not_counted`` lists the other operators that ran, with how often: their
    arithmetic is in no total. ``peak_activations`` is the bytes of activations in memory at once,
    as ``peak_activation_bytes`` reckons them. ``output_elements`` counts those of all tensors that
    the forward returns; None where an object of another kind may hold some. ``all_layers`` are
    those of the model, whose parameters and MACs add up to its own; a report of a test run is kept
    without them. ``evidence`` is what is known of the latency with replacements, as in a finding.
    Neither plays a part in whether two reports are equal.
    """

    model: str
    findings: tuple[Finding, ...]
    params: int
    macs: int | None
    origin: Origin
    input_shapes: tuple[tuple[int, ...], ...] = ()
    depth_multiplier: Positive = 1
    order: Order = Order.DEPTHWISE_FIRST
    memory: Memory | None = None
    not_counted: tuple[tuple[str, int], ...] = ()
    peak_activations: int | None = None
    output_elements: int | None = field(default=None, metadata=OMITTED)
    all_layers: tuple[Layer, ...] = field(default=(), compare=False, repr=False, metadata=OMITTED)
    evidence: tuple[Evidence, ...] = field(default=(), compare=False, metadata=OMITTED)

    @property
    def candidates(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.CANDIDATE)

    @property
    def batch_size(self) -> int | None:
        """How many samples one forward has, which is the first side that all inputs share.

        The batch of every convolution has to be a multiple of it. 1 where a convolution was given a
        single sample without a batch side. None where there are no inputs, or none of this holds.
        Inputs without sides, such as a time step, do not count.
        """
        batches = set()
        for finding in self.findings:
            shape = finding.input_shape
            if finding.calls and shape is not None:
                if len(shape) == finding.spec.rank + 1:
                    return 1
                batches.add(shape[0])
        sizes = {shape[0] for shape in self.input_shapes if shape}
        size = sizes.pop() if len(sizes) == 1 else 0
        if size == 0 or any(batch % size for batch in batches):
            return None
        return size

    @property
    def separable_params(self) -> int:
        """Parameters of the model once every candidate is replaced."""
        return self.params - sum(saved_params(finding) for finding in self.candidates)

    @property
    def separable_macs(self) -> int | None:
        """MACs of the model once every candidate is replaced."""
        if self.macs is None:
            return None
        return self.macs - sum((f.macs or 0) - (f.separable_macs or 0) for f in self.candidates)

    @property
    def saving(self) -> float:
        """Parameters of the model over its parameters with every candidate replaced."""
        return self.params / self.separable_params if self.separable_params else 1.0

    def with_evidence(self: _Data, found: Mapping[str, Evidence]) -> _Data:
        """The report with what is known of a latency, one per name of a layer.

        The name ``""`` is the whole network. Evidence of the same target and source is replaced.
        What is unknown goes where something is known of its target.

        Raises:
            InputError: a name is not that of a convolution of the report.
        """
        names = {finding.name for finding in self.findings}
        for name in found:
            if name and name not in names:
                raise InputError(f"{self.model} has no convolution {quoted(name)}")
        findings = []
        for finding in self.findings:
            evidence = finding.evidence
            if finding.name and finding.name in found:
                evidence = _with(evidence, found[finding.name])
            findings.append(replace(finding, evidence=evidence))
        whole = _with(self.evidence, found[""]) if "" in found else self.evidence
        return replace(self, findings=tuple(findings), evidence=whole)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, with the schema's version."""
        return _DOCUMENT.to_dict(self)

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls: type[_Data], data: Mapping[str, Any]) -> _Data:
        """The report that ``to_dict`` described.

        Raises:
            FormatError: ``data`` is of another schema version, or not a report.
        """
        return _checked(_DOCUMENT.from_dict(data, cls))

    @classmethod
    def from_json(cls: type[_Data], text: str) -> _Data:
        """The report that ``to_json`` wrote.

        Raises:
            FormatError: ``text`` is not JSON, or not a report.
        """
        return _checked(_DOCUMENT.from_json(text, cls))


def _with(known: tuple[Evidence, ...], new: Evidence) -> tuple[Evidence, ...]:
    others = [one for one in known if (one.target, one.source) != (new.target, new.source)]
    if new.source is Provenance.UNKNOWN and any(one.target == new.target for one in others):
        return known
    others = [one for one in others if (one.target, one.source) != (new.target, Provenance.UNKNOWN)]
    return tuple(sorted([*others, new], key=lambda one: (one.target, one.source.value)))


def inputs_of(report: ReportData) -> str:
    """The shapes of the inputs, as in ``1 x 3 x 224 x 224``; empty where there are none."""
    return " and ".join(" x ".join(map(str, shape)) for shape in report.input_shapes)


def saved_params(finding: Finding) -> int:
    """Parameters that replacing this convolution takes off; 0 where it is not a candidate."""
    return (
        (finding.params or 0) - (finding.separable_params or 0) if finding.separable_params else 0
    )


def _checked(report: _Data) -> _Data:
    """The report, whose convolutions have as many sides as their rank asks for."""
    for number, finding in enumerate(report.findings):
        spec = finding.spec
        for name in ("kernel_size", "stride", "padding", "dilation"):
            sides = getattr(spec, name)
            if isinstance(sides, tuple) and len(sides) != spec.rank:
                raise FormatError(
                    f"not a report: findings[{number}].spec.{name}: {quoted(sides)} has not "
                    f"{spec.rank} sides"
                )
        for name in ("input_shape", "output_shape"):
            shape = getattr(spec, name)
            if shape is not None and len(shape) not in (spec.rank + 1, spec.rank + 2):
                raise FormatError(
                    f"not a report: findings[{number}].spec.{name}: {quoted(shape)} is not the "
                    f"shape of {spec.rank} sides with channels"
                )
    return report
