"""Two whole networks compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from pytest_dwsconv.core.latency.comparison import Comparison, Conditions
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.latency.runs import Run, current_conditions, dtype_of, ready, runtime_of
from pytest_dwsconv.latency.turns import compare, time_in_turns


def compare_networks(
    first: nn.Module,
    second: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    conditions: Conditions | None = None,
    *,
    host: str = "",
    seconds: float = 10.0,
) -> Comparison:
    """Tell how many times as fast the second network is as the first, on a CPU.

    Both run in evaluation mode, in turns, and are left as found. For channels_last they are copied,
    for LiteRT exported.

    Args:
        first: usually the original.
        second: what is compared with it.
        inputs: the tensors that both forwards take. One on the meta device stands for any values of
            its shape and dtype.
        conditions: threads, memory format and runtime; by default those of this process.
        host: with LiteRT another host, as ``edgetpu.Host`` takes it: "ssh=pi@raspberrypi".
        seconds: how long the rounds may take. With PyTorch they end before where the ratio is
            precise.

    Raises:
        InputError: a network is not on the CPU, or its forward fails on the inputs.
        ExportError: a network cannot be exported.
        EdgeTpuError: networks cannot be measured on the host; ``kind`` says why.
        MissingDependencyError: LiteRT needs a package that is not installed.
    """
    conditions = conditions or current_conditions()
    runtime = runtime_of(first, conditions.runtime)
    conditions = replace(conditions, runtime=runtime, dtype=dtype_of(first))
    given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if not given or not all(isinstance(tensor, Tensor) for tensor in given):
        raise InputError("inputs must be a tensor, or several: those that both forwards take")
    given = [_valued(tensor) for tensor in given]
    runs = [Run(network, given) for network in (first, second)]
    if conditions.is_litert:
        from pytest_dwsconv.latency.litert import time_exported

        [timed] = time_exported([runs], conditions, seconds / len(runs), host)
        first_times, second_times = timed.turns
        return compare(first_times, second_times, conditions, given[0].shape[0])
    if host:
        raise InputError(
            "PyTorch is timed on this host only: leave host out, or give conditions with LiteRT"
        )
    with ready(runs, conditions) as calls:
        one, other, again = time_in_turns([*calls, calls[0]], seconds)
    batch = given[0].shape[0] if given[0].ndim else 1
    return compare(one, other, conditions, batch, again)


def _valued(tensor: Tensor) -> Tensor:
    """The tensor, or on the meta device another of its kind: random, or of whole numbers zeros."""
    if not tensor.is_meta:
        return tensor
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor, device="cpu")
    with torch.random.fork_rng(devices=[]):
        return torch.rand_like(tensor, device="cpu")
