"""A libedgetpu without hardware, from ``standin_libedgetpu.c``, with fixtures of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest

from pytest_dwsconv.edgetpu.device import Procedure
from pytest_dwsconv.edgetpu.faults import AbsentKind, EdgeTpuAbsentError, EdgeTpuError, Kind
from pytest_dwsconv.edgetpu.hosts import Host

QUICK = Procedure(warmup=2, runs=5, waits=(0.02, 0.02), limit=20, claim_limit=20)
NOT_RUN = b"\x1c\0\0\0TFL3, and edgetpu-custom-op"
"""What passes for a compiled model before anything runs it."""


class StandIn:
    """The library that every process started from here on finds, and its settings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self._folder = folder
        self.set(devices="", invoke="100", first="1000")

    def set(self, **settings: str) -> None:
        for name, value in settings.items():
            self._monkeypatch.setenv(f"STANDIN_{name.upper()}", value)

    def plug_in(self, *names: str) -> list[Path]:
        """Have it list a device for each name: ``pci0`` is of type pci, ``usb0`` of type usb."""
        paths = [self._folder / name for name in names]
        for path in paths:
            path.touch()
        self.set(devices=",".join(f"{path.name[:3]}={path}" for path in paths))
        return paths


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in for libedgetpu."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in for libedgetpu with: install gcc")
    folder = tmp_path_factory.mktemp("libedgetpu")
    source, target = Path(__file__).with_name("standin_libedgetpu.c"), folder / "libedgetpu.so.1"
    options = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *options, "-o", str(target), str(source)], check=True)
    return folder


@pytest.fixture
def standin(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    return StandIn(monkeypatch, tmp_path)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


def command_lines() -> dict[int, str]:
    """The processes of this machine, by process number."""
    processes = Path("/proc").glob("[0-9]*")
    return {
        int(process.name): _read(process / "cmdline").replace("\0", " ") for process in processes
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended, or is another user's
        return ""


@contextmanager
def fails(kind: Kind, match: str | None = None) -> Iterator[None]:
    """What is done here raises an EdgeTpuError of this kind; absent kinds are for skipping."""
    with pytest.raises(EdgeTpuError, match=match) as caught:
        yield
    assert caught.value.kind == kind
    assert isinstance(caught.value, EdgeTpuAbsentError) is (kind in get_args(AbsentKind))


class Marked:
    """Processes that this test started on its host, told by a variable in their environment."""

    def __init__(self, mark: str) -> None:
        self._mark = f"DWSCONV_TEST_MARK={mark}"

    def processes(self) -> dict[int, str]:
        return {number: line for number, line in command_lines().items() if self._is_ours(number)}

    def worker(self) -> int:
        """The worker, once it lists devices."""
        return self._wait_for(
            lambda number, line: "libedgetpu" in _read(Path(f"/proc/{number}/maps"))
        )

    def gateway(self) -> int:
        return self._wait_for(lambda number, line: "exec(eval(sys.stdin.readline()))" in line)

    def _wait_for(self, wanted: Callable[[int, str], bool]) -> int:
        for _ in range(500):
            found = [number for number, line in self.processes().items() if wanted(number, line)]
            if found:
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"not started: {self.processes()}")

    def _is_ours(self, number: int) -> bool:
        return number != os.getpid() and self._mark in _read(Path(f"/proc/{number}/environ")).split(
            "\0"
        )


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Marked]:
    """What this test starts, of which nothing may be left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("DWSCONV_TEST_MARK", str(tmp_path))
    marked = Marked(str(tmp_path))
    yield marked
    for _ in range(100):
        if not marked.processes():
            break
        time.sleep(0.05)
    assert marked.processes() == {}
    assert list(temporary.iterdir()) == []
