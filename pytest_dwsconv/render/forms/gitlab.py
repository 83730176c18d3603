"""The reports of a run as issues of GitLab's Code Quality, which a merge request shows.

Limits exceeded and models that grew too much are major, what is not known is minor. Other changes,
and candidates, are information.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from pytest_dwsconv.core.plaintext import plain, plain_json
from pytest_dwsconv.core.suite.architectures import Place
from pytest_dwsconv.render import Results
from pytest_dwsconv.render.changes import sentences
from pytest_dwsconv.render.sentences import brief, evidence, most_saving
from pytest_dwsconv.render.view import Style

_NOWHERE = Place(".", 1)
"""An issue needs a place, and a model named by a target has none."""


def render_run(results: Results, style: Style) -> str:
    issues = [*_outcome(results), *_models(results)]
    return plain_json(json.dumps(issues, indent=2))


def _outcome(results: Results) -> Iterator[dict[str, Any]]:
    changes = results.outcome.changes
    if changes is not None:
        for model in changes.shown:
            for change, sentence in zip(model.too_much, model.increases(), strict=True):
                key = f"{model.name}:{change.noun}"
                yield _issue("increase", key, sentence, "major", results.place(model))
        for model, sentence in sentences(changes):
            yield _issue("change", model.name, sentence, "info", results.place(model))
    for sentence in results.outcome.unknown:
        yield _issue("unknown", sentence, sentence.replace("\n", ". "), "minor", None)


def _models(results: Results) -> Iterator[dict[str, Any]]:
    for found in results.architectures:
        place = found.reporters.place
        for check in found.reporters.checks:
            if check.exceeded:
                key = f"{found.name}:{check.name}:{check.noun}"
                yield _issue("budget", key, str(check), "major", place)
        if found.report.candidates:
            report = found.report
            said = ". ".join([brief(report, found.name), most_saving(report), *evidence(report)])
            yield _issue("candidates", found.name, said, "info", place)


def _issue(
    check: str, key: str, description: str, severity: str, place: Place | None
) -> dict[str, Any]:
    """An issue; its fingerprint, from ``key``, stays the same while numbers change."""
    file, line = place or _NOWHERE
    fingerprint = sha256(f"{check}:{key}".encode(errors="surrogatepass")).hexdigest()
    return {
        "description": plain(description),
        "check_name": f"dwsconv-{check}",
        "fingerprint": fingerprint,
        "severity": severity,
        "location": {"path": plain(file), "lines": {"begin": line or 1}},
    }
