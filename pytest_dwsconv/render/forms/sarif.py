"""The reports of a run as SARIF 2.1.0, for code scanning and editors.

Candidates are notes and exceeded limits are errors. What cannot be told is an open result; what is
ineligible is not a result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from pytest_dwsconv._version import __version__
from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.jsonio import to_plain
from pytest_dwsconv.core.plaintext import plain, plain_json
from pytest_dwsconv.core.rules import CANDIDATE_CODE, RULEBOOK, RULES, Verdict
from pytest_dwsconv.core.suite.architectures import Architecture, Place, Reporters
from pytest_dwsconv.render import Results
from pytest_dwsconv.render.latencies import json_rows
from pytest_dwsconv.render.table import COLUMNS, ratio
from pytest_dwsconv.render.view import Style

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
BUDGET = "dwsconv-budget"
INCREASE = "dwsconv-increase"
UNKNOWN = "dwsconv-unknown"
_OWN_RULES = {
    BUDGET: ("model is over its budget", "error"),
    INCREASE: ("model has grown beyond its baseline", "error"),
    UNKNOWN: ("what a run could not find out", "warning"),
}
"""What is not about a convolution, with its level."""


def render_run(results: Results, style: Style) -> str:
    rows: list[dict[str, Any]] = []
    for found in results.architectures:
        rows += _results(found.report, found.reporters)
    rows += _outcome(results)
    rules = _rules(results.architectures)
    indices = {rule["id"]: index for index, rule in enumerate(rules)}
    for result in rows:
        result["ruleIndex"] = indices[result["ruleId"]]
    driver = {"name": "pytest-dwsconv", "semanticVersion": __version__, "rules": rules}
    one: dict[str, Any] = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {
            "SRCROOT": {"description": {"text": "The root folder of the test run."}}
        },
        "results": rows,
    }
    if results.measured:
        one["properties"] = json_rows(results.measured)
    known = [one for one in results.architectures if one.report.evidence]
    if known:
        evidence = {found.name: to_plain(found.report.evidence) for found in known}
        one.setdefault("properties", {})["evidence"] = evidence
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [one]}
    return plain_json(json.dumps(document, indent=2))


def _rules(architectures: Sequence[Architecture]) -> list[dict[str, Any]]:
    """The table of rules, then codes that a hook brought in."""
    rules = [_rule(CANDIDATE_CODE, "could be depthwise separable", Verdict.CANDIDATE)]
    rules += [_rule(rule.code, rule.title, rule.verdict, rule.reason) for rule in RULES]
    known = {rule["id"] for rule in rules}
    for found in architectures:
        for finding in found.report.findings:
            if finding.code not in known:
                known.add(finding.code)
                rules.append(_rule(finding.code, finding.reason, finding.verdict))
    for code, (title, level) in _OWN_RULES.items():
        configured = {"level": level}
        rules.append(
            {"id": code, "shortDescription": {"text": title}, "defaultConfiguration": configured}
        )
    return rules


def _rule(code: str, title: str, verdict: Verdict, reason: str = "") -> dict[str, Any]:
    described: dict[str, Any] = {"fullDescription": {"text": reason}} if reason else {}
    entry = RULEBOOK.get(code)
    if entry is not None:
        markdown = f"```python\n{entry.example}\n```\n\n{entry.advice}\n\n`{entry.command}`"
        described["help"] = {"text": entry.advice, "markdown": markdown}
    level = "note" if verdict is Verdict.CANDIDATE else "none"
    return {
        "id": code,
        "shortDescription": {"text": title},
        **described,
        "defaultConfiguration": {"level": level},
    }


def _text(words: str) -> dict[str, str]:
    """A message whose braces are not placeholders and whose brackets are not links."""
    words = plain(words).replace("{", "{{").replace("}", "}}")
    if "](" in words:
        words = words.replace("[", "\\[").replace("]", "\\]")
    return {"text": words}


def _outcome(results: Results) -> Iterator[dict[str, Any]]:
    """What grew too much, and what is not known."""
    changes = results.outcome.changes
    for model in changes.shown if changes else ():
        for sentence in model.increases():
            logical = {"name": model.name, "kind": "type"}
            yield {
                "ruleId": INCREASE,
                "level": "error",
                "message": _text(sentence),
                "locations": [_location(results.place(model), logical)],
            }
    for sentence in results.outcome.unknown:
        message = _text(sentence.replace("\n", ". "))
        yield {"ruleId": UNKNOWN, "level": "warning", "message": message}


def _results(report: ReportData, reporters: Reporters) -> Iterator[dict[str, Any]]:
    for check in reporters.checks:
        if check.exceeded:
            model = {"name": report.model, "kind": "type"}
            limited = ":".join(filter(None, (report.model, check.name, check.layers)))
            yield {
                "ruleId": BUDGET,
                "level": "error",
                "message": _text(str(check)),
                "locations": [_location(reporters.place, model)],
                "partialFingerprints": {"dwsconv/v1": limited},
            }
    for finding in report.findings:
        if finding.verdict is not Verdict.INELIGIBLE:
            yield _result(report, finding, reporters)


def _result(report: ReportData, finding: Finding, reporters: Reporters) -> dict[str, Any]:
    layer = {
        "name": finding.name,
        "fullyQualifiedName": f"{report.model}.{finding.name}",
        "kind": "member",
    }
    values = {column.key: column.value(finding) for column in COLUMNS}
    if finding.evidence:
        values["evidence"] = to_plain(finding.evidence)
    level = {"level": "none", "kind": "open"}
    if finding.verdict is Verdict.CANDIDATE:
        level = {"level": "note"}
    return {
        "ruleId": finding.code,
        **level,
        "message": _text(_message(finding)),
        "locations": [_location(reporters.place, layer)],
        "partialFingerprints": {"dwsconv/v1": layer["fullyQualifiedName"]},
        "properties": values,
    }


def _message(finding: Finding) -> str:
    if finding.verdict is not Verdict.CANDIDATE:
        return f"{finding.name} cannot be judged: {finding.reason}"
    saving = "" if finding.saving is None else f", with {ratio(finding.saving)} fewer parameters"
    known = "".join(f". {one}" for one in finding.evidence)
    return f"{finding.name} could be depthwise separable{saving} ({finding.reason}){known}"


def _location(place: Place | None, logical: dict[str, str]) -> dict[str, Any]:
    location: dict[str, Any] = {"logicalLocations": [logical]}
    if place is not None:
        physical: dict[str, Any] = {"artifactLocation": _artifact(place.file)}
        if place.line is not None:
            physical["region"] = {"startLine": place.line}
        location["physicalLocation"] = physical
    return location


def _artifact(file: str) -> dict[str, str]:
    # reason: the name of a file may hold bytes that are not UTF-8, which Python has as surrogates
    artifact = {"uri": quote(file.encode("utf-8", "surrogatepass"))}
    if not file.startswith("/"):
        artifact["uriBaseId"] = "SRCROOT"
    return artifact
