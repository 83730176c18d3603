"""A bar on standard error while many files are looked at, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

_FEW = 20
"""So many files are done before anybody asks how long it takes."""

_DELAY = 1.0
"""Seconds before the bar is shown."""

Item = TypeVar("Item")


class Progress:
    """Shows how far a run is, after its first second."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted and sys.stderr is not None and sys.stderr.isatty()
        self._bar: tqdm[NoReturn] | None = None

    def over(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        if not self._wanted or total <= _FEW:
            yield from items
            return
        from tqdm import tqdm

        with tqdm(total=total, unit="file", delay=_DELAY, leave=False, file=sys.stderr) as bar:
            self._bar = bar
            try:
                for item in items:
                    yield item
                    bar.update()
            finally:
                self._bar = None

    def clear(self) -> None:
        """Take the bar away for a line that is to be printed; the next file shows it again."""
        if self._bar is not None:
            self._bar.clear()
