"""Measured latencies in every form of a report, under that word."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from pytest_dwsconv.core.measurement import Measurement
from pytest_dwsconv.render import FORMS, render_run
from pytest_dwsconv.render.json import schema

MEASUREMENT = Measurement(
    model="net|<b>",
    first_invoke=0.05,
    samples=(0.010, 0.011, 0.012, 0.013, 0.020),
    host="ssh=boards",
    machine="boards, board 7",
    device="/dev/tpu7",
    python="3.9.2",
    runtime="tflite 2.5",
    library="/lib/libtpu.so",
    library_version="RuntimeVersion(14)",
    clock="max",
)
MEASURED = {MEASUREMENT: {"tests/test_a.py::test"}}


@pytest.mark.parametrize("form", sorted(FORMS.keys() - {"csv"}))  # which has the layers alone
def test_a_latency_is_called_measured(form: str) -> None:
    written = render_run(form, {}, measured=MEASURED)
    assert "measured" in written.lower()
    assert "0.012" in written if form in {"json", "sarif"} else "12.000 ms" in written
    assert "No model was reported" not in written


def test_the_cells_of_markdown_stay_in_their_columns() -> None:
    *_, rule, row = render_run("markdown", {}, measured=MEASURED).rstrip().splitlines()
    assert row.count("|") == rule.count("|")


def test_the_page_spells_out_what_is_no_markup() -> None:
    assert "net|<b>" not in render_run("html", {}, measured=MEASURED)


def test_the_json_follows_its_schema() -> None:
    data = json.loads(render_run("json", {}, measured=MEASURED))
    Draft202012Validator(schema()).validate(data)
    assert Measurement.from_dict(data["measured"][0]["measurement"]) == MEASUREMENT
