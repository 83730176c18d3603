"""What models cost before and after, in every form."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator
from markdown_it import MarkdownIt
from render_samples import EMPTY, SMALL

from pytest_dwsconv.core.forms import FORMS
from pytest_dwsconv.core.suite.architectures import Place
from pytest_dwsconv.core.suite.changes import (
    Change,
    Changes,
    ChangeStatus,
    LayerChange,
    ModelChange,
    Outcome,
)
from pytest_dwsconv.render import Reporters, SuiteRun, render_run
from pytest_dwsconv.render.forms.json import schema
from pytest_dwsconv.render.forms.junit import run_properties

TEST = "tests/test_net.py::test_small"
PARAMS = Change("params", "parameters", 576, 612, too_much=True)
LAYER = LayerChange("conv.1", replace(PARAMS, too_much=False), Change("macs", "MACs", None, 7))
GROWN = ModelChange("Small", ChangeStatus.CHANGED, (PARAMS,), (TEST,), (LAYER,))
CHANGES = Changes(
    "main.json",
    (
        ModelChange("Same", ChangeStatus.SAME, (Change("params", "parameters", 5, 5),)),
        ModelChange("Thin", ChangeStatus.CHANGED, (Change("params", "parameters", 9, 4),)),
        ModelChange("Old", ChangeStatus.GONE, (Change("params", "parameters", 9, None),)),
        GROWN,
    ),
)
UNKNOWN = "Odd cannot be analysed: it is odd\nCalled by tests/test_odd.py::test"
OUTCOME = Outcome(CHANGES, (UNKNOWN,))
RUN: SuiteRun = {SMALL: Reporters(tests={TEST}, places={TEST: Place("app/tests/test_net.py", 7)})}
TABLES = sorted(FORMS.keys() - {"csv"})  # which has the layers alone


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize("run", [RUN, {}], ids=["with models", "alone"])
def test_every_form_tells_what_grew_and_what_is_not_known(form: str, run: SuiteRun) -> None:
    shown = render_run(form, run, 1, outcome=OUTCOME)
    assert "576" in shown
    assert "612" in shown
    assert "Odd cannot be analysed" in shown
    assert "No model was reported" not in shown


def test_the_table_begins_with_what_grew_and_leaves_out_what_did_not_change() -> None:
    shown = render_run("text", {}, outcome=OUTCOME)
    assert shown.splitlines()[:8] == [
        "Models: 2 changed, 1 gone, 1 unchanged, compared with main.json",
        "",
        "----------  ----------  ------  -----  ----------------------",
        "model       quantity    before  after              difference",
        "----------  ----------  ------  -----  ----------------------",
        "Small       parameters     576    612  +36, +6.25 %, too much",
        "Thin        parameters       9      4            -5, -55.56 %",
        "Old (gone)  parameters       9      -",
    ]
    assert "conv.1" not in shown
    assert "conv.1" in render_run("text", {}, 1, outcome=OUTCOME)


def test_annotations_are_an_error_for_each_model_that_grew_and_a_notice_of_the_rest() -> None:
    error, notice, warning, *_ = render_run("github", RUN, outcome=OUTCOME).splitlines()
    assert error == (
        "::error file=app/tests/test_net.py,line=7,title=Small has grown::"
        "Small has 612 parameters, 576 in the baseline (+36, +6.25 %25)."
    )
    assert notice.startswith("::notice title=dwsconv%3A costs before and after::Models: 2 changed")
    assert notice.endswith("%0AThin: 4 parameters, 9 in the baseline (-5, -55.56 %25)%0AOld: gone")
    assert warning.startswith("::warning title=dwsconv%3A not known::Odd cannot be analysed")


def test_the_json_follows_its_schema_and_has_every_model() -> None:
    data = json.loads(render_run("json", RUN, outcome=OUTCOME))
    Draft202012Validator(schema()).validate(data)
    assert [model["name"] for model in data["changes"]["models"]] == [
        "Same",
        "Thin",
        "Old",
        "Small",
    ]
    assert data["unknown"] == [UNKNOWN]
    empty = json.loads(render_run("json", {EMPTY: Reporters()}))
    assert (empty["changes"], empty["unknown"]) == (None, [])


def test_sarif_has_an_error_with_its_line_and_a_warning() -> None:
    (run,) = json.loads(render_run("sarif", RUN, outcome=OUTCOME))["runs"]
    results = {result["ruleId"]: result for result in run["results"]}
    (location,) = results["dwsconv-increase"]["locations"]
    assert location["physicalLocation"]["region"] == {"startLine": 7}
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "app/tests/test_net.py"
    assert results["dwsconv-increase"]["level"] == "error"
    assert results["dwsconv-unknown"]["level"] == "warning"
    assert all(
        run["tool"]["driver"]["rules"][one["ruleIndex"]]["id"] == one["ruleId"]
        for one in run["results"]
    )


def test_a_junit_file_has_properties_of_the_run() -> None:
    assert list(run_properties(OUTCOME)) == [
        ("dwsconv.increase", "Small has 612 parameters, 576 in the baseline (+36, +6.25 %)."),
        ("dwsconv.change", "Thin: 4 parameters, 9 in the baseline (-5, -55.56 %)"),
        ("dwsconv.change", "Old: gone"),
        (
            "dwsconv.unknown",
            "Odd cannot be analysed: it is odd. Called by tests/test_odd.py::test",
        ),
    ]
    assert list(run_properties(Outcome())) == []


def test_markdown_folds_the_layers() -> None:
    shown = MarkdownIt("gfm-like", {"linkify": False}).render(
        render_run("markdown", {}, outcome=OUTCOME)
    )
    assert "<h2>Model costs before and after</h2>" in shown
    assert '<td style="text-align:right">+36, +6.25 %, too much</td>' in shown
    assert "<details><summary>Layers of Small</summary>" in shown
