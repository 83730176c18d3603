"""What is known of an operator without running it is what running it on real tensors gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_map

from pytest_dwsconv.tracing import operators
from pytest_dwsconv.tracing import shapes as execution


def answered(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What is said of the call without running it."""
    given, given_kwargs = tree_map(
        lambda one: sketch(one) if isinstance(one, Tensor) else one, (args, kwargs)
    )
    out = execution._quick(func, func.__name__, given, given_kwargs)
    return None if out is None else out[0]


def sketch(tensor: Tensor) -> Tensor:
    """As it is on the meta device; ``to`` would close gaps."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def check(func: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether there is an answer; it must be right, and there must be none where the operator
    fails.
    """
    out = answered(func, args, kwargs)
    if out is None:
        return False
    real = func(*args, **kwargs)
    assert (out.shape, out.dtype, steps(out)) == (real.shape, real.dtype, steps(real))
    return True


def steps(tensor: Tensor) -> list[int]:
    """Its strides, of sides where they mean something."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


shapes = st.lists(st.sampled_from([1, 1, 2, 3]), min_size=0, max_size=4)
dtypes = st.sampled_from([torch.float32, torch.float32, torch.float32, torch.float64, torch.int64])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Contiguous, transposed, with gaps between its elements, or one that stands for many."""
    tensor = torch.ones(draw(shapes), dtype=draw(dtypes))
    kind = draw(st.integers(0, 6)) if tensor.dim() else 0
    if kind == 1:
        return tensor.transpose(0, -1)
    if kind == 2:
        return torch.stack([tensor, tensor], -1)[..., 0]
    return tensor[..., :1].expand(tensor.shape) if kind == 3 else tensor


@given(
    st.sampled_from(sorted(operators.BROADCAST - operators.IN_PLACE, key=repr)),
    tensors(),
    tensors() | st.just(2.0),
)
def test_arithmetic(func: Any, one: Tensor, other: Any) -> None:
    check(func, one, other)


@given(
    st.sampled_from(sorted(operators.REDUCTIONS, key=repr)),
    tensors(),
    st.none() | st.integers(-3, 3) | st.lists(st.integers(-3, 3), max_size=3),
    st.booleans(),
)
def test_reductions(func: Any, x: Tensor, dim: Any, keepdim: bool) -> None:
    check(func, x, dim, keepdim=keepdim)


@given(
    st.sampled_from(sorted(operators.JOINS, key=repr)),
    shapes,
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(-4, 4),
    dtypes,
    st.booleans(),
)
def test_joins(
    func: Any, shape: list[int], sizes: list[int], dim: int, dtype: torch.dtype, transposed: bool
) -> None:
    parts = [
        torch.ones([*shape[:dim], size, *shape[dim + 1 :]] if shape else [], dtype=dtype)
        for size in sizes
    ]
    if transposed and len(parts[0].shape) > 1:
        parts[-1] = parts[-1].transpose(0, 1).contiguous().transpose(0, 1)
    check(func, parts, dim)


@given(shapes, st.integers(1, 3), st.integers(-5, 5), dtypes, dtypes, st.booleans())
def test_stacks(
    shape: list[int], count: int, dim: int, dtype: torch.dtype, other: torch.dtype, transposed: bool
) -> None:
    parts = [
        *(torch.ones(shape, dtype=dtype) for _ in range(count)),
        torch.ones(shape, dtype=other),
    ]
    check(
        torch.stack,
        [part.transpose(0, -1) if transposed and shape else part for part in parts],
        dim,
    )


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (torch.add, (torch.ones(2, 3), torch.ones(4, 2, 3)), {}),
        (torch.add, (torch.ones(2, 3, 4).transpose(1, 2), torch.ones(2, 4, 3)), {}),
        (torch.mul, (torch.ones(2, 3, 4), torch.ones(3, 1)), {}),
        (torch.div, (torch.ones(2, 3, 1, 1), 2), {}),
        (torch.mean, (torch.ones(2, 3, 4, 4), (2, 3)), {}),
        (Tensor.mean, (torch.ones(2, 3, 4, 4), [-1, -2], True), {}),
        (Tensor.mean, (torch.ones(2, 3), -1), {"keepdim": True}),
        (Tensor.sum, (torch.ones(2, 3),), {}),
        (torch.cat, ([torch.ones(2, 3, 4), torch.ones(2, 5, 4)], 1), {}),
        (torch.cat, ((torch.ones(2, 3), torch.ones(2, 5)),), {"dim": -1}),
        (torch.stack, ((torch.ones(2, 3), torch.ones(2, 3)), -1), {}),
    ],
)
def test_frequent_calls_are_answered(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert check(func, *args, **kwargs)


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (torch.add, (torch.ones(2, 3), torch.ones(2)), {}),
        (torch.add, (torch.ones(2, 1), torch.ones(1, 3)), {}),
        (torch.add, (torch.ones(2, 3), torch.ones(2, 3)), {"alpha": 2}),
        (torch.div, (torch.ones(2, dtype=torch.int64), 2), {}),
        (torch.div, (torch.ones(2), 2), {"rounding_mode": "floor"}),
        (torch.mean, (torch.ones(2, 3), 2), {}),
        (torch.mean, (torch.ones(2, 3), (0, 0)), {}),
        (torch.mean, (torch.ones(2, 3), 1), {"dim": 1}),
        (torch.sum, (torch.ones(2, 3), 1), {"dtype": torch.float64}),
        (torch.cat, ([torch.ones(2, 3), torch.ones(3, 3)], 1), {}),
        (torch.cat, ([torch.ones(2, 3), torch.ones(2)], 1), {}),
        (torch.cat, ([torch.ones(2), torch.ones(2, dtype=torch.float64)],), {}),
        (torch.cat, ([],), {}),
        (torch.stack, ([torch.ones(2, 3), torch.ones(2, 1)],), {}),
        (torch.cat, ([torch.ones(())],), {}),
    ],
)
def test_the_rest_is_left_to_the_operator(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert answered(func, args, kwargs) is None
