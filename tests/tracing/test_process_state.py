"""Random numbers and modes: what a forward moved is put back, what others moved is left alone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import BaseTorchDispatchMode

from pytest_dwsconv import analyze
from pytest_dwsconv.tracing.preserving import as_found
from pytest_dwsconv.tracing.process_state import DRAWS, Modes, modes_as_found

SHAPE = (1, 3, 12, 12)
GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "torch": (
        lambda: float(torch.rand(1, dtype=torch.float64)),
        lambda: torch.get_rng_state().tolist(),
    ),
    "python": (random.random, random.getstate),
    "numpy": (np.random.random, lambda: repr(np.random.get_state(legacy=False))),
}
"""How to draw a number, and how to read the state."""


class Drawing(nn.Module):
    """Does something in its forward, and convolves."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(8)])
        self.__dict__["act"] = act

    def forward(self, x: Tensor) -> Any:
        self.__dict__["act"]()
        return self.convolutions(F.dropout(x, training=self.training))


def pause() -> None:
    time.sleep(0.001)


@contextmanager
def thread(work: Callable[[], object]) -> Iterator[None]:
    """Another thread that does this all the time."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            work()

    other = threading.Thread(target=repeat)
    other.start()
    try:
        yield
    finally:
        stop.set()
        other.join()


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_thread_that_draws_all_the_time_draws_no_number_twice(kind: str) -> None:
    draw, _ = GENERATORS[kind]
    model, drawn = Drawing(lambda: None), list[float]()
    with thread(lambda: drawn.append(draw())):
        for _ in range(20):
            analyze(model, SHAPE)
    assert len(drawn) > 100
    assert len(set(drawn)) == len(drawn)


def test_a_number_that_another_thread_drew_during_a_forward_is_not_drawn_again() -> None:
    drawn: SimpleQueue[float] = SimpleQueue()  # a list would be put back as it was

    def another_draws() -> None:
        other = threading.Thread(target=lambda: drawn.put(torch.rand(1).item()))
        other.start()
        other.join()

    with thread(pause):
        analyze(Drawing(another_draws), SHAPE)
        assert torch.rand(1).item() != drawn.get_nowait()


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("others", [False, True])
def test_what_the_forward_drew_is_put_back(kind: str, others: bool) -> None:
    draw, read = GENERATORS[kind]
    model, before = Drawing(draw), read()
    if others:
        with thread(pause):
            analyze(model, SHAPE)
    else:
        analyze(model, SHAPE)
    assert read() == before
    with as_found([]):
        draw()
    assert read() == before


def test_what_the_forward_drew_is_put_back_while_another_thread_draws_elsewhere() -> None:
    model = Drawing(lambda: torch.randn(3).normal_())
    before = torch.get_rng_state()
    with thread(lambda: time.sleep(random.random() / 1000)):
        analyze(model, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_that_nobody_saw_drawn_are_put_back_where_there_is_no_other_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unseen() -> None:
        with torch._C.DisableTorchFunction():
            torch.rand(3)

    model = Drawing(unseen)
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    before = torch.get_rng_state()
    analyze(model, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_that_the_forward_sets_is_put_back() -> None:
    model = Drawing(lambda: torch.manual_seed(5))
    before = torch.get_rng_state()
    with thread(pause):
        analyze(model, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_numpy_numbers_of_another_kind_of_generator_are_put_back() -> None:
    numpy_random: Any = np.random  # reason: its annotations leave these two out
    found = numpy_random.get_bit_generator()
    numpy_random.set_bit_generator(np.random.PCG64(1))
    try:
        before = repr(np.random.get_state(legacy=False))
        analyze(Drawing(np.random.random), SHAPE)
        assert repr(np.random.get_state(legacy=False)) == before
    finally:
        numpy_random.set_bit_generator(found)


def test_every_operator_that_pytorch_says_draws_is_known() -> None:
    tagged = set()
    for name in dir(torch.ops.aten):
        packet = getattr(torch.ops.aten, name)
        overloads = [getattr(packet, one) for one in getattr(packet, "overloads", list)()]
        if any(torch.Tag.nondeterministic_seeded in one.tags for one in overloads):
            tagged.add(name.rstrip("_"))
    # those that begin so are parts of scaled_dot_product_attention, or of recurrent layers
    public = {name for name in tagged if not name.startswith("_")} - {"miopen_rnn"}
    assert len(public) > 20
    assert public <= DRAWS


# -- modes

MODES: dict[str, Callable[[], object]] = {
    "gradients": lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "autocast": torch.autocast("cpu", dtype=torch.float16).__enter__,
    "autocast of a device": lambda: torch.set_autocast_dtype("cuda", torch.bfloat16),
    "autocast's cache": lambda: torch.set_autocast_cache_enabled(False),
    "functions": torch.overrides.BaseTorchFunctionMode().__enter__,
    "dispatch": BaseTorchDispatchMode().__enter__,
    "no functions": lambda: torch._C.DisableTorchFunction().__enter__(),
    "transforms": torch._C._functorch._grad_increment_nesting,
}
if not hasattr(torch._C, "_set_torch_function_state"):  # PyTorch 2.5 cannot put it back
    del MODES["no functions"]


def modes() -> Any:
    device: Any = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return Modes()._found, torch.get_default_dtype(), None if device is None else device.device


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_that_a_block_sets_is_put_back(mode: str) -> None:
    before = modes()
    with modes_as_found():
        MODES[mode]()
        assert modes() != before
    assert modes() == before
    with as_found([]):
        MODES[mode]()
    assert modes() == before


@pytest.mark.parametrize("mode", ["gradients", "dtype", "deterministic", "autocast"])
def test_a_mode_that_a_forward_sets_is_put_back(mode: str) -> None:
    before = modes()
    analyze(Drawing(MODES[mode]), SHAPE)
    assert modes() == before


def test_the_modes_of_the_caller_stay() -> None:
    with torch.no_grad(), torch.device("meta"), torch.autocast("cpu", dtype=torch.float16):
        before = modes()
        analyze(Drawing(lambda: None), SHAPE)
        assert modes() == before
