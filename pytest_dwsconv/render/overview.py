"""All models of a run in one table, and which of them are shown in detail below it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.suite.architectures import Architecture
from pytest_dwsconv.render.sentences import given, listed
from pytest_dwsconv.render.table import Column, count, quantity, ratio

MOST_NAMES = 5
"""How many classes the sentence about models without convolutions lists."""


def _inputs(found: Architecture) -> str | None:
    if not found.report.input_shapes:
        return None
    shapes, others = given(found.report.input_shapes), len(found.other_inputs)
    return f"{shapes} + {others:,} more" if others else shapes


def _budget(found: Architecture) -> str | None:
    if not found.reporters.checks:
        return None
    return "over" if found.exceeded else "within"


OVERVIEW_COLUMNS: tuple[Column, ...] = (
    Column("name", "model", attrgetter("name")),
    quantity("params", value=attrgetter("report.params")),
    quantity("macs", "MACs", attrgetter("report.macs"), dispensable=1),
    quantity("candidates", value=lambda found: len(found.report.candidates)),
    quantity("saving", value=attrgetter("report.saving"), show=ratio),
    Column("budget", "budget", _budget, missing="no budget"),
    quantity("tests", value=lambda found: len(found.reporters.tests), dispensable=2),
    Column("input", "input", _inputs, dispensable=3),
)
"""Of an architecture, as ``table.COLUMNS`` are of a convolution."""


class Overview(NamedTuple):
    """The models of a run as the forms for people arrange them.

    ``rows`` are in the table, and the first of them, ``detailed``, below it as well. ``bare`` have
    no convolutions, are not held to a budget, and were named by no option: one line has them all.
    """

    rows: Sequence[Architecture]
    detailed: Sequence[Architecture]
    bare: Sequence[Architecture]

    @classmethod
    def of(cls, architectures: Sequence[Architecture], top: int | None) -> Overview:
        """Arrange the models, with details of the first ``top`` or of all."""
        if len(architectures) == 1:  # a model by itself is shown whatever it is
            return cls(architectures, architectures, ())
        rows: list[Architecture] = []
        bare: list[Architecture] = []
        for found in architectures:
            reporters = found.reporters
            # reason: who names a model or limits it wants to see it, whatever it is made of
            is_asked_for = bool(reporters.targets or reporters.checks)
            (rows if found.report.findings or is_asked_for else bare).append(found)
        return cls(rows, rows[:top], bare)

    def without_convolutions(self, most: int | None = MOST_NAMES) -> str:
        """The sentence about ``bare``, with all or ``most`` of the classes; empty if none is."""
        if not self.bare:
            return ""
        have = "has" if len(self.bare) == 1 else "have"
        names = []
        for model, times in sorted(Counter(found.report.model for found in self.bare).items()):
            names.append(plain(model) if times == 1 else f"{plain(model)} x {times:,}")
        named = listed(names, most)
        return f"{count(len(self.bare), 'model')} {have} no convolutions: {named}"

    @property
    def without_details(self) -> str:
        """The sentence about the rows that are in the table only; empty if there are none."""
        left = len(self.rows) - len(self.detailed)
        if not left:
            return ""
        have = "is" if left == 1 else "are"
        return (
            f"{count(left, 'more model')} {have} in the table above only: "
            f"--dws-top={len(self.rows)} shows all in detail"
        )
