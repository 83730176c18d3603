"""A TFLite runtime and a pycoral that compute nothing, for the path of a host's Python."""

from __future__ import annotations

import sys
from pathlib import Path

# what the worker calls; the delegate is opened, so that libedgetpu has its say
INTERPRETER = """
import ctypes, os, time

def load_delegate(library, options=None):
    create = ctypes.CDLL(library).tflite_plugin_create_delegate
    create.restype = ctypes.c_void_p
    names = (ctypes.c_char_p * 1)(b"device")
    values = (ctypes.c_char_p * 1)((options or {}).get("device", "").encode())
    delegate = create(names, values, ctypes.c_size_t(1), None)
    if not delegate:
        raise ValueError(f"Failed to load delegate from {library}\\n")
    return delegate

class Interpreter:
    def __init__(
        self, model_path=None, model_content=None, experimental_delegates=None, num_threads=None
    ):
        assert isinstance(model_content, bytes)
        if b"broken" in model_content:
            raise ValueError("a model that is broken")
    def allocate_tensors(self):
        pass
    def get_input_details(self):
        return []
    def invoke(self):
        time.sleep(float(os.environ["STANDIN_INVOKE"]) / 1e6)
"""

# the extension of the vendor's package, with the functions that its Python files take from it
PYWRAP = """
import ctypes

library = ctypes.CDLL("libedgetpu.so.1")
library.edgetpu_version.restype = ctypes.c_char_p

class Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("path", ctypes.c_char_p)]

library.edgetpu_list_devices.restype = ctypes.POINTER(Device)

def ListEdgeTpus():
    count = ctypes.c_size_t()
    listed = library.edgetpu_list_devices(ctypes.byref(count))
    return [
        {"type": ("pci", "usb")[device.type], "path": device.path.decode()}
        for device in listed[:count.value]
    ]

def GetRuntimeVersion():
    return library.edgetpu_version().decode()

def SetVerbosity(verbosity): ...
def SupportsDmabuf(interpreter_handle): ...
def InvokeWithBytes(interpreter_handle, input_data): ...
def InvokeWithDmaBuffer(interpreter_handle, fd, size): ...
def InvokeWithMemBuffer(interpreter_handle, buffer, size): ...
"""

# of pycoral 2.0: the names of pycoral.utils.edgetpu, and how they are called
UTILS = """
from pycoral.pybind._pywrap_coral import GetRuntimeVersion as get_runtime_version
from pycoral.pybind._pywrap_coral import ListEdgeTpus as list_edge_tpus
import tflite_runtime.interpreter as tflite

def load_edgetpu_delegate(options=None):
    return tflite.load_delegate("libedgetpu.so.1", options or {})

def make_interpreter(model_path_or_content, device=None, delegate=None):
    delegates = [delegate or load_edgetpu_delegate({"device": device} if device else {})]
    key = "model_content" if isinstance(model_path_or_content, bytes) else "model_path"
    return tflite.Interpreter(**{key: model_path_or_content}, experimental_delegates=delegates)
"""


def write_package(folder: Path, name: str, version: str, **modules: str) -> None:
    """A package of that version; a module ``utils__edgetpu`` is the file ``utils/edgetpu.py``."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").touch()
    for module, text in modules.items():
        path = folder / name / f"{module.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    information = folder / f"{name}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    )


def write_runtime(folder: Path, package: str, version: str) -> None:
    write_package(folder, package, version, interpreter=INTERPRETER)


def write_pycoral(folder: Path, *, pywrap: str = PYWRAP) -> None:
    modules = {"pybind___pywrap_coral": pywrap, "utils__edgetpu": UTILS}
    write_package(folder, "pycoral", "2.0.0", **modules)


def python_with(folder: Path, *options: str) -> str:
    """A host whose Python finds these packages before others."""
    return "//".join([f"python=env PYTHONPATH={folder} {sys.executable}", *options])
