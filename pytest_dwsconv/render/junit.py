"""What a test reported, as properties of its case in a JUnit file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from pytest_dwsconv.report import Report


def properties(reports: Iterable[Report]) -> list[tuple[str, object]]:
    """Names and values for ``item.user_properties``: ``dwsconv.MODEL.params`` and so on, what is not known left out.

    MODEL is the model's class, with _ in place of what is neither letter nor digit, and a number from the second of
    that name on.
    """
    found: list[tuple[str, object]] = []
    seen: Counter[str] = Counter()
    for report in dict.fromkeys(reports):
        model = re.sub(r"\W", "_", report.model)
        seen[model] += 1
        prefix = f"dwsconv.{model}" if seen[model] == 1 else f"dwsconv.{model}-{seen[model]}"
        found += [(f"{prefix}.{name}", str(value)) for name, value in _values(report).items() if value is not None]
    return found


def _values(report: Report) -> dict[str, object]:
    return {
        "input": ";".join(",".join(map(str, shape)) for shape in report.input_shapes) or None,
        "params": report.params,
        "macs": report.macs,
        "convolutions": len(report.findings),
        "candidates": len(report.candidates),
        "separable_params": report.separable_params,
        "separable_macs": report.separable_macs,
    }
