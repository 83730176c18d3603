"""``analyze``: a model's convolutions, each judged and costed, with the model's totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import BoundArguments
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import type_before_parametrizations

from pytest_dwsconv import operators
from pytest_dwsconv.conv import ConvSpec, Cost, Trait, cost, separable_cost
from pytest_dwsconv.counting import CONVOLUTIONS, MACS, UNCOUNTED, ConvCall
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.liveness import peak_activation_bytes
from pytest_dwsconv.recording import OWNER
from pytest_dwsconv.report import Finding, Memory, Origin, Report
from pytest_dwsconv.rules import Judgement, Policy, Verdict, judge
from pytest_dwsconv.separable import SeparableConv1d, SeparableConv2d, SeparableConv3d
from pytest_dwsconv.tracing import Trace, trace

_CONTAINERS = (nn.Sequential, nn.ModuleList, SeparableConv1d, SeparableConv2d, SeparableConv3d)
_EXACT = {**operators.CONV_MODULES, **operators.TRANSPOSED_MODULES}
_QUANTIZED_PACKAGES = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.intrinsic", "torch.nn.qat")


def analyze(
    model: nn.Module,
    input_size: Sequence[Any] | None = None,
    *,
    example_inputs: Any = None,
    policy: Policy = Policy(),
) -> Report:
    """Report every convolution of ``model``: what it is, what it costs, whether it could be separable, what that saves.

    The forward runs once in evaluation mode, on meta tensors where the model allows it. The model is left as found.

    Args:
        model: any module; its own device, dtype and mode do not matter.
        input_size: the shape of the input, ``(N, C, *sides)``, or several shapes for several inputs. The inputs take
            the dtype of the model's first floating-point parameter.
        example_inputs: instead of ``input_size``: a tensor, a tuple of positional arguments, a mapping of keyword
            arguments, or both kinds as ``inspect.BoundArguments``. Their values are used only by a model that needs
            data.
        policy: the replacement to reckon with, and what to leave alone.

    Without inputs the report has everything but shapes and MACs.

    Raises:
        InputError: ``model`` or an input is not what it must be.
        TracingError: the forward fails on these inputs.
    """
    model = _checked(model)
    args, kwargs = _inputs(model, input_size, example_inputs)
    recorded = trace(model, args, kwargs) if args or kwargs else None
    sites = _sites(model, recorded)
    return Report(
        model=type(model).__name__,
        findings=tuple(_finding(site, policy) for site in sites),
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=None if recorded is None else sum(node.meta.get(MACS, 0) for node in recorded.graph.nodes),
        origin=Origin.ATTRIBUTES if recorded is None else recorded.origin,
        input_shapes=() if recorded is None else recorded.input_shapes,
        depth_multiplier=policy.depth_multiplier,
        order=policy.order,
        memory=None if recorded is None else _memory(model, recorded),
        not_counted=() if recorded is None else _not_counted(recorded),
        peak_activations=None if recorded is None else peak_activation_bytes(recorded.graph, recorded.root),
    )


def _checked(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise InputError(f"analyze takes a torch.nn.Module, not {type(model).__name__}; build the model first")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("a ScriptModule has no Python forward to record; analyze the model before scripting it")
    lazy = [name for name, module in model.named_modules() if _uninitialized(module)]
    if lazy:
        raise InputError(f"{lazy[0] or type(model).__name__} is lazy: run one forward to fix its shape, then analyze")
    compiled_from = model.__dict__.get("_modules", {}).get("_orig_mod")
    return compiled_from if compiled_from is not None else model


def _uninitialized(module: nn.Module) -> bool:
    return any(is_lazy(parameter) for parameter in module._parameters.values() if parameter is not None)


def _inputs(model: nn.Module, input_size: Any, example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for the forward."""
    if input_size is not None and example_inputs is not None:
        raise InputError("pass either input_size or example_inputs, not both")
    if example_inputs is None:
        shapes = () if input_size is None else _shapes(input_size)
        dtype = _float_dtype(model)
        return tuple(torch.empty(shape, dtype=dtype, device="meta") for shape in shapes), {}
    if isinstance(example_inputs, BoundArguments):
        return example_inputs.args, example_inputs.kwargs
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,), {}


def _shapes(input_size: Any) -> tuple[tuple[int, ...], ...]:
    """One shape or several as several, each side checked."""
    if isinstance(input_size, Tensor):
        raise InputError("input_size is a shape such as (1, 3, 224, 224); pass tensors as example_inputs=")
    if not isinstance(input_size, Sequence) or isinstance(input_size, str) or not input_size:
        raise InputError(f"input_size is a shape such as (1, 3, 224, 224), not {input_size!r}")
    nested = isinstance(input_size[0], Sequence) and not isinstance(input_size[0], str)
    shapes = tuple(tuple(shape) for shape in input_size) if nested else (tuple(input_size),)
    for side in (side for shape in shapes for side in shape):
        if isinstance(side, bool) or not isinstance(side, int) or side < 1:
            raise InputError(f"input_size {input_size!r} has the side {side!r}; sides are whole numbers from 1")
    return shapes


def _float_dtype(model: nn.Module) -> torch.dtype:
    for parameter in model.parameters():
        if parameter.dtype.is_floating_point and parameter.element_size() > 1:
            return parameter.dtype
    return torch.get_default_dtype()


# -- where the convolutions are


@dataclass
class _Site:
    """One convolution: a registered module, or the function calls that share a weight."""

    name: str
    type_name: str
    spec: ConvSpec
    origin: Origin
    aliases: tuple[str, ...] = ()
    calls: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """Input and output shape of each call."""
    macs: int = 0

    def called(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...], macs: int, origin: Origin) -> None:
        self.calls.append((input_shape, output_shape))
        self.macs += macs
        self.origin = origin

    def add_trait(self, trait: Trait) -> None:
        if trait not in self.spec.traits:
            self.spec = replace(self.spec, traits=(*self.spec.traits, trait))


def _sites(model: nn.Module, recorded: Trace | None) -> list[_Site]:
    """Convolutions in the order of their first call, then the registered ones that were not called."""
    sites = _registered(model, Origin.ATTRIBUTES if recorded is None else Origin.NOT_EXECUTED)
    if recorded is None:
        return list(sites.values())
    order: dict[str, _Site] = {}
    for node in recorded.graph.nodes:
        for site in _called_by(node, recorded, sites):
            order.setdefault(site.name, site)
    return [*order.values(), *(site for name, site in sites.items() if name not in order)]


def _registered(model: nn.Module, origin: Origin) -> dict[str, _Site]:
    names: dict[int, list[str]] = {}
    convolutions: dict[int, nn.Module] = {}
    holders: Counter[int] = Counter()
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
        if len(names[id(module)]) == 1:
            holders.update(id(parameter) for parameter in module._parameters.values() if parameter is not None)
            if _is_convolution(module):
                convolutions[id(module)] = module
    sites = {}
    for key, module in convolutions.items():
        name, *aliases = names[key]
        site = sites[name] = _Site(name, type(module).__name__, module_spec(module), origin, tuple(aliases))
        if any(holders[id(parameter)] > 1 for parameter in module._parameters.values() if parameter is not None):
            site.add_trait(Trait.TIED)
    return sites


def _is_convolution(module: nn.Module) -> bool:
    quantized = type(module).__module__.startswith(_QUANTIZED_PACKAGES)
    return isinstance(module, _ConvNd) or (quantized and hasattr(module, "kernel_size") and hasattr(module, "groups"))


def module_spec(module: nn.Module) -> ConvSpec:
    """The numbers of a convolution module, with its traits and without shapes."""
    conv: Any = module
    rank = len(conv.kernel_size)
    return ConvSpec(
        rank=rank,
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel_size=tuple(conv.kernel_size),
        stride=operators.per_side(conv.stride, rank),
        padding=conv.padding if isinstance(conv.padding, str) else operators.per_side(conv.padding, rank),
        dilation=operators.per_side(conv.dilation, rank),
        groups=conv.groups,
        bias=(conv.bias() if callable(conv.bias) else conv.bias) is not None,
        padding_mode=conv.padding_mode,
        transposed=conv.transposed,
        traits=_module_traits(module),
    )


def _module_traits(module: nn.Module) -> tuple[Trait, ...]:
    if type(module).__module__.startswith(_QUANTIZED_PACKAGES):
        return (Trait.QUANTIZED,)
    exact = type_before_parametrizations(module) in _EXACT and "forward" not in module.__dict__
    traits = () if exact else (Trait.SUBCLASS,)
    own = "weight" in module._parameters and "bias" in module._parameters
    return traits if own else (*traits, Trait.REPARAMETRIZED)


def _called_by(node: fx.Node, recorded: Trace, sites: dict[str, _Site]) -> Iterator[_Site]:
    """The sites whose convolutions this node runs, with the call noted on them; none for most nodes."""
    if node.op == "call_module" and node.target in sites:
        site = sites[node.target]
        x = node.args[0]
        assert isinstance(x, fx.Node)
        site.called(_shape(x), _shape(node), node.meta[MACS], recorded.origin)
        yield site
    elif node.op == "get_attr":
        _mark_read_elsewhere(node, sites)
    for call in node.meta.get(CONVOLUTIONS, ()):
        site = _site_of(node, call, sites)
        site.called(call.input_shape, call.output_shape, call.macs, recorded.origin)
        yield site


def _mark_read_elsewhere(node: fx.Node, sites: dict[str, _Site]) -> None:
    """A weight that something else than its own module reads is not a replacement's to give."""
    owner = str(node.target).rpartition(".")[0]
    if owner in sites and any(user.meta.get(OWNER) != owner for user in node.users):
        sites[owner].add_trait(Trait.READ_ELSEWHERE)


def _site_of(node: fx.Node, call: ConvCall, sites: dict[str, _Site]) -> _Site:
    """The module whose forward made this function call or whose weight it reads, else a site of its own."""
    owner = node.meta[OWNER]
    if owner in sites:
        return sites[owner]
    weight = node.kwargs.get("weight", node.args[1] if len(node.args) > 1 else None)
    name = f"{owner}.{node.name}".lstrip(".")
    if isinstance(weight, fx.Node) and weight.op == "get_attr":
        name = str(weight.target)
        if name.rpartition(".")[0] in sites:
            return sites[name.rpartition(".")[0]]
    return sites.setdefault(
        name, _Site(name, getattr(node.target, "__name__", "function"), _call_spec(call), Origin.META)
    )


def _call_spec(call: ConvCall) -> ConvSpec:
    outputs, inputs = call.weight_shape[0], call.weight_shape[1] * call.groups
    if call.transposed:
        outputs, inputs = call.weight_shape[1] * call.groups, call.weight_shape[0]
    return ConvSpec(
        rank=len(call.stride),
        in_channels=inputs,
        out_channels=outputs,
        kernel_size=call.weight_shape[2:],
        stride=call.stride,
        padding=call.padding,
        dilation=call.dilation,
        groups=call.groups,
        bias=call.bias,
        transposed=call.transposed,
        traits=(Trait.FUNCTIONAL,),
    )


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)


# -- from sites to the report


def _finding(site: _Site, policy: Policy) -> Finding:
    if policy.leaves_out(site.name, *site.aliases):
        site.add_trait(Trait.IGNORED)
    spec = site.spec
    if site.calls:
        spec = replace(spec, input_shape=site.calls[0][0], output_shape=site.calls[0][1])
    judgement, before = judge(spec, policy), cost(spec)
    separable = _separable(site, spec, policy) if judgement.verdict is Verdict.CANDIDATE else None
    executed = site.origin in (Origin.META, Origin.REAL)
    return Finding(
        name=site.name,
        spec=spec,
        verdict=judgement.verdict,
        code=judgement.code,
        reason=judgement.reason,
        params=None if before is None else before.params,
        macs=site.macs if executed else 0 if site.origin is Origin.NOT_EXECUTED else None,
        separable_params=None if separable is None else separable.params,
        separable_macs=None if separable is None else separable.macs,
        origin=site.origin,
        type_name=site.type_name,
        calls=len(site.calls),
        aliases=site.aliases,
    )


def _separable(site: _Site, spec: ConvSpec, policy: Policy) -> Cost | None:
    """Cost of the replacement, its MACs summed over the calls."""
    one = separable_cost(spec, policy.order, policy.depth_multiplier)
    if one is None or site.origin is Origin.ATTRIBUTES:
        return one
    macs = 0
    for input_shape, output_shape in site.calls:
        call = replace(spec, input_shape=input_shape, output_shape=output_shape)
        each = separable_cost(call, policy.order, policy.depth_multiplier)
        macs += (each and each.macs) or 0
    return Cost(one.params, macs)


def rejudged(report: Report, judge_finding: Callable[[Finding], Judgement]) -> Report:
    """The report with other verdicts; a convolution that becomes a candidate gets the cost of its replacement."""

    def again(finding: Finding) -> Finding:
        new = judge_finding(finding)
        if new == Judgement(finding.verdict, finding.code, finding.reason):
            return finding
        separable = _replacement(finding, report) if new.verdict is Verdict.CANDIDATE else None
        return replace(
            finding,
            verdict=new.verdict,
            code=new.code,
            reason=new.reason,
            separable_params=None if separable is None else separable.params,
            separable_macs=None if separable is None else separable.macs,
        )

    return replace(report, findings=tuple(again(finding) for finding in report.findings))


def _replacement(finding: Finding, report: Report) -> Cost | None:
    """Cost of a replacement; its MACs scaled from the first call, whose shapes are known, to all of them."""
    before, after = cost(finding.spec), separable_cost(finding.spec, report.order, report.depth_multiplier)
    if before is None or after is None or not (finding.macs and before.macs and after.macs):
        return None if after is None else Cost(after.params, None)
    return Cost(after.params, finding.macs * after.macs // before.macs)


def _memory(model: nn.Module, recorded: Trace) -> Memory:
    alone = next(model.children(), None) is None
    outputs = sum(
        call.output_bytes
        for call in recorded.calls
        if not issubclass(call.type, _CONTAINERS) and (call.name != "" or alone)
    )
    params = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return Memory(inputs=recorded.input_bytes, activations=2 * outputs, params=params)


def _not_counted(recorded: Trace) -> tuple[tuple[str, int], ...]:
    """Operators that ran and are in no total, by name, the most frequent first."""
    counts: Counter[str] = Counter()
    for node in recorded.graph.nodes:
        counts.update(node.meta.get(UNCOUNTED, {}))
        if node.op.startswith("call_") and MACS not in node.meta:
            name = _operator_name(node, recorded.root)
            if name not in operators.MOVES:
                counts[name] += 1
    return tuple(counts.most_common())


def _operator_name(node: fx.Node, root: nn.Module) -> str:
    """The operator's own word: BatchNorm2d for a module, add for ``add_``, ``__add__``, ``__iadd__``, ``__radd__``."""
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))).__name__
    name = str(getattr(node.target, "__name__", node.target))
    if name in operators.MOVES or not name.endswith("_"):
        return name
    plain = name.strip("_")
    return plain[1:] if name.startswith("__") and plain[1:] in _ARITHMETIC else plain


_ARITHMETIC = frozenset("add sub mul truediv floordiv mod pow and or xor matmul".split())
