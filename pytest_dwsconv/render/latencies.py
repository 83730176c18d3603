"""The latencies that the tests of a run measured: a table of them, and rows for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pytest_dwsconv.core.measurement import Measurement, milliseconds
from pytest_dwsconv.core.plaintext import plain

Measurements = Mapping[Measurement, set[str]]
"""Measurements, with the node ids of the tests that measured them."""

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


def table(measured: Measurements) -> str:
    """One row per measurement."""
    from tabulate import tabulate

    return tabulate(rows(measured), HEADERS, disable_numparse=True)


def rows(measured: Measurements) -> list[tuple[str, ...]]:
    """One row per measurement, each with one cell per header."""
    return [_row(measurement) for measurement in in_order(measured)]


def json_rows(measured: Measurements) -> list[dict[str, Any]]:
    return [
        {"tests": sorted(tests), "measurement": measurement.to_dict()}
        for measurement, tests in in_order(measured).items()
    ]


def in_order(measured: Measurements) -> dict[Measurement, set[str]]:
    """Sorted by the tests that measured them, so the order does not depend on which came first."""
    return dict(
        sorted(measured.items(), key=lambda row: (sorted(row[1]), row[0].model, row[0].samples))
    )


def _row(measurement: Measurement) -> tuple[str, ...]:
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
