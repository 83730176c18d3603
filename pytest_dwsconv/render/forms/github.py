"""The reports of a run as workflow commands of GitHub Actions, which become annotations of the job.

GitHub shows ten annotations of a kind and step. So there is one error for each limit exceeded, one
notice of all models, and one for each of the first models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_dwsconv.core.measurement import Measurement
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.suite.architectures import Architecture, Place
from pytest_dwsconv.core.suite.changes import Changes
from pytest_dwsconv.render import Results
from pytest_dwsconv.render.changes import sentences
from pytest_dwsconv.render.latencies import in_order
from pytest_dwsconv.render.overview import Overview
from pytest_dwsconv.render.sentences import NO_MODEL, brief, evidence, most_saving, one_line
from pytest_dwsconv.render.table import count
from pytest_dwsconv.render.view import Style

NOTICES = 10
"""How many GitHub shows of a step."""
LISTED = 100
"""How many models the notice of all of them lists."""


def render_run(results: Results, style: Style) -> str:
    if results.is_empty:
        return command("notice", NO_MODEL, title="dwsconv")
    lines: list[str] = []
    if results.outcome.changes is not None:
        lines += _changes(results.outcome.changes, results)
    for sentence in results.outcome.unknown:
        lines.append(command("warning", _plain_lines(sentence), title="dwsconv: not known"))
    for found in results.architectures:
        lines += _errors(found)
    most = NOTICES - sum(line.startswith("::notice") for line in lines)
    lines += _notices(results.architectures, min(most - 1, style.view.top))
    for latency in in_order(results.measured):
        obtained = "measured" if isinstance(latency, Measurement) else "predicted"
        title = f"dwsconv: {obtained} latency of {plain(latency.model)}"
        lines.append(command("notice", plain(str(latency)), title=title))
    return "\n".join(lines)


def command(kind: str, message: str, **properties: str) -> str:
    """``::kind name=value,...::message``, encoded as the runner decodes it."""
    written = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{kind} {written}::{_data(message)}"


def _where(place: Place | None) -> dict[str, str]:
    if place is None:
        return {}
    line = {} if place.line is None else {"line": str(place.line)}
    return {"file": plain(place.file), **line}


def _plain_lines(text: str) -> str:
    return "\n".join(map(plain, text.split("\n")))


def _changes(changes: Changes, results: Results) -> Iterator[str]:
    """An error for each model that grew too much, and a notice of all other differences."""
    for model in changes.shown:
        if increases := list(model.increases()):
            where = _where(results.place(model))
            title = f"{plain(model.name)} has grown"
            yield command("error", _plain_lines("\n".join(increases)), **where, title=title)
    lines = [plain(changes.summary()), *(line for _, line in sentences(changes))]
    if len(lines) > LISTED:
        lines[LISTED:] = [f"and {len(lines) - LISTED:,} more"]
    yield command("notice", "\n".join(lines), title="dwsconv: costs before and after")


def _errors(found: Architecture) -> Iterator[str]:
    for check in found.reporters.checks:
        if check.exceeded:
            title = f"{plain(found.name)} is over its budget"
            yield command("error", str(check), **_where(found.reporters.place), title=title)


def _notices(architectures: Sequence[Architecture], top: int) -> Iterator[str]:
    """One of all models if there are several, and one for each of the first ``top``."""
    overview = Overview.of(architectures, top)
    lines: list[str] = []
    if len(overview.rows) > 1:
        lines += [one_line(found) for found in overview.rows[:LISTED]]
    if len(overview.rows) > LISTED:
        lines.append(f"and {len(overview.rows) - LISTED:,} more")
    if overview.bare:
        lines.append(overview.without_convolutions())
    if lines:
        title = f"dwsconv: {count(len(architectures), 'model')}"
        yield command("notice", "\n".join(lines), title=title)
    for found in overview.detailed:
        yield _notice(found)


def _notice(found: Architecture) -> str:
    report = found.report
    lines = (brief(report, found.name), most_saving(report), *evidence(report))
    message = "\n".join(filter(None, lines))
    where = _where(found.reporters.place)
    return command("notice", message, **where, title=f"dwsconv: {plain(found.name)}")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
