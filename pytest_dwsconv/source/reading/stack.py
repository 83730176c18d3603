"""A larger stack, for code that is nested as deeply as Python itself takes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")

_FRAMES = 20_000
"""What a chain of 1,000 calls needs, several times over."""

_BYTES = 256 * 2**20
"""More than that many frames need; memory is taken only as the stack grows."""


def with_large_stack(function: Callable[[], Result]) -> Result:
    """Call the function in a thread of its own, with ten times the usual recursion limit.

    Raises:
        RecursionError: that is not enough either. Python 3.12 has a limit for calls through C that
            cannot be set: there some 700 nested expressions are as many as can be read.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # raised below, in the thread that waits
            future.set_exception(error)

    limit, size = sys.getrecursionlimit(), threading.stack_size(_BYTES)
    sys.setrecursionlimit(max(limit, _FRAMES))
    try:
        # reason: Ctrl-C ends the waiting, and need not wait for the thread
        threading.Thread(target=run, daemon=True).start()
        return future.result()
    finally:
        threading.stack_size(size)
        sys.setrecursionlimit(limit)
