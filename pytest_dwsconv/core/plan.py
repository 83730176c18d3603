"""What is to be replaced by what: a plan is plain data, made once and applied to any model it fits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pytest_dwsconv.core.conv import ConvSpec, Cost, Order, Trait, cost, separable_cost
from pytest_dwsconv.core.jsonio import of_version, parsed
from pytest_dwsconv.errors import FormatError, InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class PlanEntry:
    """One convolution and its replacement. The numbers after the multiplier say which convolution
    is meant.

    Raises:
        InputError: a field is of the wrong type or out of range.
    """

    name: str
    order: Order
    depth_multiplier: int
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    groups: int
    bias: bool

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InputError(f"a layer's name must be text, not {self.name!r}")
        if not isinstance(self.bias, bool):
            raise InputError(f"{self.name}: bias must be true or false, not {self.bias!r}")
        if not 1 <= len(self.kernel_size) <= 3:
            raise InputError(
                f"{self.name}: kernel_size must have 1 to 3 sides, not {self.kernel_size!r}"
            )
        for name, value in self._numbers():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(
                    f"{self.name}: {name} must be a whole number from 1, not {value!r}"
                )
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise InputError(
                f"{self.name}: the channels must be divisible by groups ({self.groups})"
            )
        full = full_multiplier(self.spec, self.order)
        if self.depth_multiplier > full:
            raise InputError(
                f"{self.name}: depth_multiplier {self.depth_multiplier} is above {full}, which is "
                "exact already"
            )

    def _numbers(self) -> Iterator[tuple[str, int]]:
        for name in ("depth_multiplier", "in_channels", "out_channels", "groups"):
            yield name, getattr(self, name)
        yield from (("kernel_size", side) for side in self.kernel_size)

    @classmethod
    def of(cls, name: str, spec: ConvSpec, order: Order, depth_multiplier: int) -> PlanEntry:
        """The entry that replaces the convolution ``spec``; a multiplier above the exact one is
        lowered to it.
        """
        channels, filters, kernel_size, groups, bias = _known(spec)
        multiplier = min(depth_multiplier, full_multiplier(spec, order))
        return cls(name, order, multiplier, channels, filters, kernel_size, groups, bias)

    @property
    def spec(self) -> ConvSpec:
        """The convolution this entry is for, as far as its cost in parameters goes."""
        return ConvSpec(
            rank=len(self.kernel_size),
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            kernel_size=self.kernel_size,
            groups=self.groups,
            bias=self.bias,
        )

    @property
    def params_before(self) -> int:
        return _params(cost(self.spec))

    @property
    def params_after(self) -> int:
        return _params(separable_cost(self.spec, self.order, self.depth_multiplier))

    def check(self, spec: ConvSpec) -> None:
        """Raise InputError unless the convolution found under this entry's name is the one meant."""
        for name in ("in_channels", "out_channels", "kernel_size", "groups", "bias"):
            planned, found = getattr(self, name), getattr(spec, name)
            if planned != found:
                raise InputError(
                    f"the plan is for another model: {self.name} has {name} {found} here and "
                    f"{planned} in the plan"
                )
        if spec.transposed:
            raise InputError(f"{self.name} is a transposed convolution, which cannot be replaced")
        if Trait.QUANTIZED in spec.traits:
            raise InputError(
                f"{self.name} is quantized or prepared for it; apply the plan to the float model "
                "first"
            )


@dataclass(frozen=True)
class Plan:
    """The replacements of one model, sorted by name; JSON round trip with a schema version.

    Raises:
        InputError: a layer occurs twice.
    """

    entries: tuple[PlanEntry, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "entries", tuple(sorted(self.entries, key=lambda entry: entry.name))
        )
        twice = [
            name
            for name, count in Counter(entry.name for entry in self.entries).items()
            if count > 1
        ]
        if twice:
            raise InputError(f"{twice[0]} occurs twice in the plan")

    @property
    def params_before(self) -> int:
        """Parameters of the replaced layers."""
        return sum(entry.params_before for entry in self.entries)

    @property
    def params_after(self) -> int:
        """Parameters of their replacements."""
        return sum(entry.params_after for entry in self.entries)

    def to_json(self, indent: int | None = 2) -> str:
        layers = [asdict(entry) | {"order": entry.order.value} for entry in self.entries]
        return json.dumps({"schema_version": SCHEMA_VERSION, "layers": layers}, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that ``to_json`` wrote.

        Raises:
            FormatError: ``text`` is not JSON, of another schema version, or not a plan.
        """
        data = of_version(parsed(text, "plan"), SCHEMA_VERSION, "plan", "make the plan again")
        _check_keys(data, {"schema_version", "layers"}, "the plan")
        if not isinstance(data["layers"], list):
            raise FormatError("not a plan: layers must be a list")
        try:
            return cls(tuple(_entry(row) for row in data["layers"]))
        except InputError as error:
            raise FormatError(f"not a plan that can be carried out: {error}") from error


def full_multiplier(spec: ConvSpec, order: Order) -> int:
    """The multiplier at which ``order`` equals the convolution exactly; its numbers must be known."""
    full = spec.full_multiplier
    if full is None:
        raise InputError("a convolution whose numbers are not known cannot be planned")
    return full[order]


def equal_cost(spec: ConvSpec, depth_multiplier: int) -> dict[Order, int]:
    """Both orders' multipliers at the cost of ``depthwise_first`` at ``depth_multiplier``.

    ``pointwise_first`` gets the largest multiplier whose parameters, and MACs where shapes are
    known, do not exceed that cost; it is left out where even 1 does.
    """
    first, other = Order.DEPTHWISE_FIRST, Order.POINTWISE_FIRST
    reference = min(depth_multiplier, full_multiplier(spec, first))
    limit = separable_cost(spec, first, reference)
    multipliers = range(full_multiplier(spec, other), 0, -1)
    fitting = (r for r in multipliers if _within(separable_cost(spec, other, r), limit))
    largest = next(fitting, None)
    return {first: reference} if largest is None else {first: reference, other: largest}


def _within(candidate: Cost | None, limit: Cost | None) -> bool:
    assert candidate is not None
    assert limit is not None
    fits = candidate.params <= limit.params
    return fits and (candidate.macs is None or limit.macs is None or candidate.macs <= limit.macs)


def _params(found: Cost | None) -> int:
    assert found is not None  # an entry holds every number that a cost needs
    return found.params


def _known(spec: ConvSpec) -> tuple[int, int, tuple[int, ...], int, bool]:
    numbers = (spec.in_channels, spec.out_channels, spec.kernel_size, spec.groups, spec.bias)
    if None in numbers:
        raise InputError("a convolution whose numbers are not known cannot be planned")
    return numbers  # type: ignore[return-value]  # None was ruled out above


def _entry(row: Any) -> PlanEntry:
    if not isinstance(row, dict):
        raise FormatError(f"not a plan: a layer must be an object, not {row!r}")
    _check_keys(row, {field.name for field in fields(PlanEntry)}, f"layer {row.get('name')!r}")
    if not isinstance(row["kernel_size"], list):
        raise FormatError(f"{row['name']}: kernel_size must be a list, not {row['kernel_size']!r}")
    try:
        order = Order(row["order"])
    except ValueError as error:
        words = " or ".join(order.value for order in Order)
        raise FormatError(f"{row['name']}: order must be {words}, not {row['order']!r}") from error
    return PlanEntry(**{**row, "order": order, "kernel_size": tuple(row["kernel_size"])})


def _check_keys(data: Mapping[str, Any], expected: set[str], where: str) -> None:
    missing, unknown = sorted(expected - data.keys()), sorted(data.keys() - expected)
    if missing:
        raise FormatError(f"{where} lacks {', '.join(missing)}")
    if unknown:
        raise FormatError(f"{where} has keys that this release does not know: {', '.join(unknown)}")
