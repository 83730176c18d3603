from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from external_files import vendor_model
from pythons import RUNTIMES, environment
from standin import QUICK, Marked, StandIn, fails
from standin_runtime import write_pycoral

from pytest_dwsconv.core.measurement import Measurement
from pytest_dwsconv.edgetpu.device import EdgeTpu, Procedure, measure
from pytest_dwsconv.edgetpu.faults import Kind
from pytest_dwsconv.edgetpu.hosts import Host

pytest.importorskip("ai_edge_litert")

from small_models import edgetpu_model, relu_model

SHORT = replace(QUICK, limit=5.0)  # as long as it takes to get there on a busy machine


THIS, OLDEST, VENDORS = ("this", "ai-edge-litert==2.3.0"), RUNTIMES[0], RUNTIMES[1]


@pytest.fixture(params=[THIS, *RUNTIMES], ids="-".join)
def somewhere(request: pytest.FixtureRequest) -> Iterator[tuple[Host, str]]:
    """A host and the name of its runtime; it starts in the environment that the test has set."""
    version, requirement = request.param
    spec, runtime = "", requirement.replace("-", "_").replace("==", " ")
    if version != "this":
        cache = Path(request.config.cache.mkdir("dwsconv-pythons"))
        spec = f"python={environment(version, requirement, cache)}"
    with Host(spec) as host:
        yield host, runtime


def test_a_model_on_the_cpu(somewhere: tuple[Host, str]) -> None:
    host, runtime = somewhere
    start = time.monotonic()
    measured = measure(host, relu_model(), "relu", device="cpu", procedure=replace(QUICK, runs=7))
    assert 0 < sum(measured.samples) + measured.first_invoke < time.monotonic() - start
    assert (len(measured.samples), measured.runtime, measured.device) == (7, runtime, "cpu")
    assert (measured.model, measured.library, measured.library_version, measured.clock) == (
        "relu",
        "",
        "",
        "",
    )
    assert measured.machine.startswith(os.uname().nodename)
    assert measured.host == host.spec.text
    assert measured.python.startswith(
        ".".join(map(str, sys.version_info[:2])) if not measured.host else "3."
    )


def test_a_model_on_the_device(
    somewhere: tuple[Host, str], standin: StandIn, library: Path
) -> None:
    host, runtime = somewhere
    _, path = standin.plug_in("usb0", "pci0")
    standin.set(invoke="2000", first="9000")
    measured = measure(host, edgetpu_model(), device="pci", procedure=QUICK)
    assert measured.first_invoke >= 0.009
    assert min(measured.samples) >= 0.002
    assert (measured.runtime, measured.device, measured.clock) == (runtime, str(path), "unknown")
    assert measured.library == str(library / "libedgetpu.so.1")
    assert measured.library_version.endswith("RuntimeVersion(14)")
    assert Measurement.from_json(measured.to_json()) == measured


@pytest.mark.parametrize(
    "name", ["mobilenet_v1_0.25_128_quant", "deeplabv3_mnv2_dm05_pascal_quant"]
)
def test_a_model_that_the_vendor_compiled(
    somewhere: tuple[Host, str], standin: StandIn, name: str
) -> None:
    """The second leaves operators on the CPU."""
    standin.plug_in("usb0")
    standin.set(invoke="3000")
    measured = EdgeTpu(somewhere[0], procedure=QUICK).measure(vendor_model(f"{name}_edgetpu"))
    assert (measured.model, len(measured.samples)) == (f"{name}_edgetpu.tflite", QUICK.runs)
    assert min(measured.samples) >= 0.003


def test_the_warm_up_is_dropped(standin: StandIn, host: Host) -> None:
    standin.plug_in("usb0")
    standin.set(invoke="0", first="30000", slow=str(1 + QUICK.warmup))
    measured = measure(host, edgetpu_model(), procedure=QUICK)
    assert measured.first_invoke >= 0.03 > measured.median
    measured = measure(host, edgetpu_model(), procedure=replace(QUICK, warmup=0))
    assert [sample >= 0.03 for sample in measured.samples[:2]] == [True, True]
    assert len(measured.samples) == QUICK.runs


def test_opening_fails_now_and_then(standin: StandIn, host: Host) -> None:
    standin.plug_in("usb0")
    standin.set(open=str(len(QUICK.waits)))
    assert measure(host, edgetpu_model(), procedure=QUICK).device.endswith("usb0")
    with fails("open", match=r"usb0 failed to open 2 times\): end other programs that may use it"):
        measure(host, edgetpu_model(), procedure=replace(QUICK, waits=(0.02,)))


@pytest.mark.parametrize(
    ("setting", "kind", "message"),
    [
        (
            {"open": "refuse"},
            "open",
            r"cannot be opened \(.*pci0 failed to open 3 times\)",
        ),
        (
            {"open": "crash"},
            "crash",
            r"died while opening the device \(SIGSEGV\): a libedgetpu built for another",
        ),
        (
            {"open": "hang"},
            "timeout",
            "was still opening the device after 5 s and was stopped",
        ),
        (
            {"prepare": "old"},
            "version",
            r"runtime version \(14\), which is newer than this runtime version \(12\)",
        ),
        (
            {"invoke": "fail"},
            "lost",
            r"failed or was lost \(USB transfer error 1",
        ),
        (
            {"invoke": "abort"},
            "lost",
            r"\(F driver/usb/usb_driver\.cc:802\] .* USB transfer error 1 .*\): see to its power",
        ),
        (
            {"invoke": "crash"},
            "crash",
            r"died while invoking the model for the first time \(SIGSEGV\)",
        ),
        (
            {"invoke": "hang"},
            "timeout",
            "was still invoking the model for the first time after 5 s",
        ),
        ({"hidden": "9"}, "device", "libedgetpu lists none"),
    ],
)
@pytest.mark.parametrize("somewhere", [THIS, OLDEST], ids="-".join, indirect=True)
def test_each_fault_is_told_apart(
    marked: Marked,
    somewhere: tuple[Host, str],
    standin: StandIn,
    setting: dict[str, str],
    kind: Kind,
    message: str,
) -> None:
    standin.plug_in("pci0")
    standin.set(**setting)
    host = somewhere[0]
    procedure = QUICK if "hang" not in setting.values() else SHORT
    with fails(kind, match=message):
        measure(host, edgetpu_model(), procedure=procedure)
    host.close()
    assert marked.processes() == {}


def test_a_device_that_the_user_may_not_open(standin: StandIn, host: Host) -> None:
    with TemporaryDirectory() as folder:  # tmp_path is in a folder of this user's alone
        Path(folder).chmod(0o755)
        path = Path(folder) / "pci0"
        path.touch(mode=0o400)
        standin.set(devices=f"pci={path}")
        if os.getuid() == 0:
            standin.set(user="65534")
        message = (
            rf"\({path} may not be read and written\): add the user to the group plugdev, or "
            rf"apex for a PCI device"
        )
        with fails("permission", match=message):
            measure(host, edgetpu_model(), procedure=QUICK)


def test_a_device_that_another_program_holds(standin: StandIn, host: Host) -> None:
    (path,) = standin.plug_in("pci0")
    opening = f"import fcntl; file = open({str(path)!r}); fcntl.flock(file, fcntl.LOCK_EX)"
    with running(f"{opening}; print('open', flush=True); pause()") as holder:
        name = Path(f"/proc/{holder.pid}/comm").read_text().strip()
        message = (
            rf"in use \({path} is open in {name} \(process {holder.pid}\)\): end what uses it, "
            rf"or wait"
        )
        with fails("busy", match=message):
            measure(host, edgetpu_model(), procedure=QUICK)


def test_bytes_that_are_no_model(standin: StandIn, host: Host) -> None:
    standin.plug_in("pci0")
    with fails("model", match="does not accept the model"):
        measure(host, b"\0\0\0\0TFL2 edgetpu-custom-op", procedure=QUICK)


# --------------------------------------------------------------------------- several at once


def together(count: int, procedure: Procedure) -> list[Measurement]:
    """Measurements by hosts of their own at the same time, as test processes make them."""

    def once(_: int) -> Measurement:
        with Host() as host:
            return measure(host, edgetpu_model(), procedure=procedure)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(once, range(count)))


def test_those_who_want_one_device_wait_for_each_other(standin: StandIn) -> None:
    """The stand-in, like the device, cannot be opened twice: without the lock all but one fail."""
    standin.plug_in("usb0")
    standin.set(invoke="20000")
    measured = together(3, replace(QUICK, waits=()))
    assert [Path(measurement.device).name for measurement in measured] == ["usb0"] * 3


def test_several_devices_are_used_at_the_same_time(standin: StandIn) -> None:
    """Each invoke is slow enough that one has the first device for as long as the other starts."""
    standin.plug_in("usb0", "pci0")
    standin.set(invoke="200000")
    measured = together(2, replace(QUICK, waits=(), runs=15))
    assert {Path(measurement.device).name for measurement in measured} == {"usb0", "pci0"}


def test_waiting_for_others_ends(standin: StandIn, host: Host) -> None:
    (path,) = standin.plug_in("usb0")
    claim = f"_, lock = claim([{{'path': {str(path)!r}}}], [0], 0)"
    claiming = (
        f"from pytest_dwsconv.edgetpu.remote.devices import claim; {claim}; print('claimed', "
        f"flush=True); pause()"
    )
    message = rf"other test runs held {re.escape(str(path))} for 0\.2 s"
    with running(claiming), fails("busy", match=message):
        measure(host, edgetpu_model(), procedure=replace(QUICK, limit=10, claim_limit=0.2))
    assert measure(host, edgetpu_model(), procedure=QUICK).device == str(path)


def test_the_wait_for_others_has_a_limit_of_its_own(standin: StandIn, host: Host) -> None:
    """It takes longer than a measurement may, and the measurement is still ended in time."""
    (path,) = standin.plug_in("usb0")
    claim = f"_, lock = claim([{{'path': {str(path)!r}}}], [0], 0)"
    claiming = (
        f"from pytest_dwsconv.edgetpu.remote.devices import claim; from time import sleep; {claim}"
    )
    procedure = replace(QUICK, limit=4, claim_limit=300)
    with running(f"{claiming}; print('claimed', flush=True); sleep(6)"):
        start = time.monotonic()
        assert measure(host, edgetpu_model(), procedure=procedure).device == str(path)
        assert time.monotonic() - start > procedure.limit
    host.close()  # the next connection is to what the environment says then
    standin.set(open="hang")
    start = time.monotonic()
    with fails("timeout", match="was still opening the device after 4 s and was stopped"):
        measure(host, edgetpu_model(), procedure=procedure)
    assert time.monotonic() - start < 60


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python that has printed a line, and is killed at the end."""
    command = [sys.executable, "-c", f"from signal import pause; {code}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


# --------------------------------------------------------------------------- pycoral


def test_pycoral_measures_on_its_runtime(
    request: pytest.FixtureRequest,
    standin: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The vendor's library with the runtime that works, by way of pycoral."""
    standin.plug_in("usb0")
    standin.set(invoke="2000", compiler="6.3.0 20170516")
    cache = Path(request.config.cache.mkdir("dwsconv-pythons"))
    python = environment(*VENDORS, cache)
    write_pycoral(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Host(f"python={python}") as host:
        (device,) = EdgeTpu(host, procedure=QUICK).devices()
        measured = measure(host, edgetpu_model(), procedure=QUICK)
        assert measured.runtime == "pycoral 2.0.0, tflite_runtime 2.11.0"
        assert (measured.device, min(measured.samples) >= 0.002) == (device.path, True)
    standin.set(open="refuse")
    with (
        Host(f"python={python}") as host,
        fails("open", match="usb0 failed to open 3 times"),
    ):
        measure(host, edgetpu_model(), procedure=QUICK)
