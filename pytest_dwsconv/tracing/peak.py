"""How many bytes of activations a recorded forward holds at its peak.

Whether a result is a view, was written in place or has memory of its own depends on the operator,
its settings and the layout of its arguments. Frequent operators are known by name; any other is run
once more, on meta tensors laid out as its arguments were, and PyTorch tells which of them share a
storage.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.tracing import operators
from pytest_dwsconv.tracing.process_state import modes_as_found
from pytest_dwsconv.tracing.steps import Step
from pytest_dwsconv.tracing.trace import Trace

_ALLOCATING = frozenset(
    name
    for name in (
        *(operators.NO_MACS - operators.MOVES),
        *"cat stack repeat roll flip clone masked_fill index_select gather pixel_shuffle".split(),
    )
    if not name.startswith("__i") and (name.endswith("__") or not name.endswith("_"))
)
"""Names of functions whose one result has memory of its own, unless they are told where to write
it.
"""
_CONVERSIONS = frozenset("to float half double type type_as cpu cuda".split())
_IDLE = frozenset({nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d})
"""Modules whose result, in evaluation, is their argument."""


def peak_activation_bytes(recorded: Trace) -> int:
    """The most bytes of activations that are in memory during any one operator.

    Operators run in the recorded order, one at a time and none fused into another. An activation is
    in memory from the operator that makes it to the last that reads it, and one that nobody reads
    during the operator that makes it; views and results written in place share the memory of what
    they come from. Inputs count until their last use, parameters, buffers and an operator's scratch
    memory never.

    Raises:
        InputError: the forward makes a tensor whose shape does not tell its size: a nested one.
    """
    ledger = _Ledger(recorded.inventory.modules)
    for time, step in enumerate(recorded.steps):
        ledger.enter(step, time)
    return ledger.peak(len(recorded.steps))


@dataclass(slots=True)
class _Memory:
    """A block of memory, with the times of the operators that make it and that read it last."""

    bytes: int
    first: int
    last: int


class _Number(int):
    """Of a memory: first come those of the tensors that an operator reads, then the new ones."""


class _Sharing(NamedTuple):
    """Which memories an operator's results lie in."""

    results: Any
    """A ``_Number``, or for several results tuples, lists and dictionaries of them."""
    sizes: list[int]
    """Of the new memories, in bytes."""


class _Ledger:
    """Which memory the result of each step lies in."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.made: list[_Memory] = []
        self.held: dict[Step, Any] = {}
        """Its memory, or those of several results; None where it does not count."""
        self.asked: dict[Any, _Sharing] = {}

    def enter(self, step: Step, time: int) -> None:
        """Note the step's result, and that it and all it reads are in memory at that time."""
        if step not in self.held:
            self.held[step] = self._place(step, time)
        for touched in (step, *step.reads):
            memory = self.held[touched]
            if isinstance(memory, _Memory):
                memory.last = time

    def peak(self, times: int) -> int:
        changes = [0] * (times + 1)
        for memory in self.made:
            changes[memory.first] += memory.bytes
            changes[memory.last + 1] -= memory.bytes
        return max(accumulate(changes, initial=0))

    def _new(self, size: int, time: int) -> _Memory:
        if not isinstance(size, int):
            raise InputError(
                "the forward makes a nested tensor, whose shape does not tell its size; "
                "analyze the part of the model that makes none"
            )
        self.made.append(_Memory(size, time, time))
        return self.made[-1]

    def _place(self, step: Step, time: int) -> Any:
        if step.op in ("get_attr", "output") or step.target is operator.setitem:
            return None
        if step.target is operator.getitem and step.reads[0].layout is None:
            several = self.held[step.reads[0]]
            return several[step.args[1]] if isinstance(several, (tuple, list, dict)) else several
        shares = _shares(step, self.modules)
        if shares is None:
            try:
                sharing = self._ask(step)
            # reason: what an operator cannot do on meta tensors, it did when it was recorded
            except Exception:
                shares = _converts_nothing(step)
            else:
                memories = [
                    *map(self.held.get, step.reads),
                    *(self._new(size, time) for size in sharing.sizes),
                ]
                return tree_map_only(_Number, memories.__getitem__, sharing.results)
        return self.held[step.reads[0]] if shares else self._own(step, time)

    def _ask(self, step: Step) -> _Sharing:
        """Run the operator on meta tensors, once for each kind of arguments."""
        reads = list(step.reads)
        layouts = [read.layout for read in reads if read.layout is not None]
        arguments = (step.args, dict(step.kwargs))
        key = (
            step.target,
            repr(tree_map_only(Step, lambda read: f"read {reads.index(read)}", arguments)),
            *layouts,
        )
        if key not in self.asked:
            call = self.modules[step.target].forward if step.op == "call_module" else step.target
            tensors = [layout.tensor() for layout in layouts]
            args, kwargs = tree_map_only(Step, lambda read: tensors[reads.index(read)], arguments)
            recurrent = getattr(call, "__name__", "") in operators.RECURRENT
            out = operators.recurrent_output(args) if recurrent else None
            with modes_as_found(), torch.no_grad(), warnings.catch_warnings():
                # reason: an operator that warns did so when it was recorded
                warnings.simplefilter("ignore")
                out = call(*args, **kwargs) if out is None else out
            self.asked[key] = _sharing(out, tensors)
        return self.asked[key]

    def _own(self, step: Step, time: int) -> Any:
        """Memory for the result, or for those of several results that somebody uses."""
        if step.layout is not None:
            return self._new(step.layout.bytes, time)
        for user in step.users:
            self.held[user] = self._own(user, time)
        return None


def _sharing(out: Any, tensors: list[Tensor]) -> _Sharing:
    storages = [tensor.untyped_storage() for tensor in tensors]
    numbers = {storage._cdata: _Number(number) for number, storage in enumerate(storages)}

    def number(result: Tensor) -> _Number:
        storage = result.untyped_storage()
        if storage._cdata not in numbers:
            numbers[storage._cdata] = _Number(len(storages))
            storages.append(storage)
        return numbers[storage._cdata]

    return _Sharing(
        tree_map_only(Tensor, number, out),
        [storage.nbytes() for storage in storages[len(tensors) :]],
    )


def _shares(step: Step, modules: Mapping[str, nn.Module]) -> bool | None:
    """Whether the result lies in the memory of what is read first; None where that is open."""
    if not step.reads:
        return False
    if step.op == "call_module":
        return _module_shares(modules[step.target], step)
    name = getattr(step.target, "__name__", "")
    if name in operators.VIEWS or step.target in operators.IN_PLACE:
        return True
    if name == "contiguous" and len(step.args) == 1 and not step.kwargs:
        return step.layout == step.reads[0].layout
    # reason: a True among the arguments may be the inplace of a function such as F.relu
    inplace = any(value is True for value in step.args) or step.kwargs.get("inplace")
    if inplace or step.layout is None or "out" in step.kwargs:
        return None
    counted = step.counted is not None and not name.endswith("_")
    return False if counted or name in _ALLOCATING else None


def _module_shares(module: nn.Module, step: Step) -> bool | None:
    if type(module) in _IDLE or module.__dict__.get("inplace"):
        return True
    return None if type(module) is nn.Flatten or step.layout is None else False


def _converts_nothing(step: Step) -> bool:
    """Whether a conversion leaves its argument as it is; one to another device cannot be asked."""
    name = getattr(step.target, "__name__", "")
    return (
        name in _CONVERSIONS and not step.kwargs.get("copy") and step.layout == step.reads[0].layout
    )
