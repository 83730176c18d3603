"""The JSON of a run and of a report, against the schema that is published."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from torch import nn

from pytest_dwsconv import Budget, ConvSpec, Finding, Report, analyze
from pytest_dwsconv.core.budget import check_limits
from pytest_dwsconv.core.conv import Trait
from pytest_dwsconv.core.findings import Layer, Memory, Origin
from pytest_dwsconv.render import Reporters, render_report, render_run
from pytest_dwsconv.render.forms.json import schema

REPORT_SCHEMA = {**schema(), "$ref": "#/$defs/report"}
for key in ("properties", "required", "type"):
    del REPORT_SCHEMA[key]


class Strange(nn.Conv2d):
    """A subclass, of which one cannot tell what else it does."""


def odd_model() -> nn.Module:
    """Kinds, paddings and traits of every sort that a spec can hold."""
    shared = nn.Conv2d(8, 8, 3, padding="same")
    return nn.Sequential(
        shared,
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 8, 2),
        shared,
        nn.Conv2d(8, 8, 3, groups=8, padding_mode="circular", padding=1),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 9, 3, padding=(1, 0))),
    )


REPORTS = {
    "with shapes": analyze(odd_model(), (2, 8, 16, 16)),
    "without shapes": analyze(odd_model()),
    "without convolutions": analyze(nn.Linear(3, 2), (1, 3)),
    "not understood": analyze(nn.Sequential(Strange(8, 8, 3)), (1, 8, 9, 9)),
}


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())


def test_the_schema_has_every_trait() -> None:
    words = json.dumps(schema())
    assert all(json.dumps(trait.value) in words for trait in Trait)


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_reports_follow_the_schema(report: Report) -> None:
    Draft202012Validator(REPORT_SCHEMA).validate(json.loads(report.to_json()))
    Draft202012Validator(schema()).validate(json.loads(render_report("json", report)))


def test_a_run_follows_the_schema_and_reads_back() -> None:
    report = REPORTS["with shapes"]
    budget = Budget(params=100, size="1MiB", macs="1G", candidates=9)
    users = Reporters(
        {"net:Шум"}, {"tests/test_ü.py::test[a|b]"}, list(check_limits(report, budget))
    )
    data = json.loads(render_run("json", {report: users, REPORTS["without shapes"]: Reporters()}))
    Draft202012Validator(schema()).validate(data)
    first, second = data["models"]
    names = {model["targets"][0] if model["targets"] else "": model for model in data["models"]}
    assert Report.from_dict(names["net:Шум"]["report"]) == report
    assert names["net:Шум"]["tests"] == ["tests/test_ü.py::test[a|b]"]
    limits = {limit["name"]: limit for limit in names["net:Шум"]["budget"]}
    assert {name for name, limit in limits.items() if limit["violation"]} == {"params"}
    assert all(
        limit.keys() == schema()["$defs"]["limit"]["properties"].keys() for limit in limits.values()
    )
    assert limits["size"] == {
        "name": "size",
        "layers": "",
        "noun": "of float32 parameters",
        "unit": "bytes in powers of 1024",
        "limit": 1024**2,
        "actual": 4 * report.params,
        "violation": "",
    }
    assert {first["report"]["origin"], second["report"]["origin"]} == {
        "forward on meta tensors",
        Origin.ATTRIBUTES.value,
    }


def test_an_empty_run() -> None:
    data = json.loads(render_run("json", {}))
    Draft202012Validator(schema()).validate(data)
    assert data["models"] == []


@pytest.mark.parametrize(
    ("definition", "described"),
    [("report", Report), ("finding", Finding), ("spec", ConvSpec), ("layer", Layer)],
)
def test_every_field_is_described(definition: str, described: Any) -> None:
    properties = schema()["$defs"][definition]["properties"]
    assert set(properties) - {"schema_version"} == {field.name for field in fields(described)}
    memory = schema()["$defs"]["report"]["properties"]["memory"]["anyOf"][0]
    assert set(memory["properties"]) == {field.name for field in fields(Memory)}


@pytest.mark.parametrize(
    "change",
    [
        {"params": -1},
        {"macs": 1.5},
        {"origin": "a guess"},
        {"findings": [{}]},
        {"not_counted": [["relu"]]},
        {"depth_multiplier": 0},
    ],
)
def test_the_schema_refuses_what_is_no_report(change: dict[str, Any]) -> None:
    broken = {**REPORTS["with shapes"].to_dict(), **change}
    assert not Draft202012Validator(REPORT_SCHEMA).is_valid(broken)
