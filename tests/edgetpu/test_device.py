from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from external_files import vendor_model
from standin import NOT_RUN, QUICK, StandIn, fails
from torch import nn

from pytest_dwsconv.edgetpu.device import Device, EdgeTpu, Procedure, compiled, is_compiled, measure
from pytest_dwsconv.edgetpu.hosts import Host
from pytest_dwsconv.errors import InputError

PLAIN = b"\x1c\0\0\0TFL3, and no custom operator"


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with nothing installed."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


# --------------------------------------------------------------------------- listing


def test_devices_are_listed_in_order(standin: StandIn, host: Host) -> None:
    usb, pci, other = standin.plug_in("usb0", "pci0", "usb1")
    assert EdgeTpu(host, procedure=QUICK).devices() == (
        Device("usb", str(usb)),
        Device("pci", str(pci)),
        Device("usb", str(other)),
    )


@pytest.mark.parametrize(
    ("device", "names"),
    [
        (":0", ["usb0"]),
        (":2", ["usb1"]),
        ("usb", ["usb0", "usb1"]),
        ("usb:1", ["usb1"]),
        ("pci", ["pci0"]),
        ("pci:0", ["pci0"]),
    ],
)
def test_a_device_string_chooses(
    standin: StandIn, host: Host, device: str, names: list[str]
) -> None:
    standin.plug_in("usb0", "pci0", "usb1")
    assert [Path(listed.path).name for listed in EdgeTpu(host, device, QUICK).devices()] == names


def test_a_device_is_waited_for_where_there_was_one(
    standin: StandIn, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.plug_in("usb0")
    headers: list[dict[str, Any]] = []
    run = host.run

    def noted(header: str, *more: Any) -> dict[str, Any]:
        headers.append(json.loads(header))
        return run(header, *more)

    monkeypatch.setattr(host, "run", noted)
    with fails("device"):
        EdgeTpu(host, "pci", QUICK).devices()
    for device in ("usb", "usb", ":0"):
        EdgeTpu(host, device, QUICK).devices()
    assert [header["expected"] for header in headers] == [False, False, True, False]


@pytest.mark.parametrize("device", ["usb:2", "pci:1", ":3"])
def test_a_device_that_is_not_there(standin: StandIn, host: Host, device: str) -> None:
    paths = standin.plug_in("usb0", "pci0", "usb1")
    listed = f"usb {paths[0]}, pci {paths[1]}, usb {paths[2]}"
    message = (
        f"this host has no such Edge TPU (libedgetpu lists {listed}, and no {device}): plug it in"
    )
    with fails("device", match=re.escape(message)):
        EdgeTpu(host, device, QUICK).devices()


@pytest.mark.parametrize(
    "device",
    [
        "usb:",
        "tpu",
        "0",
        ":x",
        "usb:-1",
        "cpu",
        "/dev/apex_0",
        "usb\0",
        "usb:\u0661",
        ":" + "9" * 5000,
    ],
)
def test_what_names_no_device_is_refused(host: Host, device: str) -> None:
    with pytest.raises(
        InputError, match="is not a device: write :1, usb, usb:0, pci or pci:0, or nothing for any"
    ):
        EdgeTpu(host, device)


def test_no_device(standin: StandIn, host: Host) -> None:
    message = (
        r"this host has no such Edge TPU \(libedgetpu lists none\): plug it in, and look for "
        r"1a6e:089a or 18d1:9302"
    )
    with fails("device", match=message):
        EdgeTpu(host, procedure=QUICK).devices()


def test_no_library(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    message = (
        r"this host has no libedgetpu that loads \(.*libedgetpu\.so\.1: .*\): install "
        r"one there: the vendor's libedgetpu1-std with 'pip install tflite-runtime==2\.11\.0"
    )
    (tmp_path / "libedgetpu.so.1").write_text("not a library")
    with fails("library", match=message):
        EdgeTpu(host).devices()


def test_a_library_that_is_another(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "other.c"
    source.write_text("int other;")
    subprocess.run(["cc", "-shared", "-o", tmp_path / "libedgetpu.so.1", source], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with fails("library", match="undefined symbol: edgetpu_list_devices"):
        EdgeTpu(host).devices()


def test_a_library_that_crashes_when_it_is_loaded(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "crash.c"
    source.write_text(
        "__attribute__((constructor)) static void crash(void) { *(volatile int *)0 = 1; }"
    )
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", tmp_path / "libedgetpu.so.1", source], check=True
    )
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    message = (
        r"died while listing the devices \(SIGSEGV\): a libedgetpu built for another TFLite "
        r"does that"
    )
    with fails("crash", match=message):
        EdgeTpu(host).devices()


# --------------------------------------------------------------------------- what the host's Python
# lacks


def test_no_runtime(standin: StandIn, bare_python: Path) -> None:
    standin.plug_in("usb0")
    message = (
        r"has no TFLite runtime \(neither pycoral nor ai_edge_litert nor tflite_runtime is "
        r"there\): install one into its Python: the vendor's libedgetpu1-std with 'pip install "
        r"tflite-runtime==2\.11\.0 .* or a rebuilt libedgetpu"
    )
    with Host(f"python={bare_python}") as host, fails("runtime", match=message):
        measure(host, NOT_RUN, procedure=QUICK)


def test_a_package_that_breaks_on_import(
    bare_python: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    standin.plug_in("usb0")
    package = tmp_path / "packages" / "tflite_runtime"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text(
        "raise ImportError('numpy.core.multiarray failed to import')"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    message = (
        r"\(tflite_runtime cannot be imported: numpy\.core\.multiarray failed to import\): "
        r"install one"
    )
    with Host(f"python={bare_python}") as host, fails("runtime", match=message):
        measure(host, NOT_RUN, procedure=QUICK)
    (package / "interpreter.py").write_text("raise SystemError('wrong numpy')")
    message = (
        r"died while loading the runtime \(exit code 1, SystemError: wrong numpy\): run the "
        r"model there by hand"
    )
    with Host(f"python={bare_python}") as host, fails("crash", match=message):
        measure(host, NOT_RUN, procedure=QUICK)


# --------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    "name", ["mobilenet_v1_0.25_128_quant", "split_concat", "keras_lstm_mnist_ptq"]
)
def test_a_compiled_model_is_told_by_its_custom_operator(name: str) -> None:
    assert is_compiled(vendor_model(f"{name}_edgetpu").read_bytes())
    assert not is_compiled(vendor_model(name).read_bytes())


def test_a_model_that_only_mentions_the_operator_is_for_the_cpu() -> None:
    pytest.importorskip("tflite", exc_type=ImportError)
    from tflite_files import COMPILED, PLAIN, pack

    named = replace(PLAIN.inputs[0], name="edgetpu-custom-op")
    content = pack(replace(PLAIN, inputs=(named, *PLAIN.inputs[1:])))
    assert b"edgetpu-custom-op" in content
    assert not is_compiled(content)
    assert is_compiled(pack(COMPILED))


def test_a_model_for_the_cpu_is_refused(host: Host) -> None:
    message = (
        "small is not compiled for the Edge TPU and would run on the CPU: compile it with "
        "edgetpu_compiler"
    )
    with pytest.raises(InputError, match=message):
        measure(host, PLAIN, "small")


def test_a_compiled_model_is_refused_on_the_cpu(host: Host) -> None:
    message = "small is compiled for the Edge TPU and cannot run on the CPU: measure the file that"
    with pytest.raises(InputError, match=message):
        measure(host, NOT_RUN, "small", device="cpu")


def test_a_path_is_no_content(host: Host) -> None:
    with pytest.raises(
        InputError, match=r"measure takes the bytes of a .tflite file, not 'relu.tflite': read it"
    ):
        measure(host, "relu.tflite", device="cpu")  # type: ignore[arg-type]


def test_a_compiled_model_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "net_edgetpu.tflite"
    path.write_bytes(NOT_RUN)
    assert compiled(NOT_RUN) == (NOT_RUN, "model")
    assert compiled(path) == compiled(str(path)) == (NOT_RUN, "net_edgetpu.tflite")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            b"PK",
            "model is not a TFLite model: give a module, the bytes of a .tflite file, or its path",
        ),
        (
            "/nowhere/net.tflite",
            "/nowhere/net.tflite cannot be read: No such file or directory; give the path of a "
            ".tflite file",
        ),
        ("no\0path", "is not a model file; give the path or the bytes of a .tflite file"),
        ({}, "dict is not a model: give a module, the bytes of a .tflite file, or its path"),
        (
            nn.ReLU(),
            r"ReLU cannot be exported without an input shape: give one, as in \(1, 3, 224, 224\)",
        ),
    ],
)
def test_what_is_no_model_is_refused(model: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compiled(model)


ENDLESS = [
    {"runs": 1.5},
    {"runs": 10**400},
    {"limit": math.inf},
    {"limit": math.nan},
    {"limit": 10**400},
]


@pytest.mark.parametrize(
    "change", [{"runs": 0}, {"warmup": -1}, {"limit": -1.0}, {"waits": (1.0, -1.0)}, *ENDLESS]
)
def test_a_procedure_that_measures_nothing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match="a measurement needs one run or more, whole counts from 0"
    ):
        Procedure(**change)


def test_the_host_starts_nothing_before_it_is_used() -> None:
    code = (
        "from pytest_dwsconv.edgetpu.device import EdgeTpu\n"
        "from pytest_dwsconv.edgetpu.hosts import Host\n"
        "import sys\n"
        "EdgeTpu(Host('ssh=pi@raspberrypi'))\n"
        "print(sorted({'execnet', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
