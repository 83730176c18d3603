"""Reports are plain data and survive JSON."""

from __future__ import annotations

import json
import pickle
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
