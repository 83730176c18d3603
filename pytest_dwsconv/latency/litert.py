"""Networks timed with LiteRT, whose CPU kernels are XNNPACK's, on this host or on another."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import nn

from pytest_dwsconv.core.latency.comparison import Conditions, Runtime
from pytest_dwsconv.edgetpu.device import Turns, measure_in_turns
from pytest_dwsconv.edgetpu.export import export_float, export_int8
from pytest_dwsconv.edgetpu.hosts import Host
from pytest_dwsconv.errors import EdgeTpuWarning


def time_exported(
    networks: Sequence[nn.Module],
    shape: tuple[int, ...],
    conditions: Conditions,
    host: str = "",
    seconds: float = 10.0,
) -> Turns:
    """Export networks and time them in turns on the CPU of a host.

    In int8, weights and activations are quantised on noise, which makes no difference to the time.

    Args:
        networks: networks of one input; they are left as found.
        shape: that of the input, with batch size 1.
        conditions: the runtime, and its threads.
        host: as ``edgetpu.Host`` takes it: "" is this host, "ssh=pi@raspberrypi" another.
        seconds: how long to go on, for at least 8 rounds.

    Raises:
        InputError: the shape or the host cannot be used.
        ExportError: a network cannot be exported.
        EdgeTpuError: they cannot be measured there; ``kind`` says why.
        MissingDependencyError: a package of the extras ``export`` or ``measure`` is not installed.
    """
    files = [exported(network, shape, conditions.runtime) for network in networks]
    with Host(host) as there:
        return measure_in_turns(there, files, conditions.threads, seconds)


def exported(network: nn.Module, shape: tuple[int, ...], runtime: Runtime) -> bytes:
    """The ``.tflite`` file of a network.

    Raises:
        InputError, ExportError, MissingDependencyError: as ``time_exported`` does.
    """
    export = export_int8 if runtime is Runtime.LITERT_INT8 else export_float
    with warnings.catch_warnings():
        # reason: what an Edge TPU would not take does not matter to a CPU
        warnings.simplefilter("ignore", EdgeTpuWarning)
        return export(network, shape)
