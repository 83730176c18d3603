"""The sentences about a report that every form a person reads has in common, each on one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pytest_dwsconv.core.budget import Held
from pytest_dwsconv.core.conv import Trait
from pytest_dwsconv.core.findings import MIB, Finding, Memory, ReportData
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.quantities import humanize
from pytest_dwsconv.render.table import count, label, ratio, sides

NO_MODEL = "No model was reported: call one in a test, name one with --dws-model, or use the fixture dws_report."


def heading(report: ReportData) -> str:
    """The model, what it was given, and how it was looked at."""
    return f"{plain(report.model)}, {circumstances(report)}"


def circumstances(report: ReportData) -> str:
    return f"{_given(report)} ({report.origin.value})"


def _given(report: ReportData) -> str:
    shapes = " and ".join(sides(shape) for shape in report.input_shapes)
    return f"input {shapes}" if shapes else "no input given"


def brief(report: ReportData, *, among_others: bool = False) -> str:
    """The model's parameters before and after; among others of its name with what it was given."""
    if not report.findings:
        return no_convolutions(report)
    after = (
        f"{report.separable_params:,} with {count(len(report.candidates), 'candidate')} separable"
    )
    name = f"{plain(report.model)}, {_given(report)}" if among_others else plain(report.model)
    return f"{name}: {report.params:,} params, {after} ({ratio(report.saving)})"


def no_convolutions(report: ReportData) -> str:
    return f"{plain(report.model)} has no convolutions, so nothing in it can be made depthwise separable."


class Reason(NamedTuple):
    """A verdict with its reason, and how often it occurs; ``label`` is the word in the table."""

    label: str
    verdict: str
    times: int
    reason: str

    def __str__(self) -> str:
        word = "" if self.label == self.verdict else f"{self.verdict}, "
        return f"{self.label} ({word}{self.times:,}): {self.reason}"


def reasons(findings: Sequence[Finding]) -> list[Reason]:
    """One for each reason that occurs, in the order of the table."""
    counts = Counter(
        (plain(label(finding)), finding.verdict.value, plain(finding.reason))
        for finding in findings
    )
    return [
        Reason(word, verdict, number, reason) for (word, verdict, reason), number in counts.items()
    ]


def remarks(report: ReportData) -> list[str]:
    """What is special about some layers."""
    findings = report.findings
    lines = [
        f"{plain(f.name)} is also known as {', '.join(map(plain, f.aliases))}"
        for f in findings
        if f.aliases
    ]
    lines += [
        f"{plain(f.name)} runs {f.calls} times, its MACs are of all calls"
        for f in findings
        if f.calls > 1
    ]
    odd = [finding for finding in findings if finding.origin is not report.origin]
    for origin in dict.fromkeys(finding.origin for finding in odd):
        lines.append(
            f"{origin.value}: {', '.join(plain(f.name) for f in odd if f.origin is origin)}"
        )
    if any(Trait.TIED in finding.spec.traits for finding in findings):
        lines.append("a tied weight is counted in each of its layers, and once in the whole model")
    return lines


def memory_rows(memory: Memory) -> list[tuple[str, str]]:
    """The summary that people know from torchsummary, in its words and units."""
    rows = (
        ("Input size (MB)", memory.inputs),
        ("Forward/backward pass size (MB)", memory.activations),
        ("Params size (MB)", memory.params),
        ("Estimated Total Size (MB)", memory.total),
    )
    return [(label, f"{size / MIB:.2f}") for label, size in rows]


def not_counted(report: ReportData) -> str:
    names = (
        plain(name) if number == 1 else f"{plain(name)} x {number:,}"
        for name, number in report.not_counted
    )
    operators = ", ".join(names)
    return f"Not counted in MACs: {operators}" if operators else ""


def budget_line(held: Held) -> str:
    """A limit and how the model stands to it."""
    if held.violation:
        return f"over budget: {plain(held.violation)}"
    actual, limit = (humanize(value, held.unit) for value in (held.actual, held.limit))
    return f"within budget: {actual} {held.noun}, at most {limit}"
