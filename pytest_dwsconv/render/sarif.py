"""The reports of a run as SARIF 2.1.0, for code scanning and editors.

Candidates are notes and exceeded limits are errors. What cannot be told is left open; what is
ineligible is no result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from pytest_dwsconv._version import __version__
from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.rules import CANDIDATE_CODE, RULES, Verdict
from pytest_dwsconv.render.latencies import Measured, json_rows
from pytest_dwsconv.render.run import Run, Style, Users
from pytest_dwsconv.render.table import COLUMNS, ratio

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
BUDGET = "dwsconv-budget"


def render_run(run: Run, measured: Measured, style: Style) -> str:
    results = [result for report, users in run.items() for result in _results(report, users)]
    rules = _rules(run)
    indices = {rule["id"]: index for index, rule in enumerate(rules)}
    for result in results:
        result["ruleIndex"] = indices[result["ruleId"]]
    driver = {"name": "pytest-dwsconv", "semanticVersion": __version__, "rules": rules}
    one = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {
            "SRCROOT": {"description": {"text": "The root folder of the test run."}}
        },
        "results": results,
        **({"properties": {"measured": json_rows(measured)}} if measured else {}),
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [one]}, indent=2)


def _rules(run: Run) -> list[dict[str, Any]]:
    """The table of rules, then codes that a hook brought in."""
    rules = [_rule(CANDIDATE_CODE, "could be depthwise separable", Verdict.CANDIDATE)]
    rules += [_rule(rule.code, rule.title, rule.verdict, rule.reason) for rule in RULES]
    known = {rule["id"] for rule in rules}
    for finding in (finding for report in run for finding in report.findings):
        if finding.code not in known:
            known.add(finding.code)
            rules.append(_rule(finding.code, finding.reason, finding.verdict))
    level = {"defaultConfiguration": {"level": "error"}}
    return [
        *rules,
        {"id": BUDGET, "shortDescription": {"text": "model is over its budget"}, **level},
    ]


def _rule(code: str, title: str, verdict: Verdict, reason: str = "") -> dict[str, Any]:
    described = {"fullDescription": {"text": reason}} if reason else {}
    level = "note" if verdict is Verdict.CANDIDATE else "none"
    return {
        "id": code,
        "shortDescription": {"text": title},
        **described,
        "defaultConfiguration": {"level": level},
    }


def _text(words: str) -> dict[str, str]:
    """A message whose braces and brackets are only that: SARIF has placeholders in the ones, links
    in the others.
    """
    words = words.replace("{", "{{").replace("}", "}}")
    return {"text": words.replace("[", "\\[").replace("]", "\\]") if "](" in words else words}


def _results(report: ReportData, users: Users) -> Iterator[dict[str, Any]]:
    for held in users.held:
        if held.violation:
            model = {"name": report.model, "kind": "type"}
            yield {
                "ruleId": BUDGET,
                "level": "error",
                "message": _text(held.violation),
                "locations": [_location(users, model)],
                "partialFingerprints": {"dwsconv/v1": f"{report.model}:{held.name}"},
            }
    for finding in report.findings:
        if finding.verdict is not Verdict.INELIGIBLE:
            yield _result(report, finding, users)


def _result(report: ReportData, finding: Finding, users: Users) -> dict[str, Any]:
    layer = {
        "name": finding.name,
        "fullyQualifiedName": f"{report.model}.{finding.name}",
        "kind": "member",
    }
    candidate = finding.verdict is Verdict.CANDIDATE
    return {
        "ruleId": finding.code,
        **({"level": "note"} if candidate else {"level": "none", "kind": "open"}),
        "message": _text(_message(finding)),
        "locations": [_location(users, layer)],
        "partialFingerprints": {"dwsconv/v1": layer["fullyQualifiedName"]},
        "properties": {column.key: column.value(finding) for column in COLUMNS},
    }


def _message(finding: Finding) -> str:
    if finding.verdict is not Verdict.CANDIDATE:
        return f"{finding.name} cannot be judged: {finding.reason}"
    saving = "" if finding.saving is None else f", with {ratio(finding.saving)} fewer parameters"
    return f"{finding.name} could be depthwise separable{saving} ({finding.reason})"


def _location(users: Users, logical: dict[str, str]) -> dict[str, Any]:
    physical = (
        {}
        if users.file is None
        else {"physicalLocation": {"artifactLocation": _artifact(users.file)}}
    )
    return {**physical, "logicalLocations": [logical]}


def _artifact(file: str) -> dict[str, str]:
    return (
        {"uri": quote(file)}
        if file.startswith("/")
        else {"uri": quote(file), "uriBaseId": "SRCROOT"}
    )
