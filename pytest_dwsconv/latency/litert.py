"""Networks timed with LiteRT, whose CPU kernels are XNNPACK's, on this host or on another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from pytest_dwsconv.core.latency.comparison import Conditions, Runtime
from pytest_dwsconv.edgetpu.device import Turns, measure_in_turns
from pytest_dwsconv.edgetpu.export.exporter import export_for_timing
from pytest_dwsconv.edgetpu.hosts import Host
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.latency.runs import Run


def exported(runs: Sequence[Run], runtime: Runtime) -> list[bytes]:
    """The ``.tflite`` files of networks that take one input, with batch size 1.

    In int8, weights and activations are quantised on noise, which makes no difference to the time.

    Raises:
        InputError: an input cannot be used.
        ExportError: a network cannot be exported.
        MissingDependencyError: a package of the extra ``export`` is not installed.
    """
    networks = []
    for network, inputs in runs:
        if len(inputs) != 1:
            raise InputError("an export takes one input: give one tensor")
        networks.append((network, inputs[0].shape))
    return export_for_timing(networks, int8=runtime is Runtime.LITERT_INT8)


def time_exported(
    groups: Sequence[Sequence[Run]], conditions: Conditions, seconds: float, host: str = ""
) -> list[Turns]:
    """Export networks and time those of each group in turns on the CPU of a host.

    Args:
        groups: networks to compare with each other.
        conditions: the runtime, and its threads.
        seconds: how long to go on with each network, for at least 8 rounds.
        host: as ``edgetpu.Host`` takes it: "" is this host, "ssh=pi@raspberrypi" another.

    Raises:
        InputError: an input or the host cannot be used.
        ExportError: a network cannot be exported.
        EdgeTpuError: they cannot be measured there; ``kind`` says why.
        MissingDependencyError: a package of the extras ``export`` or ``measure`` is not installed.
    """
    files = iter(exported([run for group in groups for run in group], conditions.runtime))
    timed = []
    with Host(host) as there:
        for group in groups:
            own = list(islice(files, len(group)))
            timed.append(measure_in_turns(there, own, conditions.threads, seconds * len(group)))
    return timed
