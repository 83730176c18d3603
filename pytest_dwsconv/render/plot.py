"""A report as a plot: the bars of each convolution before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.quantities import whole_number
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.errors import InputError, require
from pytest_dwsconv.render.table import MEASURES, count, ratio
from pytest_dwsconv.render.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOM = 200
"""For how many layers a figure is made high enough to name them."""
LINE = 0.18
"""Inches for a bar with a name that can be read."""


def plot(
    report: ReportData,
    ax: Axes | None = None,
    measure: str = "params",
    sort: str | None = None,
    top: int | None = None,
) -> Axes:
    """What ``Report.plot`` says; layers run downward, as in the table."""
    require("a plot", "matplotlib", "plot")
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    if ax is not None and not hasattr(ax, "barh"):
        raise InputError(
            f"ax must be matplotlib's Axes, not {ax!r}; what is plotted is named, as in "
            "measure='macs'"
        )
    findings = _shown(report, measure, sort, top)
    before = [getattr(finding, measure) or 0 for finding in findings]
    after = [getattr(finding, f"separable_{measure}") or 0 for finding in findings]
    room = ROOM
    if ax is None:
        height = 2 + LINE * min(len(findings), ROOM)
        # reason: a Figure of its own is closed by nobody and kept by nobody, unlike one of pyplot
        ax = Figure(figsize=(8, height), layout="constrained").subplots()
    else:
        room = int(ax.get_window_extent().height / ax.figure.dpi / LINE)
    places = range(len(findings))
    is_named = len(findings) <= room
    thickness = 0.8 if is_named else 1.0  # reason: thin bars with gaps between them fade away
    ax.barh(places, before, height=thickness, color="#8d94a0", label="now")
    replaced = [place for place in places if findings[place].verdict is Verdict.CANDIDATE]
    ax.barh(
        replaced,
        [after[place] for place in replaced],
        height=thickness / 2,
        color="#0a7568",
        label="separable",
    )
    if is_named:
        _name_layers(ax, findings)
    else:
        ax.set_yticks([])
        ax.set_ylabel(count(len(findings), "convolution"))
    ax.margins(y=0.01)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlabel(MEASURES[measure])
    ax.set_title(_title(report, len(findings)), parse_math=False)
    ax.spines[["top", "right"]].set_visible(False)
    if findings:
        ax.legend(loc="best", frameon=False)
    return ax


def _shown(
    report: ReportData, measure: str, sort: str | None, top: int | None
) -> Sequence[Finding]:
    """The convolutions to draw, in their order."""
    if measure not in MEASURES:
        raise InputError(f"measure {measure!r} cannot be plotted: it is {' or '.join(MEASURES)}")
    if measure == "macs" and report.macs is None:
        raise InputError(
            f"no MACs were counted for {plain(report.model)}: "
            "give an input size, as in (1, 3, 224, 224)"
        )
    largest = View(sort=measure).rows(report.findings)
    if top is not None:
        largest = largest[: whole_number("top", top)]
    kept = set(map(id, largest))
    return [found for found in View(sort=sort).rows(report.findings) if id(found) in kept]


def _name_layers(ax: Axes, findings: Sequence[Finding]) -> None:
    ax.set_yticks(
        range(len(findings)),
        [plain(finding.name) for finding in findings],
        parse_math=False,
        fontsize=8,
    )


def _title(report: ReportData, shown: int) -> str:
    candidates = count(len(report.candidates), "candidate")
    title = f"{plain(report.model)}: {candidates}, {ratio(report.saving)} fewer parameters in all"
    if shown == len(report.findings):
        return title
    return f"{title}\nthe largest {shown:,} of {count(len(report.findings), 'convolution')}"
