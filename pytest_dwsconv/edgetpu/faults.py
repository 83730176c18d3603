"""What can go wrong on the way to an Edge TPU, each an error of its own with the next step."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from typing import Any

from pytest_dwsconv.errors import DwsconvError


class EdgeTpuError(DwsconvError, RuntimeError):
    """Measuring on an Edge TPU failed."""


class EdgeTpuAbsentError(EdgeTpuError):
    """There is no Edge TPU to be used; tests that want one are skipped unless it is required."""


class HostError(EdgeTpuAbsentError):
    """The host cannot be reached, or its Python cannot be used."""


class RuntimeMissingError(EdgeTpuAbsentError):
    """The host's Python has no TFLite runtime that can be imported."""


class LibraryMissingError(EdgeTpuAbsentError):
    """The host has no libedgetpu that can be loaded."""


class DeviceMissingError(EdgeTpuAbsentError):
    """libedgetpu lists no device, or not the one asked for."""


class UnrelatedPycoralError(EdgeTpuError):
    """The host's Python has the program about coral reefs that is called pycoral on PyPI."""


class DevicePermissionError(EdgeTpuError):
    """The user may not open the device."""


class DeviceBusyError(EdgeTpuError):
    """Another program has the device."""


class DeviceOpenError(EdgeTpuError):
    """The device is there and could not be opened, for a reason that nothing tells."""


class DeviceLostError(EdgeTpuError):
    """The device failed while it ran the model."""


class RuntimeVersionError(EdgeTpuError):
    """The model was compiled for a newer libedgetpu than the host has."""


class ModelError(EdgeTpuError):
    """The TFLite runtime does not accept the model."""


class WorkerCrashError(EdgeTpuError):
    """The process that measures died."""


class TimeLimitError(EdgeTpuError):
    """A step was not done within its time limit, and was ended."""


class ConnectionLostError(EdgeTpuError):
    """The connection to the host broke while it measured."""


_FAULTS: dict[str, tuple[type[EdgeTpuError], str, str]] = {
    "runtime": (
        RuntimeMissingError,
        "has no TFLite runtime",
        "install one into its Python, as in 'pip install ai-edge-litert', "
        "or 'pip install tflite-runtime \"numpy<2\"' for Python 3.8 and 3.9",
    ),
    "unrelated pycoral": (
        UnrelatedPycoralError,
        "has the pycoral of PyPI, a program about coral reefs",
        "uninstall it there; a TFLite runtime is enough, and the vendor's pycoral comes from its "
        "own index only",
    ),
    "library": (
        LibraryMissingError,
        "has no libedgetpu that loads",
        "install libedgetpu1-std there, from the vendor's package repository",
    ),
    "device": (
        DeviceMissingError,
        "has no such Edge TPU",
        "plug it in, and look for 1a6e:089a or 18d1:9302 in lsusb, or for /dev/apex_0",
    ),
    "permission": (
        DevicePermissionError,
        "has an Edge TPU that the user may not open",
        "add the user to the group plugdev, or apex for a PCI device, and log in again",
    ),
    "busy": (DeviceBusyError, "has an Edge TPU that is in use", "end what uses it, or wait for it"),
    "open": (
        DeviceOpenError,
        "has an Edge TPU that cannot be opened",
        "end other programs that may use it, then plug it in again, into a port that gives enough "
        "power",
    ),
    "invoke": (
        DeviceLostError,
        "has an Edge TPU that failed while it ran the model",
        "plug it in again, into a port that gives enough power",
    ),
    "version": (
        RuntimeVersionError,
        "has a libedgetpu that is older than the model asks for",
        "install a newer one there, or compile the model with a lower --min_runtime_version",
    ),
    "model": (
        ModelError,
        "has a TFLite runtime that does not accept the model",
        "install a newer runtime there, or export and compile the model again",
    ),
}
"""By the kind that the worker gives: the error, what is the matter with the host, and the next
step.
"""


def result_of(answer: Mapping[str, Any], where: str, limit: float) -> dict[str, Any]:
    """The result among the lines that the worker printed.

    Args:
        answer: what the supervisor sent.
        where: the host, as the error calls it.
        limit: the worker's time limit in seconds.

    Raises:
        EdgeTpuError: the worker told a fault, crashed or ran out of time.
    """
    lines = [
        json.loads(line)
        for line in answer["printed"].splitlines()
        if line.startswith("{") and line.endswith("}")
    ]
    said = {name: value for line in lines for name, value in line.items()}
    if "result" in said:
        result: dict[str, Any] = said["result"]
        return result
    if "fault" in said:
        error, matter, step = _FAULTS[said["fault"]]
        raise error(f"{where} {matter} ({said['detail']}): {step}")
    raise _ended(answer, where, limit, said.get("phase", "starting"))


def _ended(answer: Mapping[str, Any], where: str, limit: float, phase: str) -> EdgeTpuError:
    """The error for a worker that ended without an answer; ``phase`` is the last it began."""
    status = answer["status"]
    if answer["timed_out"] or -status == getattr(signal, "SIGALRM", None):
        return TimeLimitError(
            f"the worker at {where} was still {phase} after {limit:g} s and was stopped: see "
            "whether the device "
            "answers, or measure fewer runs"
        )
    how = f"exit code {status}" if status >= 0 else _signal_name(-status)
    said = "".join(f", {line}" for line in answer["errors"].strip().splitlines()[-1:])
    return WorkerCrashError(
        f"the worker at {where} died while {phase} ({how}{said}): {_CAUSES.get(how, _OTHER_CAUSE)}"
    )


_CAUSES = {
    "SIGSEGV": "a libedgetpu built for another TFLite does that, install one built for the runtime "
    "there",
    "SIGKILL": "something killed it, see whether the host is out of memory",
}
_OTHER_CAUSE = "run the model there by hand to see more"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
