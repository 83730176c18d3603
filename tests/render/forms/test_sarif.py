"""What a consumer reads from SARIF; tests/integration compares it with the official schema."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from render_samples import EMPTY, LARGE, NASTY, SMALL, UNTRUSTED, WITHOUT_SHAPES

from pytest_dwsconv.core.budget import Budget, check_limits
from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.limits import AnyCheck
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.rules import CANDIDATE_CODE, RULES, Verdict
from pytest_dwsconv.render import Reporters, render_report, render_run


def one(run: dict[ReportData, Reporters]) -> dict[str, Any]:
    log = json.loads(render_run("sarif", run))
    assert log["version"] == "2.1.0"
    (found,) = log["runs"]
    assert isinstance(found, dict)
    return found


def test_candidates_are_notes_and_ineligible_convolutions_no_result() -> None:
    results = one({SMALL: Reporters()})["results"]
    names = [result["locations"][0]["logicalLocations"][0]["name"] for result in results]
    assert names == [row.name for row in SMALL.candidates]
    assert {(result["ruleId"], result["level"]) for result in results} == {(CANDIDATE_CODE, "note")}
    stem = results[0]
    assert stem["message"]["text"].startswith(
        "stem could be depthwise separable, with 27.75x fewer parameters"
    )
    assert stem["properties"]["params"] == 9408
    assert stem["properties"]["kernel"] == [7, 7]


def test_what_cannot_be_told_is_open() -> None:
    row = replace(
        SMALL.findings[0], verdict=Verdict.CANNOT_TELL, code="DWS203", separable_params=None
    )
    (result,) = one({replace(SMALL, findings=(row,)): Reporters()})["results"]
    assert (result["kind"], result["level"], result["ruleId"]) == ("open", "none", "DWS203")


def test_every_result_points_at_its_rule() -> None:
    run = one(
        {SMALL: Reporters(checks=[*check_limits(SMALL, Budget(params=1))]), UNTRUSTED: Reporters()}
    )
    rules = run["tool"]["driver"]["rules"]
    assert {rule.code for rule in RULES} < {rule["id"] for rule in rules}
    assert len({rule["id"] for rule in rules}) == len(rules)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]


def test_the_place_is_the_test_and_the_layer() -> None:
    users = Reporters({"net:small"}, {"tests/test ü.py::test", "tests/z.py::test"})
    (location,) = one({SMALL: users})["results"][0]["locations"]
    assert location["physicalLocation"]["artifactLocation"] == {
        "uri": "tests/test%20%C3%BC.py",
        "uriBaseId": "SRCROOT",
    }
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "Small.stem"


def test_a_target_has_no_file() -> None:
    (location,) = one({SMALL: Reporters({"net:small"})})["results"][0]["locations"]
    assert "physicalLocation" not in location


def test_an_exceeded_limit_is_an_error() -> None:
    limits: list[AnyCheck] = [*check_limits(SMALL, Budget(params="1M", macs="2G"))]
    first = one({SMALL: Reporters(set(), {"tests/test_a.py::test"}, limits)})["results"][0]
    assert (first["level"], first["message"]["text"]) == ("error", str(limits[0]))
    assert first["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "tests/test_a.py"


def test_braces_and_brackets_in_a_message_are_neither_placeholders_nor_links() -> None:
    text = one({UNTRUSTED: Reporters()})["results"][0]["message"]["text"]
    assert "{{0}}" in text
    assert "\\[z\\](u)" in text
    assert (
        text.replace("{{0}}", "{0}")
        .replace("\\[", "[")
        .replace("\\]", "]")
        .startswith(plain(NASTY))
    )


def test_large_empty_unknown_and_no_models() -> None:
    assert len(one({LARGE: Reporters()})["results"]) == len(LARGE.candidates)
    assert one({EMPTY: Reporters()})["results"] == one({})["results"] == []
    assert one({WITHOUT_SHAPES: Reporters()})["results"][0]["properties"]["macs"] is None


def test_one_report_by_itself() -> None:
    assert json.loads(render_report("sarif", SMALL))["runs"][0]["results"]


def test_every_rule_has_its_advice_and_the_command_that_explains_it() -> None:
    for rule in one({SMALL: Reporters()})["tool"]["driver"]["rules"]:
        if rule["id"].startswith("DWS"):
            assert rule["help"]["text"] in rule["help"]["markdown"]
            assert f"dwsconv-rewrite explain {rule['id']}" in rule["help"]["markdown"]


def test_limits_on_layers_are_results_of_their_own() -> None:
    budget = Budget(params=1, layers={"*": {"params": 1}})
    log = json.loads(render_run("sarif", {SMALL: Reporters(checks=[*check_limits(SMALL, budget)])}))
    found = [result["partialFingerprints"] for result in log["runs"][0]["results"][:2]]
    assert found == [{"dwsconv/v1": "Small:params"}, {"dwsconv/v1": "Small:params:*"}]
