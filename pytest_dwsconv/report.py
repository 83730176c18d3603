"""What ``analyze`` returns: the data of a report, with the ways to show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.render import plot, text, view

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Report(ReportData):
    """All convolutions of one model, with the model's own totals: ``print`` shows the table.

    The fields are those of ``ReportData``.
    """

    def __str__(self) -> str:
        return text.render(self)

    def plot(self, ax: Axes | None = None, *, measure: str = "params") -> Axes:
        """Bars of each convolution before and after; needs the extra ``plot``.

        Args:
            ax: where to draw; by default on axes of a new figure.
            measure: ``params`` or ``macs``.

        Raises:
            InputError: another measure, or MACs of a report that has none.
            MissingDependencyError: matplotlib is not installed.
        """
        return plot.plot(self, ax, measure)

    def table(
        self,
        *,
        sort: str | None = None,
        match: Sequence[str] = (),
        depth: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> str:
        """The convolutions as a table, with the rows and columns of your choice.

        Args:
            sort: the key of the column to sort by: numbers from the largest, words from a to z.
            match: shell-style patterns of the names to show; all by default.
            depth: one row for each part of the model this many names deep (1: ``layer1``, 2:
                ``layer1.0``), with the sums of its convolutions.
            columns: keys of the columns to show, such as ``["name", "macs", "macs_share",
                "intensity"]``.

        Raises:
            InputError: there is no such column, ``depth`` is not a whole number from 1, or
                ``match`` or ``columns`` is not a list of strings.
        """
        return view.view(self, sort=sort, match=match, depth=depth, columns=columns)
