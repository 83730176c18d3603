"""What functions and classes of other files of a project do with a convolution they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import libcst as cst

from pytest_dwsconv.core.rules import Judgement
from pytest_dwsconv.errors import SourceError
from pytest_dwsconv.source.files import read

_FILES = 4
"""How many files are asked one after the other, and how many folders up they are looked for."""

_PROBE = "_dws_torch"
_CONVOLUTION = f"{_PROBE}.nn.Conv2d(8, 64, 3)"

Judge = Callable[[str, "Callables"], Judgement | None]
"""What stands against a replacement of the last convolution of a text."""


class Outcome(NamedTuple):
    """What stands against a replacement, if anything does, and the file that says so."""

    judgement: Judgement | None
    file: Path


class Callables:
    """Looks up callables by the full names that the file at ``path`` has for them.

    ``from_elsewhere``: the file itself is asked what it does with one convolution that it is
    handed, so what it does to others does not matter.
    """

    def __init__(self, path: Path | None, judge: Judge, files: int = _FILES) -> None:
        self.from_elsewhere = files < _FILES
        self._path = path
        self._judge = judge
        self._files_left = files

    def outcome(self, name: str, call: cst.Call, handed: cst.Arg) -> Outcome | None:
        """What the callable of a full name does with a convolution that it is handed so.

        None if no file of the project has it.
        """
        if self._path is None or not self._files_left:
            return None
        for file, rest in self._candidates(name, self._path):
            call_text = f"{rest}({', '.join(_arguments(call, handed))})"
            try:
                changed = file.stat().st_mtime_ns
            except OSError:
                return None
            return _outcome(file, changed, call_text, self._judge, self._files_left - 1)
        return None

    def _candidates(self, name: str, path: Path) -> Iterator[tuple[Path, str]]:
        """The files that may have it, with its name in each: of ``.util.zero``, ``util.py``."""
        parts = name.lstrip(".").split(".")
        dots = len(name) - len(name.lstrip("."))
        folders = [*path.parents][dots - 1 : dots] if dots else [*path.parents][:_FILES]
        shortest = 0 if dots else 1
        for folder in folders:
            for count in reversed(range(shortest, len(parts))):
                module, rest = folder.joinpath(*parts[:count]), ".".join(parts[count:])
                for file in (module.with_suffix(".py"), module / "__init__.py"):
                    if file.is_file():
                        yield file, rest


def _arguments(call: cst.Call, handed: cst.Arg) -> Iterator[str]:
    """The arguments of a call, with a convolution in the place of one, and None for the others."""
    for argument in call.args:
        value = "None"
        if argument is handed:
            value = _CONVOLUTION
            if isinstance(argument.value, (cst.List, cst.Tuple, cst.ListComp)):
                value = f"[{_CONVOLUTION}]"
        if argument.keyword is not None:
            yield f"{argument.keyword.value}={value}"
        elif argument is handed or not argument.star:
            yield argument.star + value


@lru_cache(maxsize=1024)
def _outcome(file: Path, changed: int, call_text: str, judge: Judge, files: int) -> Outcome | None:
    """As the text of the file judges the call, written at its end; ``changed`` is its age."""
    try:
        text = f"{read(file).text}\n\nimport torch as {_PROBE}\n{call_text}\n"
        return Outcome(judge(text, Callables(file, judge, files)), file)
    except (SourceError, RecursionError):
        return None
