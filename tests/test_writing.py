"""Files that keep what they held until their new content is whole."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pytest_dwsconv import writing
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
    """A file that may be written to but not given to its owner, as in a folder that a group shares."""
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
