"""The settings in ``[tool.dwsconv]`` of the nearest ``pyproject.toml`` that has that table."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pathspec import GitIgnoreSpec

from pytest_dwsconv.command.selection import Selection, checked_codes
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.rules import Policy
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.source.imports import ImportedClass, imported_classes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SETTINGS = (
    "class-from",
    "exclude",
    "few-channels",
    "ignore",
    "min-saving",
    "per-file-ignores",
    "select",
)
_NOTHING = GitIgnoreSpec.from_lines([])


@dataclass(frozen=True)
class Config:
    """``exclude``: patterns as in ``.gitignore``, on paths below ``root``, their file's folder.

    ``per_file_ignores`` has codes by such patterns.
    """

    root: Path
    exclude: GitIgnoreSpec = _NOTHING
    min_saving: float = 1.0
    few_channels: bool = False
    selection: Selection = field(default_factory=Selection)
    per_file_ignores: tuple[tuple[GitIgnoreSpec, tuple[str, ...]], ...] = ()
    classes: Mapping[int, ImportedClass] = field(default_factory=dict)

    @property
    def policy(self) -> Policy:
        return Policy(min_saving=self.min_saving, few_channels=self.few_channels)

    def excludes(self, path: Path) -> bool:
        """Whether a pattern fits the path, or a folder that it lies in."""
        return self._fits(self.exclude, path)

    def selection_for(self, path: Path) -> Selection:
        """The codes that count in a file."""
        ignored = self.selection.ignore
        for patterns, codes in self.per_file_ignores:
            if self._fits(patterns, path):
                ignored += codes
        return replace(self.selection, ignore=ignored)

    def _fits(self, patterns: GitIgnoreSpec, path: Path) -> bool:
        # reason: resolve() raises on a loop of links before Python 3.13
        absolute = Path(os.path.realpath(path))
        if not patterns.patterns or not absolute.is_relative_to(self.root):
            return False
        return patterns.match_file(absolute.relative_to(self.root).as_posix())


class Configs:
    """The settings of each folder; every ``pyproject.toml`` is read once."""

    def __init__(self) -> None:
        self._found: dict[Path, Config] = {}

    def of(self, folder: Path) -> Config:
        """Those of the first ``pyproject.toml`` on the way up that has the table.

        Raises:
            InputError: the file is not TOML, or a setting is not known or of the wrong type.
        """
        return self._of(Path(os.path.realpath(folder)))

    def _of(self, folder: Path) -> Config:
        if folder not in self._found:
            file = folder / "pyproject.toml"
            # reason: unlike Path.is_file, it answers for a folder that cannot be read as well
            table = _table(file) if os.path.isfile(file) else None
            if table is not None:
                self._found[folder] = _config(table, file)
            elif folder == folder.parent:
                self._found[folder] = Config(folder)
            else:
                self._found[folder] = self._of(folder.parent)
        return self._found[folder]


def _table(file: Path) -> Mapping[str, object] | None:
    try:
        tools = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
    except RecursionError as error:
        raise InputError(f"{file} cannot be read: its brackets are nested too deeply") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        # reason: of a number of 5,000 digits it goes on about settings of the interpreter
        what = str(error).partition("; use sys.")[0]
        raise InputError(f"{file} cannot be read: {what}") from error
    table = tools.get("dwsconv") if isinstance(tools, dict) else None
    if table is not None and not isinstance(table, dict):
        raise InputError(f"{file}: tool.dwsconv must be a table, [tool.dwsconv]")
    return table


def _config(table: Mapping[str, object], file: Path) -> Config:
    for key in table:
        if key not in _SETTINGS:
            *others, last = _SETTINGS
            raise InputError(
                f"{file}: [tool.dwsconv] has no setting {quoted(key)}; there are "
                f"{', '.join(others)} and {last}"
            )
    try:
        return Config(
            file.parent,
            exclude=_patterns(_strings("exclude", table.get("exclude", []))),
            min_saving=_saving("min-saving", table.get("min-saving", 1.0)),
            few_channels=_flag("few-channels", table.get("few-channels", False)),
            selection=Selection(
                _codes("select", table.get("select", [])),
                _codes("ignore", table.get("ignore", [])),
            ),
            per_file_ignores=_codes_by_pattern(
                "per-file-ignores", table.get("per-file-ignores", {})
            ),
            classes=imported_classes(_strings("class-from", table.get("class-from", []))),
        )
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _strings(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InputError(f"{key} must be a list of strings, not {quoted(value)}")
    return tuple(value)


def _patterns(lines: tuple[str, ...]) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(lines)


def _codes(key: str, value: object) -> tuple[str, ...]:
    return checked_codes(key, _strings(key, value))


def _codes_by_pattern(key: str, value: object) -> tuple[tuple[GitIgnoreSpec, tuple[str, ...]], ...]:
    if not isinstance(value, dict):
        raise InputError(f'{key} must be a table such as {{"tests/*" = ["DWS001"]}}')
    found = []
    for pattern, codes in value.items():
        found.append((_patterns((pattern,)), _codes(key, codes)))
    return tuple(found)


def _saving(key: str, value: object) -> float:
    # reason: true and false are numbers to Python, and a whole number may be too large for a float
    if (
        not isinstance(value, (int, float))
        or isinstance(value, bool)
        or not 1 <= value <= sys.float_info.max
    ):
        raise InputError(f"{key} must be a number from 1, not {quoted(value)}: less is no saving")
    return float(value)


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{key} must be true or false, not {quoted(value)}")
    return value
