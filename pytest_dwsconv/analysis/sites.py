"""Where a model's convolutions are: registered modules and function calls, with every call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import type_before_parametrizations

from pytest_dwsconv.analysis.unregistered import UnregisteredModule, unregistered_modules
from pytest_dwsconv.core.conv import ConvSpec, Trait, cost
from pytest_dwsconv.core.findings import Origin
from pytest_dwsconv.separable.modules import SeparableConvNd
from pytest_dwsconv.tracing import operators
from pytest_dwsconv.tracing.counting import Counted
from pytest_dwsconv.tracing.inventory import Inventory
from pytest_dwsconv.tracing.steps import Step
from pytest_dwsconv.tracing.trace import Trace

_QUANTIZED_PACKAGES = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.intrinsic", "torch.nn.qat")
_INT = frozenset({int})


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

    def called(self, call: ConvSpec, macs: int, step: Step, recorded: Trace) -> None:
        """Note one more call, which ``step`` made."""
        assert call.input_shape is not None
        assert call.output_shape is not None
        if not self.calls:
            self.element_size = None if step.layout is None else step.layout.dtype.itemsize
            self.followed_by = tuple(_followers(step, recorded.inventory))
        if self.spec.bias is None:
            self.spec = replace(self.spec, bias=call.bias)
        self.calls.append((call.input_shape, call.output_shape))
        self.macs += macs
        self.origin = recorded.origin

    def add_trait(self, trait: Trait) -> None:
        if trait not in self.spec.traits:
            self.spec = replace(self.spec, traits=(*self.spec.traits, trait))


def find_sites(inventory: Inventory, recorded: Trace | None) -> list[Site]:
    """Convolutions in the order of their first call, then those that were not called."""
    if recorded is None:
        return list(_registered(inventory, Origin.ATTRIBUTES).values())
    finder = _CalledSites(recorded, _registered(inventory, Origin.NOT_EXECUTED))
    called: dict[str, Site] = {}
    for step in recorded.steps:
        if step.op == "call_module" and step.counted is None:
            continue  # most modules: neither a convolution nor in one
        for site in finder.of_step(step):
            called.setdefault(site.name, site)
    return [*called.values(), *(site for site in finder.sites.values() if site.name not in called)]


# -- registered modules


def _registered(inventory: Inventory, origin: Origin) -> dict[str, Site]:
    tied = {parameter for parameter, names in inventory.parameter_names.items() if len(names) > 1}
    # by class, because most modules of a large model are of a few classes
    kinds = set(map(type, inventory.modules.values()))
    convolutions = {kind for kind in kinds if _holds_convolutions(kind)}
    wholes = [m for m in inventory.modules.values() if isinstance(m, SeparableConvNd)]
    parts = {id(part) for whole in wholes for part in whole.children()}
    sites = {}
    for name, module in inventory.modules.items():
        if type(module) not in convolutions or not _is_convolution(module):
            continue
        aliases = tuple(inventory.names[id(module)][1:])
        site = Site(name, type(module).__name__, module_spec(module), origin, aliases)
        if tied and any(id(parameter) in tied for parameter in module._parameters.values()):
            site.add_trait(Trait.TIED)
        if id(module) in parts:
            site.add_trait(Trait.PART)
        sites[name] = site
    return sites


def _holds_convolutions(kind: type[nn.Module]) -> bool:
    """Whether modules of this class may be convolutions."""
    return issubclass(kind, _ConvNd) or kind.__module__.startswith(_QUANTIZED_PACKAGES)


def _is_convolution(module: nn.Module) -> bool:
    if isinstance(module, _ConvNd):
        # reason: a subclass whose weight is a matrix, such as the class that the command inserts,
        # is what its function calls are
        weight = module._parameters.get("weight")
        is_kernel = weight is None or weight.dim() != 2
        return is_kernel or type(module) in operators.CONVOLUTIONS
    # a quantized one, among PyTorch's other quantized modules
    return hasattr(module, "kernel_size") and hasattr(module, "groups")


def _sides(value: Any, rank: int) -> tuple[int, ...]:
    """One entry per side, as Python's own numbers: models are built from NumPy's too."""
    if type(value) is tuple and len(value) == rank and _INT.issuperset(map(type, value)):
        return value
    return tuple(map(int, operators.per_side(value, rank)))


def module_spec(module: nn.Module) -> ConvSpec:
    """The numbers of a convolution module, with its traits and without shapes."""
    conv: Any = module
    rank = len(conv.kernel_size)
    in_channels, out_channels = conv.in_channels, conv.out_channels
    kernel_size = tuple(conv.kernel_size)
    weight = module._parameters.get("weight")
    # The weight decides, because channels may have been pruned by hand. Not where it is held in
    # another form until the forward, as sharded training does.
    if weight is not None and weight.dim() == rank + 2 and not conv.transposed:
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


def _has_bias(conv: Any) -> bool | None:
    """Whether there is a bias; None if it was deleted and may come back for the forward."""
    if "bias" in conv._parameters:
        return conv._parameters["bias"] is not None
    try:
        bias = conv.bias
    except Exception:  # reason: a subclass may answer with an error of its own
        return None
    if callable(bias):
        bias = bias()  # a quantized module has a method for it
    return bias is not None


def _module_traits(module: nn.Module) -> tuple[Trait, ...]:
    quantized = type(module).__module__.startswith(_QUANTIZED_PACKAGES)
    if quantized or module.__dict__.get("qconfig") is not None:
        return (Trait.QUANTIZED,)
    kind: type = type(module)
    if "parametrizations" in module._modules:
        kind = type_before_parametrizations(module)
    exact = kind in operators.CONVOLUTIONS and not operators.own_forward(module)
    traits = () if exact else (Trait.SUBCLASS,)
    if "weight" not in module._parameters or "bias" not in module._parameters:
        return (*traits, Trait.REPARAMETRIZED)
    weight = module._parameters["weight"]
    if weight is None:
        return (*traits, Trait.NO_PARAMETER)
    return (*traits, Trait.COMPLEX) if weight.is_complex() else traits


# -- calls


class _CalledSites:
    """The sites of a recorded forward: those registered, and one more for each weight elsewhere."""

    def __init__(self, recorded: Trace, registered: dict[str, Site]) -> None:
        self._recorded = recorded
        self._unregistered: dict[int, UnregisteredModule] | None = None
        self.sites = registered
        """By name; of a weight that is not the model's, by what the recording calls it."""

    def of_step(self, step: Step) -> Iterator[Site]:
        """The sites whose convolutions this step runs, with the call noted; none for most steps."""
        own = self.sites.get(step.target if step.op == "call_module" else step.owner or "")
        if step.op == "get_attr":
            self._mark_read_elsewhere(step)
        elif own is not None and step.op == "call_module":
            assert step.counted is not None
            yield self._noted(own, step, step.counted.macs)
        elif own is not None and _runs_quantized(step, own):
            step.counted = Counted(_macs(own.spec.shaped(_shape(step.reads[0]), _shape(step))))
            yield self._noted(own, step, step.counted.macs)
        for index, call in enumerate(() if step.counted is None else step.counted.convolutions):
            site = self._of_call(step, call)
            # one convolution, which PyTorch takes apart into three
            if index and Trait.COMPLEX in site.spec.traits:
                site.macs += _macs(call)
            else:
                own_call = _with_own_input(call, step, site)
                site.called(own_call, _macs(call), step, self._recorded)
            yield site

    def _noted(self, site: Site, step: Step, macs: int) -> Site:
        call = site.spec.shaped(_shape(step.reads[0]), _shape(step))
        site.called(call, macs, step, self._recorded)
        return site

    def _mark_read_elsewhere(self, step: Step) -> None:
        """Mark a weight that others read than its own module: no replacement could give it."""
        owner = step.target.rpartition(".")[0]
        if owner in self.sites and any(user.owner != owner for user in step.users):
            self.sites[owner].add_trait(Trait.READ_ELSEWHERE)

    def _of_call(self, step: Step, call: ConvSpec) -> Site:
        """The module that made this call or whose weight it reads, else a site of its own."""
        weight = step.kwargs.get("weight", step.args[1] if len(step.args) > 1 else None)
        if isinstance(weight, Step):
            weight = _without_added_sides(weight)
        read = str(weight.target) if isinstance(weight, Step) and weight.op == "get_attr" else None
        if step.owner in self.sites and (read is None or read.startswith(f"{step.owner}.")):
            return self.sites[step.owner]
        if read is not None and read in self._recorded.constants:
            constant = self._recorded.constants[read]
            if isinstance(constant, nn.Parameter):
                return self._of_unregistered(step, call, read, constant)
        elif read is not None:
            holder = read.rpartition(".")[0]
            if holder in self.sites:
                return self.sites[holder]
            has_parameter = self._recorded.inventory.holds_parameter(read)
            return self._site(read, read, step, call, () if has_parameter else _NO_PARAMETER)
        name = self._name_of(step)
        return self._site(name, name, step, call, _NO_PARAMETER)

    def _of_unregistered(self, step: Step, call: ConvSpec, read: str, weight: nn.Parameter) -> Site:
        """The site of a convolution whose module, or weight, the model uses without registering."""
        if read in self.sites:
            return self.sites[read]
        if self._unregistered is None:
            self._unregistered = unregistered_modules(self._recorded.inventory)
        module = self._unregistered.get(id(weight))
        name = self._name_of(step) if module is None else module.name
        site = self._site(read, name, step, call, (*_NO_PARAMETER, Trait.UNREGISTERED))
        if module is not None:
            site.type_name = module.type_name
        return site

    def _site(
        self, key: str, name: str, step: Step, call: ConvSpec, traits: tuple[Trait, ...]
    ) -> Site:
        if key not in self.sites:
            type_name = getattr(step.target, "__name__", "function")
            traits = (Trait.FUNCTIONAL, *traits)
            spec = replace(call, traits=traits, input_shape=None, output_shape=None)
            self.sites[key] = Site(name, type_name, spec, Origin.META)
        return self.sites[key]

    def _name_of(self, step: Step) -> str:
        return f"{step.owner}.{self._recorded.node(step).name}".lstrip(".")


def _with_own_input(call: ConvSpec, step: Step, site: Site) -> ConvSpec:
    """The call with the input of the module, which pads it first in modes other than zeros."""
    if site.spec.padding_mode in ("zeros", None) or step.owner != site.name or not step.reads:
        return call
    padded = step.reads[0]
    is_padding = getattr(padded.target, "__name__", "") == "pad" and padded.owner == site.name
    return replace(call, input_shape=_shape(padded.reads[0])) if is_padding else call


_NO_PARAMETER = (Trait.NO_PARAMETER,)
_INDEXING = frozenset({"getitem", "__getitem__"})


def _without_added_sides(weight: Step) -> Step:
    """The matrix of which ``weight[:, :, None, None]`` makes a kernel of 1 x 1."""
    name = str(getattr(weight.target, "__name__", weight.target))
    if len(weight.reads) != 1 or name not in _INDEXING:
        return weight
    (matrix,) = weight.reads
    if matrix.op != "get_attr" or matrix.layout is None:
        return weight
    shape = _shape(matrix)
    sides = _shape(weight)[len(shape) :]
    return matrix if _shape(weight) == (*shape, *sides) and set(sides) == {1} else weight


def _runs_quantized(step: Step, site: Site) -> bool:
    """Whether the step is this module's quantized convolution, of which PyTorch counts nothing."""
    if Trait.QUANTIZED not in site.spec.traits or step.counted is not None or not step.reads:
        return False
    return str(getattr(step.target, "__name__", "")).startswith("conv")


def _macs(call: ConvSpec) -> int:
    one = cost(call)
    return 0 if one is None else one.macs or 0


def _shape(step: Step) -> tuple[int, ...]:
    assert step.layout is not None
    return tuple(step.layout.shape)


def _followers(step: Step, inventory: Inventory) -> Iterator[str]:
    """The normalisation and then the activation that alone use a result, if there are any."""
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
