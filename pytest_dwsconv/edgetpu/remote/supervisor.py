"""The far end of a connection: runs the worker in a process, and reports how that ended.

Sent to the host as text by execnet, and run there alone: on Python 3.8 or newer, with nothing
installed. The worker may crash or hang.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def supervise(channel: Any) -> None:
    """Take one task off the channel, and answer with what the worker printed and how it ended.

    The task is ``loader`` (source text), ``modules`` and ``header`` (lines of JSON), ``model``
    (bytes) and ``limit`` (seconds). Anything else that comes kills the worker: the end of the
    connection does.
    """
    task = channel.receive()
    command = [sys.executable, "-u", "-c", task["loader"]]
    worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    channel.setcallback(lambda _: worker.kill(), endmarker=None)
    timed_out = False
    try:
        lines = "{modules}\n{header}\n".format_map(task).encode()
        printed, errors = worker.communicate(lines + task["model"], timeout=task["limit"])
    except subprocess.TimeoutExpired:
        timed_out = True
        worker.kill()
        printed, errors = worker.communicate()
    finally:
        worker.kill()
        worker.wait()
    channel.send(
        {
            "printed": printed.decode(errors="replace"),
            "errors": errors.decode(errors="replace")[-4000:],
            "status": worker.returncode,
            "timed_out": timed_out,
        }
    )


if __name__ == "__channelexec__":
    supervise(channel)  # type: ignore[name-defined]  # noqa: F821  # execnet puts it there
