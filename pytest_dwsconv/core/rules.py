"""Which convolutions can be made depthwise separable: one table, for modules and for source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import prod

from pytest_dwsconv.core.conv import ConvSpec, Kind, Order, Trait, cost, separable_cost
from pytest_dwsconv.core.policy import Policy


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
    """One row: where ``applies`` holds, the verdict is settled and no later row is asked.

    ``applies_to`` is a convolution, and ``example`` Python, that the rule settles under the default
    policy; ``advice`` says what to do.
    """

    code: str
    title: str
    verdict: Verdict
    applies: Callable[[ConvSpec, Policy], bool]
    reason: str
    applies_to: ConvSpec
    example: str
    advice: str

    @property
    def command(self) -> str:
        """What tells all of this on any machine that has the package."""
        return f"dwsconv-rewrite explain {self.code}"


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


CANDIDATE_CODE = "DWS001"
_NO, _UNSURE = Verdict.INELIGIBLE, Verdict.CANNOT_TELL

RULES: tuple[Rule, ...] = (
    Rule(
        "DWS101",
        "left out by the configuration",
        _NO,
        _trait(Trait.IGNORED),
        "left out by select, ignore, a plan or a skip comment",
        _conv3x3(Trait.IGNORED),
        "nn.Conv2d(64, 128, 3)  # dws: skip",
        "Nothing, if it is to stay as it is. Else take out the comment, or the pattern in "
        "`select` or `ignore` that leaves it out.",
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
        "partial(nn.Conv2d, kernel_size=size)",
        "Call the class where it is needed, or name a model that the file builds, with `--model`. "
        "`rewrite` on the live model sees what was built, however it came about.",
    ),
    Rule(
        "DWS202",
        "unpacked arguments",
        _UNSURE,
        _trait(Trait.UNPACKED_ARGUMENTS),
        "arguments are unpacked with * or **, so kernel and groups cannot be read here",
        _conv3x3(Trait.UNPACKED_ARGUMENTS, kernel_size=None, groups=None),
        "nn.Conv2d(64, 128, **options)",
        "Without `--no-guards` the inserted class decides this when the code runs. Or write the "
        "kernel size and the groups into the call, or name a model with `--model`.",
    ),
    Rule(
        "DWS102",
        "quantized",
        _NO,
        _trait(Trait.QUANTIZED),
        "it is quantized, or has a qconfig to become so; rewrite the float model, then prepare and "
        "quantize it",
        _conv3x3(Trait.QUANTIZED),
        "torch.ao.nn.quantized.Conv2d(64, 128, 3)",
        "Rewrite the float model first, then prepare and quantize that.",
    ),
    Rule(
        "DWS113",
        "complex",
        _NO,
        _trait(Trait.COMPLEX),
        "complex weights are counted but not replaced",
        _conv3x3(Trait.COMPLEX),
        "nn.Conv2d(64, 128, 3, dtype=torch.complex64)",
        "Leave it: complex weights are counted, not replaced.",
    ),
    Rule(
        "DWS103",
        "transposed",
        _NO,
        lambda spec, policy: spec.transposed and _stays_transposed(spec, policy),
        "a transposed convolution is replaced only as a live module, and where that saves",
        _conv3x3(transposed=True, out_channels=1),
        "nn.ConvTranspose2d(64, 32, 2, stride=2)",
        "Let `rewrite` replace it in the live model, where it saves. In a file leave it, or write "
        "`nn.Upsample` and an `nn.Conv2d` in its place, which can be rewritten.",
    ),
    Rule(
        "DWS203",
        "kernel size not known",
        _UNSURE,
        lambda spec, policy: spec.kernel_size is None,
        "the kernel size is not a constant here",
        _conv3x3(kernel_size=None),
        "nn.Conv2d(64, 128, kernel_size)",
        "Without `--no-guards` the inserted class decides this when the code runs. Or write the "
        "number into the call, or a constant of the file. Where it differs from call to call, "
        "name a model that the file builds, with `--model`, or use `rewrite` on the live model.",
    ),
    Rule(
        "DWS104",
        "pointwise",
        _NO,
        lambda spec, policy: spec.kind is Kind.POINTWISE,
        "a 1 x 1 kernel has nothing to separate",
        _conv3x3(kernel_size=(1, 1)),
        "nn.Conv2d(64, 128, 1)",
        "Leave it: it is what the pointwise half of a separable convolution is.",
    ),
    Rule(
        "DWS204",
        "groups not known",
        _UNSURE,
        lambda spec, policy: spec.kind is Kind.UNKNOWN,
        "groups is not a constant here, so this may be depthwise already",
        _conv3x3(groups=None),
        "nn.Conv2d(64, 128, 3, groups=groups)",
        "Without `--no-guards` the inserted class decides this when the code runs. Or leave "
        "`groups` out where it is always 1, or name a model with `--model`, which shows what each "
        "call builds.",
    ),
    Rule(
        "DWS105",
        "depthwise",
        _NO,
        lambda spec, policy: spec.kind is Kind.DEPTHWISE,
        "it is depthwise already",
        _conv3x3(groups=64),
        "nn.Conv2d(64, 64, 3, groups=64)",
        "Leave it: it is depthwise already.",
    ),
    Rule(
        "DWS106",
        "subclass",
        _NO,
        lambda spec, policy: Trait.SUBCLASS in spec.traits and not policy.subclasses,
        "it is a subclass or has its own forward, which may do more than convolve; ask for "
        "subclasses to include one",
        _conv3x3(Trait.SUBCLASS),
        "nn.LazyConv2d(64, 3)",
        "Write the plain class if nothing is lost by that. In a live model, `rewrite(..., "
        "subclasses=True)` includes subclasses that only convolve.",
    ),
    Rule(
        "DWS114",
        "module not registered",
        _NO,
        _trait(Trait.UNREGISTERED),
        "its module is not registered, so no optimizer sees its weight and no state_dict holds it; "
        "keep the module in an nn.ModuleList or nn.ModuleDict, or as an attribute",
        _conv3x3(Trait.FUNCTIONAL, Trait.NO_PARAMETER, Trait.UNREGISTERED),
        "self.convs = [nn.Conv2d(64, 64, 3)]  # a plain list",
        "Keep the module in an `nn.ModuleList` or `nn.ModuleDict`, or as an attribute.",
    ),
    Rule(
        "DWS112",
        "weight no parameter",
        _NO,
        _trait(Trait.NO_PARAMETER),
        "its weight is a buffer, a constant or computed, and no parameter that could be replaced",
        _conv3x3(Trait.FUNCTIONAL, Trait.NO_PARAMETER),
        "self.register_buffer('kernel', torch.ones(8, 8, 3, 3))",
        "Leave it if the weight is not to be learned; else make it an `nn.Parameter`.",
    ),
    Rule(
        "DWS107",
        "functional",
        _NO,
        lambda spec, policy: Trait.FUNCTIONAL in spec.traits and not policy.functional,
        "it is a function call with a weight of its own: only DepthwiseSeparablePass replaces it",
        _conv3x3(Trait.FUNCTIONAL),
        "nn.functional.conv2d(x, self.weight)",
        "Use a module such as `nn.Conv2d`, or `DepthwiseSeparablePass` on a `torch.fx` graph.",
    ),
    Rule(
        "DWS108",
        "reparametrized weight",
        _NO,
        _trait(Trait.REPARAMETRIZED),
        "its weight is computed from other parameters; remove the parametrization to include it",
        _conv3x3(Trait.REPARAMETRIZED),
        "nn.utils.spectral_norm(nn.Conv2d(64, 64, 3))",
        "Take the reparametrization out first, with `remove_spectral_norm`, "
        "`remove_parametrizations` or `prune.remove`, or leave the convolution as it is.",
    ),
    Rule(
        "DWS109",
        "tied weight",
        _NO,
        _trait(Trait.TIED),
        "another module holds the same weight or bias, and a replacement would untie them",
        _conv3x3(Trait.TIED),
        "self.decoder.weight = self.encoder.weight",
        "Leave both, or give each a weight of its own.",
    ),
    Rule(
        "DWS110",
        "weight read elsewhere",
        _NO,
        _trait(Trait.READ_ELSEWHERE),
        "the forward reads its weight outside the module, and a replacement has no such weight",
        _conv3x3(Trait.READ_ELSEWHERE),
        "self.conv = nn.Conv2d(64, 64, 3)\nnn.init.zeros_(self.conv.weight)",
        "Use the module as a whole, `self.conv(x)`. An initialisation by name can go into a "
        "function for `apply`; a `weight` that the forward reads cannot be replaced.",
    ),
    Rule(
        "DWS205",
        "left open by the file",
        _UNSURE,
        _trait(Trait.LEFT_OPEN),
        "the file leaves open whether it has to stay as it is",
        _conv3x3(Trait.LEFT_OPEN),
        "zero_module(nn.Conv2d(64, 64, 3))  # the function is imported",
        "The reason names the line that leaves it open. Change that line, or replace the "
        "convolution by hand if you know that it may be.",
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
        "nn.Conv2d(3, 64, 3)",
        "Leave the first layer of a network: it costs little. `few-channels = true` in "
        "`[tool.dwsconv]`, or `few_channels=True`, lifts the rule; `rewrite` on the live model "
        "puts the pointwise part first.",
    ),
    Rule(
        "DWS111",
        "saves nothing",
        _NO,
        _saves_nothing,
        "the depthwise separable form would save nothing, or no more than min_saving asks for",
        _conv3x3(out_channels=1),
        "nn.Conv2d(64, 1, 3)",
        "Leave it. If it is `min-saving` (`min_saving`) that asks for more, lower that.",
    ),
    Rule(
        "DWS116",
        "part of a separable convolution",
        _NO,
        _trait(Trait.PART),
        "it is a part of a separable convolution already",
        _conv3x3(Trait.PART, groups=8),
        "SeparableConv2d(64, 64, 3, form='grouped', size=8)  # its depthwise part",
        "Leave it: to make it smaller, rewrite the original with a smaller size or another form.",
    ),
)
"""Asked from the top; the first row that applies settles the verdict."""

CANDIDATE = Rule(
    CANDIDATE_CODE,
    "could be depthwise separable",
    Verdict.CANDIDATE,
    lambda spec, policy: True,
    "a standard or grouped convolution that saves",
    _conv3x3(),
    "nn.Conv2d(64, 128, 3, padding=1)",
    "Let `dwsconv-rewrite` replace it in the file, or `rewrite` in the live model, which keeps "
    "what it has learned. To keep it as it is, end its line in `# noqa: DWS001`.",
)
"""What no other row applies to."""

RULEBOOK = {rule.code: rule for rule in (CANDIDATE, *sorted(RULES, key=lambda rule: rule.code))}
"""By code, in their order: for ``explain``, the documentation, and SARIF."""

_WITHOUT_TRAITS = tuple(rule for rule in RULES if not rule.applies_to.traits)
"""The rows to ask about a convolution without traits: where the example has one, the row is about
it.
"""


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
