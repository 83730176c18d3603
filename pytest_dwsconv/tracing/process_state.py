"""What a forward may move in the whole process: random numbers and modes."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch._C import _functorch as functorch
from torch.utils import _python_dispatch as dispatch

from pytest_dwsconv.interrupts import uninterrupted

_C: Any = torch._C  # reason: torch leaves some of it without types
DRAWS = frozenset(
    """_sample_dirichlet _standard_gamma alpha_dropout bernoulli binomial cauchy dropout
    exponential feature_alpha_dropout feature_dropout fractional_max_pool2d
    fractional_max_pool2d_with_indices fractional_max_pool3d
    fractional_max_pool3d_with_indices geometric gru gumbel_softmax kaiming_normal
    kaiming_uniform log_normal lstm multi_head_attention_forward multinomial native_dropout
    normal normal_functional pca_lowrank poisson rand rand_like randint randint_like randn
    randn_like random randperm rnn_relu rnn_tanh rrelu rrelu_with_noise
    rrelu_with_noise_functional scaled_dot_product_attention svd_lowrank trunc_normal
    uniform""".split()
)
"""PyTorch's functions that may draw random numbers, by their names without a mark of in place.

All that PyTorch tags as such, and those that call one.
"""
_PATIENCE = 0.05
"""Seconds in which a thread that draws all the time surely draws again, on a busy machine too."""


class Numbers:
    """The state of a generator of random numbers, as it is now."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        self._read, self._write = read, write
        self._state = read()

    def now(self) -> Numbers:
        return Numbers(self._read, self._write)

    def moved(self) -> bool:
        return not _equal(self._state, self._read())

    def put_back(self) -> None:
        self._write(self._state)


def torch_numbers() -> Numbers:
    """PyTorch's generators, of the CPU and of the devices that are in use."""
    return Numbers(_torch_states, _set_torch_states)


def _torch_states() -> list[torch.Tensor]:
    # reason: to ask for the states of a device that nobody uses would start it
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *devices]


def _set_torch_states(states: list[torch.Tensor]) -> None:
    for index, (state, now) in enumerate(zip(states, _torch_states(), strict=False)):
        if torch.equal(state, now):
            continue
        if index == 0:
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, index - 1)


def _equal(one: Any, other: Any) -> bool:
    """Whether two states are equal: dictionaries and lists of numbers, arrays and tensors."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list):  # of devices, of which some may have come into use between
        return all(map(_equal, one, other))
    same = one == other
    return bool(same.all()) if hasattr(same, "all") else bool(same)


class RandomNumbers:
    """All generators that a forward may draw from without being given one.

    What another thread drew is left alone: if it were put back, that thread would draw the same
    numbers again.
    """

    def __init__(self) -> None:
        self._seed = torch.initial_seed()
        self._torch = torch_numbers()
        self._others = [Numbers(random.getstate, random.setstate)]
        if numpy := sys.modules.get("numpy.random"):
            self._others.append(Numbers(partial(numpy.get_state, legacy=False), numpy.set_state))

    def put_back(self, forward_drew: bool | None = None) -> None:
        """Put back what the forward moved; what goes on moving is taken to be another thread's.

        Args:
            forward_drew: whether it drew from PyTorch's generators, if somebody watched.
        """
        # a forward that sets a seed is not seen to draw, for that is not an operator
        drew_nothing = forward_drew is False and torch.initial_seed() == self._seed
        if drew_nothing and threading.active_count() > 1:
            generators = self._others
        else:
            generators = [self._torch, *self._others]
        for numbers in generators:
            if numbers.moved() and not _moves_elsewhere(numbers):
                numbers.put_back()


def _moves_elsewhere(numbers: Numbers) -> bool:
    """Whether a generator moves while this thread leaves it alone."""
    if threading.active_count() == 1:
        return False
    before = numbers.now()
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        time.sleep(0.001)
        if before.moved():
            return True
    return False


# -- modes


class Modes:
    """The modes of PyTorch that a forward may set, as they are now in this thread.

    Context managers written in Python, as most of PyTorch's are, can be interrupted between what
    they set and the block, and then never put it back.
    """

    def __init__(self) -> None:
        self._found = [read() for read, _ in _MODES]

    def put_back(self) -> None:
        for (read, write), found in zip(_MODES, self._found, strict=True):
            if read() != found:
                write(found)


@contextmanager
def modes_as_found() -> Iterator[None]:
    """Put back, after the block, the modes that it set; also when it is interrupted."""
    with uninterrupted() as interruptible:
        modes = Modes()
        try:
            with interruptible:
                yield
        finally:
            modes.put_back()


def _default_device() -> torch.device | None:
    """The device set as default; None if none is set."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def _deterministic() -> tuple[bool, bool]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only


def _set_deterministic(found: tuple[bool, bool]) -> None:
    enabled, warn_only = found
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def _autocast(device: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _set_autocast(device: str, found: tuple[bool, torch.dtype]) -> None:
    enabled, dtype = found
    torch.set_autocast_enabled(device, enabled)
    torch.set_autocast_dtype(device, dtype)


def _autocast_nesting() -> int:
    """How many blocks of autocast this thread is in; PyTorch tells only who counts along."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _leave_autocast(nesting: int) -> None:
    while _autocast_nesting() > nesting:
        # reason: the outermost block forgets the weights it cast, which may change after it
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


def _leave_transforms(depth: int) -> None:
    # reason: PyTorch 2.5 empties the stack, and then complains that it is empty
    with suppress(RuntimeError):
        functorch.pop_dynamic_layer_stack_and_undo_to_depth(depth)


def _pop_dispatch_modes(depth: int) -> None:
    while _C._len_torch_dispatch_stack() > depth:
        dispatch._pop_mode()


def _pop_function_modes(depth: int) -> None:
    while _C._len_torch_function_stack() > depth:
        _C._pop_torch_function_stack()


def _enable_functions(enabled: bool) -> None:
    # reason: leaving a guard that was never entered switches them on
    if enabled:
        _C.DisableTorchFunction().__exit__(None, None, None)


# reason: PyTorch 2.5 has no functions for it
_FUNCTION_STATE = (
    (_C._get_torch_function_state, _C._set_torch_function_state)
    if hasattr(_C, "_get_torch_function_state")
    else (_C._is_torch_function_enabled, _enable_functions)
)
_MODES: Sequence[tuple[Callable[[], Any], Callable[[Any], object]]] = (
    (torch.is_grad_enabled, _C._set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    # before the modes for functions, because a default device is one of those
    (_default_device, torch.set_default_device),
    (_deterministic, _set_deterministic),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    (partial(_autocast, "cpu"), partial(_set_autocast, "cpu")),
    (partial(_autocast, "cuda"), partial(_set_autocast, "cuda")),
    (_autocast_nesting, _leave_autocast),
    (functorch.get_dynamic_layer_stack_depth, _leave_transforms),
    (_C._len_torch_dispatch_stack, _pop_dispatch_modes),
    (_C._len_torch_function_stack, _pop_function_modes),
    _FUNCTION_STATE,
)
"""How to read each mode, and how to set it."""
