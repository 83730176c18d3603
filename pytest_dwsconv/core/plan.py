"""What is to be replaced by what: plain data, applied to any model that it fits.

And which replacements are enough for a budget.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

from pytest_dwsconv.core.budget import excess, saved_of
from pytest_dwsconv.core.conv import (
    ORDERS,
    ConvSpec,
    Cost,
    Form,
    Order,
    Part,
    Trait,
    cost,
    full_size,
    parse_form,
    parts,
    separable_cost,
)
from pytest_dwsconv.core.findings import Finding, ReportData, saved_params
from pytest_dwsconv.core.jsonio import OMITTED, Document, Positive
from pytest_dwsconv.core.limits import LimitCheck
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.quantities import is_whole
from pytest_dwsconv.errors import FormatError, InputError

_DOCUMENT = Document("plan", 1, "make the plan again")
_NUMBERS = ("in_channels", "out_channels", "kernel_size", "groups", "bias")
"""What tells which convolution is meant."""


@dataclass(frozen=True)
class PlanEntry:
    """One convolution and its replacement.

    The numbers after the size say which convolution is meant.

    Raises:
        InputError: a field is of the wrong type or out of range.
    """

    name: str
    form: Form
    size: Positive
    in_channels: Positive
    out_channels: Positive
    kernel_size: tuple[Positive, ...]
    groups: Positive
    bias: bool
    transposed: bool = field(default=False, metadata=OMITTED)

    def __post_init__(self) -> None:
        # reason: object.__setattr__ is the only way into a frozen dataclass
        object.__setattr__(self, "form", parse_form(self.form))
        if not isinstance(self.name, str):
            raise InputError(f"a layer's name must be text, not {quoted(self.name)}")
        for flag in ("bias", "transposed"):
            value = getattr(self, flag)
            if not isinstance(value, bool):
                raise InputError(f"{self.name}: {flag} must be true or false, not {quoted(value)}")
        if not 1 <= len(self.kernel_size) <= 3:
            raise InputError(
                f"{self.name}: kernel_size must have 1 to 3 sides, not {quoted(self.kernel_size)}"
            )
        noun = "size" if self.order is None else "depth_multiplier"
        numbers = [(noun, self.size), *(("kernel_size", side) for side in self.kernel_size)]
        numbers += [
            (name, getattr(self, name)) for name in ("in_channels", "out_channels", "groups")
        ]
        for name, value in numbers:
            if not is_whole(value, 1):
                raise InputError(
                    f"{self.name}: {name} must be a whole number from 1, not {quoted(value)}"
                )
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise InputError(
                f"{self.name}: the channels must be divisible by groups ({self.groups})"
            )
        self._check_size(noun)

    def _check_size(self, noun: str) -> None:
        full = full_size(self.spec, self.form)
        if self.form is not Form.GROUPED and self.size > full:
            raise InputError(
                f"{self.name}: {noun} {self.size} is above {full}, which is exact already"
            )
        try:
            self.parts  # noqa: B018  # it refuses a size that the form cannot have
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error

    @classmethod
    def of(cls, name: str, spec: ConvSpec, form: Form | Order, size: int) -> PlanEntry:
        """The entry for a convolution; a size above the exact one is lowered to it.

        Raises:
            InputError: a number of the convolution is not known.
        """
        size = min(size, full_size(spec, form))
        own: dict[str, Any] = {each: getattr(spec, each) for each in (*_NUMBERS, "transposed")}
        return cls(name, Form(form), size, **own)

    @property
    def order(self) -> Order | None:
        """The old word for a form of two parts whose size is a depth multiplier."""
        return Order(self.form) if self.form in ORDERS else None

    @property
    def depth_multiplier(self) -> int | None:
        """The size, if it is a depth multiplier."""
        return self.size if self.form in ORDERS else None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the replacement, in the order in which they run."""
        return parts(self.in_channels, self.out_channels, self.groups, self.form, self.size)

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
            transposed=self.transposed,
        )

    @property
    def params_before(self) -> int:
        return _params(cost(self.spec))

    @property
    def params_after(self) -> int:
        return _params(separable_cost(self.spec, self.form, self.size))

    def check(self, spec: ConvSpec) -> None:
        """Raise InputError unless the convolution found under this name is the one meant."""
        for name in _NUMBERS:
            planned, found = getattr(self, name), getattr(spec, name)
            if planned != found:
                raise InputError(
                    f"the plan is for another model: {self.name} has {name} {found} here and "
                    f"{planned} in the plan"
                )
        if spec.transposed is not self.transposed:
            kind = "a transposed" if spec.transposed else "not a transposed"
            raise InputError(f"the plan is for another model: {self.name} is {kind} convolution")
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
        entries = sorted(self.entries, key=lambda entry: entry.name)
        object.__setattr__(self, "entries", tuple(entries))
        for one, other in pairwise(entries):
            if one.name == other.name:
                raise InputError(f"{one.name} occurs twice in the plan")

    @property
    def params_before(self) -> int:
        """Parameters of the replaced layers."""
        return sum(entry.params_before for entry in self.entries)

    @property
    def params_after(self) -> int:
        """Parameters of their replacements."""
        return sum(entry.params_after for entry in self.entries)

    def to_json(self, indent: int | None = 2) -> str:
        layers = tuple(
            entry if entry.order is None else _OrderedEntry.of(entry) for entry in self.entries
        )
        return json.dumps(_DOCUMENT.to_dict(_StoredPlan(layers)), indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that ``to_json`` wrote.

        Raises:
            FormatError: ``text`` is not JSON, of another schema version, or not a plan.
        """
        layers = _DOCUMENT.from_json(text, _StoredPlan).layers
        try:
            return cls(
                tuple(one.entry if isinstance(one, _OrderedEntry) else one for one in layers)
            )
        except InputError as error:
            raise FormatError(f"not a plan: {error}") from error


@dataclass(frozen=True)
class _OrderedEntry:
    """An entry of one of the two orders, by the keys that files have always had."""

    name: str
    order: Order
    depth_multiplier: Positive
    in_channels: Positive
    out_channels: Positive
    kernel_size: tuple[Positive, ...]
    groups: Positive
    bias: bool
    transposed: bool = field(default=False, metadata=OMITTED)

    def __post_init__(self) -> None:
        self.entry  # noqa: B018  # it refuses numbers that do not go together

    @classmethod
    def of(cls, entry: PlanEntry) -> _OrderedEntry:
        return cls(*(getattr(entry, field.name) for field in fields(cls)))

    @property
    def entry(self) -> PlanEntry:
        values = [getattr(self, field.name) for field in fields(self)]
        return PlanEntry(*values)


@dataclass(frozen=True)
class _StoredPlan:
    """A plan as its file calls it."""

    layers: tuple[_OrderedEntry | PlanEntry, ...]


def enough(report: ReportData, exceeded: Sequence[LimitCheck]) -> tuple[Finding, ...]:
    """Candidates whose replacement brings the model under every limit that it exceeds, at once.

    None of them could be left out. Under a single limit they are the fewest there are. Empty where
    all candidates together would not do.
    """
    over = {check: excess(report, check) for check in exceeded}
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


def _help(finding: Finding, over: Mapping[LimitCheck, float]) -> tuple[float, float, int]:
    """How much replacing this convolution helps, in order of importance.

    The share of what is over each limit that it takes off, at most all of it; the same without that
    bound; its parameters.
    """
    shares = [saved_of(check, finding) / rest for check, rest in over.items() if rest > 0]
    return sum(min(share, 1.0) for share in shares), sum(shares), saved_params(finding)


def _until_a_limit_is_met(
    helpful: Sequence[Finding], over: dict[LimitCheck, float]
) -> list[Finding]:
    """The first of these that together meet one of the limits; ``over`` becomes what is left.

    Empty if not even all of them meet one.
    """
    unmet = [check for check, rest in over.items() if rest > 0]
    for count, finding in enumerate(helpful, start=1):
        for check in over:
            over[check] -= saved_of(check, finding)
        if any(over[check] <= 0 for check in unmet):
            return list(helpful[:count])
    return []


def _without_superfluous(
    chosen: Sequence[Finding], over: dict[LimitCheck, float]
) -> tuple[Finding, ...]:
    """Leave out what the others make up for, the last chosen first."""
    needed = []
    for finding in reversed(chosen):
        without = {check: rest + saved_of(check, finding) for check, rest in over.items()}
        if max(without.values()) <= 0:
            over = without
        else:
            needed.append(finding)
    return tuple(reversed(needed))


def plan_of(report: ReportData, replaced: Sequence[Finding]) -> Plan:
    """The replacements that a report reckons with, of these of its candidates."""
    entries = []
    for found in replaced:
        form = found.order or report.order
        entries.append(PlanEntry.of(found.name, found.spec, form, report.depth_multiplier))
    return Plan(tuple(entries))


def _params(found: Cost | None) -> int:
    assert found is not None  # an entry holds every number that a cost needs
    return found.params
