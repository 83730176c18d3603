"""The reports of a run as JSON, described by the JSON Schema in ``run.schema.json`` beside this
file.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from pytest_dwsconv.render.latencies import Measured, json_rows
from pytest_dwsconv.render.run import Run, Style

SCHEMA_VERSION = 1
"""Of the JSON that describes a whole run; each report in it has its own."""


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``render_run``; its ``#/$defs/report`` is that of
    ``Report.to_json``.
    """
    text = (files("pytest_dwsconv.render") / "run.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def render_run(run: Run, measured: Measured, style: Style) -> str:
    models = [
        {
            "targets": sorted(users.targets),
            "tests": sorted(users.tests),
            "budget": [held.to_dict() for held in users.held],
            "report": report.to_dict(),
        }
        for report, users in run.items()
    ]
    return json.dumps(
        {"schema_version": SCHEMA_VERSION, "models": models, "measured": json_rows(measured)},
        indent=2,
    )
