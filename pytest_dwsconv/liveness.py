"""How many bytes of activations a recorded forward holds at its peak."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from torch import nn

from pytest_dwsconv import operators
from pytest_dwsconv.record import Step
from pytest_dwsconv.tracing import Trace

_VIEWS_IF_CONTIGUOUS = frozenset("reshape reshape_as flatten contiguous".split())
_VIEWS_IF_EQUAL = frozenset("to float half double type type_as cpu cuda".split())
_NOTHING_TO_DO = frozenset("Identity Dropout Dropout1d Dropout2d Dropout3d dropout dropout2d".split())
"""Whose result, in evaluation, is their argument."""


def peak_activation_bytes(recorded: Trace) -> int:
    """The most bytes of activations that any one operator of the recorded forward finds or leaves in memory.

    Operators run in the recorded order, one at a time and none fused into another. An activation is in memory from
    the operator that makes it to the last that reads it; views and results written in place share the memory of
    what they come from. Inputs count until their last use, parameters, buffers and an operator's scratch memory
    never.
    """
    owners: dict[Step, Step] = {}
    first: dict[Step, int] = {}
    last: dict[Step, int] = {}
    for time, step in enumerate(recorded.steps):
        owner = owners[step] = _owner(step, owners, recorded.inventory.modules)
        first.setdefault(owner, time)
        last[owner] = time
        for read in step.reads:
            last[owners[read]] = time
    changes = [0] * (len(owners) + 1)
    for owner, start in first.items():
        if owner.layout is not None and owner.op != "get_attr":
            size = owner.layout.bytes
            changes[start] += size
            changes[last[owner] + 1] -= size
    return max(accumulate(changes, initial=0))


def _owner(step: Step, owners: Mapping[Step, Step], modules: Mapping[str, nn.Module]) -> Step:
    """The step whose memory the result of ``step`` lies in: its own, or that of what it is a view of."""
    if not step.reads or not step.op.startswith("call_"):
        return step
    source = step.reads[0]
    return owners[source] if _shares(step, source, modules) else step


def _shares(step: Step, source: Step, modules: Mapping[str, nn.Module]) -> bool:
    if step.op == "call_module":
        module = modules[step.target]
        name = type(module).__name__
        return name in _NOTHING_TO_DO or module.__dict__.get("inplace") or (name == "Flatten" and _contiguous(source))
    name = getattr(step.target, "__name__", "")
    if name in operators.VIEWS or name in _NOTHING_TO_DO or step.kwargs.get("inplace"):
        return True
    if name in ("getitem", "__getitem__", "getattr"):
        return source.layout is None or _is_view_by_index(step)
    if name in _VIEWS_IF_CONTIGUOUS:
        return _contiguous(source)
    if name in _VIEWS_IF_EQUAL:
        return _like(step) == _like(source)
    return (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def _is_view_by_index(step: Step) -> bool:
    """Whole numbers, slices, ``None`` and ``...`` give a view; an index made of tensors or lists a copy."""
    index = step.args[1] if len(step.args) > 1 else None
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or isinstance(part, (int, str, slice)) for part in parts)


def _like(step: Step) -> object:
    return step.layout and (step.layout.shape, step.layout.dtype)


def _contiguous(step: Step) -> bool:
    if step.layout is None:
        return False
    expected = 1
    for side, stride in zip(reversed(step.layout.shape), reversed(step.layout.stride), strict=True):
        if side != 1 and stride != expected:
            return False
        expected *= side
    return True
