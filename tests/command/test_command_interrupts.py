"""Ctrl-C and kill: every file is whole, what is rewritten is listed, and none is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import libcst
import pytest

from pytest_dwsconv.command.cli import entry, main
from pytest_dwsconv.command.interrupts import Interrupts
from pytest_dwsconv.command.trial.child import Child
from pytest_dwsconv.interrupts import uninterrupted

BEFORE = "from torch import nn\n\nconv = nn.Conv2d(32, 64, 3)\n"
Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path)
    return tmp_path


def fill(folder: Path) -> None:
    for number in range(3):
        (folder / f"m{number}.py").write_text(BEFORE)


def rewritten(folder: Path) -> list[str]:
    """The files with the new content; all others have the old one, and there are no others."""
    assert {path.name for path in folder.iterdir()} == {"m0.py", "m1.py", "m2.py"}
    texts = {path.name: path.read_text() for path in sorted(folder.iterdir())}
    after = {text for text in texts.values() if text != BEFORE}
    assert len(after) <= 1
    for text in after:
        assert text.endswith("\nconv = DepthwiseSeparableConv2d(32, 64, 3)\n")
    return [name for name, text in texts.items() if text != BEFORE]


def interrupting(function: Callable[..., Any], number: int = 1) -> Callable[..., Any]:
    """The function; Ctrl-C is pressed at the end of one of its calls, counted from 1."""
    calls = []

    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        calls.append(args)
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        return result

    return call


@pytest.mark.parametrize("number", [1, 2, 3])
def test_ctrl_c_while_a_file_is_replaced_comes_after_its_listing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, number: int
) -> None:
    monkeypatch.setattr(os, "replace", interrupting(os.replace, number))
    with pytest.raises(KeyboardInterrupt):
        main([str(folder)])
    names = [f"m{index}.py" for index in range(number)]
    assert rewritten(folder) == names
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.partition(":")[0]).name for line in lines[:-1]] == names
    assert lines[-1].startswith(f"{number} convolution")


def becomes_an_error(*_: object) -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise KeyError from None


def is_lost(*_: object) -> None:
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("happens", [becomes_an_error, is_lost])
def test_ctrl_c_that_libcst_does_not_pass_on_counts_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]
) -> None:
    parse = libcst.parse_module

    def parsing(*args: Any) -> Any:
        happens()
        return parse(*args)

    monkeypatch.setattr(libcst, "parse_module", parsing)
    with pytest.raises(KeyboardInterrupt):
        main([str(folder)])
    assert rewritten(folder) == []


def test_ctrl_c_beside_an_error_of_the_file_counts_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def read_bytes(path: Path) -> bytes:
        is_lost()
        raise OSError("no such luck")

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(KeyboardInterrupt):
        main([str(folder)])
    monkeypatch.undo()
    assert rewritten(folder) == []
    assert capsys.readouterr().err == ""


def test_the_handler_is_put_back(folder: Path) -> None:
    assert main([str(folder)]) == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_that_is_ignored_stays_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", interrupting(os.replace))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert main([str(folder)]) == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_may_run_the_command(folder: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, [str(folder)]).result() == 0
    assert len(rewritten(folder)) == 3


def test_an_interrupted_process_says_so_and_exits_with_130(folder: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pytest_dwsconv.command.cli import entry\n"
        "rename = os.replace\n"
        "def replace(*args):\n"
        "    rename(*args)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "os.replace = replace\n"
        "sys.argv[1:] = ['.']\n"
        "entry()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "dwsconv-rewrite: interrupted\n")
    assert done.stdout.splitlines()[-1] == "1 convolution rewritten in 1 file, 0 left alone"
    assert rewritten(folder) == ["m0.py"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_at_any_moment_every_file_is_old_or_new(folder: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "pytest_dwsconv", str(folder)]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    duration = time.monotonic() - start
    moments = random.Random(0)
    for _ in range(5):
        fill(folder)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            time.sleep(moments.uniform(0.2, 1) * duration)
            process.send_signal(number)
            out, err = process.communicate()
        if number == signal.SIGKILL:
            # nothing can tidy up after it: a file of our own may be left beside
            for path in folder.glob(".*"):
                path.unlink()
            rewritten(folder)
            continue
        listed = [name for name in ("m0.py", "m1.py", "m2.py") if f"{name}:" in out]
        assert rewritten(folder) == listed
        # before the command itself has begun, Python ends it in its own way
        assert process.returncode in (130, -signal.SIGINT) or len(listed) == 3
        assert "fault of the command" not in err


def test_a_run_that_is_asked_to_end_leaves_no_folder_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(child: Child, folder: str) -> None:
        assert Path(folder).parent == tmp_path / "temporary"
        signal.raise_signal(signal.SIGTERM)

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(Child, "_run", end)
    (tmp_path / "net.py").write_text(BEFORE)
    monkeypatch.setattr(sys, "argv", ["dwsconv-rewrite", str(tmp_path / "net.py"), "--model", "N"])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        entry()
    signal.signal(signal.SIGINT, before)
    assert ended.value.code == 128 + signal.SIGTERM
    assert not list((tmp_path / "temporary").iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_request_to_end_waits_where_ctrl_c_does() -> None:
    done = []

    def work() -> None:
        with Interrupts(), uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            done.append("all")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all"]
