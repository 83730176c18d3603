"""What an analysis found, as plain data: comparable, picklable, and the same after a trip through
JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, TypeVar

from pytest_dwsconv.core.conv import ConvSpec, Kind, Order, Trait
from pytest_dwsconv.core.jsonio import of_version, parsed
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.errors import FormatError

SCHEMA_VERSION = 1
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
    the first call. ``separable_params`` and ``separable_macs`` are the cost at the report's order
    and multiplier, for candidates only. ``None`` means not known.

    Of the first call: ``input_bytes`` and ``output_bytes`` of its activations, and the arithmetic
    intensity before and after, in MACs per byte when input, parameters, output and whatever lies
    between the two parts of the replacement are each moved once (the roofline model, Williams et
    al. 2009). The shares are of the model's parameters and MACs. ``followed_by`` names the
    normalisation and the activation that alone use the output.
    """

    name: str
    spec: ConvSpec
    verdict: Verdict
    code: str
    reason: str
    params: int | None
    macs: int | None
    separable_params: int | None
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
    as ``peak_activation_bytes`` reckons them.
    """

    model: str
    findings: tuple[Finding, ...]
    params: int
    macs: int | None
    origin: Origin
    input_shapes: tuple[tuple[int, ...], ...] = ()
    depth_multiplier: int = 1
    order: Order = Order.DEPTHWISE_FIRST
    memory: Memory | None = None
    not_counted: tuple[tuple[str, int], ...] = ()
    peak_activations: int | None = None

    @property
    def candidates(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.CANDIDATE)

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

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, with the schema's version."""
        plain: dict[str, Any] = _plain(asdict(self))
        return {"schema_version": SCHEMA_VERSION, **plain}

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls: type[_Data], data: Mapping[str, Any]) -> _Data:
        """The report that ``to_dict`` described.

        Raises:
            FormatError: ``data`` is of another schema version, or not a report.
        """
        data = of_version(data, SCHEMA_VERSION, "report", "make the report again")
        try:
            values = {field.name: data[field.name] for field in fields(cls)}
            memory = values["memory"]
            values |= {
                "findings": tuple(_finding(row) for row in values["findings"]),
                "origin": Origin(values["origin"]),
                "order": Order(values["order"]),
                "input_shapes": _tuples(values["input_shapes"]),
                "not_counted": _tuples(values["not_counted"]),
                "memory": None if memory is None else Memory(**memory),
            }
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not a whole report: {type(error).__name__}: {error}") from error

    @classmethod
    def from_json(cls: type[_Data], text: str) -> _Data:
        """The report that ``to_json`` wrote.

        Raises:
            FormatError: ``text`` is not JSON, or not a report.
        """
        return cls.from_dict(parsed(text, "report"))


def saved_params(finding: Finding) -> int:
    """Parameters that replacing this convolution takes off; 0 where it is no candidate."""
    return (
        (finding.params or 0) - (finding.separable_params or 0) if finding.separable_params else 0
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _finding(row: Mapping[str, Any]) -> Finding:
    spec = {key: _tuples(value) for key, value in row["spec"].items()}
    spec["traits"] = tuple(Trait(trait) for trait in spec["traits"])
    return Finding(
        **{
            **row,
            "spec": ConvSpec(**spec),
            "verdict": Verdict(row["verdict"]),
            "origin": Origin(row["origin"]),
            "aliases": tuple(row["aliases"]),
            "followed_by": tuple(row["followed_by"]),
        }
    )
