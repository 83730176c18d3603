"""A report as a plot: the bars of each convolution before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.errors import InputError, MissingDependencyError
from pytest_dwsconv.render.table import count, ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOUNS = {"params": "parameters", "macs": "MACs"}
ROOM = 60
"""How many layers there is room to name."""


def plot(report: ReportData, ax: Axes | None = None, measure: str = "params") -> Axes:
    """What ``Report.plot`` says; layers run downward in the order of execution, as in the table."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter
    except ImportError as error:
        raise MissingDependencyError("a plot", "matplotlib", "plot") from error
    if ax is not None and not hasattr(ax, "barh"):
        raise InputError(
            f"ax must be matplotlib's Axes, not {ax!r}; what is plotted is named, as in "
            "measure='macs'"
        )
    before, after = _bars(report, measure)
    if ax is None:
        height = min(2 + 0.22 * len(before), 15)
        # reason: a Figure of its own is closed by nobody and kept by nobody, unlike one of pyplot
        ax = Figure(figsize=(8, height), layout="constrained").subplots()
    places = range(len(before))
    ax.barh(places, before, height=0.8, color="#8d94a0", label="now")
    replaced = [place for place in places if report.findings[place].verdict is Verdict.CANDIDATE]
    ax.barh(
        replaced,
        [after[place] for place in replaced],
        height=0.4,
        color="#0a7568",
        label="separable",
    )
    _name_layers(ax, report.findings)
    ax.margins(y=0.01)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlabel(NOUNS[measure])
    ax.set_title(_title(report), parse_math=False)
    ax.spines[["top", "right"]].set_visible(False)
    if before:
        ax.legend(loc="best", frameon=False)
    return ax


def _bars(report: ReportData, measure: str) -> tuple[list[int], list[int]]:
    """Of each convolution what it has, and what it has once it is replaced."""
    if measure not in NOUNS:
        raise InputError(f"measure {measure!r} cannot be plotted: it is {' or '.join(NOUNS)}")
    if measure == "macs" and report.macs is None:
        raise InputError(
            f"no MACs were counted for {plain(report.model)}: "
            "give an input size, as in (1, 3, 224, 224)"
        )
    before = [getattr(finding, measure) or 0 for finding in report.findings]
    after = [getattr(finding, f"separable_{measure}") or 0 for finding in report.findings]
    return before, after


def _name_layers(ax: Axes, findings: Sequence[Finding]) -> None:
    if len(findings) > ROOM:
        ax.set_yticks([])
        ax.set_ylabel(count(len(findings), "convolution"))
        return
    ax.set_yticks(
        range(len(findings)),
        [plain(finding.name) for finding in findings],
        parse_math=False,
        fontsize=8,
    )


def _title(report: ReportData) -> str:
    candidates = count(len(report.candidates), "candidate")
    return f"{plain(report.model)}: {candidates}, {ratio(report.saving)} fewer parameters in all"
