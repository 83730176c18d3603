"""Run a program that may hang or crash: in its own group, in limited time, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.errors import InputError


@dataclass(frozen=True)
class Finished:
    """How a program ended.

    ``status`` is its exit code, or minus the number of the signal that ended it.
    """

    status: int
    stdout: str
    stderr: str

    @property
    def printed(self) -> str:
        return self.stdout + self.stderr

    @property
    def ending(self) -> str:
        """Its end in words: "exit code 1", "ended by SIGSEGV"."""
        return ending(self.status) if self.status >= 0 else f"ended by {ending(self.status)}"


def ending(status: int) -> str:
    """A status in words: "exit code 1", or the name of the signal."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a signal that this system does not have
        return f"signal {-status}"


def run_within(
    seconds: float,
    command: Sequence[str | Path],
    folder: Path | None = None,
    *,
    shows_errors: bool = False,
) -> Finished:
    """Run ``command``, and kill it if it is not done in time.

    What it started and left running is killed too. It runs in ``folder`` if one is given. Its
    temporary files go there as well, so that they are gone with the folder however it ends. If it
    ``shows_errors``, its standard error is that of this process, as for progress, and not kept.

    Raises:
        TimeoutError: it was killed.
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)} if folder is not None else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if shows_errors else subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"not done after {seconds:g} s") from error
    finally:
        kill_all(process)
        if process.returncode is None:
            process.communicate()
    return Finished(process.returncode, stdout, stderr or "")


def last_line(text: str) -> str:
    """The last line that a program printed, without the empty ones."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


LONGEST = 10**6
"""The most seconds that a time limit may be: not every system can wait for longer."""


def check_seconds(seconds: float, name: str, what: str) -> None:
    """Check a time limit, the argument ``name``: the seconds that ``what``, as in "it may take".

    Raises:
        InputError: it is not a number above 0 and up to ``LONGEST``.
    """
    if isinstance(seconds, (int, float)) and 0 < seconds <= LONGEST:
        return
    raise InputError(
        f"{name} is {quoted(seconds)}; give the seconds that {what}, at most {LONGEST:,}"
    )


def kill_all(process: subprocess.Popen[Any]) -> None:
    """Kill a process that was started in a session of its own, and all that it started."""
    if os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):  # nothing of the group is left
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
