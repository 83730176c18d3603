"""Edge TPUs that are connected: list them, and measure models on them, on any host."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dwsconv.core.measurement import Measurement
from pytest_dwsconv.edgetpu.faults import result_of
from pytest_dwsconv.edgetpu.hosts import Host
from pytest_dwsconv.edgetpu.modelfile import CUSTOM_OPERATOR, content_of, read_model
from pytest_dwsconv.edgetpu.process import LONGEST
from pytest_dwsconv.errors import FormatError, InputError

if TYPE_CHECKING:
    from torch import nn

CPU = "cpu"
_GIVE = "give a module, the bytes of a .tflite file, or its path"
_DEVICE = re.compile(r"|:[0-9]{1,4}|(usb|pci)(:[0-9]{1,4})?")
_MOST_RUNS = 10**6


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

    Raises:
        InputError: a count is not a whole number, or a time is not a number of seconds in bounds.
    """

    warmup: int = 30
    runs: int = 100
    waits: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    limit: float = 120.0
    claim_limit: float = 600.0

    def __post_init__(self) -> None:
        counts = (self.warmup, self.runs)
        times = (self.limit, self.claim_limit, *self.waits)
        whole = all(isinstance(count, int) and 0 <= count <= _MOST_RUNS for count in counts)
        finite = all(isinstance(time, (int, float)) and 0 <= time <= LONGEST for time in times)
        if not (whole and finite and self.runs >= 1):
            raise InputError(
                "a measurement needs one run or more, whole counts from 0 up to "
                f"{_MOST_RUNS:,}, and seconds from 0 up to {LONGEST:,}"
            )


USUAL = Procedure()


class EdgeTpu:
    """The Edge TPU of a host.

    ``device`` says which one there: ":1", "usb", "usb:0", "pci", "pci:1"; any by default.

    Raises:
        InputError: ``device`` is not one of these.
    """

    def __init__(self, host: Host, device: str = "", procedure: Procedure = USUAL) -> None:
        self.host = host
        self.device = check_device(device)
        self.procedure = procedure

    def devices(self) -> tuple[Device, ...]:
        """The devices there that ``device`` allows.

        Raises:
            EdgeTpuError: there are none, or they cannot be listed.
        """
        task = {"task": "list", "device": self.device}
        result = _run(self.host, task, b"", self.procedure)
        return tuple(Device(**row) for row in result["devices"])

    def measure(
        self, model: nn.Module | bytes | str | PathLike[str], shape: tuple[int, ...] | None = None
    ) -> Measurement:
        """The latency of a model, which is exported and compiled first where that is needed.

        Args:
            model: a module, the bytes of a ``.tflite`` file, or the path of one.
            shape: the input shape of a module.

        Raises:
            InputError: the model cannot be read, or is a module without a shape.
            EdgeTpuError: it cannot be measured; ``kind`` says why.
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
    """The latency of a ``.tflite`` model on the Edge TPU of a host, or on its CPU.

    Args:
        host: where to measure.
        tflite: the bytes of the model.
        name: what the measurement calls it.
        device: which Edge TPU, as ``EdgeTpu`` takes it, or "cpu".
        procedure: how often, and how long at most.

    Raises:
        InputError: ``tflite`` is not bytes, or the model is not compiled for the Edge TPU: it
            would run on the CPU without a word. Or it is compiled, and ``device`` is "cpu".
        EdgeTpuError: it cannot be measured; ``kind`` says why.
    """
    if not isinstance(tflite, bytes):
        raise InputError(
            f"measure takes the bytes of a .tflite file, not {tflite!r:.80}: read it with "
            "Path.read_bytes()"
        )
    if device == CPU:
        if is_compiled(tflite):
            raise InputError(
                f"{name} is compiled for the Edge TPU and cannot run on the CPU: measure the file "
                "that it was compiled from"
            )
        result = _run(host, {"task": "cpu"}, tflite, procedure)
    elif is_compiled(tflite):
        task = {"task": "edgetpu", "device": check_device(device)}
        result = _run(host, task, tflite, procedure)
    else:
        raise InputError(
            f"{name} is not compiled for the Edge TPU and would run on the CPU: compile it with "
            "edgetpu_compiler"
        )
    return Measurement(
        model=name, host=host.spec.text, **result | {"samples": tuple(result["samples"])}
    )


@dataclass(frozen=True)
class Turns:
    """Times of several models on the CPU of a host, taken in turns; all in seconds.

    ``turns`` has a list for each model, with a time for each round; ``first_invokes`` came before.
    """

    first_invokes: tuple[float, ...]
    turns: tuple[tuple[float, ...], ...]
    runtime: str
    processor: str
    cores: int
    threads: int
    machine: str
    python: str


def measure_in_turns(
    host: Host, models: Sequence[bytes], threads: int, seconds: float, rounds: int = 200
) -> Turns:
    """Time ``.tflite`` models on the CPU of a host in turns.

    Args:
        host: where to measure.
        models: the bytes of each.
        threads: those of the runtime; 0 for one per core of the host.
        seconds: how long to go on, for at least 8 rounds.
        rounds: how many there are at most.

    Raises:
        EdgeTpuError: they cannot be measured; ``kind`` says why.
    """
    task = {
        "task": "turns",
        "sizes": [len(model) for model in models],
        "threads": threads,
        "seconds": seconds,
        "rounds": rounds,
    }
    result = _run(host, task, b"".join(models), Procedure(limit=USUAL.limit + seconds))
    timed = tuple(map(tuple, result.pop("turns")))
    return Turns(tuple(result.pop("first_invokes")), timed, **result)


def is_compiled(tflite: bytes) -> bool:
    """Whether the Edge TPU's custom operator is in the model.

    A damaged file that names the operator counts as compiled: its runtime reports the fault.

    Raises:
        MissingDependencyError: the packages of the extra ``measure`` are not installed.
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
    tflite, name = file_content(model) or _exported(model, shape)
    if is_compiled(tflite):
        return tflite, name
    from pytest_dwsconv.edgetpu.compiler import compile_model

    return compile_model(tflite).content, name


def file_content(model: object) -> tuple[bytes, str] | None:
    """The content of a model that is given as a file, and its name; None for a module.

    Raises:
        InputError: it cannot be read, or is neither a TFLite model nor a module.
    """
    if isinstance(model, bytes):
        content, name = model, "model"
    elif isinstance(model, (str, PathLike)):
        path = Path(fspath(model))
        content, name = content_of(path)[0], path.name
    else:
        _module(model)
        return None
    if content[4:8] != b"TFL3":
        raise InputError(f"{name} is not a TFLite model: {_GIVE}")
    return content, name


def _module(model: object) -> nn.Module:
    """The model as a module, if it is one."""
    name = type(model).__name__
    if find_spec("torch") is None:
        raise InputError(f"{name} is not a model, as PyTorch is not installed here: {_GIVE}")
    from torch import nn

    if not isinstance(model, nn.Module):
        raise InputError(f"{name} is not a model: {_GIVE}")
    return model


def _exported(model: object, shape: tuple[int, ...] | None) -> tuple[bytes, str]:
    network = _module(model)
    name = type(network).__name__
    if shape is None:
        raise InputError(
            f"{name} cannot be exported without an input shape: give one, as in (1, 3, 224, 224)"
        )
    from pytest_dwsconv.edgetpu.export import export_int8

    return export_int8(network, shape), name


def check_device(device: str) -> str:
    """The string itself, if it names an Edge TPU as pycoral does.

    Raises:
        InputError: it does not.
    """
    if not _DEVICE.fullmatch(device):
        raise InputError(
            f"{device!r:.80} is not a device: write :1, usb, usb:0, pci or pci:0, or nothing for "
            "any"
        )
    return device


def _run(host: Host, task: dict[str, Any], model: bytes, procedure: Procedure) -> dict[str, Any]:
    """Have the worker do a task; one with a ``device`` takes an Edge TPU."""
    device = task.get("device")
    header = json.dumps(
        {
            "checked": host.spec.check != "off",
            "expected": device in host.found,
            **asdict(procedure),
            **task,
        }
    )
    # only a task that takes a device for itself may have to wait for one
    claim_limit = procedure.claim_limit if task["task"] == "edgetpu" else 0
    answer = host.run(header, model, procedure.limit + claim_limit)
    result = result_of(answer, str(host.spec), procedure.limit)
    if device is not None:
        host.found.add(device)
    return result
