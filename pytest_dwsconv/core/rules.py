"""Which convolutions can be made depthwise separable: one table, for modules and for source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from math import prod

from pytest_dwsconv.core.conv import ConvSpec, Kind, Order, Trait, cost, parse_order, separable_cost
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.quantities import whole_number
from pytest_dwsconv.errors import InputError


class Verdict(str, Enum):
    """The three answers."""

    CANDIDATE = "candidate"
    INELIGIBLE = "ineligible"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Judgement:
    """A verdict with the stable code of the rule that gave it, and its reason in words."""

    verdict: Verdict
    code: str
    reason: str


@dataclass(frozen=True)
class Policy:
    """What the judge is asked for: the replacement to reckon with, and what to leave alone.

    ``select`` and ``ignore`` are shell-style patterns on qualified names (``layer3.*``); an empty
    ``select`` takes all. ``subclasses``, ``functional`` and ``few_channels`` let the judge look
    past the rules about those; without ``transposed``, transposed convolutions are left alone.
    """

    depth_multiplier: int = 1
    order: Order = Order.DEPTHWISE_FIRST
    min_saving: float = 1.0
    subclasses: bool = False
    functional: bool = False
    few_channels: bool = False
    transposed: bool = True
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the settings; an order may be given by its word, as for ``rewrite``."""
        # reason: object.__setattr__ is the only way into a frozen dataclass
        multiplier = whole_number("depth_multiplier", self.depth_multiplier)
        object.__setattr__(self, "depth_multiplier", multiplier)
        object.__setattr__(self, "order", parse_order(self.order))
        number = isinstance(self.min_saving, (int, float))
        if not number or isinstance(self.min_saving, bool) or not self.min_saving >= 1:
            raise InputError(
                f"min_saving must be at least 1, not {quoted(self.min_saving)}: less is no saving"
            )
        for flag in ("subclasses", "functional", "few_channels", "transposed"):
            if not isinstance(getattr(self, flag), bool):
                raise InputError(f"{flag} is True or False, not {quoted(getattr(self, flag))}")
        for field in ("select", "ignore"):
            object.__setattr__(self, field, checked_patterns(getattr(self, field), field))

    def order_for(self, spec: ConvSpec) -> Order:
        """The order to reckon with: ``order``, but pointwise first where the inputs are few."""
        # reason: a pointwise part at the output's resolution may need more MACs than there were
        enlarges = spec.transposed and prod(spec.stride or ()) > 1
        if enlarges or (not self.few_channels and spec.has_few_inputs):
            return Order.POINTWISE_FIRST
        return self.order

    def leaves_out(self, *names: str) -> bool:
        """Whether the patterns leave out a convolution known by any of these names."""
        if self.select and not matches(names, self.select):
            return True
        return bool(self.ignore) and matches(names, self.ignore)


def checked_patterns(given: object, asked_by: str) -> tuple[str, ...]:
    """Shell-style patterns as a tuple.

    Raises:
        InputError: they are not a list of strings.
    """
    if isinstance(given, str):
        raise InputError(f"{asked_by} takes a list of patterns, not one string: [{quoted(given)}]")
    if not isinstance(given, Iterable):
        raise InputError(
            f"{asked_by} takes a list of patterns such as ['layer3.*'], not {quoted(given)}"
        )
    patterns = tuple(given)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InputError(
                f"{asked_by} takes a list of patterns such as ['layer3.*'], "
                f"and {quoted(pattern)} is not a string"
            )
    return patterns


def matches(names: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    """Whether one of the names is like one of the shell-style patterns."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def most_saving(spec: ConvSpec, policy: Policy = Policy()) -> float:
    """Parameters of the original over parameters of the replacement.

    Where a number is not known it is the upper bound. The bound of depthwise_first is k M / (r (G k
    + M)), or k / r with M not known either, that of pointwise_first k C / (r (C + G k)): they
    follow from the costs, and a bias, which both forms have, only lowers them.
    """
    order = policy.order_for(spec)
    before, after = cost(spec), separable_cost(spec, order, policy.depth_multiplier)
    if before is not None and after is not None:
        return before.params / max(1, after.params)
    taps, filters = prod(spec.kernel_size or ()), spec.out_channels
    if order is Order.POINTWISE_FIRST and spec.in_channels is not None:
        inputs = spec.in_channels // (spec.groups or 1)
        return inputs * taps / (policy.depth_multiplier * (inputs + taps))
    bound = (
        taps if filters is None else taps * filters / max(1, taps * (spec.groups or 1) + filters)
    )
    return bound / policy.depth_multiplier


@dataclass(frozen=True)
class Rule:
    """One row: where ``applies`` holds, the verdict is settled and no later row is asked."""

    code: str
    title: str
    verdict: Verdict
    applies: Callable[[ConvSpec, Policy], bool]
    reason: str
    applies_to: ConvSpec
    """An example that the rule settles under the default policy."""


def _trait(trait: Trait) -> Callable[[ConvSpec, Policy], bool]:
    return lambda spec, policy: trait in spec.traits


def _saves_nothing(spec: ConvSpec, policy: Policy) -> bool:
    return most_saving(spec, policy) <= policy.min_saving


def _few_inputs_save_nothing(spec: ConvSpec, policy: Policy) -> bool:
    return policy.order_for(spec) is not policy.order and _saves_nothing(spec, policy)


def _stays_transposed(spec: ConvSpec, policy: Policy) -> bool:
    if not policy.transposed or Trait.FUNCTIONAL in spec.traits:
        return True
    return spec.groups == spec.in_channels or _saves_nothing(spec, policy)


def _explanation(spec: ConvSpec, policy: Policy) -> str:
    """What a candidate's reason says beside its kind."""
    if policy.order_for(spec) is policy.order:
        return _assumption(spec, policy)
    if spec.has_few_inputs:
        return ", pointwise first: with so few input channels depthwise first has too few maps"
    return ", pointwise first: its input has fewer positions than its output"


def _assumption(spec: ConvSpec, policy: Policy) -> str:
    """From how many output channels on depthwise_first saves: r < k M / (k + M)."""
    if spec.out_channels is not None:
        return ""
    taps, multiplier = prod(spec.kernel_size or ()), policy.depth_multiplier
    return f", assuming at least {multiplier * taps // (taps - multiplier) + 1} output channels"


def _conv3x3(*traits: Trait, **changes: object) -> ConvSpec:
    arguments: dict[str, object] = {
        "in_channels": 64,
        "out_channels": 64,
        "kernel_size": (3, 3),
        **changes,
    }
    return ConvSpec(rank=2, traits=traits, **arguments)  # type: ignore[arg-type]  # a table row spelled short


_NO, _UNSURE = Verdict.INELIGIBLE, Verdict.CANNOT_TELL

RULES: tuple[Rule, ...] = (
    Rule(
        "DWS101",
        "left out by the configuration",
        _NO,
        _trait(Trait.IGNORED),
        "left out by select, ignore, a plan or a skip comment",
        _conv3x3(Trait.IGNORED),
    ),
    Rule(
        "DWS201",
        "class used as a value",
        _UNSURE,
        _trait(Trait.REFERENCE),
        "the class is passed on as a value here, so what it is called with is not written here",
        _conv3x3(
            Trait.REFERENCE, in_channels=None, out_channels=None, kernel_size=None, groups=None
        ),
    ),
    Rule(
        "DWS202",
        "unpacked arguments",
        _UNSURE,
        _trait(Trait.UNPACKED_ARGUMENTS),
        "arguments are unpacked with * or **, so kernel and groups cannot be read here",
        _conv3x3(Trait.UNPACKED_ARGUMENTS, kernel_size=None, groups=None),
    ),
    Rule(
        "DWS102",
        "quantized",
        _NO,
        _trait(Trait.QUANTIZED),
        "it is quantized, or has a qconfig to become so; rewrite the float model, then prepare and "
        "quantize it",
        _conv3x3(Trait.QUANTIZED),
    ),
    Rule(
        "DWS113",
        "complex",
        _NO,
        _trait(Trait.COMPLEX),
        "complex weights are counted but not replaced",
        _conv3x3(Trait.COMPLEX),
    ),
    Rule(
        "DWS103",
        "transposed",
        _NO,
        lambda spec, policy: spec.transposed and _stays_transposed(spec, policy),
        "a transposed convolution is replaced only as a live module, and where that saves",
        _conv3x3(transposed=True, out_channels=1),
    ),
    Rule(
        "DWS203",
        "kernel size not known",
        _UNSURE,
        lambda spec, policy: spec.kernel_size is None,
        "the kernel size is not a constant here",
        _conv3x3(kernel_size=None),
    ),
    Rule(
        "DWS104",
        "pointwise",
        _NO,
        lambda spec, policy: spec.kind is Kind.POINTWISE,
        "a 1 x 1 kernel has nothing to separate",
        _conv3x3(kernel_size=(1, 1)),
    ),
    Rule(
        "DWS204",
        "groups not known",
        _UNSURE,
        lambda spec, policy: spec.kind is Kind.UNKNOWN,
        "groups is not a constant here, so this may be depthwise already",
        _conv3x3(groups=None),
    ),
    Rule(
        "DWS105",
        "depthwise",
        _NO,
        lambda spec, policy: spec.kind is Kind.DEPTHWISE,
        "it is depthwise already",
        _conv3x3(groups=64),
    ),
    Rule(
        "DWS106",
        "subclass",
        _NO,
        lambda spec, policy: Trait.SUBCLASS in spec.traits and not policy.subclasses,
        "it is a subclass or has its own forward, which may do more than convolve; ask for "
        "subclasses to include one",
        _conv3x3(Trait.SUBCLASS),
    ),
    Rule(
        "DWS114",
        "module not registered",
        _NO,
        _trait(Trait.UNREGISTERED),
        "its module is not registered, so no optimizer sees its weight and no state_dict holds it; "
        "keep the module in an nn.ModuleList or nn.ModuleDict, or as an attribute",
        _conv3x3(Trait.FUNCTIONAL, Trait.NO_PARAMETER, Trait.UNREGISTERED),
    ),
    Rule(
        "DWS112",
        "weight no parameter",
        _NO,
        _trait(Trait.NO_PARAMETER),
        "its weight is a buffer, a constant or computed, and no parameter that could be replaced",
        _conv3x3(Trait.FUNCTIONAL, Trait.NO_PARAMETER),
    ),
    Rule(
        "DWS107",
        "functional",
        _NO,
        lambda spec, policy: Trait.FUNCTIONAL in spec.traits and not policy.functional,
        "it is a function call with a weight of its own: only DepthwiseSeparablePass replaces it",
        _conv3x3(Trait.FUNCTIONAL),
    ),
    Rule(
        "DWS108",
        "reparametrized weight",
        _NO,
        _trait(Trait.REPARAMETRIZED),
        "its weight is computed from other parameters; remove the parametrization to include it",
        _conv3x3(Trait.REPARAMETRIZED),
    ),
    Rule(
        "DWS109",
        "tied weight",
        _NO,
        _trait(Trait.TIED),
        "another module holds the same weight or bias, and a replacement would untie them",
        _conv3x3(Trait.TIED),
    ),
    Rule(
        "DWS110",
        "weight read elsewhere",
        _NO,
        _trait(Trait.READ_ELSEWHERE),
        "the forward reads its weight outside the module, and a replacement has no such weight",
        _conv3x3(Trait.READ_ELSEWHERE),
    ),
    Rule(
        "DWS205",
        "left open by the file",
        _UNSURE,
        _trait(Trait.LEFT_OPEN),
        "the file leaves open whether it has to stay as it is",
        _conv3x3(Trait.LEFT_OPEN),
    ),
    Rule(
        "DWS115",
        "few input channels",
        _NO,
        _few_inputs_save_nothing,
        "with so few input channels depthwise first makes all outputs mixtures of the same few "
        "maps, and pointwise first saves nothing, or no more than min_saving asks for; "
        "few_channels lifts this rule",
        _conv3x3(in_channels=1),
    ),
    Rule(
        "DWS111",
        "saves nothing",
        _NO,
        _saves_nothing,
        "the depthwise separable form would save nothing, or no more than min_saving asks for",
        _conv3x3(out_channels=1),
    ),
    Rule(
        "DWS116",
        "part of a separable convolution",
        _NO,
        _trait(Trait.PART),
        "it is a part of a separable convolution already",
        _conv3x3(Trait.PART, groups=8),
    ),
)
"""Asked from the top; the first row that applies settles the verdict."""

_WITHOUT_TRAITS = tuple(rule for rule in RULES if not rule.applies_to.traits)
"""The rows to ask about a convolution without traits: where the example has one, the row is about
it.
"""

CANDIDATE_CODE = "DWS001"


def judge(spec: ConvSpec, policy: Policy = Policy()) -> Judgement:
    """Judge one convolution by the first rule that applies; a candidate is what none applies to.

    With a channel count not known (a name in source) a saving cannot be computed, but from a few
    output channels on there always is one: such a site is a candidate, and the reason says what was
    assumed.
    """
    for rule in RULES if spec.traits else _WITHOUT_TRAITS:
        if rule.applies(spec, policy):
            return Judgement(rule.verdict, rule.code, rule.reason)
    return Judgement(
        Verdict.CANDIDATE,
        CANDIDATE_CODE,
        f"{spec.kind.value} convolution{_explanation(spec, policy)}",
    )
