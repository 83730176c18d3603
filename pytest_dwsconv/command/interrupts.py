"""Ctrl-C while the command runs: none is lost."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Interrupts:
    """Keeps note of Ctrl-C, as a context around a run; leaving it raises a lost KeyboardInterrupt.

    Python drops an exception that is raised in a callback, and libcst makes other errors of one,
    or carries on with half a tree.
    """

    def __init__(self) -> None:
        self._noted = False
        self._installed = False

    def __enter__(self) -> Interrupts:
        # reason: one that is ignored, as in the background, or handled by a caller stays so; and
        # only the main thread may set a handler
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                signal.signal(signal.SIGINT, self._note)
            except ValueError:
                return self
            self._installed = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if not isinstance(error, KeyboardInterrupt):
            self.check()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C has been pressed, whatever became of it."""
        if self._noted:
            raise KeyboardInterrupt
