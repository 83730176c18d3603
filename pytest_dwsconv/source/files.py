"""Source files on disk: read with their encoding and line ends, written at one stroke, found in folders."""

from __future__ import annotations

import difflib
import io
import os
import stat
import tempfile
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_dwsconv.errors import SourceError

_NOT_SOURCE = frozenset({"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"})


@dataclass(frozen=True)
class SourceText:
    """Text as it stands in the file, line ends included, and the encoding that makes it bytes again."""

    text: str
    encoding: str

    def encode(self, text: str) -> bytes:
        return text.encode(self.encoding)

    def diff(self, text: str, name: str) -> bytes:
        """Unified diff to another text, empty where there is none; fit for ``patch -p0``."""
        before, after = _lines(self.encode(self.text)), _lines(self.encode(text))
        label = name.encode()
        lines = difflib.diff_bytes(difflib.unified_diff, before, after, label, label)
        return b"".join(line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n" for line in lines)


def _lines(data: bytes) -> list[bytes]:
    """Lines as ``patch`` counts them: by line feed only."""
    return list(io.BytesIO(data))


def decode(data: bytes) -> SourceText:
    """Decode by byte order mark or coding comment, UTF-8 without (PEP 263).

    Raises:
        SourceError: the bytes do not fit the encoding, or it does not exist.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return SourceText(data.decode(encoding), encoding)
    except SyntaxError as error:
        raise SourceError(f"its encoding cannot be told: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"it is not {error.encoding} text (byte {error.start}); name its encoding in a coding comment"
        ) from error


def read(path: Path) -> SourceText:
    """Raises SourceError where there is no such file, or it cannot be read or decoded."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError as error:
        raise SourceError("there is no such file") from error
    except OSError as error:
        raise SourceError(f"it cannot be read: {error.strerror or error}") from error


def write(path: Path, data: bytes) -> None:
    """Replace the file's content, all or nothing. Its mode, owner and links stay; a device or a pipe is written to.

    Raises:
        SourceError: the file is read-only, or its folder cannot be written to.
    """
    try:
        status = _status(path)
        if status is not None and not stat.S_ISREG(status.st_mode):
            path.write_bytes(data)
        else:
            _write_file(Path(os.path.realpath(path)), status, data)
    except OSError as error:
        raise SourceError(f"it cannot be written: {error.strerror or error}") from error


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _write_file(target: Path, status: os.stat_result | None, data: bytes) -> None:
    if status is None:
        _replace(target, data, 0o666 & ~_mask())
        return
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o222 or not os.access(target, os.W_OK):
        raise SourceError("it is read-only")
    if status.st_nlink > 1 or not _replace(target, data, mode, (status.st_uid, status.st_gid)):
        _overwrite(target, data)


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _replace(target: Path, data: bytes, mode: int, owner: tuple[int, int] | None = None) -> bool:
    """Put a new file in the place of the old one; False, with nothing done, where it cannot have the same owner."""
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        if owner is not None and not _give(temporary, owner):
            os.unlink(temporary)
            return False
        os.chmod(temporary, mode)  # reason: after the owner, whose change takes the set-user bit off
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return True


def _give(file: str, owner: tuple[int, int]) -> bool:
    status = os.stat(file)
    if (status.st_uid, status.st_gid) == owner:
        return True
    try:
        os.chown(file, *owner)
    except PermissionError:
        return False
    return True


def _overwrite(target: Path, data: bytes) -> None:
    """Write into the file itself, which has other names or another owner; on failure it gets its old content back."""
    old = target.read_bytes()
    with target.open("r+b", buffering=0) as file:  # reason: unlike "wb", it keeps the space that the old content needs
        try:
            _fill(file, data)
        except BaseException:
            _fill(file, old)
            raise


def _fill(file: io.FileIO, data: bytes) -> None:
    file.seek(0)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    file.truncate()


def python_files(folder: Path) -> Iterator[Path]:
    """The ``*.py`` files below a folder in sorted order; hidden, built and installed ones are left out."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_skipped(Path(root, name)))
        yield from (Path(root, name) for name in sorted(files) if name.endswith(".py") and name[0] != ".")


def _is_skipped(folder: Path) -> bool:
    hidden_or_built = folder.name.startswith(".") or folder.name in _NOT_SOURCE
    return hidden_or_built or folder.name.endswith(".egg-info") or (folder / "pyvenv.cfg").exists()
