"""What a recorded forward did, in a form that is the same with and without replacements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._pytree import tree_leaves

from pytest_dwsconv.tracing.operators import LEAVES
from pytest_dwsconv.tracing.steps import Step
from pytest_dwsconv.tracing.trace import Trace

_FEW = 1 << 16
"""The most elements of a constant whose values are compared."""


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
    reads: tuple[str, ...] = ()
    """What the tensors among the arguments are: an earlier event, an input, a parameter, ..."""


class Events:
    """Takes the events out of the steps of a record.

    A call of one of ``layers`` is one event, whether the layer is replaced, by these parts in this
    order, or not. Of a layer among ``subclasses``, whose forward is lost, nothing else counts.
    """

    def __init__(self, layers: Mapping[str, Sequence[str]], subclasses: Collection[str]) -> None:
        self.subclasses = subclasses
        self.layer_of: dict[str, str] = {}
        """The layer that a module is, or is a part of."""
        self.first_parts: set[str] = set()
        """The parts before the last, whose results are not those of the layer."""
        for layer, names in layers.items():
            parts = [f"{layer}.{name}".lstrip(".") for name in names]
            self.first_parts.update(parts[:-1])
            self.layer_of.update(dict.fromkeys((layer, *parts), layer))

    def of(self, recorded: Trace) -> list[Event]:
        kernels: set[Step] = set()
        """Steps that compute from a layer's parameters alone: a replacement's weight, when read."""
        sources: dict[Step, str] = {}
        """What each step's result is, by words that are the same with and without replacements."""
        found: list[Event] = []
        for step in recorded.steps:
            holder = step.target.rpartition(".")[0] if step.op == "get_attr" else None
            if holder in self.layer_of:
                kernels.add(step)
                sources[step] = f"a parameter of {self.layer_of[holder]}"
            elif step.op in ("placeholder", "get_attr"):
                sources[step] = _tensor(step, recorded)
            elif step.reads and kernels.issuperset(step.reads):
                kernels.add(step)
                sources[step] = sources[step.reads[0]]
            else:
                data = [read for read in step.reads if read not in kernels]
                sources[step] = sources[data[0]] if data else "a new tensor"
                for event in self._of_step(step, recorded, kernels, sources):
                    sources[step] = f"{event.operator} at step {len(found)}"
                    found.append(event)
            # reason: what else a subclass does, before or after it convolves, is lost
            layer = self.layer_of.get(step.owner or "")
            if layer in self.subclasses and step.op != "output":
                sources[step] = f"a result of {layer}"
        return found

    def _of_step(
        self, step: Step, recorded: Trace, kernels: Collection[Step], sources: Mapping[Step, str]
    ) -> Iterator[Event]:
        owner, operator = step.owner or "", _operator(step, recorded)
        layer = self.layer_of.get(owner)
        reads = tuple(sources[read] for read in step.reads)
        data = tuple(sources[read] for read in step.reads if read not in kernels)
        if step.op == "output":
            for read in step.reads:
                yield Event("output", "", *_layout(read), reads=(sources[read],))
            yield Event("output", "", constants=tuple(_keys(step.args)))
        # reason: a module of one operator is recorded as itself or by its function, depending on
        # how its input, which a replacement may have made, lies in memory
        elif layer is None and type(recorded.inventory.modules.get(owner)) in LEAVES:
            module = type(recorded.inventory.modules[owner])
            others = [read for read in step.reads if read.op != "get_attr"]
            passed = tuple(sources[read] for read in others)
            yield Event(module.__name__, owner, *_layout(step), reads=passed)
        elif layer is None:
            yield Event(operator, owner, *_layout(step), tuple(_constants(step)), reads)
        elif _convolves(step):
            if owner not in self.first_parts:
                passed = () if layer in self.subclasses else data
                yield Event("convolution", layer, *_layout(step), reads=passed)
        # reason: a convolution pads by an operator of its own in all modes but zeros
        elif operator != "pad" and layer not in self.subclasses:
            yield Event(operator, layer, *_layout(step), tuple(_constants(step)), reads)


def _tensor(step: Step, recorded: Trace) -> str:
    """What a tensor is that no operator made; of a constant, its values."""
    constant = recorded.constants.get(step.target)
    if step.op != "get_attr" or constant is None:
        return str(step.target)
    plain = type(constant) is Tensor and constant.layout is torch.strided
    # reason: inside torch.vmap and the like a tensor stands for others, and has no values
    has_values = constant.device.type == "cpu" and not is_functorch_wrapped_tensor(constant)
    if plain and has_values and constant.numel() <= _FEW:
        return f"a constant {constant.tolist()}"
    return f"a constant of shape {tuple(constant.shape)}"


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


def _keys(value: object) -> Iterator[str]:
    """The keys of the dictionaries among the outputs, of any depth."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _keys(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield repr(key) if isinstance(key, (str, int)) else type(key).__name__
            yield from _keys(item)
