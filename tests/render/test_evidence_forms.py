"""What is known of a latency with replacements, in every form of a report."""

from __future__ import annotations

import json
from html import unescape

import pytest
from jsonschema import Draft202012Validator
from render_samples import NASTY, SMALL

from pytest_dwsconv.core.latency.evidence import Effect, Evidence, Provenance
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.render import FORMS, render_report
from pytest_dwsconv.render.forms.json import schema
from pytest_dwsconv.render.forms.junit import properties

MEASURED = Evidence("cpu", Provenance.MEASURED, Effect.FASTER, "batch 1", 8.4, 4.0, 3.8, 4.1)
PREDICTED = Evidence(
    "edgetpu", Provenance.PREDICTED, Effect.FASTER, "rpi4_usb3", 20.0, 7.5, 4.0, 11.0
)
LAYER = Evidence("edgetpu", Provenance.PREDICTED, Effect.FASTER, "rpi4_usb3", 5.0, 1.5, 1.0, 2.0)
REPORT = SMALL.with_evidence({"": MEASURED, "body.conv1": LAYER}).with_evidence({"": PREDICTED})
WITH_LAYERS = [form for form in FORMS if form not in ("github", "gitlab", "json", "sarif")]


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("csv", "json", "sarif")])
def test_a_form_tells_what_is_known_of_the_model(form: str) -> None:
    shown = unescape(render_report(form, REPORT))
    assert str(MEASURED) in shown
    assert str(PREDICTED) in shown


@pytest.mark.parametrize("form", WITH_LAYERS)
def test_a_form_has_a_column_for_what_is_known_of_each_layer(form: str) -> None:
    without, shown = (unescape(render_report(form, report)) for report in (SMALL, REPORT))
    assert "-3.5 ms" in shown
    assert "predicted" in shown
    assert "predicted" not in without


def test_measured_and_predicted_are_columns_of_their_own() -> None:
    measured = Evidence("edgetpu", Provenance.MEASURED, Effect.FASTER, "", 4.0, 2.0, 1.9, 2.1)
    header, *rows = render_report("csv", REPORT.with_evidence({"body.conv2": measured})).split("\n")
    assert header.endswith(",reason,edgetpu_measured,edgetpu_predicted")
    endings = [row.rsplit(",", 2)[1:] for row in rows]
    assert endings == [["", ""], ["", "'-3.5 ms"], ["", ""], ["2x faster", ""]]


def test_a_table_of_chosen_columns_may_have_it_and_is_not_sorted_by_it() -> None:
    rows = REPORT.table(columns=["name", "edgetpu_predicted"]).split("\n")
    assert ["body.conv1", "-3.5", "ms"] in [row.split() for row in rows]
    assert "-3.5 ms" in REPORT.table()
    with pytest.raises(InputError, match="sort: there is no column 'edgetpu_predicted'"):
        REPORT.table(sort="edgetpu_predicted")


def test_a_chosen_column_is_there_however_a_measurement_turned_out() -> None:
    noisy = SMALL.with_evidence({"stem": Evidence.unknown("cpu", "times were too noisy")})
    rows = noisy.table(columns=["name", "cpu_measured"]).split("\n")
    assert ["stem", "-"] in [row.split() for row in rows]


def test_a_page_sorts_what_is_known_in_one_way_by_its_number() -> None:
    slower = Evidence("cpu", Provenance.MEASURED, Effect.SLOWER, "", 2.0, 5.0, 4.9, 5.1)
    unknown = Evidence.unknown("cpu", "nobody measured it")
    page = render_report("html", REPORT.with_evidence({"stem": slower, "body.conv1": unknown}))
    assert '<td data-value="0.4">2.5x slower</td>' in page
    assert '<td data-value="3.5">-3.5 ms</td>' in page
    assert "<td>unknown</td>" in page


@pytest.mark.parametrize("form", ["json", "sarif"])
def test_machines_read_it_as_data(form: str) -> None:
    found = json.loads(render_report(form, REPORT))
    if form == "json":
        Draft202012Validator(schema()).validate(found)
        report = found["models"][0]["report"]
        whole, layer = report["evidence"], report["findings"][1]["evidence"]
    else:
        run = found["runs"][0]
        whole = run["properties"]["evidence"]["Small"]
        layer = run["results"][1]["properties"]["evidence"]
        assert str(LAYER) in run["results"][1]["message"]["text"]
    assert [one["source"] for one in whole] == ["measured", "predicted"]
    assert layer[0]["after_ms"] == 1.5


def test_a_test_case_has_it_as_a_property() -> None:
    found = dict(properties([REPORT]))
    assert found["dwsconv.Small.latency"] == f"{MEASURED}; {PREDICTED}"
    assert "dwsconv.Small.latency" not in dict(properties([SMALL]))


@pytest.mark.parametrize("form", FORMS)
def test_a_target_called_by_a_hostile_name_is_shown_plainly(form: str) -> None:
    hostile = Evidence.unknown(NASTY, NASTY)
    shown = render_report(form, SMALL.with_evidence({"": hostile, "stem": hostile}))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "</script>&amp;" not in shown or form in (
        "csv",
        "github",
        "gitlab",
        "json",
        "sarif",
        "text",
    )
