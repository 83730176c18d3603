"""Opens an Edge TPU and times a model on it. Sent to the host as text, and run there alone.

It needs Python 3.8 or newer, a TFLite runtime (pycoral, ai_edge_litert or tflite_runtime) and
libedgetpu. One process does one task. Standard input holds a line of JSON and then the model.
Standard output gets one JSON object per line: each phase as it begins, so that the reader knows
where a crash struck, and then ``result`` or ``fault``.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from hashlib import sha256
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    Device = dict[str, str]  # "type" ("usb" or "pci") and "path", as pycoral lists them
    Say = Callable[[str], None]

LIBRARY = {"Darwin": "libedgetpu.1.dylib", "Windows": "edgetpu.dll"}.get(
    platform.system(), "libedgetpu.so.1"
)
RUNTIMES = ("ai_edge_litert", "tflite_runtime")
KINDS = {0: "pci", 1: "usb"}
CLOCKS = {"libedgetpu1-std": "std", "libedgetpu1-max": "max"}


class Fault(Exception):  # noqa: N818  # it is sent as data, and becomes an EdgeTpuError there
    """What stops the task: a kind of EdgeTpuError, and the particulars."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


# --------------------------------------------------------------------------- the runtimes


class _Record(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("path", ctypes.c_char_p)]


class PlainRuntime:
    """ai_edge_litert or tflite_runtime, with libedgetpu as an external delegate.

    Listing devices needs neither.
    """

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(LIBRARY)
            library.edgetpu_list_devices.restype = ctypes.POINTER(_Record)
            library.edgetpu_list_devices.argtypes = [ctypes.POINTER(ctypes.c_size_t)]
            library.edgetpu_free_devices.argtypes = [ctypes.POINTER(_Record)]
            library.edgetpu_free_devices.restype = None
            library.edgetpu_version.restype = ctypes.c_char_p
        except (OSError, AttributeError) as error:
            raise Fault("library", str(error)) from error
        self._library = library

    def devices(self) -> list[Device]:
        count = ctypes.c_size_t()
        records = self._library.edgetpu_list_devices(ctypes.byref(count))
        try:
            listed = [records[position] for position in range(count.value)]
            return [
                {"type": KINDS[record.type], "path": os.fsdecode(record.path)} for record in listed
            ]
        finally:
            self._library.edgetpu_free_devices(records)

    def version(self) -> str:
        return os.fsdecode(self._library.edgetpu_version())

    def load(self) -> str:
        """Import the package, and return its name and version."""
        self._module, name = tflite()
        return name

    def interpreter(self, model: bytes, device: str) -> Any:
        delegate = self._module.load_delegate(LIBRARY, {"device": device})
        return self._module.Interpreter(model_content=model, experimental_delegates=[delegate])


class PycoralRuntime:
    """The vendor's own package, on its own tflite_runtime."""

    def __init__(self, edgetpu: Any) -> None:
        self._edgetpu = edgetpu

    def devices(self) -> list[Device]:
        return [
            {"type": device["type"], "path": device["path"]}
            for device in self._edgetpu.list_edge_tpus()
        ]

    def version(self) -> str:
        return str(self._edgetpu.get_runtime_version())

    def load(self) -> str:
        return f"{named('pycoral')}, {named('tflite_runtime')}"

    def interpreter(self, model: bytes, device: str) -> Any:
        return self._edgetpu.make_interpreter(model, device=device)


def pycoral() -> PycoralRuntime | None:
    """The vendor's pycoral, or None.

    PyPI's project of that name is recognised by its files, without running any.
    """
    spec = find_spec("pycoral")
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not any((folder / "utils" / "edgetpu.py").exists() for folder in folders):
        raise Fault("pycoral", str(spec.origin or folders[0]))
    try:
        return PycoralRuntime(import_module("pycoral.utils.edgetpu"))
    except ModuleNotFoundError as error:
        raise Fault("runtime", f"pycoral lacks a package: {error}") from error
    except ImportError as error:  # its extension is linked against libedgetpu
        raise Fault("library", str(error)) from error


def tflite() -> tuple[Any, str]:
    """The module with ``Interpreter`` and ``load_delegate``, and its package's name and version."""
    package = next((package for package in RUNTIMES if find_spec(package)), None)
    if package is None:
        raise Fault("runtime", f"neither pycoral nor {' nor '.join(RUNTIMES)} is there")
    try:
        return import_module(f"{package}.interpreter"), named(package)
    except ImportError as error:
        raise Fault("runtime", f"{package} cannot be imported: {error}") from error


def named(package: str) -> str:
    try:
        return f"{package} {version(package.replace('_', '-'))}"
    except PackageNotFoundError:
        return package


# --------------------------------------------------------------------------- devices


def chosen(devices: Sequence[Device], wanted: str) -> list[int]:
    """Positions in the list that ``wanted`` allows: "" is any, ":1", "usb", "usb:0", "pci:1"."""
    kind, colon, number = wanted.partition(":")
    positions = [
        position for position, device in enumerate(devices) if kind in ("", device["type"])
    ]
    return positions[int(number) :][:1] if colon else positions


def present(runtime: Any, wanted: str, waits: Sequence[float]) -> tuple[list[Device], list[int]]:
    """The devices, and the positions of those that ``wanted`` allows.

    A USB device vanishes for a moment when it is first used, so the list is read several times.
    """
    for wait in (*waits, None):
        devices = runtime.devices()
        positions = chosen(devices, wanted)
        if positions or wait is None:
            break
        time.sleep(wait)
    if not devices:
        raise Fault("device", "libedgetpu lists none")
    if not positions:
        listed = ", ".join(f"{device['type']} {device['path']}" for device in devices)
        raise Fault("device", f"libedgetpu lists {listed}, and no {wanted}")
    return devices, positions


def claim(
    devices: Sequence[Device], positions: Sequence[int], limit: float
) -> tuple[int, AbstractContextManager[object]]:
    """The first free device, held until the lock is closed or this process ends.

    Two processes cannot share a device. The lock is a name in the abstract socket namespace of
    Linux: it is not a file, and goes with its holder. Other systems have no such names, and the
    first device is taken.
    """
    if platform.system() != "Linux":
        return positions[0], nullcontext()
    deadline = time.monotonic() + limit
    while True:
        for position in positions:
            lock = socket.socket(socket.AF_UNIX)
            try:
                lock.bind(
                    "\0pytest-dwsconv " + sha256(devices[position]["path"].encode()).hexdigest()
                )
                return position, lock
            except OSError as error:
                lock.close()
                if error.errno != errno.EADDRINUSE:
                    raise
        if time.monotonic() > deadline:
            paths = ", ".join(devices[position]["path"] for position in positions)
            raise Fault("busy", f"other test runs held {paths} for {limit:g} s")
        time.sleep(0.05)


def opened(make: Callable[[], Any], device: Device, waits: Sequence[float]) -> Any:
    """What ``make`` returns, tried several times.

    Opening fails now and then without a cause, and with one and the same error for every cause.
    """
    for wait in (*waits, None):
        try:
            return make()
        except ValueError as error:
            if "Failed to load delegate" not in str(error):
                raise
            if wait is None:
                raise unopened(device, len(waits) + 1) from error
            time.sleep(wait)
    return None


def unopened(device: Device, attempts: int) -> Fault:
    """Why a listed device cannot be opened, as far as the operating system knows."""
    node = device_node(device)
    if node is not None and os.path.exists(node):
        if not os.access(node, os.R_OK | os.W_OK):
            return Fault("permission", f"{node} may not be read and written")
        holders = holding(node)
        if holders:
            return Fault("busy", f"{node} is open in {', '.join(holders)}")
    return Fault("open", f"{device['path']} failed to open {attempts} times")


def device_node(device: Device) -> Path | None:
    """The file that stands for the device, under /dev.

    libedgetpu lists PCI devices by it, and USB devices by their folder in sysfs.
    """
    path = Path(device["path"])
    if device["type"] == "pci":
        return path
    try:
        bus, number = (int((path / name).read_text()) for name in ("busnum", "devnum"))
    except (OSError, ValueError):
        return None
    return Path(f"/dev/bus/usb/{bus:03d}/{number:03d}")


def holding(node: Path) -> list[str]:
    """The other processes that have the file open, as far as this user may see them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(str(descriptor)) for descriptor in (process / "fd").iterdir()]
            if str(node) in files and process.name != str(os.getpid()):
                found.append(f"{(process / 'comm').read_text().strip()} (process {process.name})")
        except OSError:
            continue  # it has ended, or is another user's
    return found


def loaded_library() -> str:
    """The file that libedgetpu was loaded from, or its name where the system has no such list."""
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return LIBRARY
    return next((line.split(None, 5)[5] for line in mapped if "libedgetpu" in line), LIBRARY)


def clock(library: str) -> str:
    """Either "std" or "max", by the Debian package that owns the library, else "unknown".

    No API tells them apart.
    """
    command = ["dpkg-query", "-S", library]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return CLOCKS.get(done.stdout.decode(errors="replace").partition(":")[0], "unknown")


# --------------------------------------------------------------------------- the tasks


def list_task(task: dict[str, Any], model: bytes, say: Say) -> dict[str, Any]:
    say("listing the devices")
    runtime = pycoral() or PlainRuntime()
    devices, positions = present(runtime, task["device"], task["waits"])
    return {
        "devices": [devices[position] for position in positions],
        "library_version": runtime.version(),
    }


def cpu_task(task: dict[str, Any], model: bytes, say: Say) -> dict[str, Any]:
    say("loading the runtime")
    module, name = tflite()
    figures = timed(lambda: module.Interpreter(model_content=model), task, say)
    return {
        **figures,
        "device": "cpu",
        "runtime": name,
        "library": "",
        "library_version": "",
        "clock": "",
    }


def edgetpu_task(task: dict[str, Any], model: bytes, say: Say) -> dict[str, Any]:
    say("loading the runtime")
    runtime = pycoral() or PlainRuntime()
    name = runtime.load()
    say("listing the devices")
    devices, positions = present(runtime, task["device"], task["waits"])
    say("waiting for a free device")
    alarm(0)  # the wait has its own limit
    position, lock = claim(devices, positions, task["claim_limit"])
    alarm(task["limit"])
    say("opening the device")
    with lock:
        figures = timed(
            lambda: opened(
                lambda: runtime.interpreter(model, f":{position}"), devices[position], task["waits"]
            ),
            task,
            say,
        )
    library = loaded_library()
    return {
        **figures,
        "device": devices[position]["path"],
        "runtime": name,
        "library": library,
        "library_version": runtime.version(),
        "clock": clock(library),
    }


TASKS = {"list": list_task, "cpu": cpu_task, "edgetpu": edgetpu_task}


def timed(make: Callable[[], Any], task: dict[str, Any], say: Say) -> dict[str, Any]:
    """Seconds of the first invoke, which uploads the parameters, and of those after the warm-up."""
    try:
        interpreter = make()
        interpreter.allocate_tensors()
        fill(interpreter)
    except (RuntimeError, ValueError) as error:
        kind = "version" if "requires runtime version" in str(error) else "model"
        raise Fault(kind, " ".join(str(error).split())) from error
    try:
        say("invoking the model for the first time")
        first = invoke(interpreter)
        say("invoking the model")
        gc.disable()
        seconds = [invoke(interpreter) for _ in range(task["warmup"] + task["runs"])]
    except RuntimeError as error:
        raise Fault("lost", " ".join(str(error).split())) from error
    return {"first_invoke": first, "samples": seconds[task["warmup"] :]}


def fill(interpreter: Any) -> None:
    """Give every input random numbers, the same each time."""
    import numpy

    random = numpy.random.RandomState(0)
    for detail in interpreter.get_input_details():
        values = random.randint(0, 128, size=detail["shape"]).astype(detail["dtype"])
        interpreter.set_tensor(detail["index"], values)


def invoke(interpreter: Any) -> float:
    start = time.perf_counter()
    interpreter.invoke()
    return time.perf_counter() - start


# --------------------------------------------------------------------------- the process


def alarm(seconds: float) -> None:
    """Have the system end this process when the time is up, wherever it hangs; 0 cancels that."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def end_with_parent() -> None:
    """Have Linux end this process when its parent dies (PR_SET_PDEATHSIG is 1)."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))


def machine() -> str:
    try:
        board = Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        board = platform.machine()
    return f"{platform.node()}, {board}"


def main() -> None:
    end_with_parent()
    # take nothing from the folder this starts in
    sys.path[:] = [folder for folder in sys.path if folder]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to standard output

    def say(**line: Any) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    task = json.loads(sys.stdin.buffer.readline())
    model = sys.stdin.buffer.read()
    alarm(task["limit"])
    try:
        result = TASKS[task["task"]](task, model, lambda phase: say(phase=phase))
    except Fault as fault:
        say(fault=fault.kind, detail=fault.detail)
    else:
        say(result={**result, "machine": machine(), "python": platform.python_version()})


if __name__ == "__main__":
    main()
