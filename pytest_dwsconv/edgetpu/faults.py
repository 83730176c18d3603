"""What can go wrong on the way to an Edge TPU: two errors, each with the kind of the fault."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pytest_dwsconv.edgetpu.process import ending
from pytest_dwsconv.errors import DwsconvError

AbsentKind = Literal["host", "runtime", "library", "device"]
"""Nothing to measure on: no host, no TFLite runtime, no libedgetpu, or no (such) device there."""

Kind = Literal[
    AbsentKind,
    "python",
    "pycoral",
    "mismatch",
    "permission",
    "busy",
    "open",
    "lost",
    "version",
    "model",
    "crash",
    "timeout",
    "connection",
    "worker",
]
"""What failed. A table in docs/device.md says what each means."""


class EdgeTpuError(DwsconvError, RuntimeError):
    """Measuring on an Edge TPU failed; ``kind`` says what failed, and the text what to do next."""

    def __init__(self, message: str, kind: Kind) -> None:
        # both are arguments of the base, so that the error can be pickled
        super().__init__(message, kind)
        self.kind: Kind = kind

    def __str__(self) -> str:
        return str(self.args[0])


class EdgeTpuAbsentError(EdgeTpuError):
    """There is no Edge TPU to measure on: tests skip, unless one is required."""

    def __init__(self, message: str, kind: AbsentKind) -> None:
        super().__init__(message, kind)


_COMMUNITY = "https://github.com/feranick"
_WORKS = (
    "the vendor's libedgetpu1-std with 'pip install tflite-runtime==2.11.0 \"numpy<2\"' on Python "
    f"3.9, or a rebuilt libedgetpu ({_COMMUNITY}/libedgetpu) with 'pip install ai-edge-litert'"
)

# By the kind of fault that the worker reports: what is the matter with the host, and the next step.
_FAULTS: dict[Kind, tuple[str, str]] = {
    "runtime": ("has no TFLite runtime", f"install one into its Python: {_WORKS}"),
    "pycoral": (
        "has a pycoral that cannot be used",
        "uninstall it there, as a TFLite runtime is enough, or install one that fits: from the "
        f"vendor's own index or {_COMMUNITY}/pycoral, never from PyPI",
    ),
    "library": ("has no libedgetpu that loads", f"install one there: {_WORKS}"),
    "mismatch": (
        "has a TFLite runtime that is reported to crash with the vendor's libedgetpu",
        f"install what works: {_WORKS}; or add check=off to the host, which measures all the same",
    ),
    "device": (
        "has no such Edge TPU",
        "plug it in, and look for 1a6e:089a or 18d1:9302 in lsusb, or for /dev/apex_0",
    ),
    "permission": (
        "has an Edge TPU that the user may not open",
        "add the user to the group plugdev, or apex for a PCI device, and log in again",
    ),
    "busy": ("has an Edge TPU that is in use", "end what uses it, or wait for it"),
    "open": (
        "has an Edge TPU that cannot be opened",
        "end other programs that may use it, then plug it in again, into a port that gives enough "
        "power",
    ),
    "lost": (
        "has an Edge TPU that failed or was lost",
        "see to its power, cable and hub: a USB 3 port of the board itself or a powered hub, a "
        "short cable, and a supply that is strong enough",
    ),
    "version": (
        "has a libedgetpu that is older than the model asks for",
        "install a newer one there, or compile the model with a lower --min_runtime_version",
    ),
    "model": (
        "has a TFLite runtime that does not accept the model",
        "install a newer runtime there, or export and compile the model again",
    ),
}


def result_of(answer: Mapping[str, Any], where: str, limit: float) -> dict[str, Any]:
    """The result among the lines that the worker printed.

    Args:
        answer: what the supervisor sent.
        where: the host, as the error calls it.
        limit: the worker's time limit in seconds.

    Raises:
        EdgeTpuError: the worker reported a fault, crashed or ran out of time.
    """
    said: dict[str, Any] = {}
    for line in answer["printed"].splitlines():
        if line.startswith("{") and line.endswith("}"):
            said |= json.loads(line)
    if "result" in said:
        result: dict[str, Any] = said["result"]
        return result
    if "fault" not in said:
        raise _ended(answer, where, limit, said.get("phase", "starting"))
    raise _fault(said["fault"], where, said["detail"])


def _fault(kind: Any, where: str, detail: str) -> EdgeTpuError:
    matter, step = _FAULTS[kind]
    message = f"{where} {matter} ({detail}): {step}"
    if kind in get_args(AbsentKind):
        return EdgeTpuAbsentError(message, kind)
    return EdgeTpuError(message, kind)


def _ended(answer: Mapping[str, Any], where: str, limit: float, phase: str) -> EdgeTpuError:
    """The error for a worker that ended without an answer; ``phase`` is the last it began."""
    # libedgetpu aborts its process where a transfer fails, and says so before
    lost = [line for line in answer["errors"].splitlines() if "USB transfer error" in line]
    if lost:
        return _fault("lost", where, lost[-1].strip())
    status = answer["status"]
    # Windows has no SIGALRM, with which the worker limits its own time elsewhere
    if answer["timed_out"] or -status == getattr(signal, "SIGALRM", None):
        return EdgeTpuError(
            f"the worker at {where} was still {phase} after {limit:g} s and was stopped: see "
            "whether the device answers, or measure fewer runs",
            "timeout",
        )
    how = ending(status)
    last = "".join(f", {line}" for line in answer["errors"].strip().splitlines()[-1:])
    step = _CRASHES.get(how, "run the model there by hand to see more")
    return EdgeTpuError(f"the worker at {where} died while {phase} ({how}{last}): {step}", "crash")


_CRASHES = {
    "SIGSEGV": "a libedgetpu built for another TFLite does that, install one built for the runtime "
    "there",
    "SIGKILL": "something killed it, see whether the host is out of memory",
}
