from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from render_samples import EMPTY, LARGE, NASTY, SMALL, UNTRUSTED, WITHOUT_SHAPES

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.report import Report


def drawn(ax: Axes) -> bytes:
    """The picture, which must come about without a warning."""
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def lengths(ax: Axes, label: str) -> list[float]:
    (bars,) = [
        bars
        for bars in ax.containers
        if isinstance(bars, BarContainer) and bars.get_label() == label
    ]
    return [bar.get_width() for bar in bars]


@pytest.mark.parametrize("measure", ["params", "macs"])
def test_the_bars_are_the_numbers(measure: str) -> None:
    ax = SMALL.plot(measure=measure)
    assert lengths(ax, "now") == [getattr(row, measure) for row in SMALL.findings]
    assert lengths(ax, "separable") == [
        getattr(row, f"separable_{measure}") for row in SMALL.candidates
    ]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [
        row.name for row in SMALL.findings
    ]
    assert ax.get_title() == "Small: 3 candidates, 8.01x fewer parameters in all"
    assert drawn(ax).startswith(b"\x89PNG")
    top, bottom = (ax.transData.transform((0, place))[1] for place in (0, 3))
    assert top > bottom


def test_it_draws_where_it_is_told() -> None:
    left, right = Figure().subplots(1, 2)
    assert SMALL.plot(right) is right
    assert not left.containers


def named(ax: Axes) -> list[str]:
    return [tick.get_text() for tick in ax.get_yticklabels()]


def test_two_hundred_layers_have_names_with_room_between_them() -> None:
    ax = replace(LARGE, findings=LARGE.findings[:200]).plot()
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    labels = ax.get_yticklabels()
    assert len(labels) == 200
    bottoms = sorted(label.get_window_extent().y0 for label in labels)
    least = min(after - before for before, after in pairwise(bottoms))
    assert least >= max(label.get_window_extent().height for label in labels)


def test_on_given_axes_names_need_room() -> None:
    ax = Figure().subplots()
    assert named(replace(LARGE, findings=LARGE.findings[:100]).plot(ax)) == []
    assert ax.get_ylabel() == "100 convolutions"


def test_the_largest_are_chosen_and_sorted() -> None:
    assert named(SMALL.plot(top=2)) == ["body.conv1", "body.conv2"]
    ax = SMALL.plot(top=3, sort="name", measure="macs")
    assert named(ax) == ["body.conv1", "body.conv2", "stem"]
    assert ax.get_title().endswith("\nthe largest 3 of 4 convolutions")
    assert named(SMALL.plot(sort="params"))[0] == "body.conv2"


def test_of_two_thousand_layers_there_is_no_room_for_names() -> None:
    ax = LARGE.plot()
    assert len(lengths(ax, "now")) == 2000
    assert ax.get_yticklabels() == []
    assert ax.get_ylabel() == "2,000 convolutions"


@pytest.mark.parametrize("report", [EMPTY, WITHOUT_SHAPES], ids=["empty", "without shapes"])
def test_any_report_can_be_drawn(report: Report) -> None:
    ax = report.plot()
    assert len(lengths(ax, "now")) == len(report.findings)
    assert drawn(ax)


def test_names_are_not_formulas() -> None:
    ax = UNTRUSTED.plot()
    assert ax.get_yticklabels()[0].get_text() == plain(NASTY)
    assert not ax.get_yticklabels()[0].get_parse_math()


@pytest.mark.parametrize(
    ("report", "options", "message"),
    [
        (SMALL, {"measure": "saving"}, "it is params or macs"),
        (WITHOUT_SHAPES, {"measure": "macs"}, "give an input size"),
        (SMALL, {"top": 0}, "top must be a whole number from 1, not 0"),
        (SMALL, {"sort": "speed"}, "sort: there is no column 'speed'"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    report: Report, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        report.plot(**options)


def test_a_measure_in_the_place_of_the_axes_is_said() -> None:
    with pytest.raises(
        InputError, match="ax must be matplotlib's Axes, not 'macs'; what is plotted is named"
    ):
        SMALL.plot("macs")  # type: ignore[arg-type]  # what the test is about


def test_without_matplotlib_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
        "from pytest_dwsconv.core.findings import Origin\nfrom pytest_dwsconv.report import "
        "Report\n"
        "try: Report('Net', (), 0, None, Origin.META).plot()\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "MissingDependencyError a plot needs the package matplotlib: pip install"
    )
