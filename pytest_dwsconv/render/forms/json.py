"""The reports of a run as JSON, which ``run.schema.json`` beside this file describes."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.jsonio import to_plain
from pytest_dwsconv.core.limits import AnyCheck
from pytest_dwsconv.core.plaintext import plain_json
from pytest_dwsconv.core.suite.architectures import Architecture
from pytest_dwsconv.render import Results
from pytest_dwsconv.render.latencies import json_rows
from pytest_dwsconv.render.view import Style

SCHEMA_VERSION = 1
"""Of the JSON that describes a whole run; each report in it has its own."""


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what ``render_run`` returns.

    Its ``#/$defs/report`` is that of ``Report.to_json``.
    """
    text = (files("pytest_dwsconv.render.forms") / "run.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def render_run(results: Results, style: Style) -> str:
    models = [
        {
            "targets": sorted(reporters.targets),
            "tests": sorted(reporters.tests),
            "budget": [_limit(check) for check in reporters.checks],
            # reason: reports that come from tests have no layers, and nobody misses them here
            "report": replace(report, all_layers=()).to_dict(),
        }
        for report, reporters in results.reports.items()
    ]
    places = {report: place for place, report in enumerate(results.reports)}
    document = {
        "schema_version": SCHEMA_VERSION,
        "models": models,
        "architectures": [_architecture(found, places) for found in results.architectures],
        **json_rows(results.measured),
        "changes": to_plain(results.outcome.changes),
        "unknown": list(results.outcome.unknown),
    }
    return plain_json(json.dumps(document, indent=2))


def _architecture(found: Architecture, places: dict[ReportData, int]) -> dict[str, Any]:
    report = found.report
    return {
        "name": found.name,
        "model": report.model,
        "params": report.params,
        "separable_params": report.separable_params,
        "convolutions": len(report.findings),
        "candidates": len(report.candidates),
        "inputs": [{"shapes": shapes, "macs": macs} for shapes, macs in found.inputs.items()],
        "over_budget": found.exceeded,
        "targets": sorted(found.reporters.targets),
        "tests": sorted(found.reporters.tests),
        "models": [places[one] for one in found.reports],
    }


def _limit(check: AnyCheck) -> dict[str, Any]:
    return {
        "name": check.name,
        "layers": check.layers,
        "noun": check.noun,
        "unit": check.unit.value,
        "limit": check.limit,
        "actual": check.actual,
        "violation": str(check) if check.exceeded else "",
    }
