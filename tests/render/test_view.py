"""A table sorted, filtered by name, with other columns, and by the parts of a model."""

from __future__ import annotations

import pytest
from torch import nn

from pytest_dwsconv import Report, analyze
from pytest_dwsconv.errors import InputError


def block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1)
    )


@pytest.fixture(scope="module")
def report() -> Report:
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 8, 3, padding=1))
    model.add_module("a", block(8))
    model.add_module("b", nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), block(32)))
    return analyze(model, (1, 3, 8, 8))


def rows(table: str) -> list[list[str]]:
    """The cells under the rule."""
    lines = table.splitlines()
    rule = max(index for index, line in enumerate(lines[:-1]) if set(line) <= {"-", " "})
    return [line.split() for line in lines[rule + 1 :] if not set(line) <= {"-", " "}]


def first(table: str) -> list[str]:
    return [row[0] for row in rows(table)]


def test_layers_are_in_the_order_they_ran(report: Report) -> None:
    assert first(report.table()) == ["stem", "a.0", "a.2", "b.0", "b.1.0", "b.1.2"]


def test_numbers_are_sorted_from_the_largest_and_the_unknown_comes_last(report: Report) -> None:
    assert first(report.table(sort="params")) == ["b.1.0", "b.0", "b.1.2", "a.0", "stem", "a.2"]
    by_saving = first(report.table(sort="saving"))
    assert by_saving[:2] == ["b.1.0", "b.0"]
    # pointwise ones save nothing, and stay in their order
    assert by_saving[-2:] == ["a.2", "b.1.2"]
    assert first(report.table(sort="name")) == ["a.0", "a.2", "b.0", "b.1.0", "b.1.2", "stem"]


def test_names_are_matched_by_patterns(report: Report) -> None:
    assert first(report.table(match=["a.*", "stem"])) == ["stem", "a.0", "a.2"]


def test_columns_by_their_keys(report: Report) -> None:
    table = report.table(
        columns=["name", "params_share", "macs_share", "followed_by"], match=["b.1.?"]
    )
    (conv, last) = rows(table)
    found = {finding.name: finding for finding in report.findings}
    assert conv == [
        "b.1.0",
        f"{9248 / report.params:.1%}",
        f"{found['b.1.0'].macs_share:.1%}",
        "ReLU",
    ]
    assert last[-1] == "-"


def test_parts_of_the_model_have_the_sums_of_their_convolutions(report: Report) -> None:
    sums = {row[0]: row for row in rows(report.table(depth=1))}
    assert list(sums) == ["stem", "a", "b"]
    inside = [finding for finding in report.findings if finding.name.startswith("b.")]
    assert f"{sum(finding.params or 0 for finding in inside):,}" in sums["b"]
    assert sums["b"][1:3] == ["(3", "convolutions)"]
    assert first(report.table(depth=1, sort="macs")) == ["b", "a", "stem"]
    assert first(report.table(depth=2, sort="name")) == ["a.0", "a.2", "b.0", "b.1", "stem"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sort": "speed"}, "sort: there is no column 'speed'; take name, "),
        ({"columns": ["name", "colour"]}, "columns: there is no column 'colour'"),
        ({"columns": 5}, "columns takes a list of at least one column .* not 5"),
        ({"columns": []}, "columns takes a list of at least one column"),
        ({"columns": "name"}, "columns takes a list .* not 'name'"),
        ({"match": "a.*"}, "match takes a list of patterns, not one string"),
        ({"match": 5}, "match takes a list of patterns .* not 5"),
        ({"match": [1]}, "match takes a list of patterns .* and 1 is not a string"),
        ({"depth": 0}, "depth must be a whole number from 1, not 0"),
        (
            {"depth": 1, "sort": "kernel"},
            "a table by depth has no column 'kernel'; take name, params",
        ),
        ({"depth": 1, "columns": ["name"]}, "leave columns out"),
    ],
)
def test_what_cannot_be_shown(report: Report, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        report.table(**options)  # type: ignore[arg-type]
