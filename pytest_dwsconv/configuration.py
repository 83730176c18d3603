"""The settings in ``[tool.dwsconv]`` of the nearest ``pyproject.toml``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.core.rules import Policy
from pytest_dwsconv.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Config:
    """``exclude``: shell-style patterns on paths below ``root``, the folder of their file."""

    root: Path
    exclude: tuple[str, ...] = ()
    min_saving: float = 1.0
    few_channels: bool = False

    @property
    def policy(self) -> Policy:
        return Policy(min_saving=self.min_saving, few_channels=self.few_channels)

    def excludes(self, path: Path) -> bool:
        """Whether a pattern fits the path, a folder it lies in, or the bare name of either."""
        # reason: resolve() raises on a loop of links before Python 3.13
        absolute = Path(os.path.realpath(path))
        if not absolute.is_relative_to(self.root):
            return False
        relative = absolute.relative_to(self.root)
        names = [relative, *relative.parents][:-1]
        return any(
            fnmatchcase(name.as_posix(), pattern.rstrip("/"))
            or fnmatchcase(name.name, pattern.rstrip("/"))
            for name in names
            for pattern in self.exclude
        )


def load_config(start: Path) -> Config:
    """The settings for a file or folder: those of the first ``pyproject.toml`` on the way up.

    Raises:
        InputError: the file is not TOML, or a setting is not known or of the wrong type.
    """
    start = Path(os.path.realpath(start))
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        # reason: unlike Path.is_file, it answers for a folder that cannot be read as well
        if os.path.isfile(file):
            return _config(folder, _table(file), file)
    return Config(start)


def _table(file: Path) -> Mapping[str, object]:
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
    table = tools.get("dwsconv", {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise InputError(f"{file}: tool.dwsconv must be a table, [tool.dwsconv]")
    return table


def _config(root: Path, table: Mapping[str, object], file: Path) -> Config:
    for key in table:
        if key not in ("exclude", "min-saving", "few-channels"):
            raise InputError(
                f"{file}: [tool.dwsconv] has no setting {quoted(key)}; there are exclude, "
                "min-saving and few-channels"
            )
    exclude, saving = table.get("exclude", []), table.get("min-saving", 1.0)
    if not isinstance(exclude, list) or not all(isinstance(pattern, str) for pattern in exclude):
        raise InputError(f"{file}: exclude must be a list of strings, not {quoted(exclude)}")
    # reason: true and false are numbers to Python, and a whole number may be too large for a float
    if (
        not isinstance(saving, (int, float))
        or isinstance(saving, bool)
        or not 1 <= saving <= sys.float_info.max
    ):
        raise InputError(
            f"{file}: min-saving must be a number from 1, not {quoted(saving)}: less is no saving"
        )
    few = table.get("few-channels", False)
    if not isinstance(few, bool):
        raise InputError(f"{file}: few-channels must be true or false, not {quoted(few)}")
    return Config(root, tuple(exclude), float(saving), few)
