"""Which replacements bring a network under a latency, by what was measured of each."""

from __future__ import annotations

from operator import itemgetter

from pytest_dwsconv.core.findings import ReportData
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
    candidates = [finding for finding in report.candidates if finding.input_shape is not None]
    # reason: a plan sorts its entries by name
    entries = {entry.name: entry for entry in plan_of(report, candidates).entries}
    pairs = [(finding.spec, entries[finding.name]) for finding in candidates]
    comparisons = time_layers(pairs, conditions, remeasure=remeasure)
    faster = []
    for finding, found in zip(candidates, comparisons, strict=True):
        if found.verdict is Speed.FASTER:
            faster.append((finding.calls * found.saved_ms / 1000, finding.name))
    chosen = []
    for saved, name in sorted(faster, key=itemgetter(0), reverse=True):
        if seconds <= limit:
            break
        seconds -= saved
        chosen.append(name)
    noisy = sum(found.verdict is Speed.UNDECIDED for found in comparisons)
    return Remedy(tuple(chosen), max(seconds, 0.0), noisy)
