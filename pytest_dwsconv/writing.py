"""Files written at one stroke: what they held is there until the new content is."""

from __future__ import annotations

import errno
import io
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from pytest_dwsconv.interrupts import uninterrupted


def replace_content(path: Path, data: bytes) -> None:
    """Replace the file's content, all or nothing.

    Its mode, owner and links stay. A device or a pipe is written to.
    Ctrl-C comes before or after: a file is whole, and nothing lies beside it.

    Raises:
        OSError: the file is read-only, or cannot be written for another reason.
    """
    status = _status(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        path.write_bytes(data)  # reason: a pipe may never be read, so this can be interrupted
        return
    with uninterrupted():
        _write_file(Path(os.path.realpath(path)), status, data)


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except ValueError as error:  # NUL, or what the file system's encoding lacks
        raise OSError(errno.EINVAL, "it is not the name of a file", str(path)) from error


def _write_file(target: Path, status: os.stat_result | None, data: bytes) -> None:
    if status is None:
        _replace(target, data, 0o666 & ~_mask())
        return
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o222 or not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is read-only", str(target))
    alone = status.st_nlink == 1 and os.access(target.parent, os.W_OK)
    if not alone or not _replace(target, data, mode, (status.st_uid, status.st_gid)):
        _overwrite(target, data)


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _replace(target: Path, data: bytes, mode: int, owner: tuple[int, int] | None = None) -> bool:
    """Put a new file in the place of the old one; False, with nothing done, where that cannot be.

    It cannot where the new file would have another owner, and where the old one is mounted by
    itself.
    """
    # reason: a name made of the target's own may be too long for the file system
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".dwsconv-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        if owner is not None and not _give(temporary, owner):
            os.unlink(temporary)
            return False
        # reason: after the owner, whose change takes the set-user bit off
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException as error:
        # reason: an exception that a signal's handler raises may come after the replacement
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno == errno.EBUSY:
            return False
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
    """Write into the file itself, which has to stay; on failure it gets its old content back."""
    old = target.read_bytes()
    # reason: unlike "wb", it keeps the space that the old content needs
    with target.open("r+b", buffering=0) as file:
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
