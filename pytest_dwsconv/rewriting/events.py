"""What a recorded forward did, in a form that is the same with and without replacements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import torch
from torch.utils._pytree import tree_leaves

from pytest_dwsconv.core.conv import Order
from pytest_dwsconv.tracing.operators import LEAVES
from pytest_dwsconv.tracing.steps import Step
from pytest_dwsconv.tracing.trace import Trace


class Event(NamedTuple):
    """One operator of a recorded forward."""

    operator: str
    owner: str
    """The innermost module that was running."""
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    """Of the result, where that is one tensor."""
    constants: tuple[str, ...] = ()
    """The arguments that are plain numbers or words."""


class Events:
    """Takes the events out of the steps of a record.

    A call of one of ``layers`` is one event, whether the layer is replaced, by a replacement of
    this order, or not. Of a layer among ``subclasses``, whose forward is lost, nothing else counts.
    """

    def __init__(self, layers: Mapping[str, Order], subclasses: Collection[str]) -> None:
        self.subclasses = subclasses
        self.layer_of: dict[str, str] = {}
        """The layer that a module is, or is a part of."""
        self.first_parts: set[str] = set()
        """The parts that run first, whose results are not those of the layer."""
        for layer, order in layers.items():
            parts = [f"{layer}.depthwise".lstrip("."), f"{layer}.pointwise".lstrip(".")]
            self.first_parts.add(parts[order is Order.POINTWISE_FIRST])
            self.layer_of.update(dict.fromkeys((layer, *parts), layer))

    def of(self, recorded: Trace) -> list[Event]:
        kernels: set[Step] = set()
        """Steps that compute from a layer's parameters alone: a replacement's weight, when read."""
        found: list[Event] = []
        for step in recorded.steps:
            if (step.op == "get_attr" and step.target.rpartition(".")[0] in self.layer_of) or (
                step.reads and kernels.issuperset(step.reads)
            ):
                kernels.add(step)
            elif step.op not in ("placeholder", "get_attr"):
                found += self._of_step(step, recorded)
        return found

    def _of_step(self, step: Step, recorded: Trace) -> Iterator[Event]:
        owner, operator = step.owner or "", _operator(step, recorded)
        layer = self.layer_of.get(owner)
        if step.op == "output":
            for read in step.reads:
                yield Event("output", "", *_layout(read))
        # reason: a module of one operator is recorded as itself or by its function, depending on
        # how its input, which a replacement may have made, lies in memory
        elif layer is None and type(recorded.inventory.modules.get(owner)) in LEAVES:
            module = type(recorded.inventory.modules[owner])
            yield Event(module.__name__, owner, *_layout(step))
        elif layer is None:
            yield Event(operator, owner, *_layout(step), tuple(_constants(step)))
        elif _convolves(step):
            if owner not in self.first_parts:
                yield Event("convolution", layer, *_layout(step))
        # reason: a convolution pads by an operator of its own in all modes but zeros
        elif operator != "pad" and layer not in self.subclasses:
            yield Event(operator, layer, *_layout(step), tuple(_constants(step)))


def _operator(step: Step, recorded: Trace) -> str:
    if step.op == "call_module":
        return type(recorded.inventory.modules[step.target]).__name__
    return str(getattr(step.target, "__name__", step.target))


def _layout(step: Step) -> tuple[tuple[int, ...] | None, torch.dtype | None]:
    if step.layout is None:
        return None, None
    return tuple(step.layout.shape), step.layout.dtype


def _convolves(step: Step) -> bool:
    """Whether a step of a layer is its convolution: a module or an operator, as it was recorded."""
    return step.op == "call_module" or bool(step.counted and step.counted.convolutions)


def _constants(step: Step) -> Iterator[str]:
    for leaf in tree_leaves((step.args, dict(step.kwargs))):
        if isinstance(leaf, (bool, int, float, str, slice)):
            yield repr(leaf)
