"""Which replacements bring a network under a latency, by what was measured of each."""

from __future__ import annotations

from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.latency.comparison import Conditions, Speed
from pytest_dwsconv.core.limits import Remedy
from pytest_dwsconv.core.plan import plan_of
from pytest_dwsconv.latency.layers import time_layers


def remedy(
    report: ReportData,
    seconds: float,
    limit: float,
    conditions: Conditions | None = None,
    *,
    remeasure: bool = False,
) -> Remedy:
    """The fewest replacements that bring a network under a limit, those that save most first.

    They are measured on this CPU, each against its convolution; those that are not faster are left
    out.

    Args:
        report: the network, with its candidates and their replacements.
        seconds: what it takes.
        limit: the seconds that it may take.
        conditions: those under which it takes them; by default those of this process.
        remeasure: measure again what is known.
    """
    faster = _faster(report, conditions, remeasure)
    chosen = []
    for finding, saved in faster:
        if seconds <= limit:
            break
        seconds -= saved
        chosen.append(finding.name)
    return Remedy(tuple(chosen), max(seconds, 0.0))


def _faster(
    report: ReportData, conditions: Conditions | None, remeasure: bool
) -> list[tuple[Finding, float]]:
    """Candidates whose replacement measured faster, with the seconds it saves, most first."""
    candidates = [finding for finding in report.candidates if finding.input_shape is not None]
    # reason: a plan sorts its entries by name
    entries = {entry.name: entry for entry in plan_of(report, candidates).entries}
    pairs = [(finding.spec, entries[finding.name]) for finding in candidates]
    found = []
    for finding, comparison in zip(
        candidates, time_layers(pairs, conditions, remeasure=remeasure), strict=True
    ):
        if comparison.verdict is Speed.FASTER:
            found.append((finding, finding.calls * comparison.saved_ms / 1000))
    return sorted(found, key=lambda pair: pair[1], reverse=True)
