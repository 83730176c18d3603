from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from standin import QUICK, Marked, StandIn, command_lines, fails

from pytest_dwsconv.edgetpu import hosts
from pytest_dwsconv.edgetpu.device import EdgeTpu, Procedure, measure
from pytest_dwsconv.edgetpu.hosts import SSH_OPTIONS, Host, HostSpec
from pytest_dwsconv.errors import InputError

PYTHON = f"python={sys.executable}"


@pytest.mark.parametrize(
    ("text", "execnet_spec"),
    [
        ("", f"popen//python={sys.executable}"),
        ("python=/opt/py39/bin/python", "popen//python=/opt/py39/bin/python"),
        ("ssh=pi@raspberrypi", f"ssh=pi@raspberrypi {SSH_OPTIONS}//python=python3"),
        (
            "ssh=-p 2222 pi@pi4//python=python3.9",
            f"ssh=-p 2222 pi@pi4 {SSH_OPTIONS}//python=python3.9",
        ),
        ("ssh=pi4//ssh_config=/x", f"ssh=pi4 {SSH_OPTIONS}//python=python3//ssh_config=/x"),
    ],
)
def test_a_host_as_execnet_reaches_it(text: str, execnet_spec: str) -> None:
    assert HostSpec.parse(text).execnet_spec == execnet_spec
    assert str(HostSpec.parse(text)) == (text or "this host")


@pytest.mark.parametrize(
    "text",
    [
        "raspberrypi",
        "ssh",
        "ssh=",
        "host=pi",
        "ssh=a//ssh=b",
        "python=x//",
        "popen//python=x",
        "__class__=x",
    ],
)
def test_what_names_no_host_is_refused(text: str) -> None:
    with pytest.raises(
        InputError,
        match=r"is not a host: write python=/path/python3\.9, ssh=pi@raspberrypi, or both",
    ):
        Host(text)


def test_a_quote_that_is_not_closed() -> None:
    with pytest.raises(InputError, match="has a quote that is not closed: close it"):
        Host("python='/opt/my python/bin/python")


@pytest.mark.parametrize("text", ["ssh=pi\0", "python=/opt/\0python", "ssh=pi\n", "ssh=\x1b[2J"])
def test_what_no_command_can_hold_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a host: leave out the character that cannot be"):
        Host(text)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 10**400, "5"])
def test_a_time_limit_is_a_number_of_seconds(seconds: float) -> None:
    with pytest.raises(InputError, match="give the seconds that connecting may take"):
        Host(connect_limit=seconds)


@pytest.mark.parametrize("text", ["check=on", "ssh=pi//check=0"])
def test_a_check_can_only_be_switched_off(text: str) -> None:
    with pytest.raises(InputError, match="has a check that is not off: write check=off"):
        Host(text)


def test_a_configuration_needs_a_host() -> None:
    with pytest.raises(InputError, match="has an ssh_config and no ssh: add ssh=HOST"):
        Host("ssh_config=/etc/ssh/config")


# --------------------------------------------------------------------------- hosts that will not do


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Makes a host whose Python is a shell script."""

    def make(body: str) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return f"python={path}"

    return make


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "exit 3",
            r"has no Python that starts \(exit code 3\): name one, as in python=/usr/bin/python3",
        ),
        (
            "echo no such library >&2; exit 127",
            r"has no Python that starts \(no such library\): name one",
        ),
        ("echo python 3 7", r"has Python 3\.7 and needs 3\.8 or newer: name one"),
        (
            "echo Welcome; echo python 3 9",
            r"prints 'Welcome\\npython 3 9' of its own accord: have the start-up files",
        ),
        ("echo python 3 9; echo Bye", r"prints 'python 3 9\\nBye' of its own accord"),
        (
            "echo python three",
            "is not a Python interpreter, it printed 'python three': name one, as in python=",
        ),
        ("true", "is not a Python interpreter, it printed '': name one"),
    ],
)
def test_a_python_that_will_not_do(script: Callable[[str], str], body: str, message: str) -> None:
    with Host(script(body)) as host, fails("python", match=message):
        EdgeTpu(host).devices()


def test_a_python_that_is_not_there() -> None:
    message = (
        r"No such file .*: /nowhere/python3; name a Python that starts, in quotes if there is a "
        r"space in its path"
    )
    with Host("python=/nowhere/python3") as host, fails("python", match=message):
        EdgeTpu(host).devices()


def test_a_python_with_a_space_in_its_path(standin: StandIn, tmp_path: Path) -> None:
    standin.plug_in("usb0")
    (tmp_path / "my python").symlink_to(sys.executable)
    with Host(f"python='{tmp_path}/my python'") as host:
        assert len(EdgeTpu(host).devices()) == 1


@pytest.mark.parametrize(
    "command", ["exec sleep 987654", "sleep 987654; true"], ids=["itself", "what it started"]
)
def test_a_python_that_never_answers_is_ended(script: Callable[[str], str], command: str) -> None:
    spec = script(command)
    start = time.monotonic()
    with (
        Host(spec, connect_limit=0.3) as host,
        fails("host", match=r"did not answer in 0\.3 s"),
    ):
        EdgeTpu(host).devices()
    assert time.monotonic() - start < 20
    assert not [line for line in command_lines().values() if "987654" in line]


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("echo no; cat", "AssertionError"),
        ("exit 1", r"Broken pipe|exit code 1"),
        ("exec sleep 98765", r"no answer in 5 s"),
        ("sleep 98765; true", r"no answer in 5 s"),
    ],
    ids=["talks", "ends", "hangs", "what it started hangs"],
)
def test_a_python_that_answers_only_once(
    marked: Marked, script: Callable[[str], str], tmp_path: Path, second: str, told: str
) -> None:
    spec = script(
        f"test -e {tmp_path}/once && {{ {second}; }}; touch {tmp_path}/once; exec {sys.executable} "
        '"$@"'
    )
    message = rf"answered once and not again \(.*({told}).*\): see whether it is up"
    with Host(spec, connect_limit=5) as host, fails("host", match=message):
        EdgeTpu(host).devices()


def test_ssh_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        Host("ssh=pi@raspberrypi") as host,
        fails("host", match=r"cannot be reached: No such file .*: ssh; install an ssh client"),
    ):
        EdgeTpu(host).devices()


@pytest.mark.skipif(not os.path.exists("/usr/bin/ssh"), reason="needs an ssh command")
def test_a_host_that_nobody_is_at() -> None:
    spec = "ssh=-p 1 nobody@127.0.0.1"
    with (
        Host(spec) as host,
        fails(
            "host",
            match=r"cannot be reached \(.*refused.*\): see that 'ssh -p 1 nobody@127\.0\.0\.1' "
            r"works",
        ),
    ):
        EdgeTpu(host).devices()


def test_without_execnet_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "execnet", raising=False)
    with Host() as host, fails("host", match=r"pip install 'pytest-dwsconv\[measure\]'"):
        EdgeTpu(host).devices()


# --------------------------------------------------------------------------- faults on the way


@pytest.fixture
def hanging(standin: StandIn) -> Procedure:
    """A listing that would never end."""
    standin.plug_in("pci0")
    standin.set(hidden="hang")
    return Procedure(limit=60)


def meanwhile(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_a_worker_that_is_killed(marked: Marked, hanging: Procedure) -> None:
    thread = meanwhile(lambda: os.kill(marked.worker(), signal.SIGKILL))
    message = (
        r"the worker at this host died while listing the devices \(SIGKILL\): something killed it"
    )
    with Host() as host:
        with fails("crash", match=message):
            EdgeTpu(host, procedure=hanging).devices()
        assert len(marked.processes()) == 1  # the gateway, which serves the next task
    thread.join()


def test_a_worker_that_takes_too_long(marked: Marked, hanging: Procedure) -> None:
    limited = replace(hanging, limit=4)
    message = r"the worker at this host was still listing the devices after 4 s and was stopped"
    with Host() as host, fails("timeout", match=message):
        EdgeTpu(host, procedure=limited).devices()


def test_a_connection_that_breaks(marked: Marked, hanging: Procedure, standin: StandIn) -> None:
    def cut() -> None:
        marked.worker()
        os.kill(marked.gateway(), signal.SIGKILL)

    thread = meanwhile(cut)
    with Host(PYTHON) as host:
        with fails("connection", match=f"the connection to {PYTHON} broke while it measured"):
            EdgeTpu(host, procedure=hanging).devices()
        thread.join()
        standin.set(hidden="0")
        assert len(EdgeTpu(host, procedure=QUICK).devices()) == 1  # it connects again


def test_a_host_that_falls_asleep(
    marked: Marked, hanging: Procedure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a model is being sent that no pipe holds."""
    monkeypatch.setattr(hosts, "GRACE", 0.5)
    with Host(PYTHON) as host:
        host.connect()
        os.kill(marked.gateway(), signal.SIGSTOP)
        start = time.monotonic()
        with fails(
            "timeout",
            match=r"gave no answer in 1 s and the connection was cut: see whether it is",
        ):
            measure(host, bytes(10_000_000), device="cpu", procedure=Procedure(limit=0.5))
        assert time.monotonic() - start < 20


@contextmanager
def another_master(
    marked: Marked, procedure: Procedure, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for a device like this one does."""
    code = (
        "import signal\n"
        # a shell's job in the background ignores it
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pytest_dwsconv.edgetpu.device import EdgeTpu, Procedure\n"
        "from pytest_dwsconv.edgetpu.hosts import Host\n"
        f"with Host() as host: EdgeTpu(host, procedure={procedure!r}).devices()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=folder
    ) as master:
        marked.worker()
        yield master


def test_an_interrupt_leaves_nothing_running(
    marked: Marked, hanging: Procedure, tmp_path: Path
) -> None:
    with another_master(marked, hanging, tmp_path) as master:
        errors = _interrupted(master)
    assert b"KeyboardInterrupt" in errors


def _interrupted(master: subprocess.Popen[bytes]) -> bytes:
    """What it says; an interrupt that meets Python in a callback is lost, and is sent again."""
    for _ in range(3):
        master.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return master.communicate(timeout=15)[1]
    raise AssertionError("it does not end when it is interrupted")


def test_nothing_is_left_when_the_master_is_killed(
    marked: Marked, hanging: Procedure, tmp_path: Path
) -> None:
    with another_master(marked, hanging, tmp_path) as master:
        master.kill()
