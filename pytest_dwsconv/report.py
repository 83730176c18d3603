"""What ``analyze`` returns: the data of a report, with the ways to show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.render import notebook, plot, view
from pytest_dwsconv.render.forms import text
from pytest_dwsconv.render.sentences import brief
from pytest_dwsconv.render.view import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@dataclass(frozen=True)
class Report(ReportData):
    """All convolutions of one model, with the model's own totals: ``print`` shows the table.

    The fields are those of ``ReportData``.
    """

    def __str__(self) -> str:
        """The table, in the width of the terminal if standard output is one."""
        return text.render(self, Style(width=text.terminal_width()))

    def __repr__(self) -> str:
        return f"<Report of {brief(self)}>"

    def _repr_html_(self) -> str:
        """The table as a notebook shows it."""
        return notebook.table(self)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        measure: str = "params",
        sort: str | None = None,
        top: int | None = None,
    ) -> Axes:
        """Bars of each convolution before and after; needs the extra ``plot``.

        Args:
            ax: where to draw; by default on axes of a new figure, which is as high as it needs to
                be for up to 200 names.
            measure: ``params`` or ``macs``.
            sort: the key of the column to sort by, as in ``table``; by default the order of
                execution.
            top: draw only so many, those with the most of ``measure``.

        Raises:
            InputError: another measure, no such column, MACs of a report that has none, or ``top``
                is not a whole number from 1.
            MissingDependencyError: matplotlib is not installed.
        """
        return plot.plot(self, ax, measure, sort, top)

    def to_dataframe(self, layers: str = "convolutions") -> DataFrame:
        """One row per layer as a data frame of pandas, which has to be installed.

        Args:
            layers: ``convolutions``, with the columns that ``table`` knows and ``reason``, or
                ``all`` for ``name``, ``type``, ``output``, ``params``, ``macs`` and ``calls`` of
                every layer, convolution or not.

        What is not known is missing there. Shapes are tuples. The output of a convolution is
        without its batch, as in the table.

        Raises:
            InputError: pandas is not installed, ``layers`` is another word, or the report is of a
                test run, which is kept without its other layers.
        """
        return notebook.to_dataframe(self, layers)

    def tree(self, depth: int | None = None) -> str:
        """The model and its parts as an indented table, with the sums of their layers.

        Args:
            depth: how many names deep; all by default.

        Raises:
            InputError: ``depth`` is not a whole number from 1, or the report is of a test run,
                which is kept without its other layers.
        """
        return notebook.tree(self, depth)

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
                "intensity"]``; those of ``evidence`` are called by target and source, as in
                ``"cpu_measured"``.

        Raises:
            InputError: there is no such column, ``depth`` is not a whole number from 1, or
                ``match`` or ``columns`` is not a list of strings.
        """
        return view.view(self, sort=sort, match=match, depth=depth, columns=columns)
