"""Measured and predicted latencies in every form of a report, each under that word."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from pytest_dwsconv.core.measurement import LatencyPrediction, Measurement, NotMeasured
from pytest_dwsconv.render import FORMS, render_run
from pytest_dwsconv.render.forms.json import schema
from pytest_dwsconv.render.forms.junit import latency_properties
from pytest_dwsconv.render.latencies import Measurements

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
MEASURED: Measurements = {MEASUREMENT: {"tests/test_a.py::test"}}
PREDICTION = LatencyPrediction(
    6.25, low=4.125, high=9.5, lower_bound_ms=1, reason="bus 5 ms", host="rpi4_usb3"
)
NOT_MEASURED = NotMeasured("net|<b>", "there is no device", PREDICTION)
PREDICTED: Measurements = {NOT_MEASURED: {"tests/test_a.py::test"}}


WITH_LATENCIES = [form for form in FORMS if form not in ("csv", "gitlab")]
"""The others are of layers and of issues alone."""


@pytest.mark.parametrize("form", WITH_LATENCIES)
def test_a_latency_is_called_measured(form: str) -> None:
    written = render_run(form, {}, measured=MEASURED)
    assert "measured" in written.lower()
    assert "0.012" in written if form in {"json", "sarif"} else "12.000 ms" in written
    assert "No model was reported" not in written


@pytest.mark.parametrize("form", WITH_LATENCIES)
def test_a_latency_that_was_not_measured_is_called_predicted(form: str) -> None:
    shown = render_run(form, {}, measured=PREDICTED)
    written = " ".join(shown.replace("&#45;", "-").lower().split())
    for word in (
        "predicted",
        "not measured",
        "6.25",
        "4.12",
        "9.5",
        "rpi4",
        "bus 5 ms",
        "no device",
    ):
        assert word in written or (form in ("json", "sarif") and word == "not measured")
    assert "measured latency" not in written
    assert "no model was reported" not in written


def test_what_was_measured_is_shown_apart_from_what_was_predicted() -> None:
    both = render_run("text", {}, measured={**PREDICTED, **MEASURED})
    measured, predicted = both.split("\n\n\n")
    assert "12.000 ms" in measured
    assert "6.25 ms" in predicted


@pytest.mark.parametrize("latencies", [MEASURED, PREDICTED])
def test_the_cells_of_markdown_stay_in_their_columns(latencies: Measurements) -> None:
    *_, rule, row = render_run("markdown", {}, measured=latencies).rstrip().splitlines()
    assert row.count("|") == rule.count("|")


@pytest.mark.parametrize("latencies", [MEASURED, PREDICTED])
def test_the_page_spells_out_what_is_no_markup(latencies: Measurements) -> None:
    assert "net|<b>" not in render_run("html", {}, measured=latencies)


def test_the_json_follows_its_schema() -> None:
    data = json.loads(render_run("json", {}, measured={**MEASURED, **PREDICTED}))
    Draft202012Validator(schema()).validate(data)
    assert Measurement.from_dict(data["measured"][0]["measurement"]) == MEASUREMENT
    (row,) = data["predicted"]
    assert LatencyPrediction(**row["prediction"]) == PREDICTION
    assert (row["model"], row["why"]) == ("net|<b>", "there is no device")


def test_a_junit_file_has_the_prediction_in_seconds() -> None:
    assert dict(latency_properties([NOT_MEASURED])) == {
        "dwsconv.net__b_.predicted": "0.00625",
        "dwsconv.net__b_.predicted_low": "0.004125",
        "dwsconv.net__b_.predicted_high": "0.0095",
        "dwsconv.net__b_.predicted_on": "rpi4_usb3",
    }
