"""Ctrl-C and SIGTERM while the command runs: none is lost, and nothing is left behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None

_DEFAULTS: Mapping[signal.Signals, _Handler] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class Interrupts:
    """Keeps note of Ctrl-C, as a context around a run; leaving it raises a lost KeyboardInterrupt.

    Python drops an exception that is raised in a callback, and libcst makes other errors of one,
    or carries on with half a tree. SIGTERM is treated alike, so that temporary folders and child
    processes go; the KeyboardInterrupt has the number of the signal.
    """

    def __init__(self) -> None:
        self._noted = 0
        self._installed: list[signal.Signals] = []

    def __enter__(self) -> Interrupts:
        # reason: one that is ignored, as in the background, or handled by a caller stays so; and
        # only the main thread may set a handler
        notes = {signal.SIGINT: self._note, signal.SIGTERM: self._note_end}
        for number, default in _DEFAULTS.items():
            if signal.getsignal(number) is default:
                try:
                    signal.signal(number, notes[number])
                except ValueError:
                    return self
                self._installed.append(number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in self._installed:
            signal.signal(number, _DEFAULTS[number])
        if not isinstance(error, KeyboardInterrupt):
            self.check()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = self._noted or number
        raise KeyboardInterrupt(self._noted)

    def _note_end(self, number: int, frame: FrameType | None) -> None:
        self._noted = number
        handler = signal.getsignal(signal.SIGINT)
        # reason: where Ctrl-C is deferred, so is this
        (handler if callable(handler) else self._note)(number, frame)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C has been pressed, whatever became of it."""
        if self._noted:
            raise KeyboardInterrupt(self._noted)
