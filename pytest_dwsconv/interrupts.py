"""Ctrl-C: deferred while work must not be cut short, and told from other errors."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType


class _DeferredInterrupt:
    """A handler of Ctrl-C that keeps it for later, except where it is entered as a context."""

    def __init__(self, handler: Callable[[int, FrameType | None], object]) -> None:
        self.handler = handler
        self.defers = True
        self._signals: list[tuple[int, FrameType | None]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._signals.append((number, frame))
        if not self.defers:
            self.deliver()

    def deliver(self) -> None:
        """Hand over what has come, and from now on what comes."""
        self.defers = False
        if self._signals:
            last = self._signals.pop()
            self._signals.clear()
            self.handler(*last)

    def __enter__(self) -> None:
        self.deliver()

    def __exit__(self, *_: object) -> None:
        self.defers = True


@contextmanager
def uninterrupted() -> Iterator[AbstractContextManager[None]]:
    """Defer Ctrl-C until the block is over, or until the context that it is given is entered.

    Threads other than the main one are not interrupted anyway, and a handler that is not a function
    of Python is left in place.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield nullcontext()
        return
    deferred = _DeferredInterrupt(handler)
    try:
        signal.signal(signal.SIGINT, deferred)
        yield deferred
    finally:
        signal.signal(signal.SIGINT, handler)
        deferred.deliver()


def interrupted(error: BaseException, handled: BaseException | None) -> bool:
    """Whether an error is Ctrl-C, or came while it was under way because a clean-up failed.

    ``handled`` is what the caller was dealing with before.
    """
    behind: BaseException | None = error
    while behind is not None and behind is not handled:
        if isinstance(behind, KeyboardInterrupt):
            return True
        behind = behind.__context__
    return False


def release_frames(error: BaseException) -> None:
    """Let go of the variables of interrupted code.

    Among them may be context managers that were about to be left: they act when they are released,
    and would change modes after those have been put back.
    """
    behind: BaseException | None = error
    while behind is not None:
        traceback.clear_frames(behind.__traceback__)
        behind = behind.__context__
