"""Where the reports of a run go, as options and configuration say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_dwsconv.core.plaintext import plain, quoted
from pytest_dwsconv.errors import InputError


class Output(NamedTuple):
    """Where a report goes: its form, and a file, or None for the terminal."""

    form: str
    path: Path | None


def outputs(values: Sequence[str], folder: Path) -> list[Output]:
    """Where the report goes.

    Raises:
        pytest.UsageError: a value cannot be used, or two forms go to one file.
    """
    found = list(dict.fromkeys(_output(value, folder) for value in values))
    taken: dict[Path, str] = {}
    for form, path in found:
        if path is None or (path.exists() and not path.is_file()):  # a device takes several
            continue
        other = taken.setdefault(path.resolve(), form)
        if other != form:
            raise pytest.UsageError(
                f"dws-report: {other} and {form} both go to {path}; name two files"
            )
    return found


def _output(value: str, folder: Path) -> Output:
    from pytest_dwsconv.render import FILES_ONLY, FORMS, load_form

    form, colon, name = value.partition(":")
    if form not in FORMS or (colon and not name):
        raise pytest.UsageError(
            f"dws-report {value!r} is not {' or '.join(FORMS)}, with :PATH after it if wanted"
        )
    if form in FILES_ONLY and not name:
        raise pytest.UsageError(f"dws-report {value!r} goes to a file: write {form}:PATH")
    try:
        load_form(form)
    except InputError as error:
        raise pytest.UsageError(plain(f"dws-report {quoted(value)}: {error}")) from error
    path = folder / name if name else None
    try:
        writable = path is None or is_writable(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise pytest.UsageError(
            plain(f"dws-report {quoted(value)} cannot be written: {reason}; name another file")
        ) from error
    if not writable:
        raise pytest.UsageError(
            f"dws-report {value!r}: {path} cannot be written, name a file in an existing folder"
        )
    return Output(form, path)


def is_writable(path: Path) -> bool:
    """Whether a file could be written there.

    Raises:
        OSError: nothing there can have this name, which may be too long.
        ValueError: there is a NUL in it.
    """
    try:
        os.stat(path)  # reason: exists() is silent on such names from Python 3.14 on
    except (FileNotFoundError, NotADirectoryError):
        return path.parent.is_dir() and os.access(path.parent, os.W_OK)
    return not path.is_dir() and os.access(path, os.W_OK)
