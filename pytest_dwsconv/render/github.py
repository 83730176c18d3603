"""The reports of a run as workflow commands of GitHub Actions, which become annotations of the job.

GitHub shows ten annotations of a kind and step, so there is one for each model and one for each
limit exceeded.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_dwsconv.core.findings import ReportData, saved_params
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.render.latencies import Measured, in_order
from pytest_dwsconv.render.run import Run, Style, Users
from pytest_dwsconv.render.sentences import NO_MODEL, brief

LARGEST = 5
"""So many layers are named."""


def render_run(run: Run, measured: Measured, style: Style) -> str:
    latencies = [
        command(
            "notice",
            plain(str(measurement)),
            title=f"dwsconv: measured latency of {plain(measurement.model)}",
        )
        for measurement in in_order(measured)
    ]
    if not run and not measured:
        return command("notice", NO_MODEL, title="dwsconv")
    models = [line for report, users in run.items() for line in _annotations(report, users)]
    return "\n".join(models + latencies)


def command(kind: str, message: str, **properties: str) -> str:
    """``::kind name=value,...::message``, with what would end a part of it encoded as the runner
    decodes it.
    """
    written = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{kind} {written}::{_data(message)}"


def _annotations(report: ReportData, users: Users) -> Iterator[str]:
    where = {} if users.file is None else {"file": users.file}
    for held in users.held:
        if held.violation:
            yield command(
                "error",
                plain(held.violation),
                **where,
                title=f"{plain(report.model)} is over its budget",
            )
    yield command(
        "notice",
        f"{brief(report)}{_most_saving(report)}",
        **where,
        title=f"dwsconv: {plain(report.model)}",
    )


def _most_saving(report: ReportData) -> str:
    """The candidates that save most, in a line of their own."""
    ordered = sorted(report.candidates, key=saved_params, reverse=True)[:LARGEST]
    names = ", ".join(plain(finding.name) for finding in ordered)
    more = len(report.candidates) - len(ordered)
    return f"\nMost is saved by {names}{f' and {more:,} more' if more else ''}" if names else ""


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
