"""Files that keep what they held until their new content is whole."""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest

from pytest_dwsconv import writing
from pytest_dwsconv.core.findings import Origin, ReportData
from pytest_dwsconv.core.suite.baseline import Baseline
from pytest_dwsconv.core.suite.costs import Entry
from pytest_dwsconv.render import Reporters, write_run
from pytest_dwsconv.writing import replace_content


def test_writing_keeps_mode_and_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target.py", tmp_path / "link.py"
    target.write_bytes(b"old")
    target.chmod(0o751)
    link.symlink_to(target.name)
    replace_content(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o751
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.py", "target.py"]


def test_writing_keeps_the_other_names_of_a_file(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_bytes(b"old and longer")
    two.hardlink_to(one)
    replace_content(one, b"new")
    assert two.read_bytes() == b"new"
    assert one.samefile(two)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away"
)
def test_writing_keeps_the_owner(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_bytes(b"old")
    os.chown(file, 1000, 1001)
    file.chmod(0o640)
    replace_content(file, b"new")
    status = file.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1000, 1001, 0o640)


@pytest.fixture
def owned_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that may be written to but not given to its owner, as where a group shares it."""
    file = tmp_path / "m.py"
    file.write_bytes(b"old")
    stat = os.stat
    keep = file.stat()

    def another(path: object, *args: Any, **kwargs: Any) -> os.stat_result:
        status = stat(path, *args, **kwargs)  # type: ignore[arg-type]  # handed on as it comes
        return (
            os.stat_result((*status[:4], 4711, *status[5:]))
            if status.st_ino == keep.st_ino
            else status
        )

    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "stat", another)
    monkeypatch.setattr(os, "chown", refuse)
    return file


def test_what_cannot_have_the_same_owner_is_written_in_place(owned_by_another: Path) -> None:
    before = owned_by_another.stat().st_ino
    replace_content(owned_by_another, b"new")
    assert owned_by_another.read_bytes() == b"new"
    assert owned_by_another.stat().st_ino == before
    assert len(list(owned_by_another.parent.iterdir())) == 1


def test_writing_in_place_puts_the_old_content_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.py"
    file.write_bytes(b"old")
    (tmp_path / "other.py").hardlink_to(file)
    fill, calls = writing._fill, []

    def fail_once(target: io.FileIO, data: bytes) -> None:
        calls.append(data)
        if len(calls) == 1:
            target.write(data[:1])
            raise OSError(28, "No space left on device")
        fill(target, data)

    monkeypatch.setattr(writing, "_fill", fail_once)
    with pytest.raises(OSError, match="No space left"):
        replace_content(file, b"new and longer")
    assert file.read_bytes() == b"old"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX thing")
def test_a_pipe_is_written_to_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        replace_content(pipe, b"new")
        assert os.read(reader, 10) == b"new"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_loop_of_links_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "loop.py").symlink_to("loop.py")
    with pytest.raises(OSError, match="Too many levels"):
        replace_content(tmp_path / "loop.py", b"")
    assert (tmp_path / "loop.py").is_symlink()


def test_a_new_file_gets_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    replace_content(tmp_path / "new.py", b"x")
    assert (tmp_path / "new.py").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_read_only_file_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_bytes(b"old")
    file.chmod(0o444)
    with pytest.raises(PermissionError, match="it is read-only"):
        replace_content(file, b"new")
    assert file.read_bytes() == b"old"


def test_a_write_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "m.py").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left on device"):
        replace_content(tmp_path / "m.py", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_file_mounted_by_itself_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*args: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    (tmp_path / "m.py").write_bytes(b"old and longer")
    monkeypatch.setattr(os, "replace", busy)
    replace_content(tmp_path / "m.py", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_a_file_in_a_folder_of_another_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.py").write_bytes(b"old")
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != tmp_path and access(path, mode)
    )
    monkeypatch.setattr(tempfile, "mkstemp", None)
    replace_content(tmp_path / "m.py", b"new")
    assert (tmp_path / "m.py").read_bytes() == b"new"


@pytest.mark.parametrize("length", [251, 255])
def test_a_file_may_have_the_longest_name_there_is(tmp_path: Path, length: int) -> None:
    file = tmp_path / ("x" * length)
    for data in (b"old", b"new"):
        replace_content(file, data)
        assert file.read_bytes() == data


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "a\ud800b"])
def test_what_cannot_be_the_name_of_a_file_is_an_error_of_the_system(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(OSError, match=r"too long|it is not the name of a file"):
        replace_content(tmp_path / name, b"new")
    assert list(tmp_path.iterdir()) == []


def interrupted_at(step: int, path: Path, data: bytes) -> bool:
    """Replace a file, with Ctrl-C at this step of the interpreter in any function; False once the
    work has fewer steps.
    """
    steps = count(1)

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes = True
        if next(steps) == step:
            signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    gc.disable()  # Python ignores what is raised in callbacks of the collector, which others set
    sys.settrace(trace)
    try:
        replace_content(path, data)
    finally:
        sys.settrace(before)
        gc.enable()
    return next(steps) > step


@pytest.mark.parametrize("kind", ["new", "old", "linked"])
def test_ctrl_c_at_any_moment_ends_the_work_and_leaves_a_whole_file(
    tmp_path: Path, kind: str
) -> None:
    """``finally`` and ``except`` clauses are among the moments."""
    file = tmp_path / "report.json"
    for step in count(1, 7):
        if kind != "new":
            file.write_bytes(b"old" * 100)
        if kind == "linked":
            (tmp_path / "link").hardlink_to(file)
        try:
            done = not interrupted_at(step, file, b"new")
        except KeyboardInterrupt:
            done = False
        else:
            assert done, f"Ctrl-C at step {step} was lost"
        left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert left.keys() <= {"report.json", "link"}
        assert set(left.values()) <= {b"old" * 100, b"new"}
        assert kind == "new" or left
        for path in tmp_path.iterdir():
            path.unlink()
        if done:
            break
    assert step > 500
    assert left["report.json"] == b"new"


def report_of_a_run(path: Path, number: int) -> None:
    write_run("json", {ReportData("Net", (), number, None, Origin.META): Reporters()}, path)


def baseline_of_a_run(path: Path, number: int) -> None:
    replace_content(path, Baseline({"Net": Entry(number, None)}).to_json().encode())


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 loses an interrupt that comes while it imports"
)
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers are a POSIX thing")
@pytest.mark.parametrize("write", [report_of_a_run, baseline_of_a_run])
def test_a_hundred_interrupts_are_all_obeyed(
    tmp_path: Path, write: Callable[[Path, int], None]
) -> None:
    """The report and the baseline are whole: of one run or of the other."""
    random = Random(0)
    file = tmp_path / "file.json"
    write(file, 0)
    contents = {file.read_bytes()}
    write(file, 1)
    contents.add(file.read_bytes())
    obeyed = 0
    gc.disable()  # Python ignores what is raised in the finalizers of other tests' objects
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        for turn in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-3))
                for repetition in range(10_000):  # thousands of times as long as the timer runs
                    write(file, (turn + repetition) % 2)
            except KeyboardInterrupt:
                obeyed += 1
            assert file.read_bytes() in contents
            assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert obeyed == 100
