"""How many bytes of activations a recorded forward holds at its peak."""

from __future__ import annotations

from math import prod

from torch import fx, nn
from torch.fx.passes.shape_prop import TensorMetadata

_VIEWS = frozenset(
    """
    view view_as permute transpose t T mT movedim moveaxis swapaxes swapdims detach expand expand_as squeeze unsqueeze
    narrow select chunk split tensor_split unbind unfold data real imag broadcast_to broadcast_tensors
    atleast_1d atleast_2d as_strided diagonal unflatten
    """.split()
)
"""Functions whose results share the memory of their first argument."""

_VIEWS_IF_CONTIGUOUS = frozenset("reshape reshape_as flatten contiguous Flatten".split())
_VIEWS_IF_EQUAL = frozenset("to float half double type type_as cpu cuda".split())
_NOTHING_TO_DO = frozenset("Identity Dropout Dropout1d Dropout2d Dropout3d dropout dropout2d".split())
"""Whose result, in evaluation, is their argument."""


def peak_activation_bytes(graph: fx.Graph, root: nn.Module) -> int:
    """The most bytes of activations that any one operator of the recorded forward finds or leaves in memory.

    Operators run in the recorded order, one at a time and none fused into another. An activation is in memory from
    the operator that makes it to the last that reads it; views and results written in place share the memory of
    what they come from. Inputs count until their last use, parameters, buffers and an operator's scratch memory
    never. ``graph`` is that of a ``Trace`` of ``root``.
    """
    owners: dict[fx.Node, fx.Node] = {}
    spans: dict[fx.Node, tuple[int, int]] = {}
    for time, node in enumerate(graph.nodes):
        owner = owners[node] = _owner(node, owners, root)
        for held in {owner, *(owners[read] for read in node.all_input_nodes)}:
            spans[held] = spans.get(held, (time, time))[0], time
    changes = [0] * (len(owners) + 1)
    for owner, (start, end) in spans.items():
        changes[start] += _bytes(owner)
        changes[end + 1] -= _bytes(owner)
    return max(_running_sums(changes))


def _running_sums(changes: list[int]) -> list[int]:
    sums = [0]
    for change in changes:
        sums.append(sums[-1] + change)
    return sums


def _owner(node: fx.Node, owners: dict[fx.Node, fx.Node], root: nn.Module) -> fx.Node:
    """The node whose memory the result of ``node`` lies in: its own, or that of what it is a view of."""
    source = node.all_input_nodes[0] if node.all_input_nodes else None
    if source is None or not node.op.startswith("call_"):
        return node
    return owners[source] if _shares(node, source, root) else node


def _shares(node: fx.Node, source: fx.Node, root: nn.Module) -> bool:
    module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
    name = type(module).__name__ if module is not None else str(getattr(node.target, "__name__", ""))
    if getattr(module, "inplace", False) or node.kwargs.get("inplace") or name in _VIEWS | _NOTHING_TO_DO:
        return True
    if name in ("getitem", "__getitem__", "getattr"):
        return _meta(source) is None or _is_view_by_index(node)
    if name in _VIEWS_IF_CONTIGUOUS:
        return _is_contiguous(source)
    if name in _VIEWS_IF_EQUAL:
        return _like(node) == _like(source)
    return (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def _is_view_by_index(node: fx.Node) -> bool:
    """Whole numbers, slices, ``None`` and ``...`` give a view; an index made of tensors or lists a copy."""
    index = node.args[1] if len(node.args) > 1 else None
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or isinstance(part, (int, str, slice)) for part in parts)


def _meta(node: fx.Node) -> TensorMetadata | None:
    meta: TensorMetadata | None = node.meta.get("tensor_meta")
    return meta


def _like(node: fx.Node) -> object:
    meta = _meta(node)
    return meta and (meta.shape, meta.dtype)


def _is_contiguous(node: fx.Node) -> bool:
    meta = _meta(node)
    if meta is None:
        return False
    sides = [(side, stride) for side, stride in zip(meta.shape, meta.stride, strict=True) if side != 1]
    return all(stride == prod(side for side, _ in sides[index + 1 :]) for index, (_, stride) in enumerate(sides))


def _bytes(owner: fx.Node) -> int:
    """Of an activation; nothing for parameters, buffers and what holds several results."""
    meta = _meta(owner)
    return 0 if meta is None or owner.op == "get_attr" else prod(meta.shape) * meta.dtype.itemsize
