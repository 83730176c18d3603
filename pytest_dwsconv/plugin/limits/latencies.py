"""What a measured latency says of a limit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_dwsconv.plugin.latency import Latency, Unmeasured, unknown_latency

if TYPE_CHECKING:
    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.core.limits import LatencyCheck
    from pytest_dwsconv.core.measurement import LatencyLimit


def check_latency(
    config: pytest.Config, report: ReportData, latency: Latency, limit: LatencyLimit
) -> LatencyCheck | Unmeasured:
    """How a model stands to a limit; over it, with the replacements that would bring it under.

    What kept a limit on a busy machine keeps it on an idle one. What did not is not known.

    Raises:
        InputError: the limit is relative, and the target has nothing that it could be relative to.
    """
    check = latency.check(limit)
    measurement = latency.measurement
    if not check.exceeded or not measurement.reference:
        return check
    if measurement.is_busy:
        spread = (
            f"the reference convolution's times spread by {measurement.reference_spread:.0%}, and "
            f"for {measurement.waited:.0%} of them it had no core"
        )
        why = f"this machine was too busy to measure it ({spread}), run the test on an idle one"
        return Unmeasured(latency.target, f"{unknown_latency(report, latency.target)}: {why}", True)
    if latency.target != "cpu":  # what replacements save there is not what they save here
        return check
    from pytest_dwsconv.latency.remedy import remedy

    again = bool(config.getoption("dws_remeasure"))
    found = remedy(report, check.actual, check.limit, measurement.conditions, remeasure=again)
    return replace(check, remedy=found)
