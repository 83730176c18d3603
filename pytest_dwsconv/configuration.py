"""The settings in ``[tool.dwsconv]`` of the nearest ``pyproject.toml`` that has that table."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from pytest_dwsconv.core.conv import Order
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.core.rules import RULEBOOK
from pytest_dwsconv.errors import InputError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

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
_CLASS = re.compile(r"((?:[^\W\d]\w*\.)*[^\W\d]\w*):([^\W\d]\w*?)([123]d)?")


@dataclass(frozen=True)
class Selection:
    """Codes or their beginnings (``DWS2``). An empty ``select`` takes all; ``ignore`` goes first.

    What is not selected is not listed; without DWS001 nothing is rewritten.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __contains__(self, code: str) -> bool:
        if code.startswith(self.ignore):
            return False
        return not self.select or code.startswith(self.select)


class ImportedClass(NamedTuple):
    """A class of the user's own, imported where a class would be inserted."""

    module: str
    name: str

    def is_home(self, path: PurePath) -> bool:
        """Whether the file is the module that has the class."""
        parts = [*path.parts[:-1], path.stem] if path.stem != "__init__" else path.parts[:-1]
        module = self.module.split(".")
        return list(parts[-len(module) :]) == module


@dataclass(frozen=True)
class Config:
    """``exclude``: patterns as in ``.gitignore``, on paths below ``root``, their file's folder.

    ``per_file_ignores`` has codes by such patterns; what follows ``guards`` only options
    change.
    """

    root: Path
    exclude: tuple[str, ...] = ()
    min_saving: float = 1.0
    few_channels: bool = False
    selection: Selection = field(default_factory=Selection)
    per_file_ignores: tuple[tuple[str, tuple[str, ...]], ...] = ()
    classes: Mapping[int, ImportedClass] = field(default_factory=dict)
    guards: bool = True
    depth_multiplier: int = 1
    order: Order = Order.DEPTHWISE_FIRST

    @property
    def policy(self) -> Policy:
        return Policy(
            depth_multiplier=self.depth_multiplier,
            order=self.order,
            min_saving=self.min_saving,
            few_channels=self.few_channels,
        )

    def excludes(self, path: Path) -> bool:
        """Whether a pattern fits the path, or a folder that it lies in."""
        return self._fits(self.exclude, path)

    def selection_for(self, path: Path) -> Selection:
        """The codes that count in a file."""
        ignored = self.selection.ignore
        for pattern, codes in self.per_file_ignores:
            if self._fits((pattern,), path):
                ignored += codes
        return replace(self.selection, ignore=ignored)

    def _fits(self, patterns: tuple[str, ...], path: Path) -> bool:
        # reason: resolve() raises on a loop of links before Python 3.13
        absolute = Path(os.path.realpath(path))
        if not patterns or not absolute.is_relative_to(self.root):
            return False
        return ignore_spec(patterns).match_file(absolute.relative_to(self.root).as_posix())


def load_config(folder: Path) -> Config:
    """The settings of one folder, as ``Configs.of``."""
    return Configs().of(folder)


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
            exclude=_patterns("exclude", table.get("exclude", [])),
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


@cache
def ignore_spec(patterns: tuple[str, ...]) -> GitIgnoreSpec:
    """Patterns as in ``.gitignore``; a later one goes before an earlier one.

    Raises:
        InputError: one cannot be read.
    """
    # reason: the plugin reads settings too, and most have no patterns
    from pathspec import GitIgnoreSpec

    with warnings.catch_warnings():
        # reason: some patterns become regular expressions that re warns of
        warnings.simplefilter("ignore")
        for pattern in patterns:
            try:
                GitIgnoreSpec.from_lines([pattern])
            except (ValueError, re.error) as error:
                raise InputError(f"{quoted(pattern)} is not a pattern: {error}") from error
        return GitIgnoreSpec.from_lines(patterns)


def _patterns(key: str, value: object) -> tuple[str, ...]:
    patterns = _strings(key, value)
    ignore_spec(patterns)
    return patterns


def _codes(key: str, value: object) -> tuple[str, ...]:
    return checked_codes(key, _strings(key, value))


def _codes_by_pattern(key: str, value: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not isinstance(value, dict):
        raise InputError(f'{key} must be a table such as {{"tests/*" = ["DWS001"]}}')
    found = []
    for pattern, codes in value.items():
        ignore_spec((pattern,))
        found.append((pattern, _codes(key, codes)))
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


def checked_codes(asked_by: str, given: Iterable[str]) -> tuple[str, ...]:
    """Codes, which may be separated by commas.

    Raises:
        InputError: one is not the beginning of a code.
    """
    codes: list[str] = []
    for each in given:
        codes += [code.strip().upper() for code in each.split(",") if code.strip()]
    for code in codes:
        if not any(known.startswith(code) for known in RULEBOOK):
            raise InputError(
                f"{asked_by}: there is no code {quoted(code)}; there are {', '.join(RULEBOOK)}, "
                "and beginnings such as DWS2"
            )
    return tuple(codes)


def imported_classes(given: Sequence[str]) -> dict[int, ImportedClass]:
    """Classes named as ``pkg.layers:Name2d``, by the dimensions that the name ends in, 2 if none.

    Raises:
        InputError: one is not named like that, or two are for the same dimensions.
    """
    found: dict[int, ImportedClass] = {}
    for text in given:
        match = _CLASS.fullmatch(text)
        if match is None:
            raise InputError(
                f"class-from takes a module and a class, as in pkg.layers:SeparableConv2d, not "
                f"{quoted(text)}"
            )
        module, name, dimensions = match.groups()
        rank = int(dimensions[0]) if dimensions else 2
        if rank in found:
            raise InputError(f"class-from names two classes for {rank} dimensions")
        found[rank] = ImportedClass(module, f"{name}{dimensions or ''}")
    return found
