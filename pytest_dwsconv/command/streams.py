"""Standard input, output and error: what cannot be read or written is told in one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.errors import DwsconvError, SourceError


class OutputError(DwsconvError):
    """A standard stream cannot be written."""


def read_stdin() -> bytes:
    if sys.stdin is None:
        raise SourceError("standard input is closed: give the path of a file, or send text to it")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise SourceError(f"it cannot be read: {error.strerror}") from error


def write_stdout(data: bytes) -> None:
    """As bytes: a result keeps its own encoding and line ends."""
    with output("standard output"):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def flush_stdout() -> None:
    if sys.stdout is not None:
        with output("standard output"):
            sys.stdout.flush()


@contextmanager
def output(name: str) -> Iterator[None]:
    """Tell what cannot be written in one sentence; a reader that left is not a fault."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{name} cannot be written: {error.strerror}") from error


def complain(message: str, program: str = "dwsconv-rewrite") -> None:
    # reason: where it cannot be written, nobody is left to be told
    with suppress(OSError):
        print(f"{program}: {plain(message)}", file=sys.stderr)


def drop_unwritten() -> None:
    """Flush the streams; let go what cannot be written, for the exit would try once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
