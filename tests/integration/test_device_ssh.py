"""Measuring over ssh: a real sshd on this machine, with keys of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from standin import QUICK, Marked, StandIn, command_lines, fails

from pytest_dwsconv.edgetpu.device import EdgeTpu, Procedure, measure
from pytest_dwsconv.edgetpu.hosts import Host

pytest.importorskip("ai_edge_litert")

from small_models import edgetpu_model, relu_model

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")

pytestmark = pytest.mark.skipif(SSHD is None, reason="needs sshd: install openssh-server")

NEVER = Procedure(limit=60)


class Board:
    """A machine that ssh reaches as ``board``, which is this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = f"ssh=board//ssh_config={folder}/config//python={sys.executable}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        for key in ("host_key", "key", "stranger"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True
            )
        (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
        self.know(folder / "host_key.pub")
        self.configure()
        self._sshd = self._start()

    def know(self, host_key: Path) -> None:
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self._port} {host_key.read_text()}")

    def configure(self, key: str = "key") -> None:
        (self.folder / "config").write_text(
            f"Host board\nHostName 127.0.0.1\nPort {self._port}\nUser "
            f"{getpass.getuser()}\nIdentitiesOnly yes\n"
            f"IdentityFile {self.folder}/{key}\nUserKnownHostsFile {self.folder}/known_hosts\n"
            "StrictHostKeyChecking yes\nSendEnv STANDIN_* LD_LIBRARY_PATH DWSCONV_TEST_MARK\n"
        )

    def _start(self) -> subprocess.Popen[bytes]:
        assert SSHD is not None
        settings = self.folder / "sshd_config"
        settings.write_text(
            f"Port {self._port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host_key\nPidFile "
            "none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes "
            "no\nPasswordAuthentication no\n"
            "PermitRootLogin prohibit-password\nAcceptEnv STANDIN_* LD_LIBRARY_PATH "
            "DWSCONV_TEST_MARK\n"
        )
        sshd = subprocess.Popen([SSHD, "-D", "-f", str(settings), "-E", str(self.folder / "log")])
        wait_until(self._answers, (self.folder / "log").read_text)
        return sshd

    def _answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def sessions(self) -> list[int]:
        """The processes of sshd that serve a connection."""
        found = [self._sshd.pid]
        for parent in found:
            found += [
                child for child in children(parent) if "sshd" in command_lines().get(child, "")
            ]
        return found[1:]

    def signal(self, number: int) -> None:
        """Send a signal to those."""
        for session in self.sessions():
            with suppress(ProcessLookupError):
                os.kill(session, number)

    def stop(self) -> None:
        self.signal(signal.SIGKILL)
        self._sshd.kill()
        self._sshd.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    privileges = Path("/run/sshd")  # a folder that sshd wants when root starts it
    ours = os.getuid() == 0 and not privileges.exists()
    if ours:
        privileges.mkdir(mode=0o755)
    board = Board(tmp_path_factory.mktemp("board"))
    yield board
    board.stop()
    if ours:
        privileges.rmdir()


@pytest.fixture
def board(running: Board) -> Iterator[Board]:
    yield running
    running.configure()
    running.know(running.folder / "host_key.pub")


def test_a_model_on_a_device_over_there(board: Board, standin: StandIn, marked: Marked) -> None:
    (path,) = standin.plug_in("usb0")
    standin.set(invoke="2000", first="9000")
    with Host(board.spec) as host:
        (device,) = EdgeTpu(host, procedure=QUICK).devices()
        measured = measure(host, edgetpu_model(), procedure=QUICK)
    assert (device.path, measured.device, measured.host) == (str(path), str(path), board.spec)
    assert measured.first_invoke >= 0.009
    assert min(measured.samples) >= 0.002


def test_a_model_on_the_cpu_over_there(board: Board, marked: Marked) -> None:
    with Host(board.spec) as host:
        measured = measure(host, relu_model() + bytes(3_000_000), device="cpu", procedure=QUICK)
    assert (measured.device, len(measured.samples)) == ("cpu", QUICK.runs)


def test_a_key_that_is_refused(board: Board) -> None:
    board.configure(key="stranger")
    message = (
        r"cannot be reached \(.*Permission denied \(publickey.*\): see that 'ssh board' works "
        r"without"
    )
    with Host(board.spec) as host, fails("host", match=message):
        EdgeTpu(host).devices()


def test_a_host_that_is_another_than_it_was(board: Board) -> None:
    board.know(board.folder / "stranger.pub")
    with (
        Host(board.spec) as host,
        fails("host", match=r"\(Host key verification failed\.\)"),
    ):
        EdgeTpu(host).devices()


def test_a_host_without_the_python(board: Board) -> None:
    spec = board.spec.replace(sys.executable, "/nowhere/python3.9")
    message = (
        r"has no Python that starts \(.*/nowhere/python3\.9.*\): name one, as in "
        r"python=/usr/bin/python3"
    )
    with Host(spec) as host, fails("python", match=message):
        EdgeTpu(host).devices()


def test_a_python_over_there_that_never_answers(board: Board, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 20\n")
    python.chmod(0o755)
    spec = board.spec.replace(sys.executable, str(python))
    with (
        Host(spec, connect_limit=1) as host,
        fails("host", match="did not answer in 1 s"),
    ):
        EdgeTpu(host).devices()


def test_a_connection_that_is_cut(board: Board, standin: StandIn, marked: Marked) -> None:
    standin.plug_in("usb0")
    standin.set(hidden="hang")

    def cut() -> None:
        marked.worker()
        board.signal(signal.SIGKILL)

    thread = threading.Thread(target=cut)
    thread.start()
    with Host(board.spec) as host:
        with fails("connection", match=r"the connection to ssh=board.* broke while it measured"):
            EdgeTpu(host, procedure=NEVER).devices()
        thread.join()
        standin.set(hidden="0")
        assert len(EdgeTpu(host, procedure=QUICK).devices()) == 1


def test_a_host_that_falls_asleep(board: Board, standin: StandIn, marked: Marked) -> None:
    """The user's options come before those of this package: here, to wait less for life."""
    standin.plug_in("usb0")
    standin.set(hidden="hang")

    def sleep() -> None:
        marked.worker()
        board.signal(signal.SIGSTOP)

    thread = threading.Thread(target=sleep)
    thread.start()
    start = time.monotonic()
    patient = board.spec.replace(
        "ssh=board", "ssh=-o ServerAliveInterval=1 -o ServerAliveCountMax=1 board"
    )
    with Host(patient) as host, fails("connection"):
        EdgeTpu(host, procedure=NEVER).devices()
    thread.join()
    assert time.monotonic() - start < 30
    board.signal(signal.SIGCONT)


def children(process: int) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-P", str(process)], capture_output=True, text=True, check=False
    ).stdout.split()
    return [int(number) for number in found]


def wait_until(condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    for _ in range(250):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(otherwise())
