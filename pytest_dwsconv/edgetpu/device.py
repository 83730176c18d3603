"""Edge TPUs that are connected: list them, and measure models on them, in a process of its own on
any host.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dwsconv.core.measurement import Measurement
from pytest_dwsconv.edgetpu.faults import result_of
from pytest_dwsconv.edgetpu.hosts import Host
from pytest_dwsconv.edgetpu.modelfile import CUSTOM_OPERATOR, content_of, read_model
from pytest_dwsconv.errors import FormatError, InputError

if TYPE_CHECKING:
    from torch import nn

CPU = "cpu"
_GIVE = "give a module, the bytes of a .tflite file, or its path"
_DEVICE = re.compile(r"|:\d+|(usb|pci)(:\d+)?")


@dataclass(frozen=True)
class Device:
    """An Edge TPU as libedgetpu lists it: ``type`` is "usb" or "pci"."""

    type: str
    path: str


@dataclass(frozen=True)
class Procedure:
    """How a measurement is taken.

    ``warmup`` invokes are dropped after the first, then ``runs`` are kept. ``waits`` are the
    seconds between attempts to find and to open a device, one fewer than the attempts. ``limit`` is
    the seconds that all may take, and ``claim_limit`` those to wait before that for a device that
    other test runs hold.
    """

    warmup: int = 30
    runs: int = 100
    waits: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    limit: float = 120.0
    claim_limit: float = 600.0

    def __post_init__(self) -> None:
        whole = isinstance(self.runs, int) and isinstance(self.warmup, int)
        times = (self.limit, self.claim_limit, *self.waits)
        if (
            not whole
            or self.runs < 1
            or self.warmup < 0
            or not all(0 <= seconds < math.inf for seconds in times)
        ):
            raise InputError(
                f"a measurement needs a run at least, whole counts and finite times from 0: {self}"
            )


USUAL = Procedure()


class EdgeTpu:
    """The Edge TPU of a host, or the one that ``device`` names there: ":1", "usb", "usb:0", "pci",
    "pci:1".

    Raises:
        InputError: ``device`` is none of these.
    """

    def __init__(self, host: Host, device: str = "", procedure: Procedure = USUAL) -> None:
        self.host = host
        self.device = check_device(device)
        self.procedure = procedure

    def devices(self) -> tuple[Device, ...]:
        """The devices that will do.

        Raises:
            EdgeTpuError: there are none, or they cannot be listed.
        """
        result = _run(self.host, "list", self.device, b"", self.procedure)
        return tuple(Device(**row) for row in result["devices"])

    def measure(
        self, model: nn.Module | bytes | str | PathLike[str], shape: tuple[int, ...] | None = None
    ) -> Measurement:
        """The latency of a model; one that is not compiled for the Edge TPU is exported and
        compiled first.

        Args:
            model: a module, the bytes of a ``.tflite`` file, or the path of one.
            shape: the input shape of a module.

        Raises:
            InputError: the model cannot be read, or is a module without a shape.
            EdgeTpuError: it cannot be measured; the type tells why.
        """
        tflite, name = compiled(model, shape)
        return measure(self.host, tflite, name, device=self.device, procedure=self.procedure)


def measure(
    host: Host,
    tflite: bytes,
    name: str = "model",
    *,
    device: str = "",
    procedure: Procedure = USUAL,
) -> Measurement:
    """The latency of a ``.tflite`` model on the Edge TPU of a host, or on its CPU if ``device`` is
    "cpu".

    Args:
        host: where to measure.
        tflite: the bytes of the model.
        name: what the measurement is to call it.
        device: which Edge TPU, as ``EdgeTpu`` takes it, or "cpu".
        procedure: how often, and how long at most.

    Raises:
        InputError: these are no bytes, or the model is not compiled for the Edge TPU, on which it
            would silently run on the CPU.
        EdgeTpuError: it cannot be measured; the type tells why.
    """
    if not isinstance(tflite, bytes):
        raise InputError(
            f"measure takes the bytes of a .tflite file, not {tflite!r:.80}: read it with "
            "Path.read_bytes()"
        )
    if device == CPU:
        result = _run(host, "cpu", "", tflite, procedure)
    elif is_compiled(tflite):
        result = _run(host, "edgetpu", check_device(device), tflite, procedure)
    else:
        raise InputError(
            f"{name} is not compiled for the Edge TPU and would run on the CPU: compile it with "
            "edgetpu_compiler"
        )
    return Measurement(
        model=name, host=host.spec.text, **result | {"samples": tuple(result["samples"])}
    )


def is_compiled(tflite: bytes) -> bool:
    """Whether the Edge TPU's custom operator is in the model; of one that cannot be read its
    runtime will tell.

    Raises:
        MissingDependencyError: the packages of the extra ``edgetpu`` are not installed.
    """
    if CUSTOM_OPERATOR.encode() not in tflite:
        return False
    try:
        return read_model(tflite).compiled  # the name may be that of something else
    except FormatError:
        return True


def compiled(
    model: nn.Module | bytes | str | PathLike[str], shape: tuple[int, ...] | None = None
) -> tuple[bytes, str]:
    """A model compiled for the Edge TPU, and its name.

    Raises:
        InputError: the model cannot be read, or is a module without a shape.
    """
    tflite, name = _tflite(model, shape)
    if tflite[4:8] != b"TFL3":
        raise InputError(f"{name} is not a TFLite model: {_GIVE}")
    if is_compiled(tflite):
        return tflite, name
    from pytest_dwsconv.edgetpu.compiler import compile_model

    return compile_model(tflite).content, name


def _tflite(
    model: nn.Module | bytes | str | PathLike[str], shape: tuple[int, ...] | None
) -> tuple[bytes, str]:
    if isinstance(model, bytes):
        return model, "model"
    if isinstance(model, (str, PathLike)):
        return content_of(Path(fspath(model)))[0], Path(fspath(model)).name
    from torch import nn

    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} is no model: {_GIVE}")
    if shape is None:
        raise InputError(
            f"{name} cannot be exported without an input shape: give one, as in (1, 3, 224, 224)"
        )
    from pytest_dwsconv.edgetpu.export import export_int8

    return export_int8(model, shape), name


def check_device(device: str) -> str:
    """The string itself, if it can name an Edge TPU.

    Raises:
        InputError: it cannot.
    """
    if not _DEVICE.fullmatch(device):
        raise InputError(
            f"{device!r} is not a device: write :1, usb, usb:0, pci or pci:0, or nothing for any"
        )
    return device


def _run(host: Host, task: str, device: str, tflite: bytes, procedure: Procedure) -> dict[str, Any]:
    header = json.dumps({"task": task, "device": device, **asdict(procedure)})
    answer = host.run(
        header, tflite, procedure.limit + (procedure.claim_limit if task == "edgetpu" else 0)
    )
    return result_of(answer, str(host.spec), procedure.limit)
