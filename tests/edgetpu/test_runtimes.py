from __future__ import annotations

import re
from pathlib import Path

import pytest
from standin import NOT_RUN, QUICK, StandIn, fails
from standin_runtime import PYWRAP, python_with, write_package, write_pycoral, write_runtime

from pytest_dwsconv.edgetpu.device import EdgeTpu, measure
from pytest_dwsconv.edgetpu.hosts import Host
from pytest_dwsconv.edgetpu.remote import runtimes

VENDOR = "6.3.0 20170516"
WORKS = (
    "the vendor's libedgetpu1-std with 'pip install tflite-runtime==2.11.0 \"numpy<2\"' on Python "
    "3.9, or a rebuilt libedgetpu (https://github.com/feranick/libedgetpu) with 'pip install "
    "ai-edge-litert'"
)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder for the packages of the host's Python."""
    return tmp_path / "packages"


# --------------------------------------------------------------------------- what crashes together


@pytest.mark.parametrize(
    ("compiler", "package", "version", "crash"),
    [
        (VENDOR, "tflite_runtime", "2.12.0", True),
        (VENDOR, "tflite_runtime", "2.14.0", True),
        (VENDOR, "tflite_runtime", "3.0.0", True),
        (VENDOR, "tflite_runtime", "2.11.1", False),
        (VENDOR, "tflite_runtime", "2.5.0.post1", False),
        (VENDOR, "tflite_runtime", "", False),
        (VENDOR, "ai_edge_litert", "1.0.1", True),
        ("Apple LLVM 13.0.0 (clang-1300.0.29.30)", "ai_edge_litert", "2.3.0", True),
        ("MSVC 192528612", "tflite_runtime", "2.14.0", True),
        ("12.2.0", "ai_edge_litert", "2.3.0", False),
        ("12.2.0", "tflite_runtime", "2.14.0", False),
    ],
)
def test_the_vendors_libraries_crash_with_later_runtimes_than_2_11(
    compiler: str, package: str, version: str, crash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "version_of", {package: version}.get)
    label = f"BuildLabel(COMPILER={compiler},DATE=redacted,TIME=redacted), RuntimeVersion(14)"
    assert runtimes.crashes(label, package) is crash


def test_a_version_is_read_from_the_package_where_nothing_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dwsconv_built_by_hand.py").write_text("__version__ = '2.5.0.post1'")
    monkeypatch.syspath_prepend(tmp_path)
    assert runtimes.named("dwsconv_built_by_hand") == "dwsconv_built_by_hand 2.5.0.post1"


def test_what_crashes_is_refused_before_it_runs(standin: StandIn, packages: Path) -> None:
    standin.plug_in("usb0")
    standin.set(compiler=VENDOR, open="crash")
    write_runtime(packages, "ai_edge_litert", "2.3.0")
    write_runtime(packages, "tflite_runtime", "2.14.0")
    message = (
        "has a TFLite runtime that is reported to crash with the vendor's libedgetpu ("
        "ai_edge_litert 2.3.0, tflite_runtime 2.14.0 with BuildLabel("
        f"COMPILER={VENDOR},DATE=redacted,TIME=redacted), RuntimeVersion(14)): install what works: "
        f"{WORKS}; or add check=off to the host"
    )
    with Host(python_with(packages)) as host, fails("mismatch", match=re.escape(message)):
        measure(host, NOT_RUN, procedure=QUICK)
    with Host(python_with(packages, "check=off")) as host, fails("crash", match="SIGSEGV"):
        measure(host, NOT_RUN, procedure=QUICK)


def test_of_two_runtimes_the_one_that_fits_is_used(standin: StandIn, packages: Path) -> None:
    standin.plug_in("usb0")
    write_runtime(packages, "ai_edge_litert", "2.3.0")
    write_runtime(packages, "tflite_runtime", "2.11.0")
    for compiler, runtime in (
        (VENDOR, "tflite_runtime 2.11.0"),
        ("12.2.0", "ai_edge_litert 2.3.0"),
    ):
        standin.set(compiler=compiler)
        with Host(python_with(packages)) as host:
            assert measure(host, NOT_RUN, procedure=QUICK).runtime == runtime


# --------------------------------------------------------------------------- pycoral


def test_pycoral_measures_where_it_is(standin: StandIn, packages: Path) -> None:
    usb, pci = standin.plug_in("usb0", "pci0")
    standin.set(invoke="2000", compiler=VENDOR)
    write_runtime(packages, "tflite_runtime", "2.5.0.post1")
    write_pycoral(packages)
    with Host(python_with(packages)) as host:
        assert [device.path for device in EdgeTpu(host).devices()] == [str(usb), str(pci)]
        measured = measure(host, NOT_RUN, device="pci", procedure=QUICK)
    assert measured.runtime == "pycoral 2.0.0, tflite_runtime 2.5.0.post1"
    assert (measured.device, min(measured.samples) >= 0.002) == (str(pci), True)
    assert measured.library_version.endswith("RuntimeVersion(14)")


def test_pycoral_is_refused_with_a_runtime_that_crashes(standin: StandIn, packages: Path) -> None:
    standin.plug_in("usb0")
    standin.set(compiler=VENDOR)
    write_runtime(packages, "tflite_runtime", "2.17.1")
    write_pycoral(packages)
    message = r"\(pycoral 2\.0\.0, tflite_runtime 2\.17\.1 with BuildLabel.*\): install what works"
    with Host(python_with(packages)) as host, fails("mismatch", match=message):
        measure(host, NOT_RUN, procedure=QUICK)
    with Host(python_with(packages, "check=off")) as host:
        assert measure(host, NOT_RUN, procedure=QUICK).runtime.endswith("tflite_runtime 2.17.1")


@pytest.mark.parametrize(
    ("pywrap", "reason"),
    [
        ("raise ImportError('undefined symbol: _Py_x')", "ImportError: undefined symbol: _Py_x"),
        ("import absent_extension", "ModuleNotFoundError: No module named 'absent_extension'"),
        ("raise AttributeError('_ARRAY_API not found')", "AttributeError: _ARRAY_API not found"),
        (PYWRAP, "ModuleNotFoundError: No module named 'tflite_runtime'"),
    ],
    ids=["another Python's", "cut", "another numpy's", "no runtime"],
)
def test_a_pycoral_that_does_not_import_is_told_as_that(
    pywrap: str, reason: str, standin: StandIn, packages: Path
) -> None:
    write_pycoral(packages, pywrap=pywrap)
    message = re.escape(
        f"has a pycoral that cannot be used (pycoral 2.0.0 cannot be imported: {reason}): "
        "uninstall it there"
    )
    with Host(python_with(packages)) as host, fails("pycoral", match=message):
        EdgeTpu(host).devices()


def test_pycoral_without_the_library(packages: Path) -> None:
    """Its extension is linked against libedgetpu, so that importing it fails."""
    write_pycoral(
        packages, pywrap="raise ImportError('libedgetpu.so.1: cannot open shared object file')"
    )
    message = re.escape("libedgetpu.so.1: cannot open shared object file): install one there: ")
    with Host(python_with(packages)) as host, fails("library", match=message + re.escape(WORKS)):
        EdgeTpu(host).devices()


def test_the_pycoral_of_pypi_is_refused_unrun(packages: Path, tmp_path: Path) -> None:
    write_package(packages, "pycoral", "0.2.0")
    (packages / "pycoral" / "__init__.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    message = (
        r"\(.*pycoral/__init__\.py is that of PyPI, a program about coral reefs\): "
        r"uninstall it there.*never from PyPI"
    )
    with Host(python_with(packages)) as host:
        for attempt in (EdgeTpu(host).devices, lambda: measure(host, NOT_RUN)):
            with fails("pycoral", match=message):
                attempt()
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------- the library


@pytest.mark.parametrize(
    ("printed", "variant"),
    [
        ("echo libedgetpu1-std:arm64: /usr/lib/aarch64-linux-gnu/libedgetpu.so.1.0", "std"),
        ("echo libedgetpu1-max: /usr/lib/libedgetpu.so.1.0", "max"),
        ("echo libother: /usr/lib/libedgetpu.so.1.0", "unknown"),
        ("echo 'dpkg-query: no path found matching pattern' >&2; exit 1", "unknown"),
    ],
)
def test_the_clock_is_told_by_the_package(
    printed: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "dpkg-query"
    command.write_text(
        f'#!/bin/sh\ntest "$*" = "-S /usr/lib/libedgetpu.so.1.0" || exit 2\n{printed}\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert runtimes.clock("/usr/lib/libedgetpu.so.1.0") == variant
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert runtimes.clock("/usr/lib/libedgetpu.so.1.0") == "unknown"
