"""What operators of a recorded forward are given in place of tensors, and which step made each."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pytest_dwsconv.errors import TracingError
from pytest_dwsconv.tracing.inventory import Inventory
from pytest_dwsconv.tracing.shapes import like_on_meta, transformed
from pytest_dwsconv.tracing.steps import Layout, Step


class _Element(NamedTuple):
    """One of several results of a step, until somebody uses it."""

    step: Step
    path: tuple[Any, ...]


_ATOMS = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.memory_format}
)
_FEW = 64
"""The most elements of a tensor whose values a forward on meta tensors keeps."""
_recordings = count()


class StandIns:
    """The steps so far, and for every tensor of the forward the step that made it.

    The model's own tensors are neither read nor written: for each there is a stand-in.
    """

    def __init__(self, inventory: Inventory, real: bool) -> None:
        self.real = real
        self.steps: list[Step] = []
        self.inventory = inventory
        self.attributes: Mapping[str, Mapping[str, Any]] = {}
        """The attributes that each module had before the forward."""
        self.device = inventory.device()
        self.stand_ins: dict[int, Tensor] = {}
        self.changed: set[int] = set()
        """Identities of stand-ins whose data the forward has exchanged."""
        self.transforms = False
        """Whether a transform such as ``torch.vmap``, which makes tensors itself, was at work."""
        self.constants: dict[str, Tensor] = {}
        self.stack: list[str] = []
        """Qualified names of the modules that are running."""
        self._mark = f"_dwsconv_step_{next(_recordings)}"
        """The attribute of a tensor that names the step of this recording that made it.

        A ``Step``, an ``_Element`` of one, or, on a tensor read from a pickle, what
        ``Step.__reduce__`` makes of a step.
        """

    @property
    def owner(self) -> str:
        """Qualified name of the innermost module that is running."""
        return self.stack[-1] if self.stack else ""

    def add(self, op: str, target: Any, out: Any, **details: Any) -> Step:
        """Write down a step, and remember on the tensors of ``out`` that it made them."""
        step = Step(
            op, target, layout=Layout.of(out) if isinstance(out, Tensor) else None, **details
        )
        self.steps.append(step)
        self._mark_made_by(out, step)
        return step

    def _mark_made_by(self, value: Any, by: Step | _Element) -> None:
        if isinstance(value, Tensor):
            setattr(value, self._mark, by)
        elif isinstance(value, (tuple, list, dict)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            step, path = (by, ()) if isinstance(by, Step) else by
            for key, item in items:
                self._mark_made_by(item, _Element(step, (*path, key)))

    def known(self, tensor: Tensor) -> tuple[Tensor, Step]:
        """What an operator is given in place of ``tensor``, and the step that made it.

        The model's own tensors are neither read nor written: a stand-in is.
        """
        source = getattr(tensor, self._mark, None)
        if source is None:
            tensor = self.stand_ins.get(id(tensor), tensor)
            source = getattr(tensor, self._mark, None)
        if source is None:
            tensor = self._stand_in(tensor)
            source = getattr(tensor, self._mark)
        if isinstance(source, _Element):
            source = self._taken(source, tensor)
        elif isinstance(source, dict):
            source = self._unpickled(source, tensor)
        return tensor, source

    def _unpickled(self, mark: dict[str, int], tensor: Tensor) -> Step:
        """A step for a tensor that was read from a pickle: it copies the one that was pickled."""
        source = next(step for step in self.steps if id(step) == mark["step"])
        return self.add("call_function", torch.clone, tensor, args=(source,), reads=(source,))

    def _taken(self, element: _Element, tensor: Tensor) -> Step:
        """Steps that take one of several results, now that somebody uses it."""
        step = element.step
        for key in element.path:
            step = self.add(
                "call_function", operator.getitem, None, args=(step, key), reads=(step,)
            )
        step.layout = Layout.of(tensor)
        setattr(tensor, self._mark, step)
        return step

    def _stand_in(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor that no step made, with values only where the forward may need them.

        One of the model's own has them if all tensors are real or if it may decide something. One
        from outside the model is a constant, whose values are always at hand.
        """
        name = self._name_of(tensor)
        if name is None:
            # reason: on meta there are no values, so somebody else computed it out of our sight
            if tensor.is_meta and not (self.real or self.transforms or self.device.type == "meta"):
                raise TracingError(
                    f"{self.owner or 'the model'} uses a tensor that no recorded operator made: it "
                    "comes from another thread or from compiled code, whose operators cannot be "
                    "counted; analyze the model without"
                )
            name = f"_constant{len(self.constants)}"
            self.constants[name] = tensor
            copy = tensor.detach().clone()
        else:
            valued = self.real or self._may_decide(tensor)
            copy = tensor.detach().clone() if valued else like_on_meta(tensor)
            if tensor.requires_grad and not transformed():
                copy.requires_grad_()
        self.stand_ins[id(tensor)] = copy
        self.add("get_attr", name, copy)
        return copy

    def _name_of(self, tensor: Tensor) -> str | None:
        """The name of a parameter, a buffer or, rarely, a plain attribute; None for all others."""
        return self._registered.get(id(tensor)) or self._plain_attributes.get(id(tensor))

    @cached_property
    def _registered(self) -> dict[int, str]:
        """Names of the parameters and buffers that the modules had, by identity."""
        found = {parameter: names[0] for parameter, names in self.inventory.parameter_names.items()}
        for name, buffer in self.inventory.buffers:
            found.setdefault(id(buffer), name)
        return found

    @cached_property
    def _plain_attributes(self) -> dict[int, str]:
        """Names of the tensors that the modules had as plain attributes, by identity."""
        found: dict[int, str] = {}
        for prefix, attributes in self.attributes.items():
            for name, value in attributes.items():
                if isinstance(value, Tensor):
                    found.setdefault(id(value), f"{prefix}.{name}".lstrip("."))
        return found

    def _may_decide(self, tensor: Tensor) -> bool:
        """Whether a forward may branch on it: a buffer of a few numbers, such as a counter."""
        return (
            not isinstance(tensor, nn.Parameter)
            and tensor.device.type == "cpu"
            and tensor.numel() <= _FEW
        )

    def read(self, value: Any, reads: list[Step]) -> tuple[Any, Any]:
        """``value`` as an operator gets it and as a step notes it; its steps join ``reads``."""
        kind = type(value)
        if kind in _ATOMS:
            return value, value
        if isinstance(value, Tensor):
            tensor, step = self.known(value)
            reads.append(step)
            return tensor, step
        if isinstance(value, (tuple, list)):
            if not value:
                return value, value
            items, steps = zip(*[self.read(item, reads) for item in value], strict=True)
            return (items, steps) if isinstance(value, tuple) else (list(items), list(steps))
        if isinstance(value, dict):
            pairs = {key: self.read(item, reads) for key, item in value.items()}
            given = {key: pair[0] for key, pair in pairs.items()}
            return given, {key: pair[1] for key, pair in pairs.items()}
        return value, value

    def exchanged(self, tensor: Tensor, step: Step | None) -> None:
        """``tensor`` was given the data that this step made, or data that no step made."""
        self.changed.add(id(tensor))
        setattr(tensor, self._mark, step)

    def hand_on(self, data: Tensor, parameter: nn.Parameter) -> None:
        """A parameter that the forward makes of a tensor comes from the same step."""
        source = getattr(data, self._mark, None)
        if source is not None:
            setattr(parameter, self._mark, source)
