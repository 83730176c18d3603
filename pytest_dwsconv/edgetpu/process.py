"""Run a program that may hang or crash: in a group of its own, within a time limit, leaving nothing
behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finished:
    """How a program ended. ``status`` is its exit code, or minus the number of the signal that
    ended it.
    """

    status: int
    stdout: str
    stderr: str

    @property
    def ending(self) -> str:
        """Its end in words."""
        if self.status >= 0:
            return f"exit code {self.status}"
        try:
            return f"ended by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"ended by signal {-self.status}"


def run_within(
    seconds: float, command: Sequence[str | Path], folder: Path | None = None
) -> Finished:
    """Run ``command``; it is killed if it is not done in time, and so is all it started that
    outlives it.

    It runs in ``folder`` if there is one. Its temporary files go there too, so that they are gone
    with the folder however it ends.

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
        stderr=subprocess.PIPE,
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
    return Finished(process.returncode, stdout, stderr)


def kill_all(process: subprocess.Popen[Any]) -> None:
    """Kill a process that was started in a session of its own, and what it started, which may
    outlive it.
    """
    if os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):  # nothing of the group is left
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
