"""The rewrite as a ``torch.fx`` pass over a ``GraphModule``, functional convolutions included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.utils._pytree import tree_leaves

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.analysis.sites import module_spec
from pytest_dwsconv.core.conv import ConvSpec, Form, Order, Trait
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.core.rules import Verdict, judge
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.separable.exchange import swap
from pytest_dwsconv.separable.modules import CONVS
from pytest_dwsconv.separable.replacement import (
    AUTO,
    allowed_forms,
    check_init,
    choose,
    initial,
    patterns,
    possible,
    replacement,
)
from pytest_dwsconv.tracing.operators import per_side

_ATEN = torch.ops.aten
_FUNCTIONS: dict[Any, int] = {
    **{torch.conv1d: 1, _ATEN.conv1d.default: 1, _ATEN.conv1d.padding: 1},
    **{torch.conv2d: 2, _ATEN.conv2d.default: 2, _ATEN.conv2d.padding: 2},
    **{torch.conv3d: 3, _ATEN.conv3d.default: 3, _ATEN.conv3d.padding: 3},
}
"""Convolution functions and their rank.

``F.conv2d`` is ``torch.conv2d``; exported programs call the operators.
"""
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}


@dataclass(frozen=True)
class _Site:
    """A convolution, the first node that runs it, and its numbers.

    That of a function call is a module made for the purpose, which is nowhere in the graph module.
    """

    name: str
    conv: nn.Conv1d | nn.Conv2d | nn.Conv3d
    node: fx.Node
    spec: ConvSpec
    functional: bool


class DepthwiseSeparablePass(PassBase):
    """Replaces the candidate convolutions of a ``GraphModule``.

    It composes with torch's ``PassManager``. The module of a ``call_module`` node is replaced as
    ``rewrite`` does it. A call of ``F.conv1d``, ``F.conv2d`` or ``F.conv3d`` becomes a call of a
    new submodule where its settings are constants and its weight is an attribute that nothing else
    uses; attributes without a user left are removed. Node metadata is kept; shapes in it serve
    ``order="auto"``. The graph module is changed in place, and a second run changes nothing.

    The arguments are those of ``rewrite``. Patterns see a module's names, or the name of a
    functional call's weight; one that matches nothing is not an error, for a pass may run again, or
    over several modules.

    Raises:
        InputError: an argument cannot be used, or, when run, a kernel cannot be factorised; the
            graph module is left as found then.
    """

    def __init__(
        self,
        *,
        depth_multiplier: int = 1,
        order: Order | str = AUTO,
        form: Form | str | None = None,
        init: str = "svd",
        select: Sequence[str] | None = None,
        ignore: Sequence[str] | None = None,
        few_channels: bool = False,
    ) -> None:
        check_init(init)
        # raises InputError unless it is a whole number from 1
        depth_multiplier = Policy(depth_multiplier=depth_multiplier).depth_multiplier
        self.depth_multiplier, self.init = depth_multiplier, init
        self.forms = allowed_forms(order, form)
        self.policy = Policy(
            functional=True,
            few_channels=few_channels,
            select=patterns(select, "select"),
            ignore=patterns(ignore, "ignore"),
        )

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        if not isinstance(graph_module, fx.GraphModule):
            raise InputError(
                f"this pass takes a GraphModule, but got {type(graph_module).__name__}: "
                "pass torch.fx.symbolic_trace(model), or use rewrite"
            )
        sites = [
            *_module_sites(graph_module, self.policy),
            *_functional_sites(graph_module, self.policy),
        ]
        new = [(site, self._replacement(site)) for site in sites]
        swap(graph_module, {site.conv: module for site, module in new if not site.functional})
        for site, module in new:
            if site.functional:
                _call_module_instead(graph_module, site, module)
        if new:
            graph_module.graph.lint()
            graph_module.recompile()
        return PassResult(graph_module, bool(new))

    def _replacement(self, site: _Site) -> nn.Module:
        weight = site.conv.weight
        its = self.policy.order_for(site.spec)
        needed = None if its is self.policy.order else its
        entries = possible(site.name, site.spec, self.forms, self.depth_multiplier, needed)
        entry = choose(site.name, weight, entries, self.init)
        factors, _ = initial(weight, entry, self.init)
        return replacement(site.conv, entry, factors)


def _module_sites(graph_module: fx.GraphModule, policy: Policy) -> Iterator[_Site]:
    """Candidates that the graph calls as modules, and whose parameters nothing else in it reads."""
    read = {id(_attribute(graph_module, str(node.target))) for node in _get_attrs(graph_module)}
    calls = {
        str(node.target): node
        for node in reversed(graph_module.graph.nodes)
        if node.op == "call_module"
    }
    for found in analyze(graph_module, policy=policy).candidates:
        called = [calls[name] for name in (found.name, *found.aliases) if name in calls]
        conv: Any = graph_module.get_submodule(found.name)
        if called and not any(id(parameter) in read for parameter in conv.parameters()):
            spec = _with_shapes(found.spec, called[0])
            yield _Site(found.name, conv, called[0], spec, functional=False)


def _functional_sites(graph_module: fx.GraphModule, policy: Policy) -> Iterator[_Site]:
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or node.target not in _FUNCTIONS:
            continue
        call = _arguments(node)
        if not _is_constant(call) or not _used_here_only(graph_module, call["weight"], node):
            continue
        name = str(call["weight"].target)
        conv = _as_module(graph_module, call, _FUNCTIONS[node.target])
        spec = replace(module_spec(conv), traits=(Trait.FUNCTIONAL,))
        if not policy.leaves_out(name) and judge(spec, policy).verdict is Verdict.CANDIDATE:
            yield _Site(name, conv, node, _with_shapes(spec, node), functional=True)


def _arguments(node: fx.Node) -> dict[str, Any]:
    return {**_DEFAULTS, **dict(zip(_ARGUMENTS, node.args, strict=False)), **node.kwargs}


def _is_constant(call: dict[str, Any]) -> bool:
    """Whether weight and bias are attributes, and the settings numbers."""
    if not _is_attribute(call["weight"]):
        return False
    if call["bias"] is not None and not _is_attribute(call["bias"]):
        return False
    settings = [call[name] for name in ("stride", "padding", "dilation", "groups")]
    return all(isinstance(item, (int, str)) for item in tree_leaves(settings))


def _is_attribute(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"


def _get_attrs(graph_module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph_module.graph.nodes if node.op == "get_attr"]


def _attribute(graph_module: fx.GraphModule, target: str) -> Any:
    value: Any = graph_module
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _used_here_only(graph_module: fx.GraphModule, weight: fx.Node, node: fx.Node) -> bool:
    """Whether this call alone sees the weight, in the graph and inside the modules it calls."""
    tensor = _attribute(graph_module, str(weight.target))
    users: list[fx.Node] = []
    for reader in _get_attrs(graph_module):
        if _attribute(graph_module, str(reader.target)) is tensor:
            users += reader.users
    if users != [node]:
        return False
    holders = 0
    for module in graph_module.modules():
        tensors = [*module._parameters.values(), *module._buffers.values()]
        holders += sum(held is tensor for held in tensors)
    if holders > 1:
        return False
    calls = [other for other in graph_module.graph.nodes if other.op == "call_module"]
    return not any(_reads(call, str(weight.target)) for call in calls)


def _as_module(
    graph_module: fx.GraphModule, call: dict[str, Any], rank: int
) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """The call as a convolution module that holds the very weight and bias."""
    weight: Tensor = _attribute(graph_module, str(call["weight"].target))
    padding = call["padding"]
    conv = CONVS[rank](
        weight.shape[1] * call["groups"],
        weight.shape[0],
        tuple(weight.shape[2:]),  # type: ignore[arg-type]  # the stubs want a pair, a triple, ...
        stride=per_side(call["stride"], rank),  # type: ignore[arg-type]  # as above
        padding=padding if isinstance(padding, str) else per_side(padding, rank),  # type: ignore[arg-type]  # as above
        dilation=per_side(call["dilation"], rank),  # type: ignore[arg-type]  # as above
        groups=call["groups"],
        device="meta",
    )
    conv.weight = _parameter(weight)
    bias = call["bias"]
    if bias is not None:
        bias = _parameter(_attribute(graph_module, str(bias.target)))
    conv.register_parameter("bias", bias)
    conv.train(graph_module.training)
    return conv


def _parameter(tensor: Tensor) -> nn.Parameter:
    """The parameter itself, or a buffer's values as one."""
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)


def _with_shapes(spec: ConvSpec, node: fx.Node) -> ConvSpec:
    given = node.args[0] if node.args else node.kwargs.get("input")
    source = given if isinstance(given, fx.Node) else None
    return replace(spec, input_shape=_shape(source), output_shape=_shape(node))


def _shape(node: fx.Node | None) -> tuple[int, ...] | None:
    """The shape that shape propagation or an export left on a node, if it is of plain numbers."""
    described = None if node is None else node.meta.get("tensor_meta", node.meta.get("val"))
    shape = getattr(described, "shape", None)
    return tuple(shape) if shape is not None and all(type(side) is int for side in shape) else None


def _call_module_instead(graph_module: fx.GraphModule, site: _Site, module: nn.Module) -> None:
    name = site.name.replace(".", "_") + "_separable"
    while hasattr(graph_module, name):
        name += "_"
    graph_module.add_submodule(name, module)
    call = _arguments(site.node)
    with graph_module.graph.inserting_before(site.node):
        new = graph_module.graph.call_module(name, (call["input"],))
    new.meta = dict(site.node.meta)
    site.node.replace_all_uses_with(new)
    graph_module.graph.erase_node(site.node)
    for attribute in (call["weight"], call["bias"]):
        if attribute is not None:
            _drop_unused(graph_module, attribute)


def _drop_unused(graph_module: fx.GraphModule, attribute: fx.Node) -> None:
    """Erase a ``get_attr`` node without users, and its attribute if nothing else reads it."""
    if attribute.users:
        return
    graph_module.graph.erase_node(attribute)
    target = str(attribute.target)
    if not any(_reads(node, target) for node in graph_module.graph.nodes):
        owner, _, name = target.rpartition(".")
        delattr(graph_module.get_submodule(owner), name)


def _reads(node: fx.Node, target: str) -> bool:
    """Whether the node reads this attribute, or calls a module that holds it."""
    if node.op == "get_attr":
        return node.target == target
    return node.op == "call_module" and target.startswith(f"{node.target}.")
