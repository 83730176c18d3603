from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dwsconv.edgetpu.remote import supervisor, worker
from pytest_dwsconv.edgetpu.remote.worker import Fault

OWN = f"/test/{os.getpid()}"
DEVICES = [{"type": "usb", "path": f"{OWN}/usb0"}, {"type": "pci", "path": f"{OWN}/pci0"}]


@pytest.mark.parametrize("module", [supervisor, worker])
def test_it_is_written_for_an_old_python_alone(module: object) -> None:
    """Syntax of Python 3.8, and nothing from outside the standard library but what it looks for."""
    text = Path(str(module.__file__)).read_text()  # type: ignore[attr-defined]
    tree = ast.parse(text, feature_version=(3, 8))
    nodes = list(ast.walk(tree))
    imported = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    outside = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert outside <= {"numpy"}


def test_a_claimed_device_is_left_to_its_holder() -> None:
    position, lock = worker.claim(DEVICES, [0, 1], limit=0)
    with lock:
        other, second = worker.claim(DEVICES, [0, 1], limit=0)
        assert (position, other) == (0, 1)
        with (
            second,
            pytest.raises(Fault, match=rf"other test runs held {OWN}/usb0, {OWN}/pci0 for 0\.1 s"),
        ):
            worker.claim(DEVICES, [0, 1], limit=0.1)
    position, lock = worker.claim(DEVICES, [0, 1], limit=0)
    with lock:
        assert position == 0


def test_the_claim_of_a_process_ends_with_it() -> None:
    claim = f"_, lock = claim({DEVICES}, [0], limit=0)"
    code = (
        f"from pytest_dwsconv.edgetpu.remote.worker import claim; {claim}; print('claimed', "
        f"flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"claimed\n"
        with pytest.raises(Fault):
            worker.claim(DEVICES, [0], limit=0)
        holder.kill()
    position, lock = worker.claim(DEVICES, [0], limit=0)
    with lock:
        assert position == 0


def test_the_file_of_a_usb_device(tmp_path: Path) -> None:
    (tmp_path / "busnum").write_text("2\n")
    (tmp_path / "devnum").write_text("13\n")
    assert worker.device_node({"type": "usb", "path": str(tmp_path)}) == Path(
        "/dev/bus/usb/002/013"
    )
    assert worker.device_node({"type": "usb", "path": str(tmp_path / "gone")}) is None
    assert worker.device_node({"type": "pci", "path": "/dev/apex_0"}) == Path("/dev/apex_0")


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
    assert worker.clock("/usr/lib/libedgetpu.so.1.0") == variant
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert worker.clock("/usr/lib/libedgetpu.so.1.0") == "unknown"


def test_who_holds_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "apex_0"
    path.touch()
    assert worker.holding(path) == []
    with path.open() as file, subprocess.Popen(["sleep", "60"], stdin=file) as holder:
        assert worker.holding(path) == [f"sleep (process {holder.pid})"]
        holder.kill()


def test_opening_is_tried_again_and_other_errors_are_not() -> None:
    attempts: list[int] = []

    def make() -> str:
        attempts.append(len(attempts))
        if len(attempts) < 3:
            raise ValueError("Failed to load delegate from libedgetpu.so.1")
        return "an interpreter"

    assert worker.opened(make, DEVICES[0], waits=(0, 0)) == "an interpreter"
    attempts.clear()
    with pytest.raises(Fault, match=f"{OWN}/usb0 failed to open 2 times"):
        worker.opened(make, DEVICES[0], waits=(0,))

    def wrong() -> None:
        attempts.append(0)
        raise ValueError("Model provided has model identifier")

    attempts.clear()
    with pytest.raises(ValueError, match="model identifier"):
        worker.opened(wrong, DEVICES[0], waits=(0, 0))
    assert attempts == [0]
