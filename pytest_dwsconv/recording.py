"""The recorder: runs each operator of a forward on stand-ins and writes it down as a ``torch.fx`` node.

Calls of modules that are one operator become ``call_module`` nodes, every other operator a ``call_function`` node,
seen through a ``TorchFunctionMode``. Parameters and buffers are never touched: where an operator would read one it
is given a stand-in.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import TensorMetadata
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from pytest_dwsconv import operators, outcomes
from pytest_dwsconv.counting import MACS, AtenCounter
from pytest_dwsconv.inventory import Inventory

OWNER = "owner"
"""Key in ``node.meta``: qualified name of the innermost module running when a function was called."""


class ModuleCall(NamedTuple):
    """One call of a module: its name, type and the bytes of its outputs."""

    name: str
    type: type[nn.Module]
    output_bytes: int


class _Element(NamedTuple):
    """One of several results of a node, until somebody uses it."""

    node: fx.Node
    path: tuple[Any, ...]


_MARK = "_dwsconv_node"
_READERS = frozenset(
    """size dim stride numel is_contiguous is_floating_point is_complex item tolist numpy __len__ __bool__ __int__
    __float__ __index__ __format__ __repr__ __hash__ get_device element_size storage_offset data_ptr nelement
    ndimension is_signed __contains__ equal untyped_storage is_same_size""".split()
)
"""Methods that read a tensor and give no tensor: they see the model's own, as there is nothing to record."""
_ATOMS = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.memory_format)


class Recorder(TorchFunctionMode):
    """Runs operators on stand-ins and writes each down as a node."""

    def __init__(self, inventory: Inventory, real: bool) -> None:
        super().__init__()
        self.real = real
        self.graph = fx.Graph()
        self.names = {id(module): name for name, module in inventory.modules.items()}
        self.leaves: dict[int, str] = {}
        for name, tensor in inventory.tensors():
            self.leaves.setdefault(id(tensor), name)
        self.device = inventory.device()
        self.stand_ins: dict[int, Tensor] = {}
        self.constants: dict[str, Tensor] = {}
        self.stack: list[str] = []
        self.failed_in: str | None = None
        self.elsewhere: str | None = None
        """A module of this model that another thread ran."""
        self.calls: list[ModuleCall] = []
        self.thread = threading.get_ident()

    # -- what stands in for a tensor, and which node made it

    def mark(self, value: Any, made_by: fx.Node | _Element) -> None:
        """Remember on the tensors of ``value`` which node made them."""
        if isinstance(value, Tensor):
            setattr(value, _MARK, made_by)
        elif isinstance(value, (tuple, list, dict)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            node, path = (made_by, ()) if isinstance(made_by, fx.Node) else made_by
            for key, item in items:
                self.mark(item, _Element(node, (*path, key)))

    def node_of(self, tensor: Tensor) -> fx.Node:
        """The node that made a tensor, or that gives it to the graph."""
        made_by = getattr(self.stand_in(tensor), _MARK)
        if isinstance(made_by, _Element):
            node = made_by.node
            for key in made_by.path:
                node = self.graph.call_function(operator.getitem, (node, key))
            self.describe(node, tensor)
            setattr(tensor, _MARK, node)
            return node
        return cast("fx.Node", made_by)

    def stand_in(self, tensor: Tensor) -> Tensor:
        """What an operator is given in place of ``tensor``, so that the model's own is neither read nor written."""
        found = self.stand_ins.get(id(tensor))
        if found is not None:
            return found
        name = self.leaves.get(id(tensor))
        if name is not None:
            return self._stands_in(name, tensor, tensor.detach().clone() if self.real else like_on_meta(tensor))
        if getattr(tensor, _MARK, None) is not None:
            return tensor
        return self._constant(tensor)

    def _constant(self, tensor: Tensor) -> Tensor:
        """Stand in for a tensor from outside the model, by a copy with its values, which may decide what happens."""
        name = f"_constant{len(self.constants)}"
        self.constants[name] = tensor
        return self._stands_in(name, tensor, tensor.detach().clone())

    def _stands_in(self, name: str, tensor: Tensor, copy: Tensor) -> Tensor:
        self.stand_ins[id(tensor)] = copy
        node = self.graph.create_node("get_attr", name)
        self.describe(node, copy)
        setattr(copy, _MARK, node)
        return copy

    def read(self, value: Any) -> tuple[Any, Any]:
        """``value`` as an operator is to see it, and as a node's argument."""
        if isinstance(value, Tensor):
            given = self.stand_in(value)
            return given, self.node_of(given)
        if isinstance(value, _ATOMS):
            return value, value
        if isinstance(value, (tuple, list)):
            pairs = [self.read(item) for item in value]
            plain: Callable[[Iterable[Any]], Any] = tuple if isinstance(value, tuple) else list
            return plain(pair[0] for pair in pairs), plain(pair[1] for pair in pairs)
        if isinstance(value, dict):
            read = {key: self.read(item) for key, item in value.items()}
            return {key: pair[0] for key, pair in read.items()}, {key: pair[1] for key, pair in read.items()}
        return value, value

    # -- functions

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if threading.get_ident() != self.thread or name in _READERS:
            return func(*args, **kwargs)
        if name == "__get__":
            return self._property(func, args[0])
        given, nodes = zip(*map(self.read, args), strict=True) if args else ((), ())
        given_kwargs, node_kwargs = self.read(dict(kwargs))
        if not self.real:
            given, given_kwargs = _on_one_device(given, given_kwargs)
        out, meta = self._run(func, name, given, given_kwargs)
        return self.record("call_function", func, nodes, node_kwargs, out, meta)

    def _property(self, func: Any, tensor: Tensor) -> Any:
        name = func.__self__.__name__
        if name == "device" and tensor.is_meta:
            return self.device
        if name == "is_meta" and not self.real:
            return self.device.type == "meta"
        given = self.stand_in(tensor) if name in _TENSOR_PROPERTIES else tensor
        out = func(given)
        if not isinstance(out, Tensor):
            return out
        return self.record("call_function", getattr, (self.node_of(given), name), {}, out)

    def _run(self, func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """The result, and what to note of a counted operator."""
        if not self.real and (move := _DEVICE_MOVES.get(name)) and args and isinstance(args[0], Tensor):
            return move(*args, **kwargs), {}
        if self.real or _transformed():
            return _counted(func, name, args, kwargs)
        out = _quick(func, args, kwargs)
        if out is not None:
            return out, {}
        return outcomes.outcome(func, args, kwargs, lambda: _counted(func, name, args, kwargs))

    def record(
        self,
        op: str,
        target: Any,
        args: Any,
        kwargs: Any,
        out: Any,
        meta: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """Write one operator down, if it gave a tensor, and return what it gave."""
        if not isinstance(out, Tensor) and not _holds_tensor(out):
            return out
        node = self.graph.create_node(op, target, tuple(args), kwargs)
        node.meta.update(meta)
        node.meta[OWNER] = self.stack[-1] if self.stack else ""
        self.describe(node, out)
        self.mark(out, node)
        return out

    def describe(self, node: fx.Node, value: Any) -> None:
        if isinstance(value, Tensor):
            shape, dtype = value.shape, value.dtype
            node.meta["tensor_meta"] = TensorMetadata(shape, dtype, False, value.stride(), None, False, {})

    # -- modules

    def call_module(self, original: Any, module: nn.Module, args: Any, kwargs: Any) -> Any:
        name = self.names.get(id(module), "")
        self.stack.append(name)
        try:
            out = self._leaf_call(original, name, module, args) if name and not kwargs else NotImplemented
            if out is NotImplemented:
                out = original(module, *args, **kwargs)
        except Exception:
            self.failed_in = self.failed_in or name
            raise
        finally:
            self.stack.pop()
        with torch._C.DisableTorchFunction():
            self.calls.append(ModuleCall(name, type(module), size_in_bytes(out)))
        return out

    def _leaf_call(self, original: Any, name: str, module: nn.Module, args: Any) -> Any:
        """One node for a module that is one operator; NotImplemented sends it through its own forward."""
        shape_of = operators.LEAVES.get(type(module))
        if shape_of is None or len(args) != 1 or not isinstance(args[0], Tensor) or _altered(module) or _transformed():
            return NotImplemented
        with torch._C.DisableTorchFunction():
            x = self.stand_in(args[0])
            node_x = self.node_of(x)
            if self.real:
                out = original(module, x)
            elif (shape := shape_of(module, x if x.is_meta else (x := x.to("meta")))) is None:
                return NotImplemented
            else:
                out = x if getattr(module, "inplace", False) else _empty(shape, x)
            macs = _module_macs(module, x, out)
            return self.record("call_module", name, (node_x,), {}, out, {} if macs is None else {MACS: macs})


def _counted(func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Run an operator; of one that may hold convolutions or matrix products, note what is inside."""
    if name in operators.NO_MACS:
        return func(*args, **kwargs), {}
    with AtenCounter() as counter:
        out = func(*args, **kwargs)
    return out, counter.meta()


_TENSOR_PROPERTIES = frozenset("data T mT H mH real imag grad".split())


def _transformed() -> bool:
    """Whether a transform such as ``torch.vmap`` is at work, under which a tensor's shape is not its whole shape."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _altered(module: nn.Module) -> bool:
    """Whether a call of this module does more than its class says."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in module.__dict__
        or ("weight" not in module._parameters and hasattr(module, "weight"))
    )


def _module_macs(module: nn.Module, x: Tensor, out: Tensor) -> int | None:
    if isinstance(module, nn.Linear):
        return out.numel() * module.in_features
    if isinstance(module, _ConvNd):
        return operators.conv_macs(module.weight.shape, x.shape, out.shape, module.transposed)
    return None


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """A meta tensor of that shape, laid out in memory as an operator over ``like`` would leave it."""
    if like.is_contiguous() or tuple(shape) != tuple(like.shape):
        return torch.empty(shape, dtype=like.dtype, device="meta")
    return torch.empty_like(like)


def _quick(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """The result of a frequent shape-preserving operator without running it; None for all others."""
    if func in operators.SAME_SHAPE:
        x = args[0]
        plain = isinstance(x, Tensor) and x.is_contiguous() and x.is_floating_point() and "dtype" not in kwargs
        if plain and not kwargs.get("inplace"):
            return torch.empty(x.shape, dtype=x.dtype, device="meta")
    elif func in operators.BROADCAST and len(args) == 2 and not kwargs:
        return _quick_arithmetic(*args)
    return None


def _quick_arithmetic(a: Any, b: Any) -> Tensor | None:
    if not (isinstance(a, Tensor) and a.is_contiguous() and a.is_floating_point()):
        return None
    if isinstance(b, Tensor) and not (a.shape == b.shape and a.dtype == b.dtype and b.is_contiguous()):
        return None
    return torch.empty(a.shape, dtype=a.dtype, device="meta") if isinstance(b, (Tensor, int, float)) else None


def like_on_meta(tensor: Tensor) -> Tensor:
    """A meta tensor as ``tensor`` is; ``empty_like`` of one that is on meta already imports sympy first."""
    if tensor.is_meta and tensor.layout is torch.strided:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return torch.empty_like(tensor, device="meta", requires_grad=False)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(isinstance(item, Tensor) or _holds_tensor(item) for item in value)
    return isinstance(value, dict) and _holds_tensor(list(value.values()))


def size_in_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(item.numel() * item.element_size() for item in tree_leaves(value) if isinstance(item, Tensor))


def _on_one_device(args: Any, kwargs: Any) -> Any:
    """Constants beside stand-ins go to the meta device too; single numbers stay, for their value may be needed."""
    if len(_devices((args, kwargs), set())) < 2:
        return args, kwargs
    return tree_map(lambda item: item.to("meta") if isinstance(item, Tensor) and item.dim() else item, (args, kwargs))


def _devices(value: Any, found: set[bool]) -> set[bool]:
    """Whether there are tensors on the meta device, and elsewhere."""
    if isinstance(value, Tensor):
        found.add(value.is_meta)
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            _devices(item, found)
    return found


def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.to`` without leaving the meta device."""
    if not x.is_meta:
        return x.to(*args, **kwargs)
    copy = kwargs.pop("copy", False)
    if args and isinstance(args[0], Tensor):
        return x.to(dtype=args[0].dtype, copy=copy)
    _, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    return x.to(dtype=dtype or x.dtype, memory_format=memory_format or torch.preserve_format, copy=copy)


def _stay(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x


_DEVICE_MOVES: dict[str, Callable[..., Tensor]] = {"to": _to, "cpu": _stay, "cuda": _stay}


_LOCK = threading.RLock()


@contextmanager
def seeing_modules(recorder: Recorder) -> Iterator[None]:
    """Let the recorder see every module call of this thread, as ``torch.fx.Tracer`` does, by ``nn.Module.__call__``."""

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != recorder.thread:
            if id(module) in recorder.names:
                recorder.elsewhere = recorder.names[id(module)]
            return original(module, *args, **kwargs)
        return recorder.call_module(original, module, args, kwargs)

    with _LOCK:
        original = nn.Module.__call__
        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]
