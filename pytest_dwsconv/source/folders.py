"""The Python files of a folder, without those that git ignores and those that nobody wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_dwsconv.configuration import ignore_spec
from pytest_dwsconv.errors import InputError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_NOT_SOURCE = frozenset({"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"})


class _Ignored(NamedTuple):
    """The patterns of one ``.gitignore``, for paths below its folder."""

    folder: Path
    patterns: GitIgnoreSpec


def python_files(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    """The ``*.py`` files below a folder in sorted order; hidden, built and installed ones left out.

    Those that a ``.gitignore`` leaves out are, too, but not all of a folder that it leaves out;
    pipes and devices are not files; a link to nothing counts as one. ``on_error`` is told of each
    folder that cannot be read.
    """
    above = _ignored_above(folder)
    if _is_ignored(folder, above, "/"):
        above = []  # reason: somebody who names it, as a package in .venv, wants it looked at
    ignored: dict[str, Sequence[_Ignored]] = {}
    for root, folders, files in os.walk(folder, onerror=on_error):
        here = [*ignored.pop(root, above), *_ignored_in(Path(root))]
        folders.sort()
        for name in list(folders):
            path = Path(root, name)
            if _is_skipped(path) or _is_ignored(path, here, "/"):
                folders.remove(name)
            else:
                ignored[str(path)] = here
        for name in sorted(files):
            path = Path(root, name)
            is_source = name.endswith(".py") and not name.startswith(".") and _is_file(path)
            if is_source and not _is_ignored(path, here):
                yield path


def _is_skipped(folder: Path) -> bool:
    if folder.name.startswith(".") or folder.name in _NOT_SOURCE:
        return True
    if folder.name.endswith(".egg-info"):
        return True
    # reason: unlike Path.exists, it answers for a folder that cannot be read as well
    return os.path.exists(folder / "pyvenv.cfg")


def _is_file(path: Path) -> bool:
    return os.path.isfile(path) or not os.path.exists(path)


# -- .gitignore


def _ignored_above(folder: Path) -> list[_Ignored]:
    """What the folders above ignore, the outermost first, up to the root of the repository."""
    found: list[_Ignored] = []
    place = Path(os.path.realpath(folder))
    while not os.path.exists(place / ".git"):
        if place == place.parent:
            return []  # reason: in no repository, a .gitignore further up is not about this folder
        place = place.parent
        found = [*_ignored_in(place), *found]
    return found


def _ignored_in(folder: Path) -> list[_Ignored]:
    try:
        lines = (folder / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    readable = tuple(line for line in lines if _is_pattern(line))
    return [_Ignored(Path(os.path.realpath(folder)), ignore_spec(readable))]


def _is_pattern(line: str) -> bool:
    """Whether it can be read; git passes over what cannot."""
    try:
        ignore_spec((line,))
    except InputError:
        return False
    return True


def _is_ignored(path: Path, ignored: Sequence[_Ignored], end: str = "") -> bool:
    """Whether the nearest ``.gitignore`` that says something of the path leaves it out."""
    real = Path(os.path.realpath(path.parent), path.name)
    for folder, patterns in reversed(ignored):
        name = f"{real.relative_to(folder).as_posix()}{end}"
        matching = [each.include for each in patterns.patterns if each.match_file(name)]
        # reason: of a file, pathspec lets patterns of folders be weaker; of a folder they are not,
        # as "!*/" after "*"
        include = matching[-1] if end and matching else patterns.check_file(name).include
        if include is not None:
            return include
    return False
