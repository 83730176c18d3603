"""A process of its own for what runs the user's file, which may crash, hang or exit."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from pytest_dwsconv.core.plaintext import plain, quoted
from pytest_dwsconv.edgetpu.process import Finished, last_line, run_within
from pytest_dwsconv.errors import DwsconvError, TargetError

P = ParamSpec("P")
T = TypeVar("T")

SECONDS = 600.0
"""How long a file may take to be imported, and its model to be built and to run once."""

_JOB, _RESULT = "job", "result"
_SERVE = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve({folder!r})"


class Child:
    """Runs jobs on one file, each in a new process; ``show`` gets what that prints.

    One that ``tells_progress`` has this process's standard error.
    """

    def __init__(
        self,
        path: Path,
        show: Callable[[str], None],
        seconds: float = SECONDS,
        tells_progress: bool = False,
    ) -> None:
        self._path = path
        self._show = show
        self._seconds = seconds
        self._tells_progress = tells_progress

    def call(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``job`` gives, a function of a module, for arguments that can be pickled.

        Raises:
            TargetError: the process was ended, by whatever the file did, or was not done in time.
            DwsconvError: as the job raises it.
        """
        with tempfile.TemporaryDirectory(prefix="dwsconv-") as folder:
            Path(folder, _JOB).write_bytes(pickle.dumps((job, args, kwargs)))
            finished = self._run(folder)
            for line in finished.printed.splitlines():
                self._show(line)
            try:
                result = pickle.loads(Path(folder, _RESULT).read_bytes())
            except FileNotFoundError as error:
                said = f": {last_line(finished.stderr)}" if finished.stderr.strip() else ""
                raise TargetError(
                    f"running {quoted(str(self._path))} ended its process "
                    f"({finished.ending}{plain(said)}); nothing is written"
                ) from error
        if isinstance(result, DwsconvError):
            raise result
        done: T = result
        return done

    def _run(self, folder: str) -> Finished:
        code = _SERVE.format(path=sys.path, module=__name__, folder=folder)
        options = [
            f"-X{name}" if value is True else f"-X{name}={value}"
            for name, value in sys._xoptions.items()
        ]
        try:
            command = [sys.executable, *options, "-c", code]
            return run_within(self._seconds, command, shows_errors=self._tells_progress)
        except TimeoutError as error:
            raise TargetError(
                f"running {quoted(str(self._path))} was {error}: does it train, or wait for "
                "something, when it is imported? Nothing is written"
            ) from error


def serve(folder: str) -> None:
    """Run the job in this folder, and leave there what it gives or raises."""
    job, args, kwargs = pickle.loads(Path(folder, _JOB).read_bytes())
    try:
        result = job(*args, **kwargs)
    except DwsconvError as error:
        result = error.with_traceback(None)
    Path(folder, _RESULT).write_bytes(pickle.dumps(result))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # reason: a thread that the file has started would keep the process alive
