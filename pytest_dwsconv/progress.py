"""How far a long computation is: a bar in a terminal or notebook, elsewhere a line now and then."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

MINUTE = 60.0
"""Seconds between two lines where nobody watches, as in the log of a job."""


class Progress:
    """The stage, its present item, the figures so far and the time left, while a block runs.

    ``delay`` is in seconds before a bar is shown; ``leave`` says whether it stays when all is done.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        unit: str,
        done: int = 0,
        *,
        delay: float = 0.0,
        leave: bool = True,
    ) -> None:
        self.stage, self.total, self.unit, self.done = stage, total, unit, done
        self._delay, self._leave = delay, leave
        self._item, self._first = "", done
        self._begun = self._told = monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        notebook = "ipykernel" in sys.modules
        if notebook or (sys.stderr is not None and sys.stderr.isatty()):
            # reason: slow to import, and of no use where nobody watches
            from tqdm.auto import tqdm

            self._bar = tqdm(
                total=self.total,
                initial=self.done,
                desc=self.stage or None,
                unit=self.unit,
                delay=self._delay,
                leave=self._leave,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def at(self, item: str) -> None:
        """Name what is worked on."""
        self._item = item
        if self._bar is not None:
            self._bar.set_description(f"{self.stage} {item}")

    def advance(self, **figures: float | None) -> None:
        """One more is done; figures such as the error are shown until the next."""
        self.done += 1
        shown = {name: f"{value:.3g}" for name, value in figures.items() if value is not None}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update()
        elif monotonic() - self._told >= MINUTE and sys.stderr is not None:
            self._told = monotonic()
            sys.stderr.write(f"{self._line(shown)}\n")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the bar away for a line that is to be printed; the next advance shows it again."""
        if self._bar is not None:
            self._bar.clear()

    def _line(self, shown: dict[str, str]) -> str:
        since = monotonic() - self._begun
        left = since / (self.done - self._first) * (self.total - self.done)
        plural = "es" if self.unit.endswith("s") else "s"
        of = f"{self.done} of {self.total} {self.unit}{plural}"
        parts = [f"{self.stage} {self._item}".strip(), of]
        parts += [f"{name} {value}" for name, value in shown.items()]
        parts.append(f"about {left / MINUTE:.0f} min left")
        return ", ".join(part for part in parts if part)
