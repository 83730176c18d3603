"""How an operator of a recorded forward gets its result: by its shapes, from memory, or by running on meta tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils._pytree import tree_map

from pytest_dwsconv import operators, outcomes
from pytest_dwsconv.counting import AtenCounter, Counted
from pytest_dwsconv.operators import META


def run(func: Any, name: str, args: Any, kwargs: Any, real: bool, reads: bool) -> tuple[Any, Counted | None]:
    """The result of an operator, and what it holds if it is a counted one.

    ``real`` runs it as it is; on meta tensors it is answered without running it where that can be. ``reads`` tells
    whether there are tensors among its arguments.
    """
    if real or torch.is_grad_enabled() or transformed():
        return _counted(func, name, args, kwargs)
    if not reads:
        return _made(func, name, args, kwargs)
    if (move := _DEVICE_MOVES.get(name)) and args and isinstance(args[0], Tensor):
        return move(*args, **kwargs), None
    if name in operators.VIEWS:
        return _counted(func, name, args, kwargs)
    quick = _quick(func, name, args, kwargs) if args else None
    return quick or outcomes.outcome(func, args, kwargs, lambda: _counted(func, name, args, kwargs))


def _counted(func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Counted | None]:
    """Run an operator; of one that may hold convolutions or matrix products, note what is inside."""
    if name in operators.NO_MACS and not isinstance(func, (OpOverload, OpOverloadPacket)):
        return func(*args, **kwargs), None
    with AtenCounter() as counter:
        out = func(*args, **kwargs)
    found = counter.found()
    if found is None and name in operators.RECURRENT:  # the CPU's own kernel, with nothing inside to count
        found = Counted(operators.recurrent_macs(args))
    return out, found


def _made(func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Counted | None]:
    """What is made from no tensor: with its values, which may be needed, unless it is large."""
    if name in operators.FACTORIES and "generator" not in kwargs and "out" not in kwargs:
        sketch = func(*args, **{**kwargs, "device": META})
        if sketch.numel() > _MOST_VALUES:
            return sketch, None
    return _counted(func, name, args, kwargs)


_MOST_VALUES = 1 << 16


def transformed() -> bool:
    """Whether a transform such as ``torch.vmap`` is at work, under which a tensor's shape is not its whole shape."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _quick(func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Counted | None] | None:
    """The outcome of a frequent operator whose shape is plain, without running it; None for all others."""
    out: Any = None
    counted = None
    if func in operators.SAME_SHAPE:
        if _is_plain(args[0]) and not kwargs.keys() & _CHANGING and not kwargs.get("inplace"):
            out = torch.empty(args[0].shape, dtype=args[0].dtype, device=META)
    elif func in operators.BROADCAST:
        if len(args) == 2 and not kwargs:
            out = _quick_arithmetic(func in operators.IN_PLACE, *args)
    elif name in operators.RECURRENT and (out := operators.recurrent_output(args)) is not None:
        counted = Counted(operators.recurrent_macs(args))
    return None if out is None else (out, counted)


_CHANGING = frozenset({"dtype", "memory_format"})


def _quick_arithmetic(in_place: bool, a: Any, b: Any) -> Tensor | None:
    """Of a contiguous floating-point tensor and a number, or another such tensor of the same rank and dtype."""
    if not (_is_plain(a) and (type(b) in (int, float) or (_is_plain(b) and b.dtype == a.dtype and b.dim() == a.dim()))):
        return None
    shape = _broadcast(a.shape, b.shape) if isinstance(b, Tensor) else a.shape
    if shape is None or (in_place and shape != a.shape):
        return None
    if not in_place:
        return torch.empty(shape, dtype=a.dtype, device=META)
    if not a.is_inference():
        torch.autograd.graph.increment_version(a)
    return cast("Tensor", a)


def _is_plain(value: Any) -> bool:
    return type(value) is Tensor and value.is_meta and value.is_contiguous() and value.is_floating_point()


def _broadcast(one: torch.Size, other: torch.Size) -> torch.Size | None:
    """The shape of two shapes of the same rank together; None where they do not fit."""
    if one == other:
        return one
    sides = [b if a == 1 else a if b in (1, a) else None for a, b in zip(one, other, strict=True)]
    return None if None in sides else torch.Size(cast("list[int]", sides))


def on_meta(args: Any, kwargs: Any) -> Any:
    """Constants beside stand-ins go to the meta device too; single numbers stay, for their value may be needed."""
    return tree_map(lambda item: item.to(META) if isinstance(item, Tensor) and item.dim() else item, (args, kwargs))


def devices(value: Any, found: set[bool]) -> set[bool]:
    """Whether there are tensors on the meta device, and elsewhere."""
    if isinstance(value, Tensor):
        found.add(value.is_meta)
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            devices(item, found)
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


def like_on_meta(tensor: Tensor) -> Tensor:
    """A meta tensor as ``tensor`` is; ``empty_like`` of one that is on meta already imports sympy first."""
    if tensor.is_meta and tensor.layout is torch.strided:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
    return torch.empty_like(tensor, device=META, requires_grad=False)
