"""A connection made by execnet of which every step has a time limit, and which leaves no process.

``execnet.Group.makegateway`` waits for the other end without a limit, and leaves the process that
it started behind if that fails. So its two steps are taken here one by one: a process, and a
gateway on its pipes.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import execnet
from execnet import gateway_base, gateway_bootstrap, gateway_io

from pytest_dwsconv.edgetpu.process import kill_all

PATIENCE = 2.0
"""Seconds that the local process may take to end by itself: it is the other Python, or ssh."""


class _Process(gateway_io.Popen2IOMaster):
    """The local process in a group of its own: the other Python may be a script that starts one."""

    def __init__(self, command: list[str]) -> None:
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        pipes = (self.popen.stdin, self.popen.stdout)
        gateway_base.Popen2IO.__init__(self, *pipes, execmodel=gateway_base.get_execmodel("thread"))

    def kill(self) -> None:
        kill_all(self.popen)


class Connection:
    """A Python that execnet's specification ``spec`` names, ready to run source text.

    Raises:
        TimeoutError: it was not ready in ``limit`` seconds.
        EOFError: it ended.
        OSError: the process cannot be started.
    """

    def __init__(self, spec: str, limit: float) -> None:
        parsed = execnet.XSpec(f"{spec}//id=edgetpu//execmodel=thread")
        self.closed = False
        self._gateway: execnet.Gateway | None = None
        self._io = _Process(
            gateway_io.popen_args(parsed) if parsed.popen else gateway_io.ssh_args(parsed)
        )
        with self._limited(limit):
            self._gateway = gateway_bootstrap.bootstrap(self._io, parsed)
            if self._io.popen.poll() is not None:
                raise EOFError(f"exit code {self._io.popen.returncode}")

    def exchange(self, source: str, item: dict[str, Any], limit: float) -> dict[str, Any]:
        """Run the source text there, send it the item, and return what it sends back.

        Any error ends the connection.

        Raises:
            TimeoutError: it sent nothing in ``limit`` seconds.
            EOFError, OSError: the connection broke.
            execnet.RemoteError: the source text raised an error.
        """
        assert self._gateway is not None
        with self._limited(limit):
            channel = self._gateway.remote_exec(source)
            channel.send(item)
            answer: dict[str, Any] = channel.receive()
            return answer

    def close(self) -> None:
        """Have the other end finish, and the local process with it."""
        self.closed = True
        with suppress(OSError):
            self._io.close_write()
        try:
            self._io.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._io.kill()
            self._io.wait()
        self._io.kill()  # what it started and left
        if self._gateway is None:
            self._io.close_read()
        else:
            self._gateway.join(PATIENCE)  # its thread reads to the end and closes the pipe

    @contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        """Kill the local process when the time is up.

        That wakes what reads from it or writes to it.
        """
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._io.kill()

        timer = threading.Timer(seconds, expire)
        timer.start()
        try:
            yield
        except BaseException as error:
            self._io.kill()
            self.close()
            if expired.is_set():
                raise TimeoutError(f"no answer in {seconds:g} s") from error
            raise
        finally:
            timer.cancel()
