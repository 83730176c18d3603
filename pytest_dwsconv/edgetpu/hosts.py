"""Where to measure: this host, another Python on it, or another host."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pytest_dwsconv.edgetpu.faults import EdgeTpuAbsentError, EdgeTpuError
from pytest_dwsconv.edgetpu.process import Finished, check_seconds, run_within
from pytest_dwsconv.errors import InputError

if TYPE_CHECKING:
    from pytest_dwsconv.edgetpu.remote.connection import Connection

KEYS = ("python", "ssh", "ssh_config", "check")
SSH_OPTIONS = (
    "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
)
"""Ask nothing, and give up on a host that is silent.

They come last, after the user's own: ssh takes the first value of an option that it sees.
"""

OLDEST_PYTHON = (3, 8)
GRACE = 15.0
"""Seconds that an answer may take beyond the worker's own limit, before the connection is cut."""

_REMOTE = "pytest_dwsconv.edgetpu.remote"
_WORKER = ("runtimes", "devices", "worker")  # each after those that it imports
_NAME_ONE = "name one, as in python=/usr/bin/python3"
_PROBE = "import sys; print('python', *sys.version_info[:2])"
_ANSWER = re.compile(r"^python (\d+) (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class HostSpec:
    """A host as an option names it: ``python=/path/python3.9``, ``ssh=pi@raspberrypi``, or both.

    The empty text is this host. ``python`` is a command: what a shell would divide is put in
    quotes. ``ssh`` may hold options of the ssh command, and ``ssh_config`` names a file of them.
    ``check=off`` measures there even with a libedgetpu and a TFLite runtime that are reported to
    crash together.
    """

    text: str = ""
    python: str = ""
    ssh: str = ""
    ssh_config: str = ""
    check: str = ""

    @classmethod
    def parse(cls, text: str) -> HostSpec:
        """Read ``KEY=VALUE//KEY=VALUE``.

        Raises:
            InputError: a key that is not known or comes twice, no value, a quote that is not
                closed, a character that no command can hold, ``ssh_config`` without ``ssh``, or a
                ``check`` that is not "off".
        """
        if not text.isprintable():
            raise InputError(
                f"{text!r:.80} is not a host: leave out the character that cannot be printed"
            )
        pairs = [part.partition("=")[::2] for part in text.split("//")] if text else []
        values = dict(pairs)
        if len(values) < len(pairs) or not all(values.values()) or not values.keys() <= set(KEYS):
            raise InputError(
                f"{text!r} is not a host: write python=/path/python3.9, ssh=pi@raspberrypi, or "
                "both separated by //"
            )
        if "ssh_config" in values and "ssh" not in values:
            raise InputError(f"{text!r} has an ssh_config and no ssh: add ssh=HOST")
        if values.get("check", "off") != "off":
            raise InputError(f"{text!r} has a check that is not off: write check=off, or leave it")
        try:
            shlex.split(values.get("python", ""))
        except ValueError as error:
            raise InputError(f"{text!r} has a quote that is not closed: close it") from error
        return cls(text, **values)

    def __str__(self) -> str:
        return self.text or "this host"

    @property
    def _interpreter(self) -> str:
        if self.python:
            return self.python
        return "python3" if self.ssh else shlex.quote(sys.executable)

    @property
    def execnet_spec(self) -> str:
        if not self.ssh:
            return f"popen//python={self._interpreter}"
        config = f"//ssh_config={self.ssh_config}" if self.ssh_config else ""
        return f"ssh={self.ssh} {SSH_OPTIONS}//python={self._interpreter}{config}"

    @property
    def probe(self) -> list[str]:
        """The command that prints the host's Python version, reached as execnet will."""
        if not self.ssh:
            return [*shlex.split(self._interpreter), "-c", _PROBE]
        config = ["-F", self.ssh_config] if self.ssh_config else []
        return [
            "ssh",
            *config,
            *self.ssh.split(),
            *SSH_OPTIONS.split(),
            f'{self._interpreter} -c "{_PROBE}"',
        ]


class Host:
    """A connection to a host, made when first used and again after it broke.

    Close it, or use it in a ``with``.

    Raises:
        InputError: ``spec`` does not name a host, or ``connect_limit`` is not a number of seconds.
    """

    def __init__(self, spec: str = "", connect_limit: float = 30.0) -> None:
        check_seconds(connect_limit, "connect_limit", "connecting may take")
        self.spec = HostSpec.parse(spec)
        self._connect_limit = connect_limit
        self._connection: Connection | None = None
        self.found: set[str] = set()
        """What was asked for and found here, as ``EdgeTpu`` takes it: if not listed, it is lost."""

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End what runs there, and leave nothing behind."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def run(self, header: str, model: bytes, limit: float) -> dict[str, Any]:
        """Run one task of the worker there, and return what its supervisor answers.

        Args:
            header: the task, a line of JSON.
            model: the bytes that follow it.
            limit: seconds that the worker may take.

        Raises:
            EdgeTpuAbsentError: the host cannot be reached.
            EdgeTpuError: its Python cannot be used, the connection broke, or there was no answer in
                time.
        """
        self.connect()
        assert self._connection is not None
        task = {
            "loader": _source("loader"),
            "modules": json.dumps({f"{_REMOTE}.{name}": _source(name) for name in _WORKER}),
            "header": header,
            "model": model,
            "limit": limit,
        }
        try:
            return self._connection.exchange(_source("supervisor"), task, limit + GRACE)
        except TimeoutError as error:
            raise EdgeTpuError(
                f"{self.spec} gave no answer in {limit + GRACE:g} s and the connection was cut: "
                "see whether it is awake",
                "timeout",
            ) from error
        except (EOFError, OSError) as error:
            raise EdgeTpuError(
                f"the connection to {self.spec} broke while it measured: see whether the host is "
                "up, and measure again",
                "connection",
            ) from error
        except Exception as error:  # the supervisor's own, as execnet reports it
            reason = str(error).strip().splitlines()[-1]
            raise EdgeTpuError(
                f"{self.spec} cannot run the worker ({reason}): see whether it is out of memory",
                "worker",
            ) from error
        finally:
            if self._connection.closed:
                self._connection = None

    def connect(self) -> None:
        """Connect, unless connected; ``run`` does so itself.

        Raises:
            EdgeTpuAbsentError: the host cannot be reached, or execnet is not installed.
            EdgeTpuError: its Python cannot be used.
        """
        if self._connection is not None:
            return
        if find_spec("execnet") is None:
            raise _no_host(
                "measuring needs execnet, which is not installed: pip install "
                "'pytest-dwsconv[measure]'"
            )
        self._check_python(self._probed())
        from pytest_dwsconv.edgetpu.remote.connection import Connection

        try:
            self._connection = Connection(self.spec.execnet_spec, self._connect_limit)
        except Exception as error:  # of execnet's own kinds too
            raise _no_host(
                f"{self.spec} answered once and not again ({error!r}): see whether it is up"
            ) from error

    def _probed(self) -> Finished:
        """What the host answers, within a time limit, which execnet does not have."""
        try:
            done = run_within(self._connect_limit, self.spec.probe)
        except TimeoutError as error:
            raise _no_host(
                f"{self.spec} did not answer in {self._connect_limit:g} s: see whether it is up "
                "and its Python starts"
            ) from error
        except OSError as error:
            if self.spec.ssh:
                raise _no_host(
                    f"{self.spec} cannot be reached: {error.strerror}: {error.filename}; install "
                    "an ssh client"
                ) from error
            raise _no_python(
                f"{self.spec} cannot be used: {error.strerror}: {error.filename}; name a Python "
                "that starts, in quotes if there is a space in its path"
            ) from error
        if self.spec.ssh and done.status == 255:  # ssh's own; others are the Python's
            raise _no_host(
                f"{self.spec} cannot be reached ({_last(done)}): see that 'ssh {self.spec.ssh}' "
                "works without a question"
            )
        return done

    def _check_python(self, done: Finished) -> None:
        if done.status:
            raise _no_python(f"{self.spec} has no Python that starts ({_last(done)}): {_NAME_ONE}")
        printed = done.stdout.strip()
        found = _ANSWER.search(printed)
        if found is None:
            raise _no_python(
                f"{self.spec} is not a Python interpreter, it printed {printed[:80]!r}: {_NAME_ONE}"
            )
        if found.group() != printed:
            raise _no_python(
                f"{self.spec} prints {printed[:80]!r} of its own accord: have the start-up files "
                "of its shell print nothing"
            )
        if tuple(map(int, found.groups())) < OLDEST_PYTHON:
            raise _no_python(
                f"{self.spec} has Python {'.'.join(found.groups())} and needs 3.8 or newer: "
                f"{_NAME_ONE}"
            )


def _last(done: Finished) -> str:
    """The last line of its errors, or else how it ended."""
    return (done.stderr.strip().splitlines() or [done.ending])[-1]


def _no_host(message: str) -> EdgeTpuAbsentError:
    return EdgeTpuAbsentError(message, "host")


def _no_python(message: str) -> EdgeTpuError:
    return EdgeTpuError(message, "python")


def _source(module: str) -> str:
    return (files(_REMOTE) / f"{module}.py").read_text(encoding="utf-8")
