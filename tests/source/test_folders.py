"""The Python files of a folder: which are source, and which git ignores."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_dwsconv.source.folders import python_files


def found(folder: Path, below: str = ".") -> list[str]:
    paths = python_files(folder / below, _raise)
    return [Path(os.path.relpath(path, folder)).as_posix() for path in paths]


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def ignore(folder: Path, *lines: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("\n".join(lines))


def test_a_folder_is_walked_without_what_is_not_source(tmp_path: Path) -> None:
    source = ("a.py", "b/c.py", "b/a.py")
    other = (
        "b/.hidden.py",
        "b/data.txt",
        ".git/x.py",
        "build/x.py",
        "b/__pycache__/x.py",
        "env/pyvenv.cfg",
    )
    make(tmp_path, *source, *other, "env/x.py", "p.egg-info/x.py", "node_modules/x.py")
    assert found(tmp_path) == ["a.py", "b/a.py", "b/c.py"]


def _raise(error: OSError) -> None:
    raise error


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    told: list[OSError] = []
    assert list(python_files(tmp_path / "none", told.append)) == []
    assert [type(error) for error in told] == [FileNotFoundError]


PATTERNS = {
    ".": [
        "gen/",
        "*_pb2.py",
        "!keep_pb2.py",
        "/top.py",
        "a/**/deep.py",
        "# b.py",
        "\\#c.py",
        "!",
        "[z-a]",
    ],
    "a": ["x.py", "!gen/"],
    "a/gen": ["y.py"],
    "d": ["*", "!*/", "!*.*", "x.py", "/e/"],
}
FILES = (
    "b.py #c.py top.py m_pb2.py keep_pb2.py gen/z.py a/top.py a/x.py a/b/x.py a/b/deep.py "
    "a/gen/y.py a/gen/x.py a/gen/z.py a/keep_pb2.py c/x.py c/gen/x.py d/x.py d/y.py d/f/x.py "
    "d/f/g/z.py d/f/e/z.py d/e/z.py"
).split()


@pytest.mark.parametrize("below", [".", "a", "a/gen", "a/b", "c", "d"])
def test_what_git_ignores_is_what_is_left_out(tmp_path: Path, below: str) -> None:
    for folder, lines in PATTERNS.items():
        ignore(tmp_path / folder, *lines)
    make(tmp_path, *FILES)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard", "--", f"{below}/*.py"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert sorted(found(tmp_path, below)) == sorted(listed.stdout.splitlines())


def test_a_gitignore_above_counts_inside_of_its_repository_only(tmp_path: Path) -> None:
    ignore(tmp_path, "*.py")
    make(tmp_path, "project/a.py")
    assert found(tmp_path, "project") == ["project/a.py"]
    (tmp_path / ".git").mkdir()
    assert found(tmp_path, "project") == []


@pytest.mark.parametrize("pattern", ["*", "gen/", "/gen", "*.py"])
def test_a_folder_that_git_ignores_is_looked_at_where_it_is_named(
    tmp_path: Path, pattern: str
) -> None:
    (tmp_path / ".git").mkdir()
    ignore(tmp_path, pattern)
    ignore(tmp_path / "gen", "b.py")
    make(tmp_path, "gen/a.py", "gen/b.py", "gen/c/d.py")
    is_ignored = pattern != "*.py"
    assert found(tmp_path, "gen") == (["gen/a.py", "gen/c/d.py"] if is_ignored else [])


def test_pipes_are_left_out_and_links_to_nothing_are_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "link.py").symlink_to("gone.py")
    make(tmp_path, "a.py")
    assert found(tmp_path) == ["a.py", "link.py"]
