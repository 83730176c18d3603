"""Source files on disk: read with their encoding and line ends, written at one stroke, found in
folders.
"""

from __future__ import annotations

import difflib
import io
import os
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_dwsconv.errors import SourceError
from pytest_dwsconv.writing import replace_content

_NOT_SOURCE = frozenset({"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"})


@dataclass(frozen=True)
class SourceText:
    """Text as it stands in the file, line ends included, and the encoding that makes it bytes
    again.
    """

    text: str
    encoding: str

    def encode(self, text: str) -> bytes:
        return text.encode(self.encoding)

    def diff(self, text: str, name: str) -> bytes:
        """Unified diff to another text, empty where there is none; fit for ``patch -p0``."""
        before, after = _lines(self.encode(self.text)), _lines(self.encode(text))
        # the tab is where patch takes the name to end
        label = os.fsencode(name) + b"\t" * (" " in name)
        lines = difflib.diff_bytes(difflib.unified_diff, before, after, label, label)
        return b"".join(
            line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"
            for line in lines
        )


def _lines(data: bytes) -> list[bytes]:
    """Lines as ``patch`` counts them: by line feed only."""
    return list(io.BytesIO(data))


def decode(data: bytes) -> SourceText:
    """Decode by byte order mark or coding comment, UTF-8 without (PEP 263).

    Raises:
        SourceError: the bytes do not fit the encoding, it does not exist, or would not give the
            same bytes again.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        source = SourceText(data.decode(encoding), encoding)
        same = source.encode(source.text) == data
    except SyntaxError as error:
        raise SourceError(f"its encoding cannot be told: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"it is not {error.encoding} text (byte {error.start}); name its encoding in a coding "
            "comment"
        ) from error
    except (LookupError, UnicodeError) as error:
        raise SourceError(f"its encoding cannot be told: {error}") from error
    if not same:
        raise SourceError(
            f"its encoding, {encoding}, would not keep it as it is: save it as UTF-8 first"
        )
    return source


def read(path: Path) -> SourceText:
    """Raises SourceError where there is no such file, or it cannot be read or decoded."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError as error:
        raise SourceError("there is no such file") from error
    except OSError as error:
        raise SourceError(f"it cannot be read: {error.strerror or error}") from error


def write(path: Path, data: bytes) -> None:
    """Replace the file's content, all or nothing.

    Raises:
        SourceError: the file is read-only, or cannot be written for another reason.
    """
    try:
        replace_content(path, data)
    except OSError as error:
        raise SourceError(f"it cannot be written: {error.strerror or error}") from error


def python_files(folder: Path) -> Iterator[Path]:
    """The ``*.py`` files below a folder in sorted order; hidden, built and installed ones are left
    out.
    """
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_skipped(Path(root, name)))
        yield from (
            Path(root, name) for name in sorted(files) if name.endswith(".py") and name[0] != "."
        )


def _is_skipped(folder: Path) -> bool:
    hidden_or_built = folder.name.startswith(".") or folder.name in _NOT_SOURCE
    return hidden_or_built or folder.name.endswith(".egg-info") or (folder / "pyvenv.cfg").exists()
