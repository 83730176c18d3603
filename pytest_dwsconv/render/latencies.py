"""The latencies that the tests of a run measured, or got predicted: tables, and rows for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from pytest_dwsconv.core.jsonio import to_plain
from pytest_dwsconv.core.measurement import Measurement, NotMeasured, milliseconds
from pytest_dwsconv.render.table import Column, written

Measurements = Mapping[Measurement | NotMeasured, set[str]]
"""What was measured, or predicted instead, with the node ids of the tests that asked for it."""

NO_MEASUREMENTS: Measurements = MappingProxyType({})

_MEASURED = (
    Column("model", "Measured latency of", attrgetter("model")),
    Column("median", "Median", attrgetter("median"), milliseconds),
    Column("p90", "p90", attrgetter("p90"), milliseconds),
    Column("p99", "p99", attrgetter("p99"), milliseconds),
    Column("spread", "Spread", attrgetter("spread"), "{:.1%}".format),
    Column("first_invoke", "First invoke", attrgetter("first_invoke"), milliseconds),
    Column("device", "Device", attrgetter("device")),
    Column("machine", "Machine", attrgetter("machine")),
    Column("runtime", "Runtime", attrgetter("runtime")),
    Column("clock", "Clock", attrgetter("clock")),
)
_PREDICTED = (
    Column("model", "Latency not measured of", attrgetter("model")),
    Column("ms", "Predicted", attrgetter("prediction.ms"), "{:.3f} ms".format),
    Column(
        "interval",
        "Between",
        lambda one: f"{one.prediction.low:.3f} and {one.prediction.high:.3f} ms",
    ),
    Column("host", "Host", attrgetter("prediction.host")),
    Column("reason", "What takes the time", attrgetter("prediction.reason")),
    Column("why", "Why it was not measured", attrgetter("why")),
)


class LatencyTable(NamedTuple):
    """A heading, and a row per latency, each with one cell per header."""

    title: str
    headers: list[str]
    rows: list[list[str]]


def tables(latencies: Measurements) -> list[LatencyTable]:
    """The latencies that were measured, and those that were predicted in their place."""
    measured, predicted = by_kind(latencies)
    found = [
        _table("Measured latency", _MEASURED, measured),
        _table("Predicted latency", _PREDICTED, predicted),
    ]
    return [table for table in found if table.rows]


def _table(title: str, columns: Sequence[Column], latencies: Iterable[object]) -> LatencyTable:
    return LatencyTable(title, [one.label for one in columns], written(columns, latencies))


def json_rows(latencies: Measurements) -> dict[str, list[dict[str, Any]]]:
    """The same as plain data."""
    measured, predicted = by_kind(latencies)
    return {
        "measured": [
            {"tests": sorted(tests), "measurement": one.to_dict()}
            for one, tests in measured.items()
        ],
        "predicted": [
            {"tests": sorted(tests), **to_plain(one)} for one, tests in predicted.items()
        ],
    }


def by_kind(
    latencies: Measurements,
) -> tuple[dict[Measurement, set[str]], dict[NotMeasured, set[str]]]:
    """What was measured, and what was predicted, each in order."""
    measured, predicted = {}, {}
    for latency, tests in in_order(latencies).items():
        if isinstance(latency, Measurement):
            measured[latency] = tests
        else:
            predicted[latency] = tests
    return measured, predicted


def in_order(measured: Measurements) -> dict[Measurement | NotMeasured, set[str]]:
    """Sorted by the tests that measured them, so the order does not depend on which came first."""
    return dict(sorted(measured.items(), key=_place))


def _place(row: tuple[Measurement | NotMeasured, set[str]]) -> tuple[list[str], str, list[float]]:
    latency, tests = row
    if isinstance(latency, Measurement):
        return sorted(tests), latency.model, [*latency.samples]
    return sorted(tests), latency.model, [latency.prediction.ms]
