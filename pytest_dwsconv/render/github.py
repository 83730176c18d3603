"""The reports of a run as workflow commands of GitHub Actions, which become annotations of the job.

GitHub shows ten annotations of a kind and step, so there is one for each model and one for each
limit exceeded.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_dwsconv.core.findings import ReportData, saved_params
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.render.latencies import Measurements, in_order
from pytest_dwsconv.render.sentences import NO_MODEL, brief
from pytest_dwsconv.render.suite import Reporters, Style, SuiteRun

LARGEST = 5
"""How many layers a notice names."""


def render_run(run: SuiteRun, measured: Measurements, style: Style) -> str:
    if not run and not measured:
        return command("notice", NO_MODEL, title="dwsconv")
    lines: list[str] = []
    for report, reporters in run.items():
        lines += _annotations(report, reporters)
    for measurement in in_order(measured):
        title = f"dwsconv: measured latency of {plain(measurement.model)}"
        lines.append(command("notice", plain(str(measurement)), title=title))
    return "\n".join(lines)


def command(kind: str, message: str, **properties: str) -> str:
    """``::kind name=value,...::message``, encoded as the runner decodes it."""
    written = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{kind} {written}::{_data(message)}"


def _annotations(report: ReportData, reporters: Reporters) -> Iterator[str]:
    where = {} if reporters.file is None else {"file": plain(reporters.file)}
    for check in reporters.checks:
        if check.exceeded:
            title = f"{plain(report.model)} is over its budget"
            yield command("error", str(check), **where, title=title)
    message = f"{brief(report)}{_most_saving(report)}"
    yield command("notice", message, **where, title=f"dwsconv: {plain(report.model)}")


def _most_saving(report: ReportData) -> str:
    """The candidates that save most, on a line of their own; empty if there is no candidate."""
    if not report.candidates:
        return ""
    ordered = sorted(report.candidates, key=saved_params, reverse=True)[:LARGEST]
    names = ", ".join(plain(finding.name) for finding in ordered)
    more = len(report.candidates) - len(ordered)
    return f"\nMost is saved by {names}" + (f" and {more:,} more" if more else "")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
