"""The latency of one network on this CPU, beside that of a reference convolution."""

from __future__ import annotations

import platform
from time import perf_counter

import torch
from torch import nn

from pytest_dwsconv.core.measurement import Measurement
from pytest_dwsconv.latency.machine import this_machine
from pytest_dwsconv.latency.runs import Run, current_conditions, ready
from pytest_dwsconv.latency.turns import time_in_turns

ROUNDS = 40
"""So that a 90th percentile means something."""
ATTEMPTS = 3


def measure_network(
    network: nn.Module, shape: tuple[int, ...], *, seconds: float = 2.0
) -> Measurement:
    """How long a network takes on this CPU with PyTorch, on the threads that it uses now.

    It is timed in turns with the reference convolution, and is left as found. Where that tells that
    the machine was busy it is measured again, up to ``ATTEMPTS`` times, and the quietest counts.

    Args:
        network: what to measure, in evaluation mode.
        shape: that of its one input.
        seconds: how long an attempt may take.

    Raises:
        InputError: the network is not on the CPU, or its forward fails on such an input.
    """
    quietest = _measured(network, shape, seconds)
    for _ in range(ATTEMPTS - 1):
        if not quietest.is_busy:
            break
        again = _measured(network, shape, seconds)
        quietest = min(quietest, again, key=lambda one: one.reference_spread)
    return quietest


def reference() -> Run:
    """A standard convolution of 116 million MACs: limits may be relative to its latency."""
    return Run(nn.Conv2d(64, 64, 3, padding=1), [torch.randn(1, 64, 56, 56)])


def _measured(network: nn.Module, shape: tuple[int, ...], seconds: float) -> Measurement:
    with torch.random.fork_rng(devices=[]):
        runs = [Run(network, [torch.rand(shape)]), reference()]
    with ready(runs, current_conditions()) as calls:
        start = perf_counter()
        calls[0]()
        first_invoke = perf_counter() - start
        samples, standard = time_in_turns(calls, seconds, ROUNDS)
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
    )
