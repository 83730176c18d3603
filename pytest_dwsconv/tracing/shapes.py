"""The result of an operator: from its shapes, from memory, or by running it on meta tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils._pytree import tree_map

from pytest_dwsconv.tracing import memo, operators
from pytest_dwsconv.tracing.counting import AtenCounter, Counted
from pytest_dwsconv.tracing.operators import META

_Answer = Callable[[Any, Any, Any], Tensor | None]


def run(
    func: Any,
    name: str,
    args: Any,
    kwargs: Any,
    *,
    on_real_tensors: bool,
    has_tensors: bool,
) -> tuple[Any, Counted | None]:
    """The result of an operator, and what it holds if it is a counted one.

    On real tensors it runs as it is. On meta tensors it runs only where nothing else has the
    answer. ``has_tensors`` tells whether there are tensors among its arguments.
    """
    # reason: with gradients, or under a transform, a result is more than its shape
    if on_real_tensors or torch.is_grad_enabled() or transformed():
        return _counted(func, name, args, kwargs)
    if not has_tensors:
        return _from_no_tensor(func, name, args, kwargs)
    if (move := _DEVICE_MOVES.get(name)) and args and isinstance(args[0], Tensor):
        return move(*args, **kwargs), None
    if name in operators.VIEWS:
        return _counted(func, name, args, kwargs)
    quick = _quick(func, name, args, kwargs) if args else None
    return quick or memo.recall(func, args, kwargs, lambda: _counted(func, name, args, kwargs))


def _counted(func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Counted | None]:
    """Run an operator, counting the convolutions and matrix products that may be inside."""
    if name in operators.NO_MACS and not isinstance(func, (OpOverload, OpOverloadPacket)):
        return func(*args, **kwargs), None
    with AtenCounter() as counter:
        out = func(*args, **kwargs)
    found = counter.found()
    # the CPU's own kernel, with nothing inside to count
    if found is None and name in operators.RECURRENT:
        found = Counted(operators.recurrent_macs(args))
    return out, found


def _from_no_tensor(func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Counted | None]:
    """What is made of numbers: with its values, which may be needed, unless it is large."""
    if name in operators.FACTORIES and "generator" not in kwargs and "out" not in kwargs:
        sketch = func(*args, **{**kwargs, "device": META})
        if sketch.numel() > _MOST_VALUES:
            return sketch, None
    return _counted(func, name, args, kwargs)


_MOST_VALUES = 1 << 16


def transformed() -> bool:
    """Whether a transform such as ``torch.vmap``, which hides sides of a tensor, is at work."""
    return _innermost_transform() is not None


_innermost_transform = torch._C._functorch.peek_interpreter_stack


def _quick(func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Counted | None] | None:
    """What a frequent operator gives, without running it; None where that is not plain.

    More than time is saved: where PyTorch has the shapes of an operator in Python, it imports its
    compiler first.
    """
    if name in operators.RECURRENT:
        several = operators.recurrent_output(args)
        return None if several is None else (several, Counted(operators.recurrent_macs(args)))
    answer = _ANSWERS.get(func)
    if answer is None:
        return None
    out = answer(func, args, kwargs)
    return None if out is None else (out, None)


def _quick_same_shape(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    if not _is_plain(args[0]) or kwargs.keys() & _CHANGING or kwargs.get("inplace"):
        return None
    return torch.empty(args[0].shape, dtype=args[0].dtype, device=META)


_CHANGING = frozenset({"dtype", "memory_format"})


def _quick_arithmetic(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """Of a floating-point tensor and a number, or another such tensor of the same dtype."""
    if len(args) != 2 or kwargs or (func is Tensor.__rsub__ and isinstance(args[1], Tensor)):
        return None  # the last takes the memory layout of its second argument
    a, b = args
    if not (_is_float(a) and (type(b) in (int, float) or (_is_float(b) and b.dtype == a.dtype))):
        return None
    shape = _broadcast(a.shape, b.shape) if isinstance(b, Tensor) else a.shape
    if shape is None:
        return None
    if func not in operators.IN_PLACE:
        return _arithmetic_result(a, b, shape)
    if shape != a.shape:
        return None
    if not a.is_inference():
        torch.autograd.graph.increment_version(a)  # as the write would: later reads look at it
    return cast("Tensor", a)


def _arithmetic_result(a: Tensor, b: Any, shape: torch.Size) -> Tensor | None:
    """In memory as the first argument is; None where that does not tell."""
    if shape == a.shape and _is_dense(a):
        return torch.empty_strided(shape, a.stride(), dtype=a.dtype, device=META)
    plain = isinstance(b, Tensor) and shape == b.shape and a.is_contiguous() and b.is_contiguous()
    return torch.empty(shape, dtype=a.dtype, device=META) if plain else None


def _bound(answer: Callable[..., Tensor | None], *names: str) -> _Answer:
    """The answer where the arguments are a first one and some of these, each once."""

    def quick(func: Any, args: Any, kwargs: Any) -> Tensor | None:
        free = names[max(len(args) - 1, 0) :]
        fits = 1 <= len(args) <= 1 + len(names) and all(name in free for name in kwargs)
        return answer(*args, **kwargs) if fits else None

    return quick


def _reduced(x: Any, dim: Any = None, keepdim: Any = False) -> Tensor | None:
    """Of a contiguous floating-point tensor, over one side, several or all."""
    if not _is_plain(x) or type(keepdim) is not bool:
        return None
    over = set(range(x.dim())) if dim is None or dim in ((), []) else _sides(dim, x.dim())
    if over is None:
        return None
    shape = []
    for side, size in enumerate(x.shape):
        if side not in over:
            shape.append(size)
        elif keepdim:
            shape.append(1)
    return torch.empty(shape, dtype=x.dtype, device=META)


def _joined(tensors: Any, dim: Any = 0) -> Tensor | None:
    """Of floating-point tensors of one dtype and rank, whose shapes differ in that side alone."""
    side = _side_to_join(tensors, dim, new=0)
    if side is None:
        return None
    first = tensors[0]
    before, after = first.shape[:side], first.shape[side + 1 :]
    rest = {(one.dtype, one.dim(), one.shape[:side], one.shape[side + 1 :]) for one in tensors}
    if len(rest) > 1:
        return None
    joined = sum(one.shape[side] for one in tensors)
    return torch.empty((*before, joined, *after), dtype=first.dtype, device=META)


def _stacked(tensors: Any, dim: Any = 0) -> Tensor | None:
    """Of floating-point tensors of one dtype and shape."""
    side = _side_to_join(tensors, dim, new=1)
    if side is None or len({(one.dtype, one.shape) for one in tensors}) > 1:
        return None
    first = tensors[0]
    return torch.empty(
        (*first.shape[:side], len(tensors), *first.shape[side:]), dtype=first.dtype, device=META
    )


def _side_to_join(tensors: Any, dim: Any, new: int) -> int | None:
    """The side of the result that ``dim`` names; None where the result is not plain.

    The result has ``new`` sides more than each tensor.
    """
    if type(dim) is not int or not isinstance(tensors, (tuple, list)) or not tensors:
        return None
    if not all(map(_is_float, tensors)):
        return None
    rank: int = tensors[0].dim() + new
    if not -rank <= dim < rank:
        return None
    # reason: of images the result may keep its channels last in memory, as the first of them does
    if rank in (4, 5) and not all(one.is_contiguous() for one in tensors):
        return None
    return dim % rank


def _sides(dim: Any, rank: int) -> set[int] | None:
    """The sides, counted from 0, that one number or several name; None where one is wrong."""
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    if not all(type(one) is int and -rank <= one < rank for one in dims):
        return None
    sides = {one % rank for one in dims}
    return sides if len(sides) == len(dims) else None


_ANSWERS: dict[Any, _Answer] = {
    **dict.fromkeys(operators.SAME_SHAPE, _quick_same_shape),
    **dict.fromkeys(operators.BROADCAST, _quick_arithmetic),
    **dict.fromkeys(operators.REDUCTIONS, _bound(_reduced, "dim", "keepdim")),
    **dict.fromkeys(operators.JOINS, _bound(_joined, "dim")),
    **dict.fromkeys(operators.STACKS, _bound(_stacked, "dim")),
}


def _is_float(value: Any) -> bool:
    return (
        type(value) is Tensor
        and value.is_meta
        and value.is_floating_point()
        and value.layout is torch.strided
    )


def _is_plain(value: Any) -> bool:
    return _is_float(value) and value.is_contiguous()


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements lie one after the other, in whatever order of the sides."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _broadcast(one: torch.Size, other: torch.Size) -> torch.Size | None:
    """The shape of two shapes together; None where they do not fit."""
    try:
        return one if one == other else torch._C._infer_size(one, other)
    except RuntimeError:
        return None


def on_meta(args: Any, kwargs: Any) -> Any:
    """The arguments with every tensor on the meta device.

    Tensors of one number stay where they are: operators take them beside meta tensors, and some
    need the value.
    """

    def moved(item: Any) -> Any:
        return item.to(META) if isinstance(item, Tensor) and item.dim() else item

    return tree_map(moved, (args, kwargs))


def devices(value: Any, found: set[bool]) -> set[bool]:
    """For each tensor in ``value``, whether it is on the meta device, added to ``found``."""
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
    return x.to(
        dtype=dtype or x.dtype, memory_format=memory_format or torch.preserve_format, copy=copy
    )


def _stay(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x


_DEVICE_MOVES: dict[str, Callable[..., Tensor]] = {"to": _to, "cpu": _stay, "cuda": _stay}


def like_on_meta(tensor: Tensor) -> Tensor:
    """A meta tensor with the shape, strides and dtype of ``tensor``."""
    # reason: empty_like of a tensor that is on the meta device already imports sympy first
    if tensor.is_meta and tensor.layout is torch.strided:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
    return torch.empty_like(tensor, device=META, requires_grad=False)
