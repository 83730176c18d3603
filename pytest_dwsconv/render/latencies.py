"""The latencies that the tests of a run measured, or got predicted: tables, and rows for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pytest_dwsconv.core.jsonio import to_plain
from pytest_dwsconv.core.measurement import Measurement, NotMeasured, milliseconds
from pytest_dwsconv.core.plaintext import plain

Measurements = Mapping[Measurement | NotMeasured, set[str]]
"""What was measured, or predicted instead, with the node ids of the tests that asked for it."""

NO_MEASUREMENTS: Measurements = MappingProxyType({})

HEADERS = (
    "Measured latency of",
    "Median",
    "p90",
    "p99",
    "Spread",
    "First invoke",
    "Device",
    "Machine",
    "Runtime",
    "Clock",
)
PREDICTED_HEADERS = (
    "Latency not measured of",
    "Predicted",
    "Between",
    "Host",
    "What takes the time",
    "Why it was not measured",
)


class LatencyTable(NamedTuple):
    """A heading, and a row per latency, each with one cell per header."""

    title: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(latencies: Measurements) -> list[LatencyTable]:
    """The latencies that were measured, and those that were predicted in their place."""
    measured, predicted = by_kind(latencies)
    found = [
        LatencyTable("Measured latency", HEADERS, [cells(one) for one in measured]),
        LatencyTable(
            "Predicted latency", PREDICTED_HEADERS, [_predicted(one) for one in predicted]
        ),
    ]
    return [table for table in found if table.rows]


def json_rows(latencies: Measurements) -> list[dict[str, Any]]:
    measured, _ = by_kind(latencies)
    return [
        {"tests": sorted(tests), "measurement": measurement.to_dict()}
        for measurement, tests in measured.items()
    ]


def json_predictions(latencies: Measurements) -> list[dict[str, Any]]:
    _, predicted = by_kind(latencies)
    return [{"tests": sorted(tests), **to_plain(one)} for one, tests in predicted.items()]


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


def cells(measurement: Measurement) -> tuple[str, ...]:
    """One per header."""
    times = (measurement.median, measurement.p90, measurement.p99)
    return (
        plain(measurement.model),
        *map(milliseconds, times),
        f"{measurement.spread:.1%}",
        milliseconds(measurement.first_invoke),
        plain(measurement.device),
        plain(measurement.machine),
        plain(measurement.runtime),
        plain(measurement.clock),
    )


def _predicted(one: NotMeasured) -> tuple[str, ...]:
    prediction = one.prediction
    return (
        plain(one.model),
        f"{prediction.ms:.3f} ms",
        f"{prediction.low:.3f} and {prediction.high:.3f} ms",
        plain(prediction.host),
        plain(prediction.reason),
        plain(one.why),
    )
