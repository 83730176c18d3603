"""The recorder: runs each operator of a forward on stand-ins and writes it down as a step.

Calls of modules that are one operator become ``call_module`` steps, every other operator a
``call_function`` step, seen through a ``TorchFunctionMode``. Parameters and buffers are never
touched: where an operator would read one it is given a stand-in.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pytest_dwsconv.tracing import operators
from pytest_dwsconv.tracing.counting import Counted
from pytest_dwsconv.tracing.inventory import Inventory
from pytest_dwsconv.tracing.process_state import DRAWS, torch_numbers
from pytest_dwsconv.tracing.shapes import devices, on_meta, run, transformed
from pytest_dwsconv.tracing.standins import StandIns
from pytest_dwsconv.tracing.steps import Layout, Step


class ModuleCall(NamedTuple):
    """One call of a module: its name, type and the bytes of its outputs."""

    name: str
    type: type[nn.Module]
    output_bytes: int


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


class _ValueNeededError(Exception):
    """A forward on meta tensors asks for a value that only one on real tensors has."""


class Recorder(StandIns, TorchFunctionMode):
    """Runs operators on stand-ins and writes each down as a step."""

    def __init__(self, inventory: Inventory, real: bool) -> None:
        TorchFunctionMode.__init__(self)
        StandIns.__init__(self, inventory, real)
        self.drew = False
        """Whether an operator has drawn random numbers from PyTorch's own generators."""
        self.failed_in: str | None = None
        self.elsewhere: str | None = None
        """A module of this model that another thread ran."""
        self.calls: list[ModuleCall] = []
        self.thread = threading.get_ident()

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
        numbers = torch_numbers() if name.rstrip("_") in DRAWS else None
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

    def call_set(self, original: Any, tensor: Tensor, args: Any, kwargs: Any) -> Tensor:
        """``Tensor.set_``, of a tensor or of a storage, which no step made."""
        given, reads = self.known(tensor)[0], list[Step]()
        args, kwargs = self.read(args, reads)[0], self.read(kwargs, reads)[0]
        with torch._C.DisableTorchFunction():
            original(given, *args, **kwargs)
        self.exchanged(given, reads[0] if reads else None)
        return tensor

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
