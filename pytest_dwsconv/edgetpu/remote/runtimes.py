"""The TFLite runtime and the libedgetpu of the host: which are there, and whether they fit.

A part of the worker: it is sent to the host as text, and needs Python 3.8 or newer.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Device = dict[str, str]  # "type" ("usb" or "pci") and "path", as pycoral lists them

LIBRARY = {"Darwin": "libedgetpu.1.dylib", "Windows": "edgetpu.dll"}.get(
    platform.system(), "libedgetpu.so.1"
)
RUNTIMES = ("ai_edge_litert", "tflite_runtime")
KINDS = {0: "pci", 1: "usb"}
CLOCKS = {"libedgetpu1-std": "std", "libedgetpu1-max": "max"}

# What the vendor built libedgetpu with until 2021, as each build says in its version: for Linux,
# macOS and Windows. The reports of users agree that these crash with later runtimes than 2.11. The
# community's builds of 2024 and later name newer compilers.
VENDOR_COMPILERS = (
    "4.9.3",
    "5.4.0 20160609",
    "6.3.0 20170516",
    "Apple LLVM 12.0.5 (clang-1205.0.22.9)",
    "Apple LLVM 13.0.0 (clang-1300.0.29.30)",
    "MSVC 192528612",
    "MSVC 192628805",
)
LAST_FOR_VENDOR = (2, 11)


class Fault(Exception):  # noqa: N818  # it is sent as data, and becomes an EdgeTpuError there
    """What stops the task: a kind of EdgeTpuError, and the particulars."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


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

    def load(self, *, checked: bool) -> str:
        """Import the package, and return its name and version.

        ``checked`` refuses one that is reported to crash with this libedgetpu.
        """
        self._module, name = tflite(self.version() if checked else "")
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

    def load(self, *, checked: bool) -> str:
        name = f"{named('pycoral')}, {named('tflite_runtime')}"
        if checked and crashes(self.version(), "tflite_runtime"):
            raise Fault("mismatch", f"{name} with {self.version()}")
        return name

    def interpreter(self, model: bytes, device: str) -> Any:
        return self._edgetpu.make_interpreter(model, device=device)


def pycoral() -> PycoralRuntime | None:
    """The vendor's pycoral, or None.

    PyPI's project of that name is recognised by its files, without running any.

    Raises:
        Fault: it is PyPI's, or it cannot be imported.
    """
    spec = find_spec("pycoral")
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not any((folder / "utils" / "edgetpu.py").exists() for folder in folders):
        where = spec.origin or folders[0]
        raise Fault("pycoral", f"{where} is that of PyPI, a program about coral reefs")
    try:
        return PycoralRuntime(import_module("pycoral.utils.edgetpu"))
    except Exception as error:  # its extension may raise anything, as where NumPy is too new
        # that extension is linked against libedgetpu
        kind = "library" if isinstance(error, ImportError) and LIBRARY in str(error) else "pycoral"
        detail = f"{type(error).__name__}: {error}"
        raise Fault(kind, f"{named('pycoral')} cannot be imported: {detail}") from error


def crashes(library_version: str, package: str) -> bool:
    """Whether a libedgetpu, by its version, is reported to crash with this TFLite runtime."""
    compiler = re.search(r"COMPILER=([^,]*),", library_version)
    if compiler is None or compiler.group(1) not in VENDOR_COMPILERS:
        return False
    if package == "ai_edge_litert":  # its version 1.0 is TFLite 2.17
        return True
    number = re.match(r"(\d+)\.(\d+)", version_of(package))
    return number is not None and tuple(map(int, number.groups())) > LAST_FOR_VENDOR


def tflite(library_version: str = "") -> tuple[Any, str]:
    """The module with ``Interpreter`` and ``load_delegate``, and its package's name and version.

    Where there are several packages it is the first that does not crash with libedgetpu.

    Raises:
        Fault: there is none, each would crash, or it cannot be imported.
    """
    found = [package for package in RUNTIMES if find_spec(package)]
    if not found:
        raise Fault("runtime", f"neither pycoral nor {' nor '.join(RUNTIMES)} is there")
    fitting = [package for package in found if not crashes(library_version, package)]
    if not fitting:
        raise Fault("mismatch", f"{', '.join(map(named, found))} with {library_version}")
    package = fitting[0]
    try:
        return import_module(f"{package}.interpreter"), named(package)
    except ImportError as error:
        raise Fault("runtime", f"{package} cannot be imported: {error}") from error


def named(package: str) -> str:
    return f"{package} {version_of(package)}".strip()


def version_of(package: str) -> str:
    """The version of an installed package, or nothing where neither says it."""
    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:  # as where it was built by hand
        return str(getattr(import_module(package), "__version__", ""))


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
