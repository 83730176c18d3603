"""The latencies that the tests of a run measured: a table of them, and rows for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pytest_dwsconv.core.measurement import Measurement, milliseconds

Measured = Mapping[Measurement, set[str]]
"""Measurements, with the tests that took them by node id."""

NOTHING: Measured = MappingProxyType({})

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


def table(measured: Measured) -> str:
    """One row a measurement."""
    from tabulate import tabulate

    return tabulate(rows(measured), HEADERS, disable_numparse=True)


def rows(measured: Measured) -> list[tuple[str, ...]]:
    """A cell for each of ``HEADERS``, a row a measurement."""
    return [_row(measurement) for measurement in in_order(measured)]


def json_rows(measured: Measured) -> list[dict[str, Any]]:
    return [
        {"tests": sorted(tests), "measurement": measurement.to_dict()}
        for measurement, tests in in_order(measured).items()
    ]


def in_order(measured: Measured) -> dict[Measurement, set[str]]:
    """By the tests that took them: an order that does not depend on which came first."""
    return dict(
        sorted(measured.items(), key=lambda row: (sorted(row[1]), row[0].model, row[0].samples))
    )


def _row(measurement: Measurement) -> tuple[str, ...]:
    times = (measurement.median, measurement.p90, measurement.p99)
    return (
        measurement.model,
        *(milliseconds(seconds) for seconds in times),
        f"{measurement.spread:.1%}",
        milliseconds(measurement.first_invoke),
        measurement.device,
        measurement.machine,
        measurement.runtime,
        measurement.clock,
    )
