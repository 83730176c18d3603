"""How far a run over many files is, on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from pytest_dwsconv import progress

_FEW = 20
"""So many files are done before anybody asks how long it takes."""

_DELAY = 1.0
"""Seconds before the bar is shown."""

Item = TypeVar("Item")


class Progress:
    """Shows how far a run is, after its first second."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._shown: progress.Progress | None = None

    def over(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        if not self._wanted or total <= _FEW:
            yield from items
            return
        with progress.Progress("", total, "file", delay=_DELAY, leave=False) as self._shown:
            for item in items:
                yield item
                self._shown.advance()

    def clear(self) -> None:
        """Take the bar away for a line that is to be printed; the next file shows it again."""
        if self._shown is not None:
            self._shown.clear()
