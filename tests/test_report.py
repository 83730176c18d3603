"""Reports are plain data and survive JSON."""

from __future__ import annotations

import json
import pickle
import re
import sys
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from torch import nn

from pytest_dwsconv import Report, analyze
from pytest_dwsconv.errors import FormatError


@pytest.fixture(scope="module")
def report() -> Report:
    conv = nn.Conv2d(8, 8, 3)
    model = nn.Sequential(
        conv, nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 4, 2), nn.Conv2d(4, 9, 3, padding="same")
    )
    return analyze(model, (2, 8, 16, 16))


@pytest.mark.parametrize("inputs", [(2, 8, 16, 16), None])
def test_json_round_trip(inputs: tuple[int, ...] | None) -> None:
    report = analyze(nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.ReLU()), inputs)
    assert Report.from_json(report.to_json()) == report
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert pickle.loads(pickle.dumps(report)) == report


def test_to_dict_holds_plain_values_only(report: Report) -> None:
    def check(value: Any) -> None:
        assert type(value) in (dict, list, str, int, float, bool, type(None))
        for item in (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        ):
            check(item)

    check(report.to_dict())
    assert report.to_dict()["schema_version"] == 1


def test_reports_are_comparable_and_hashable(report: Report) -> None:
    again = Report.from_dict(report.to_dict())
    assert len({report, again}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema version 2 cannot be read"),
        ({"findings": None}, "not a report: findings: None is not a list"),
        ({"findings": [{}]}, r"not a report: findings\[0\]: it lacks name, spec"),
        ({"origin": "a guess"}, "not a report: origin: 'a guess' is not 'forward on meta"),
    ],
)
def test_a_broken_report_is_one_clear_error(
    report: Report, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        Report.from_dict({**report.to_dict(), **change})


@pytest.mark.parametrize("missing", ["params", "findings", "memory"])
def test_a_missing_key_is_named(report: Report, missing: str) -> None:
    data = report.to_dict()
    del data[missing]
    with pytest.raises(FormatError, match=missing):
        Report.from_dict(data)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null"])
def test_what_is_no_report(text: str) -> None:
    with pytest.raises(FormatError):
        Report.from_json(text)


def test_its_repr_is_one_line(report: Report) -> None:
    assert repr(report) == (
        f"<Report of Sequential: {report.params:,} params, {report.separable_params:,} with "
        f"3 candidates separable ({report.saving:.2f}x)>"
    )


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stdout", "fits"), [(Terminal(), True), (StringIO(), False), (None, False)]
)
def test_it_is_printed_in_the_width_of_a_terminal(
    report: Report, monkeypatch: pytest.MonkeyPatch, stdout: StringIO | None, fits: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stdout", stdout)
    shown = str(report)
    monkeypatch.undo()
    assert (max(map(len, shown.splitlines())) <= 60) == fits
    assert ("Left out for want of width" in shown) == fits


def test_a_notebook_shows_the_table(report: Report) -> None:
    text = report._repr_html_()
    rows = re.findall(r"<tr>.*?</tr>", text, re.DOTALL)
    assert len(rows) == 1 + len(report.findings) + 3
    assert f"{report.params:,}" in rows[-1]
    assert "<p>Not counted in MACs: BatchNorm2d</p>" in text


def test_a_notebook_is_given_no_element_by_a_name(report: Report) -> None:
    wicked = "<script>alert(1)</script>\x1b[2J"
    first = replace(report.findings[0], name=wicked, type_name=wicked, reason=wicked)
    text = replace(report, model=wicked, findings=(first,))._repr_html_()
    assert "<script" not in text
    assert "\x1b" not in text
    assert not re.search(r"<(?!/?(div|table|caption|thead|tbody|tfoot|tr|th|td|p)\b)", text)
