"""The latency of one network on a CPU, beside that of a reference convolution."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from time import perf_counter, thread_time
from typing import TYPE_CHECKING

import torch
from torch import nn

from pytest_dwsconv.core.latency.comparison import Conditions, Runtime
from pytest_dwsconv.core.measurement import Measurement
from pytest_dwsconv.latency.machine import this_machine
from pytest_dwsconv.latency.runs import Run, conditions_of, ready, torch_dtype
from pytest_dwsconv.latency.turns import time_in_turns

if TYPE_CHECKING:
    from pytest_dwsconv.edgetpu.hosts import Host

ROUNDS = 40
"""So that a 90th percentile means something."""
ATTEMPTS = 3


def measure_network(
    network: nn.Module,
    shape: tuple[int, ...],
    runtime: Runtime = Runtime.EAGER,
    *,
    seconds: float = 2.0,
) -> Measurement:
    """How long a network takes on this CPU with PyTorch, on the threads that it uses now.

    It is timed in turns with the reference convolution, and is left as found. Where that tells that
    the machine was busy it is measured again, up to ``ATTEMPTS`` times, and the quietest counts.

    Args:
        network: what to measure, in evaluation mode.
        shape: that of its one input.
        runtime: PyTorch as it is, or with its compiler.
        seconds: how long an attempt may take.

    Raises:
        InputError: the network is not on the CPU, it cannot be compiled, or its forward fails on
            such an input.
    """
    conditions = conditions_of(network, runtime)
    return _quietest(partial(_measured, network, shape, conditions, seconds))


def measure_exported(
    network: nn.Module,
    shape: tuple[int, ...],
    runtime: Runtime,
    host: str = "",
    *,
    seconds: float = 2.0,
) -> Measurement:
    """As ``measure_network``, with LiteRT on a host, on a thread for each of its cores.

    Args:
        network: what to measure.
        shape: that of its one input, with batch size 1.
        runtime: LiteRT in float or in int8.
        host: as ``edgetpu.Host`` takes it.
        seconds: how long an attempt may take.

    Raises:
        ExportError: the network cannot be exported.
        EdgeTpuError: it cannot be measured there; ``kind`` says why.
        MissingDependencyError: a package of the extras ``export`` or ``measure`` is not installed.
    """
    from pytest_dwsconv.edgetpu.hosts import Host
    from pytest_dwsconv.latency.litert import exported

    given = Run(network, [torch.empty(shape, device="meta")])
    files = exported([given, reference()], runtime)
    with Host(host) as there:
        return _quietest(
            partial(_measured_there, there, files, type(network).__name__, runtime, seconds)
        )


def reference() -> Run:
    """A standard convolution of 116 million MACs: limits may be relative to its latency."""
    with torch.random.fork_rng(devices=[]):
        return Run(nn.Conv2d(64, 64, 3, padding=1), [torch.randn(1, 64, 56, 56)])


def _quietest(measured: Callable[[], Measurement]) -> Measurement:
    """The first attempt of which the machine was not busy, or the best of all."""
    quietest = measured()
    for _ in range(ATTEMPTS - 1):
        if not quietest.is_busy:
            break
        quietest = min(quietest, measured(), key=attrgetter("disturbance"))
    return quietest


class _Watched:
    """A function of which is known for how much of its time it had no core."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._seconds = self._ran = 0.0

    def __call__(self) -> None:
        start, ran = perf_counter(), thread_time()
        self._call()
        self._seconds += perf_counter() - start
        self._ran += thread_time() - ran

    @property
    def waited(self) -> float:
        return max(0.0, 1 - self._ran / self._seconds) if self._seconds else 0.0


def _measured(
    network: nn.Module, shape: tuple[int, ...], conditions: Conditions, seconds: float
) -> Measurement:
    with torch.random.fork_rng(devices=[]):
        image = torch.rand(shape, dtype=torch_dtype(conditions))
    with ready([Run(network, [image]), reference()], conditions) as calls:
        start = perf_counter()
        calls[0]()
        first_invoke = perf_counter() - start
        watched = _Watched(calls[1])
        samples, standard = time_in_turns([calls[0], watched], seconds, ROUNDS)
    return Measurement(
        model=type(network).__name__,
        host="",
        machine=f"{platform.node()}, {this_machine().processor}",
        device="cpu",
        python=platform.python_version(),
        runtime=f"torch {torch.__version__}",
        library="",
        library_version="",
        clock="",
        first_invoke=first_invoke,
        samples=tuple(samples),
        reference=tuple(standard),
        conditions=conditions,
        waited=watched.waited,
    )


def _measured_there(
    host: Host, files: Sequence[bytes], name: str, runtime: Runtime, seconds: float
) -> Measurement:
    from pytest_dwsconv.edgetpu.device import measure_in_turns

    timed = measure_in_turns(host, files, threads=0, seconds=seconds, rounds=ROUNDS)
    samples, standard = timed.turns
    return Measurement(
        model=name,
        host=host.spec.text,
        machine=f"{timed.machine}, {timed.processor}",
        device="cpu",
        python=timed.python,
        runtime=f"{timed.runtime}, {runtime.value}, {timed.threads} threads",
        library="",
        library_version="",
        clock="",
        first_invoke=timed.first_invokes[0],
        samples=samples,
        reference=standard,
        # reason: elsewhere no replacement can be measured under them
        conditions=None if host.spec.text else Conditions(timed.threads, runtime=runtime),
    )
