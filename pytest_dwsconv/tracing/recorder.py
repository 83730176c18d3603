"""The recorder: runs each operator of a forward on stand-ins and writes it down as a step.

Calls of modules that are one operator become ``call_module`` steps, every other operator a
``call_function`` step, seen through a ``TorchFunctionMode``. Parameters and buffers are never
touched: where an operator would read one it is given a stand-in.
"""

from __future__ import annotations

import operator
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import count
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pytest_dwsconv.errors import TracingError
from pytest_dwsconv.tracing import operators
from pytest_dwsconv.tracing.counting import Counted
from pytest_dwsconv.tracing.inventory import Inventory
from pytest_dwsconv.tracing.preserving import uninterrupted
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
    """size dim stride numel is_contiguous is_floating_point is_complex __len__ __hash__ get_device element_size
    storage_offset data_ptr nelement ndimension is_signed untyped_storage is_same_size""".split()
)
"""Methods that read a tensor's layout and give no tensor: there is nothing to record."""
_VALUE_READERS = frozenset(
    "item tolist numpy __bool__ __int__ __float__ __index__ __format__ __repr__ __contains__ "
    "equal".split()
)
"""Methods that read values: those of the model's own tensors are known, as long as the forward has
not changed them.
"""
_ATOMS = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.memory_format}
)
_FEW = 64
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
        """Whether a transform such as ``torch.vmap`` was at work, whose results are tensors of its
        own making.
        """
        self.constants: dict[str, Tensor] = {}
        self.stack: list[str] = []
        self.failed_in: str | None = None
        self.elsewhere: str | None = None
        """A module of this model that another thread ran."""
        self.calls: list[ModuleCall] = []
        self.thread = threading.get_ident()
        self._mark = f"_dwsconv_step_{next(_recordings)}"
        """The attribute of a tensor that says which step of this recording made it."""

    # -- what stands in for a tensor, and which step made it

    def add(self, op: str, target: Any, out: Any, **details: Any) -> Step:
        """Write down a step, and remember on the tensors of ``out`` that it made them."""
        step = Step(
            op, target, layout=Layout.of(out) if isinstance(out, Tensor) else None, **details
        )
        self.steps.append(step)
        self._made(out, step)
        return step

    def _made(self, value: Any, by: Step | _Element) -> None:
        if isinstance(value, Tensor):
            setattr(value, self._mark, by)
        elif isinstance(value, (tuple, list, dict)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            step, path = (by, ()) if isinstance(by, Step) else by
            for key, item in items:
                self._made(item, _Element(step, (*path, key)))

    def known(self, tensor: Tensor) -> tuple[Tensor, Step]:
        """What an operator is given in place of ``tensor``, and the step that made it.

        The model's own tensors are neither read nor written: a stand-in is.
        """
        made_by = getattr(tensor, self._mark, None)
        if made_by is None:
            tensor = (
                self.stand_ins[id(tensor)]
                if id(tensor) in self.stand_ins
                else self._stand_in(tensor)
            )
            made_by = getattr(tensor, self._mark)
        return tensor, self._taken(made_by, tensor) if isinstance(made_by, _Element) else made_by

    def _taken(self, element: _Element, tensor: Tensor) -> Step:
        step = element.step
        for key in element.path:
            step = self.add(
                "call_function", operator.getitem, None, args=(step, key), reads=(step,)
            )
        step.layout = Layout.of(tensor)
        setattr(tensor, self._mark, step)
        return step

    def _stand_in(self, tensor: Tensor) -> Tensor:
        """A copy of one of the model's own tensors; of one from outside the model with its values,
        which may decide.
        """
        name = self._name_of(tensor)
        if name is None:
            if tensor.is_meta and not (self.real or self.transforms or self.device.type == "meta"):
                raise TracingError(
                    f"{self.owner or 'the model'} uses a tensor that no recorded operator made: it "
                    "comes from another "
                    "thread or from compiled code, whose operators cannot be counted; analyze the "
                    "model without"
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
        """The name of one of the model's own tensors: a parameter, a buffer or, rarely, a plain
        attribute.
        """
        return self._registered.get(id(tensor)) or self._plain_attributes.get(id(tensor))

    @cached_property
    def _registered(self) -> dict[int, str]:
        """Names of the parameters and buffers that the modules had before the forward, by identity."""
        found = {parameter: names[0] for parameter, names in self.inventory.parameter_names.items()}
        for name, buffer in self.inventory.buffers:
            found.setdefault(id(buffer), name)
        return found

    @cached_property
    def _plain_attributes(self) -> dict[int, str]:
        """Names of the tensors that modules held as plain attributes before the forward, by
        identity.
        """
        found: dict[int, str] = {}
        for prefix, attributes in self.attributes.items():
            for name, value in attributes.items():
                if isinstance(value, Tensor):
                    found.setdefault(id(value), f"{prefix}.{name}".lstrip("."))
        return found

    def _may_decide(self, tensor: Tensor) -> bool:
        """Whether to keep the values of one of the model's own tensors: of a few numbers that are
        not learned.
        """
        return (
            not isinstance(tensor, nn.Parameter)
            and tensor.device.type == "cpu"
            and tensor.numel() <= _FEW
        )

    def read(self, value: Any, reads: list[Step]) -> tuple[Any, Any]:
        """``value`` as an operator is to see it, and as a step's argument; the steps in it are
        added to ``reads``.
        """
        kind = type(value)
        if kind in _ATOMS:
            return value, value
        if isinstance(value, Tensor):
            given, step = self.known(value)
            reads.append(step)
            return given, step
        if isinstance(value, (tuple, list)):
            if not value:
                return value, value
            items, steps = zip(*[self.read(item, reads) for item in value], strict=True)
            return (items, steps) if isinstance(value, tuple) else (list(items), list(steps))
        if isinstance(value, dict):
            read = {key: self.read(item, reads) for key, item in value.items()}
            return {key: pair[0] for key, pair in read.items()}, {
                key: pair[1] for key, pair in read.items()
            }
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
        if name == "__get__":
            return self._property(func, args[0])
        return self._call(func, name, args, kwargs)

    def _call(self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self.transforms = self.transforms or transformed()
        reads: list[Step] = []
        given, noted = self.read(tuple(args), reads)
        given_kwargs, noted_kwargs = self.read(dict(kwargs), reads) if kwargs else ({}, {})
        if not self.real and len(reads) > 1 and len(devices((given, given_kwargs), set())) > 1:
            if _writes(name) and given and isinstance(given[0], Tensor) and not given[0].is_meta:
                raise _ValueNeededError(f"{name} of values into a tensor whose values are known")
            given, given_kwargs = on_meta(given, given_kwargs)
        if name == "__set__":
            self.changed.add(id(given[0]))
        out, counted = run(func, name, given, given_kwargs, self.real, bool(reads))
        if name == "__setitem__":
            func = operator.setitem
        if isinstance(out, Tensor) or _holds_tensor(out) or func is operator.setitem:
            details = {"args": noted, "kwargs": noted_kwargs, "reads": reads, "counted": counted}
            self.add("call_function", func, out, owner=self.owner, **details)
        return out

    def _readable(self, value: Any, name: str) -> Any:
        """The tensor whose layout or values are to be read in place of one among a reader's
        arguments.
        """
        stand_in = self.stand_ins.get(id(value)) if isinstance(value, Tensor) else None
        if stand_in is None:
            return value.detach().clone() if name == "numpy" and self._name_of(value) else value
        if name in _READERS or not stand_in.is_meta:
            return stand_in
        if id(stand_in) in self.changed or (not stand_in.is_inference() and stand_in._version):
            raise _ValueNeededError(f"{name} of a tensor that the forward has changed")
        return value.detach().clone() if name == "numpy" else value

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
        given = (
            self.known(tensor)[0]
            if name in _TENSOR_PROPERTIES
            else self.stand_ins.get(id(tensor), tensor)
        )
        out = func(given)
        if isinstance(out, Tensor):
            step = self.known(given)[1]
            self.add(
                "call_function", getattr, out, args=(step, name), reads=(step,), owner=self.owner
            )
        return out

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
        """One step for a module that is one operator; NotImplemented sends it through its own
        forward.
        """
        plain = isinstance(x, Tensor) and not (
            _altered(module) or torch.is_grad_enabled() or transformed()
        )
        if not plain or (self.real and module.training):
            return NotImplemented
        kind = type(module)
        with torch._C.DisableTorchFunction():
            x, read = self.known(x)
            if self.real:
                out = original(module, x)
            elif (
                shape := operators.LEAVES[kind](module, x if x.is_meta else (x := x.to("meta")))
            ) is None:
                return NotImplemented
            else:
                out = x if module.__dict__.get("inplace") else _empty(shape, x, kind)
            layout = Layout.of(out)
            counted = _module_macs(module, x, layout.shape)
            step = Step(
                "call_module",
                name,
                (read,),
                reads=(read,),
                layout=layout,
                owner=name,
                counted=counted,
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


def _empty(shape: Sequence[int], like: Tensor, kind: type[nn.Module]) -> Tensor:
    """A meta tensor of that shape, laid out in memory as a module of this kind over ``like`` would
    leave it.
    """
    if shape != like.shape or kind in operators.CONTIGUOUS:
        return torch.empty(shape, dtype=like.dtype, device=operators.META)
    return like.detach()  # of no memory to share, and many times as quick to make as an empty one


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


_LOCK = threading.RLock()


@contextmanager
def seeing_modules(recorder: Recorder) -> Iterator[AbstractContextManager[None]]:
    """Let the recorder see every module call of this thread, in what ``nn.Module.__call__`` calls.

    To replace ``__call__`` itself, as ``torch.fx.Tracer`` does, costs more: it is a slot, which
    Python then updates in every class of modules. Ctrl-C is held back, except in the context that
    the block is given.
    """

    def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != recorder.thread:
            if id(module) in recorder.inventory.names:
                recorder.elsewhere = recorder.inventory.names[id(module)][0]
            return original(module, *args, **kwargs)
        return recorder.call_module(original, module, args, kwargs)

    def call_scripted(function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != recorder.thread:
            return original_script(function, *args, **kwargs)
        return recorder.call_scripted(original_script, function, args, kwargs)

    # in this order: waiting for another thread can be interrupted
    with _LOCK, uninterrupted() as interruptible:
        classes: Any = nn.Module  # reason: torch leaves the method without types
        scripts: Any = torch.jit.ScriptFunction
        original, original_script, limit = (
            classes._call_impl,
            scripts.__call__,
            sys.getrecursionlimit(),
        )
        try:
            classes._call_impl, scripts.__call__ = call, call_scripted
            sys.setrecursionlimit(2 * limit)  # a module takes twice as many frames here as alone
            yield interruptible
        finally:
            classes._call_impl, scripts.__call__ = original, original_script
            sys.setrecursionlimit(limit)
