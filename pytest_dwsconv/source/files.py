"""Source files on disk: kept to the byte, and written at one stroke."""

from __future__ import annotations

import difflib
import io
import os
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.errors import SourceError
from pytest_dwsconv.writing import replace_content


class AccessError(SourceError):
    """The system does not let the file be read or written."""


@dataclass(frozen=True)
class SourceText:
    """Text as it stands in the file, line ends included, and its encoding."""

    text: str
    encoding: str

    def encode(self, text: str) -> bytes:
        return text.encode(self.encoding)

    def diff(self, text: str, name: str) -> bytes:
        """Unified diff to another text, empty where there is none; fit for ``patch -p0``."""
        before, after = _lines(self.encode(self.text)), _lines(self.encode(text))
        # a name may hold a line end, or what a terminal obeys; else it has to stay as it is
        shown = re.sub(r"[\x00-\x1f\x7f]", lambda match: plain(match[0]), name)
        # the tab is where patch takes the name to end
        label = os.fsencode(shown) + b"\t" * (" " in name)
        lines = []
        for line in difflib.diff_bytes(difflib.unified_diff, before, after, label, label):
            lines.append(line)
            if not line.endswith(b"\n"):
                lines.append(b"\n\\ No newline at end of file\n")
        return b"".join(lines)


def _lines(data: bytes) -> list[bytes]:
    """Lines as ``patch`` counts them: by line feed only."""
    return list(io.BytesIO(data))


def decode(data: bytes) -> SourceText:
    """Decode by byte order mark or coding comment, as UTF-8 if there is none (PEP 263).

    Raises:
        SourceError: the bytes do not fit the encoding, it does not exist, or it would not give the
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
    """Read a file; SourceError if there is none or it cannot be decoded, else AccessError."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError as error:
        raise SourceError("there is no such file") from error
    except OSError as error:
        raise AccessError(f"it cannot be read: {error.strerror or error}") from error


def write(path: Path, data: bytes) -> None:
    """Replace the file's content, all or nothing.

    Raises:
        AccessError: the file is read-only, or cannot be written for another reason.
    """
    try:
        replace_content(path, data)
    except OSError as error:
        raise AccessError(f"it cannot be written: {error.strerror or error}") from error
