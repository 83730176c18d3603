"""The files that the command is given: named, found in folders, or standard input."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_dwsconv.configuration import Config, Configs, Selection
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.source.folders import python_files

_NOTEBOOK = (
    "notebooks are not read: make a script of it, with jupyter nbconvert --to script, or rewrite "
    "the model in the notebook, with pytest_dwsconv.rewrite"
)


@dataclass(frozen=True)
class Input:
    """One file, or standard input (``path`` is None), by the name it is reported under.

    ``is_named``: on the command line, not found in a folder.
    """

    path: Path | None
    name: str
    config: Config
    is_named: bool = True

    @property
    def selection(self) -> Selection:
        """The codes that count in it."""
        return self.config.selection_for(self.path or Path(self.name))


class Search:
    """Finds the files; ``fail`` is told of what cannot be one, ``say`` of what need not be."""

    def __init__(
        self, stdin_name: str | None, fail: Callable[[str], None], say: Callable[[str], None]
    ) -> None:
        self._stdin_name = stdin_name
        self._fail = fail
        self._say = say
        self._configs = Configs()

    def inputs(self, names: Sequence[str]) -> Iterator[Input]:
        """Every file once, in the order given.

        Raises:
            InputError: a name cannot be that of a file, or settings cannot be used.
        """
        seen: set[Path] = set()
        for name in names:
            for found in self._found(name):
                if found.path is not None:
                    # reason: resolve() raises on a loop before Python 3.13
                    real = Path(os.path.realpath(found.path))
                    if real in seen:
                        continue
                    seen.add(real)
                yield found

    def _found(self, name: str) -> Iterator[Input]:
        if name == "-":
            place = Path.cwd()
            if self._stdin_name is not None:
                place = file_path(self._stdin_name).parent
            yield Input(None, self._stdin_name or "<stdin>", self._configs.of(place))
            return
        path = file_path(name)
        # reason: unlike Path.is_dir, it answers for a name that is too long as well
        if os.path.isdir(path):
            yield from self._in_folder(path, name)
        elif path.suffix == ".ipynb":
            self._fail(f"{name}: {_NOTEBOOK}")
        else:
            yield Input(path, name, self._configs.of(path.parent))

    def _in_folder(self, folder: Path, name: str) -> Iterator[Input]:
        excluded_by: Config | None = None
        found_some = False
        for file in python_files(folder, self._fail_to_read):
            config = self._configs.of(file.parent)
            if config.excludes(file):
                excluded_by = config
            else:
                found_some = True
                yield Input(file, str(file), config, is_named=False)
        if not found_some and excluded_by is not None:
            self._say(
                f"{name}: nothing to look at, exclude in {excluded_by.root / 'pyproject.toml'} "
                "leaves out every file"
            )
        elif not found_some:
            self._fail(f"{name}: there are no Python files in this folder, or git ignores them")

    def _fail_to_read(self, error: OSError) -> None:
        self._fail(f"{error.filename}: it cannot be read: {error.strerror}")


def file_path(name: str) -> Path:
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise InputError(f"{name} cannot be a file: its name cannot be encoded") from error
    if "\0" in name:
        raise InputError(f"{name} cannot be a file: there is a NUL in its name")
    return Path(name)
