"""A table at the end of the run: what became of the models of each library."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from tabulate import tabulate

COLUMNS = (
    "library",
    "models",
    "passed",
    "failed",
    "on meta tensors",
    "convolutions replaced",
    "analysis, s",
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, float] = defaultdict(float)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if "test_zoo.py::test_model[" in report.nodeid:
                library = report.nodeid.partition("[")[2].partition(":")[0]
                found = dict(report.user_properties)
                counts[library].update(
                    {outcome: 1, "meta": int("meta" in str(found.get("origin")))}
                )
                counts[library]["replaced"] += int(str(found.get("replaced", 0)))
                seconds[library] += float(str(found.get("seconds", 0)))
    if counts:
        rows = [
            [
                library,
                n["passed"] + n["failed"],
                n["passed"],
                n["failed"],
                n["meta"],
                n["replaced"],
                seconds[library],
            ]
            for library, n in counts.items()
        ]
        terminalreporter.section("models of others")
        terminalreporter.write_line(tabulate(rows, COLUMNS, floatfmt=".1f"))
