"""Where a model's convolutions are: registered modules and function calls, with every call of the
recorded forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import type_before_parametrizations

from pytest_dwsconv.core.conv import ConvSpec, Trait, cost
from pytest_dwsconv.core.findings import Origin
from pytest_dwsconv.tracing import operators
from pytest_dwsconv.tracing.counting import ConvCall, Counted
from pytest_dwsconv.tracing.inventory import Inventory
from pytest_dwsconv.tracing.steps import Step
from pytest_dwsconv.tracing.trace import Trace

_QUANTIZED_PACKAGES = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.intrinsic", "torch.nn.qat")


class _ModuleCall(NamedTuple):
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    macs: int


@dataclass
class Site:
    """One convolution: a registered module, or the function calls that share a weight."""

    name: str
    type_name: str
    spec: ConvSpec
    origin: Origin
    aliases: tuple[str, ...] = ()
    calls: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """Input and output shape of each call."""
    macs: int = 0
    element_size: int | None = None
    followed_by: tuple[str, ...] = ()

    def called(self, call: ConvCall | _ModuleCall, step: Step, recorded: Trace) -> None:
        """Note one more call, which ``step`` made."""
        if not self.calls:
            self.element_size = None if step.layout is None else step.layout.dtype.itemsize
            self.followed_by = tuple(_followers(step, recorded.inventory))
        self.calls.append((call.input_shape, call.output_shape))
        self.macs += call.macs
        self.origin = recorded.origin

    def add_trait(self, trait: Trait) -> None:
        if trait not in self.spec.traits:
            self.spec = replace(self.spec, traits=(*self.spec.traits, trait))


def find_sites(inventory: Inventory, recorded: Trace | None) -> list[Site]:
    """Convolutions in the order of their first call, then the registered ones that were not called."""
    sites = _registered(inventory, Origin.ATTRIBUTES if recorded is None else Origin.NOT_EXECUTED)
    if recorded is None:
        return list(sites.values())
    order: dict[str, Site] = {}
    for step in recorded.steps:
        if step.op == "call_module" and step.counted is None:
            continue  # most modules: neither a convolution nor in one
        for site in _called_by(step, recorded, sites):
            order.setdefault(site.name, site)
    return [*order.values(), *(site for name, site in sites.items() if name not in order)]


def _registered(inventory: Inventory, origin: Origin) -> dict[str, Site]:
    tied = {parameter for parameter, names in inventory.parameter_names.items() if len(names) > 1}
    convolutions = {
        kind for kind in set(map(type, inventory.modules.values())) if _holds_convolutions(kind)
    }
    sites = {}
    for name, module in inventory.modules.items():
        if type(module) in convolutions and _is_convolution(module):
            aliases = tuple(inventory.names[id(module)][1:])
            site = sites[name] = Site(
                name, type(module).__name__, module_spec(module), origin, aliases
            )
            if tied and any(id(parameter) in tied for parameter in module._parameters.values()):
                site.add_trait(Trait.TIED)
    return sites


def _holds_convolutions(kind: type[nn.Module]) -> bool:
    """Whether modules of this class may be convolutions."""
    return issubclass(kind, _ConvNd) or kind.__module__.startswith(_QUANTIZED_PACKAGES)


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) or (
        hasattr(module, "kernel_size") and hasattr(module, "groups")
    )


_INT = frozenset({int})


def _sides(value: Any, rank: int) -> tuple[int, ...]:
    """One entry a side, as Python's own numbers: models are built from NumPy's too."""
    if type(value) is tuple and len(value) == rank and _INT.issuperset(map(type, value)):
        return value
    return tuple(map(int, operators.per_side(value, rank)))


def module_spec(module: nn.Module) -> ConvSpec:
    """The numbers of a convolution module, with its traits and without shapes."""
    conv: Any = module
    rank = len(conv.kernel_size)
    in_channels, out_channels, kernel_size = (
        conv.in_channels,
        conv.out_channels,
        tuple(conv.kernel_size),
    )
    weight = module._parameters.get("weight")
    if weight is not None and not conv.transposed:  # which may have been pruned by hand
        out_channels, held, *sides = weight.shape
        in_channels, kernel_size = held * conv.groups, tuple(sides)
    return ConvSpec(
        rank=rank,
        in_channels=int(in_channels),
        out_channels=int(out_channels),
        kernel_size=_sides(kernel_size, rank),
        stride=_sides(conv.stride, rank),
        padding=conv.padding if isinstance(conv.padding, str) else _sides(conv.padding, rank),
        dilation=_sides(conv.dilation, rank),
        groups=int(conv.groups),
        bias=_has_bias(conv),
        padding_mode=conv.padding_mode,
        transposed=conv.transposed,
        traits=_module_traits(module),
    )


def _has_bias(conv: Any) -> bool:
    if "bias" in conv._parameters:
        return conv._parameters["bias"] is not None
    return (conv.bias() if callable(conv.bias) else conv.bias) is not None


def _module_traits(module: nn.Module) -> tuple[Trait, ...]:
    if (
        type(module).__module__.startswith(_QUANTIZED_PACKAGES)
        or module.__dict__.get("qconfig") is not None
    ):
        return (Trait.QUANTIZED,)
    kind = (
        type_before_parametrizations(module)
        if "parametrizations" in module._modules
        else type(module)
    )
    exact = kind in operators.CONVOLUTIONS and not operators.own_forward(module)
    traits = () if exact else (Trait.SUBCLASS,)
    own = "weight" in module._parameters and "bias" in module._parameters
    if not own:
        return (*traits, Trait.REPARAMETRIZED)
    weight = module._parameters["weight"]
    if weight is None:
        return (*traits, Trait.NO_PARAMETER)
    return (*traits, Trait.COMPLEX) if weight.is_complex() else traits


def _called_by(step: Step, recorded: Trace, sites: dict[str, Site]) -> Iterator[Site]:
    """The sites whose convolutions this step runs, with the call noted on them; none for most
    steps.
    """
    if step.op == "call_module" and step.target in sites:
        site = sites[step.target]
        assert step.counted is not None
        site.called(
            _ModuleCall(_shape(step.reads[0]), _shape(step), step.counted.macs), step, recorded
        )
        yield site
    elif step.op == "get_attr":
        _mark_read_elsewhere(step, sites)
    elif step.owner in sites and _runs_quantized(step, sites[step.owner]):
        site = sites[step.owner]
        step.counted = Counted(_quantized_macs(step, site.spec))
        site.called(
            _ModuleCall(_shape(step.reads[0]), _shape(step), step.counted.macs), step, recorded
        )
        yield site
    for index, call in enumerate(step.counted.convolutions if step.counted is not None else ()):
        site = _site_of(step, call, recorded, sites)
        # one convolution, which PyTorch takes apart into three
        if index and Trait.COMPLEX in site.spec.traits:
            site.macs += call.macs
        else:
            site.called(call, step, recorded)
        yield site


def _runs_quantized(step: Step, site: Site) -> bool:
    """Whether the step is the quantized convolution of this module, of which PyTorch counts
    nothing.
    """
    name = str(getattr(step.target, "__name__", ""))
    return (
        Trait.QUANTIZED in site.spec.traits
        and name.startswith("conv")
        and step.counted is None
        and bool(step.reads)
    )


def _quantized_macs(step: Step, spec: ConvSpec) -> int:
    one = cost(spec.shaped(_shape(step.reads[0]), _shape(step)))
    return 0 if one is None else one.macs or 0


def _mark_read_elsewhere(step: Step, sites: dict[str, Site]) -> None:
    """A weight that something else than its own module reads is not a replacement's to give."""
    owner = step.target.rpartition(".")[0]
    if owner in sites and any(user.owner != owner for user in step.users):
        sites[owner].add_trait(Trait.READ_ELSEWHERE)


def _site_of(step: Step, call: ConvCall, recorded: Trace, sites: dict[str, Site]) -> Site:
    """The module whose forward made this function call or whose weight it reads, else a site of its
    own.
    """
    weight = step.kwargs.get("weight", step.args[1] if len(step.args) > 1 else None)
    read = str(weight.target) if isinstance(weight, Step) and weight.op == "get_attr" else None
    if step.owner in sites and (read is None or read.startswith(f"{step.owner}.")):
        return sites[step.owner]
    if read is not None and read not in recorded.constants:
        name = read
        if name.rpartition(".")[0] in sites:
            return sites[name.rpartition(".")[0]]
    else:
        name = f"{step.owner}.{recorded.node(step).name}".lstrip(".")
    traits = (
        (Trait.FUNCTIONAL,)
        if recorded.inventory.holds_parameter(name)
        else (Trait.FUNCTIONAL, Trait.NO_PARAMETER)
    )
    new = Site(
        name, getattr(step.target, "__name__", "function"), _call_spec(call, traits), Origin.META
    )
    return sites.setdefault(name, new)


def _call_spec(call: ConvCall, traits: tuple[Trait, ...]) -> ConvSpec:
    outputs, inputs = call.weight_shape[0], call.weight_shape[1] * call.groups
    if call.transposed:
        outputs, inputs = call.weight_shape[1] * call.groups, call.weight_shape[0]
    return ConvSpec(
        rank=len(call.stride),
        in_channels=int(inputs),
        out_channels=int(outputs),
        kernel_size=call.weight_shape[2:],
        stride=_sides(call.stride, len(call.stride)),
        padding=_sides(call.padding, len(call.stride)),
        dilation=_sides(call.dilation, len(call.stride)),
        groups=int(call.groups),
        bias=call.bias,
        transposed=call.transposed,
        traits=traits,
    )


def _shape(step: Step) -> tuple[int, ...]:
    assert step.layout is not None
    return tuple(step.layout.shape)


def _followers(step: Step, inventory: Inventory) -> Iterator[str]:
    """The normalisation and then the activation that are the only ones to use a result, as far as
    there are.
    """
    for kind in (operators.NORMALISATIONS, operators.ACTIVATIONS):
        if len(step.users) == 1:
            name = operator_name(step.users[0], inventory)
            if name.rstrip("_") in kind:
                yield name
                step = step.users[0]


def operator_name(step: Step, inventory: Inventory) -> str:
    """A step's own word: the class of a module, the name of a function."""
    if step.op == "call_module":
        return type(inventory.modules[step.target]).__name__
    return str(getattr(step.target, "__name__", step.target))
