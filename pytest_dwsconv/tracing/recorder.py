"""The recorder: runs each operator of a forward on stand-ins and writes it down as a step.

Calls of modules that are one operator become ``call_module`` steps, every other operator a
``call_function`` step, seen through a ``TorchFunctionMode``. Parameters and buffers are never
touched: where an operator would read one it is given a stand-in.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import count
from math import prod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pytest_dwsconv.errors import TracingError
from pytest_dwsconv.tracing import operators
from pytest_dwsconv.tracing.counting import Counted
from pytest_dwsconv.tracing.inventory import Inventory
from pytest_dwsconv.tracing.process_state import DRAWS, TorchNumbers
from pytest_dwsconv.tracing.shapes import devices, like_on_meta, on_meta, run, transformed
from pytest_dwsconv.tracing.steps import Layout, Step


class ModuleCall(NamedTuple):
    """One call of a module: its name, type and the bytes of its outputs."""

    name: str
    type: type[nn.Module]
    output_bytes: int


class _Element(NamedTuple):
    """One of several results of a step, until somebody uses it."""

    step: Step
    path: tuple[Any, ...]


_READERS = frozenset(
    """
    size dim stride numel is_contiguous is_floating_point is_complex __len__ __hash__ get_device
    element_size storage_offset data_ptr nelement ndimension is_signed untyped_storage is_same_size
    """.split()
)
"""Methods that read a tensor's layout and give no tensor: there is nothing to record."""
_VALUE_READERS = frozenset(
    "item tolist numpy __bool__ __int__ __float__ __index__ __format__ __repr__ __contains__ "
    "equal".split()
)
"""Methods that read values: the model's own tensors have them until the forward changes them."""
_ATOMS = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.memory_format}
)
_FEW = 64
"""The most elements of a tensor whose values a forward on meta tensors keeps."""
_recordings = count()


class _ValueNeededError(Exception):
    """A forward on meta tensors asks for a value that only one on real tensors has."""


class Recorder(TorchFunctionMode):
    """Runs operators on stand-ins and writes each down as a step."""

    def __init__(self, inventory: Inventory, real: bool) -> None:
        super().__init__()
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
        self.drew = False
        """Whether an operator has drawn random numbers from PyTorch's own generators."""
        self.constants: dict[str, Tensor] = {}
        self.stack: list[str] = []
        self.failed_in: str | None = None
        self.elsewhere: str | None = None
        """A module of this model that another thread ran."""
        self.calls: list[ModuleCall] = []
        self.thread = threading.get_ident()
        self._mark = f"_dwsconv_step_{next(_recordings)}"
        """The attribute of a tensor that names the step of this recording that made it.

        A ``Step``, an ``_Element`` of one, or, on a tensor read from a pickle, the identity of the
        step in a set (``Step.__reduce__``).
        """

    # -- what stands in for a tensor, and which step made it

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
        elif isinstance(source, set):
            source = self._unpickled(source, tensor)
        return tensor, source

    def _unpickled(self, mark: set[int], tensor: Tensor) -> Step:
        """A step for a tensor that was read from a pickle: it copies the one that was pickled."""
        source = next(step for step in self.steps if id(step) in mark)
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

    # -- functions

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if threading.get_ident() != self.thread:
            return func(*args, **kwargs)
        if name in _READERS or name in _VALUE_READERS:
            return func(*(self._readable(value, name) for value in args), **kwargs)
        special = self._SPECIAL.get(name)
        return special(self, func, *args) if special else self._call(func, name, args, kwargs)

    def _call(self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self.transforms = self.transforms or transformed()
        reads: list[Step] = []
        given, noted = self.read(tuple(args), reads)
        given_kwargs, noted_kwargs = self.read(dict(kwargs), reads) if kwargs else ({}, {})
        # constants have values and lie elsewhere: the operator computes on the meta device
        if not self.real and len(reads) > 1 and len(devices((given, given_kwargs), set())) > 1:
            if _writes(name) and given and isinstance(given[0], Tensor) and not given[0].is_meta:
                raise _ValueNeededError(f"{name} of values into a tensor whose values are known")
            given, given_kwargs = on_meta(given, given_kwargs)
        numbers = TorchNumbers() if name.rstrip("_") in DRAWS else None
        out, counted = run(
            func,
            name,
            given,
            given_kwargs,
            on_real_tensors=self.real,
            has_tensors=bool(reads),
        )
        if numbers is not None and numbers.moved():
            self.drew = True
        if name == "__setitem__":
            func = operator.setitem
        if isinstance(out, Tensor) or _holds_tensor(out) or func is operator.setitem:
            details = {"args": noted, "kwargs": noted_kwargs, "reads": reads, "counted": counted}
            self.add("call_function", func, out, owner=self.owner, **details)
        return out

    def _readable(self, value: Any, name: str) -> Any:
        """The tensor that a reader of layouts or values is given in place of its argument."""
        stand_in = self.stand_ins.get(id(value)) if isinstance(value, Tensor) else None
        if stand_in is None:
            return value.detach().clone() if name == "numpy" and self._name_of(value) else value
        if name in _READERS or not stand_in.is_meta:
            return stand_in
        if id(stand_in) in self.changed or (not stand_in.is_inference() and stand_in._version):
            raise _ValueNeededError(f"{name} of a tensor that the forward has changed")
        return value.detach().clone() if name == "numpy" else value

    def _deep_copy(self, func: Any, tensor: Tensor, memo: Any) -> Any:
        return self._call(torch.clone, "clone", (tensor,), {})

    def _reduce(self, func: Any, tensor: Tensor, protocol: Any) -> Any:
        """For ``copy.copy``, ``pickle`` and ``torch.save``: the mark is among the attributes."""
        return func(self.known(tensor)[0], protocol)

    def _assign(self, setter: Any, tensor: Tensor, value: Any) -> None:
        """An assignment to one of the properties that a tensor has."""
        given = self.known(tensor)[0]
        data, step = self.known(value) if isinstance(value, Tensor) else (value, None)
        setter(given, data)
        if setter.__self__.__name__ == "data":
            self.exchanged(given, step)

    def exchanged(self, tensor: Tensor, step: Step | None) -> None:
        """``tensor`` was given the data that this step made, or data that no step made."""
        self.changed.add(id(tensor))
        setattr(tensor, self._mark, step)

    def call_set(self, original: Any, tensor: Tensor, args: Any, kwargs: Any) -> Tensor:
        """``Tensor.set_``, of a tensor or of a storage, which no step made."""
        given, reads = self.known(tensor)[0], list[Step]()
        args, kwargs = self.read(args, reads)[0], self.read(kwargs, reads)[0]
        with torch._C.DisableTorchFunction():
            original(given, *args, **kwargs)
        self.exchanged(given, reads[0] if reads else None)
        return tensor

    def hand_on(self, data: Tensor, parameter: nn.Parameter) -> None:
        """A parameter that the forward makes of a tensor comes from the same step."""
        source = getattr(data, self._mark, None)
        if source is not None:
            setattr(parameter, self._mark, source)

    @property
    def owner(self) -> str:
        """Qualified name of the innermost module that is running."""
        return self.stack[-1] if self.stack else ""

    def _property(self, func: Any, tensor: Tensor) -> Any:
        name = func.__self__.__name__
        if name == "device" and tensor.is_meta:
            return self.device
        if name == "is_meta" and not self.real:
            return self.device.type == "meta"
        if name not in _TENSOR_PROPERTIES:
            return func(self.stand_ins.get(id(tensor), tensor))
        given, step = self.known(tensor)
        out = func(given)
        if isinstance(out, Tensor):  # which .grad rarely is
            details = {"args": (step, name), "reads": (step,), "owner": self.owner}
            self.add("call_function", getattr, out, **details)
        return out

    _SPECIAL: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "__get__": _property,
        "__set__": _assign,
        "__deepcopy__": _deep_copy,
        "__reduce_ex__": _reduce,
    }
    """Functions that are not recorded as they are called, by name."""

    def call_scripted(self, original: Any, function: Any, args: Any, kwargs: Any) -> Any:
        """A function compiled by TorchScript, which calls operators where no mode sees them."""

        def scripted(*args: Any, **kwargs: Any) -> Any:
            return original(function, *args, **kwargs)

        scripted.__name__ = function.name
        with torch._C.DisableTorchFunction():
            return self._call(scripted, function.name, args, kwargs)

    # -- modules

    def call_module(self, original: Any, module: nn.Module, args: Any, kwargs: Any) -> Any:
        name = self.inventory.names.get(id(module), [""])[0]
        self.stack.append(name)
        try:
            out = NotImplemented
            if name and len(args) == 1 and not kwargs and type(module) in operators.LEAVES:
                out = self._leaf_call(original, name, module, args[0])
            if out is NotImplemented:
                out = original(module, *args, **kwargs)
                with torch._C.DisableTorchFunction():
                    self.calls.append(ModuleCall(name, type(module), size_in_bytes(out)))
        except Exception:
            self.failed_in = self.failed_in or name
            raise
        finally:
            self.stack.pop()
        return out

    def _leaf_call(self, original: Any, name: str, module: nn.Module, x: Any) -> Any:
        """One step for a module that is one operator; NotImplemented asks for its own forward."""
        if not isinstance(x, Tensor) or torch.is_grad_enabled() or transformed():
            return NotImplemented
        if _altered(module) or (self.real and module.training):
            return NotImplemented
        kind = type(module)
        with torch._C.DisableTorchFunction():
            # reason: PyTorch computes a complex convolution as three real ones, and counts those
            if kind in operators.CONVOLUTIONS and x.is_complex():
                return NotImplemented
            x, read = self.known(x)
            out = original(module, x) if self.real else _answered(module, x)
            if out is None:
                return NotImplemented
            layout = Layout.of(out)
            step = Step(
                "call_module",
                name,
                (read,),
                reads=(read,),
                layout=layout,
                owner=name,
                counted=_module_macs(module, x, layout.shape),
            )
            self.steps.append(step)
            setattr(out, self._mark, step)
            self.calls.append(ModuleCall(name, kind, layout.bytes))
        return out


_TENSOR_PROPERTIES = frozenset("data T mT H mH real imag grad".split())


def _altered(module: nn.Module) -> bool:
    """Whether a call of this module, one of the leaves, does more than its class says."""
    attributes = module.__dict__
    return bool(
        attributes["_forward_hooks"]
        or attributes["_forward_pre_hooks"]
        or operators.own_forward(module)
        or (type(module) in operators.WEIGHTED and "weight" not in attributes["_parameters"])
    )


def _module_macs(module: Any, x: Tensor, out: Sequence[int]) -> Counted | None:
    kind = type(module)
    if kind in operators.CONVOLUTIONS:
        return Counted(
            operators.conv_macs(module._parameters["weight"].shape, x.shape, out, module.transposed)
        )
    return Counted(prod(out) * x.shape[-1]) if kind is nn.Linear else None


def _answered(module: nn.Module, x: Tensor) -> Tensor | None:
    """The result of one of the leaves on the meta device; None where its shape is not plain."""
    kind = type(module)
    if not x.is_meta:
        x = x.to("meta")
    shape = operators.LEAVES[kind](module, x)
    if shape is None:
        return None
    if module.__dict__.get("inplace"):
        return x
    if shape != x.shape or kind in operators.CONTIGUOUS:
        return torch.empty(shape, dtype=x.dtype, device=operators.META)
    # reason: laid out as x is, with no memory to share, and far quicker to make than an empty one
    return x.detach()


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(isinstance(item, Tensor) or _holds_tensor(item) for item in value)
    return isinstance(value, dict) and _holds_tensor(list(value.values()))


def size_in_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(
        item.numel() * item.element_size()
        for item in tree_leaves(value)
        if isinstance(item, Tensor)
    )


def _writes(name: str) -> bool:
    """Whether a function of this name writes into its first argument."""
    return (
        name in ("__set__", "__setitem__")
        or name.startswith("__i")
        or (name[-1:] == "_" and name[-2:] != "__")
    )
