"""What is remembered of an operator is what running it again would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_dwsconv.tracing import memo
from pytest_dwsconv.tracing.counting import Counted
from pytest_dwsconv.tracing.memo import recall

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    memo.forget()
    yield
    memo.forget()


@pytest.fixture
def run() -> Run:
    """Ask for the outcome of a call, and count in ``run.times`` how often it really ran."""

    def call(func: Any, *args: Any, **kwargs: Any) -> Any:
        def really() -> tuple[Any, Counted]:
            call.times += 1  # type: ignore[attr-defined]
            return func(*args, **kwargs), Counted(7)

        out, counted = recall(func, args, kwargs, really)
        assert counted == Counted(7)
        return out

    call.times = 0  # type: ignore[attr-defined]
    return call


def meta(*shape: int, **kwargs: Any) -> Tensor:
    return torch.empty(shape, device="meta", **kwargs)


def like(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.stride(), one.dtype, one.device) == (
        other.shape,
        other.stride(),
        other.dtype,
        other.device,
    )


def test_the_second_call_is_answered_and_alike(run: Run) -> None:
    results = [run(torch.matmul, meta(2, 3).t(), meta(2, 5)) for _ in range(3)]
    assert run.times == 1  # type: ignore[attr-defined]
    assert all(like(result, results[0]) for result in results)
    assert len(set(map(id, results))) == 3


def test_strides_survive(run: Run) -> None:
    for _ in range(2):
        assert run(torch.transpose, meta(2, 3, 4), 0, 2).stride() == (1, 4, 12)
    assert run.times == 1  # type: ignore[attr-defined]


def test_several_results_keep_their_kind(run: Run) -> None:
    for _ in range(2):
        parts = run(torch.split, meta(6, 2), 4)
        assert type(parts) is tuple
        assert [tuple(part.shape) for part in parts] == [(4, 2), (2, 2)]
    assert run.times == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("func", "one", "other"),
    [
        (torch.add, (meta(2, 3), 1), (meta(2, 3), 1.0)),
        (torch.add, (meta(2, 3, dtype=torch.int64), 1), (meta(2, 3, dtype=torch.int64), True)),
        (torch.neg, (meta(2, 3),), (meta(3, 2),)),
        (torch.neg, (meta(2, 3),), (meta(3, 2).t(),)),
        (torch.neg, (meta(2, 3),), (meta(2, 3, dtype=torch.float16),)),
        (torch.sum, (meta(2, 3), 0), (meta(2, 3), 1)),
        (torch.neg, (meta(2, 3),), (meta(2, 3, 1),)),
        (Tensor.__getitem__, (meta(4, 4), (slice(0, 2),)), (meta(4, 4), (slice(0, 3),))),
    ],
)
def test_other_arguments_are_another_call(run: Run, func: Any, one: Any, other: Any) -> None:
    run(func, *one)
    assert like(run(func, *other), func(*other))
    assert run.times == 2  # type: ignore[attr-defined]


def test_keyword_arguments_count(run: Run) -> None:
    assert tuple(run(torch.sum, meta(2, 3), dim=0).shape) == (3,)
    assert tuple(run(torch.sum, meta(2, 3), dim=0, keepdim=True).shape) == (1, 3)


def test_the_default_type_counts(run: Run) -> None:
    whole = meta(2, dtype=torch.int64)
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            assert run(torch.div, whole, 2).dtype is dtype
    finally:
        torch.set_default_dtype(before)


def test_mixed_precision_is_never_remembered(run: Run) -> None:
    run(torch.matmul, meta(2, 3), meta(3, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(2):
            run(torch.matmul, meta(2, 3), meta(3, 2))
    assert run.times == 3  # type: ignore[attr-defined]


def test_a_result_that_is_an_argument_stays_that_argument(run: Run) -> None:
    x = meta(2, 3)
    for _ in range(2):
        assert run(Tensor.add_, x, 1) is x
        assert run(torch.add, meta(2, 3), 1, out=x) is x


@pytest.mark.parametrize("argument", [torch.zeros(2, 3), object()])
def test_what_cannot_be_described_runs_every_time(run: Run, argument: Any) -> None:
    def first(value: Any, *rest: Any) -> Tensor:
        return meta(1)

    first.__module__ = "torch"
    for _ in range(2):
        run(first, argument)
    assert run.times == 2  # type: ignore[attr-defined]


def test_functions_of_others_run_every_time(run: Run) -> None:
    """They may depend on more than their arguments, and remembering them would keep them alive."""
    for _ in range(2):
        run(like_input, meta(2))
    assert run.times == 2  # type: ignore[attr-defined]


def like_input(x: Tensor) -> Tensor:
    return torch.neg(x)


def test_memory_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "_LIMIT", 3)
    for size in range(1, 9):
        run(torch.neg, meta(size))
        assert len(memo._known) <= 3
