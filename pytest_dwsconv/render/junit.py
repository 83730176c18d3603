"""A report as properties of a test case in a JUnit file."""

from __future__ import annotations

import re

from pytest_dwsconv.report import Report


def properties(report: Report) -> list[tuple[str, str]]:
    """Names and values for ``item.user_properties``: ``dwsconv.MODEL.params`` and so on, what is not known left out.

    A test that reports several models has those of each; MODEL is the class, with other characters than letters,
    digits and _ as _.
    """
    values = {
        "input": ";".join(",".join(map(str, shape)) for shape in report.input_shapes) or None,
        "params": report.params,
        "macs": report.macs,
        "convolutions": len(report.findings),
        "candidates": len(report.candidates),
        "separable_params": report.separable_params,
        "separable_macs": report.separable_macs,
    }
    model = re.sub(r"\W", "_", report.model)
    return [(f"dwsconv.{model}.{name}", str(value)) for name, value in values.items() if value is not None]
