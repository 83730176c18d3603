"""All layers as a data frame and as a tree; the table is tested in tests/test_report.py."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from pytest_dwsconv import Report, analyze
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.render.view import ALL_COLUMNS


class Frame:
    """What is asked of the data frame of pandas."""

    def __init__(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        self.rows = [[row[column] for column in columns] for row in rows]
        self.columns = columns

    def astype(self, types: dict[str, str]) -> Frame:
        assert types.keys() <= set(self.columns)
        assert set(types.values()) == {"Int64"}
        return self


@pytest.fixture
def pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in, which shows what pandas is given; the real one is not among what tests need."""
    module = ModuleType("pandas")
    module.DataFrame = Frame  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", module)


@pytest.fixture(scope="module")
def report() -> Report:
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 8, 3, padding=1))
    model.add_module("body", nn.Sequential(nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32), nn.Flatten()))
    model.add_module("head", nn.Linear(32 * 36, 4))
    return analyze(model, (2, 3, 8, 8))


@pytest.mark.usefixtures("pandas")
def test_a_row_per_convolution(report: Report) -> None:
    frame: Any = report.to_dataframe()
    assert frame.columns == [*(column.key for column in ALL_COLUMNS), "reason"]
    assert [row[0] for row in frame.rows] == ["stem", "body.0"]
    assert frame.rows[1][:5] == ["body.0", "Conv2d", (3, 3), (32, 6, 6), 2336]


@pytest.mark.usefixtures("pandas")
def test_a_row_per_layer(report: Report) -> None:
    frame: Any = report.to_dataframe(layers="all")
    assert frame.columns == ["name", "type", "output", "params", "macs", "calls"]
    assert [row[0] for row in frame.rows] == ["stem", "body.0", "body.1", "body.2", "head"]
    assert frame.rows[-1] == ["head", "Linear", (2, 4), 4612, 2 * 4608, 1]


def test_the_real_pandas_keeps_whole_numbers_whole(report: Report) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    for found in (report.to_dataframe(), analyze(nn.Conv2d(4, 4, 3)).to_dataframe()):
        assert str(found["macs"].dtype) == "Int64"
    assert report.to_dataframe("all")["params"].sum() == report.params


def test_what_there_is_no_frame_of(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="layers is 'convolutions' or 'all', not 'linear'"):
        report.to_dataframe("linear")
    with pytest.raises(InputError, match=r"has its convolutions alone, .*: make one with analyze"):
        replace(report, all_layers=()).to_dataframe("all")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"needs pandas, .*: pip install pandas, or"):
        report.to_dataframe()


def cells(table: str) -> dict[str, list[str]]:
    """The numbers of each row by its label."""
    rows = {}
    for line in table.splitlines()[4:-1]:
        *label, params, macs, after, macs_after, _ = line.split()
        rows[" ".join(label)] = [params, macs, after, macs_after]
    return rows


def test_a_tree_has_the_sums_of_every_part(report: Report) -> None:
    rows = cells(report.tree())
    assert list(rows) == [
        "Sequential",
        "|- stem (Conv2d)",
        "|- body",
        "| |- 0 (Conv2d)",
        "| |- 1 (BatchNorm2d)",
        "| |- 2 (Flatten)",
        "|- head (Linear)",
    ]
    whole = (report.params, report.macs, report.separable_params, report.separable_macs)
    assert rows["Sequential"] == [f"{number:,}" for number in whole]
    assert rows["|- body"][0] == f"{2336 + 64:,}"


def test_a_tree_is_as_deep_as_it_is_asked_for(report: Report) -> None:
    shallow, deep = cells(report.tree(depth=1)), cells(report.tree(depth=2))
    assert list(shallow) == ["Sequential", "|- stem (Conv2d)", "|- body", "|- head (Linear)"]
    assert shallow == {label: deep[label] for label in shallow}


def test_what_there_is_no_tree_of(report: Report) -> None:
    with pytest.raises(InputError, match="depth must be a whole number from 1, not 0"):
        report.tree(0)
    with pytest.raises(InputError, match="has its convolutions alone"):
        replace(report, all_layers=()).tree()
