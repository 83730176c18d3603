"""The sentences about a report that all forms for people share, each on one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pytest_dwsconv.core.conv import Trait
from pytest_dwsconv.core.findings import MIB, Finding, Memory, Origin, ReportData, saved_params
from pytest_dwsconv.core.limits import AnyCheck
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.quantities import humanize
from pytest_dwsconv.core.suite.architectures import Architecture
from pytest_dwsconv.render.table import count, label, ratio, sides

NO_MODEL = (
    "No model was reported: call one in a test, name one with --dws-model, "
    "or use the fixture dws_report."
)

MOST_INPUTS = 3
"""How many further inputs of a model are listed where room is scarce."""


def heading(report: ReportData, name: str = "") -> str:
    """The model, its input, and how the report was obtained."""
    return f"{plain(name or report.model)}, {circumstances(report)}"


def circumstances(report: ReportData) -> str:
    return f"{_given(report)} ({report.origin.value})"


def _given(report: ReportData) -> str:
    return f"input {given(report.input_shapes)}" if report.input_shapes else "no input given"


def given(shapes: Sequence[Sequence[int]]) -> str:
    """The shapes of a model's inputs."""
    return " and ".join(map(sides, shapes))


def other_inputs(found: Architecture, most: int | None) -> str:
    """What else the model was reported for, with the MACs of each; empty if that is nothing."""
    others = []
    for shapes, macs in found.other_inputs.items():
        counted = "" if macs is None else f" ({macs:,} MACs)"
        others.append(f"{given(shapes)}{counted}")
    if not others:
        return ""
    inputs = count(len(others), "other input")
    return f"Also reported for {inputs}: {listed(others, most)}"


def listed(names: Sequence[str], most: int | None) -> str:
    """The first ``most`` of these names, or all, and how many more there are."""
    shown = ", ".join(names[:most])
    more = len(names) - len(names[:most])
    return f"{shown} and {more:,} more" if more else shown


def brief(report: ReportData, name: str = "") -> str:
    """The model's parameters before and after."""
    if not report.findings:
        return no_convolutions(report, name)
    candidates = count(len(report.candidates), "candidate")
    after = f"{report.separable_params:,} with {candidates} separable"
    model = plain(name or report.model)
    return f"{model}: {report.params:,} params, {after} ({ratio(report.saving)})"


def one_line(found: Architecture) -> str:
    """All that fits a line: the model before and after, its MACs, and who reported it."""
    report = found.report
    line = brief(report, found.name)
    if not report.findings:
        line = f"{plain(found.name)}: {report.params:,} params, no convolutions"
    if report.macs is not None:
        others = len(found.other_inputs)
        more = f" and {count(others, 'other input')}" if others else ""
        line += f", {report.macs:,} MACs for {_given(report)}{more}"
    names = found.reporters.names
    return f"{line}, in {listed(list(map(plain, names)), 1)}" if names else line


LARGEST = 5
"""How many layers are named as those that save most."""


def most_saving(report: ReportData) -> str:
    """The candidates that save most, by name; empty if there is no candidate."""
    if not report.candidates:
        return ""
    ordered = sorted(report.candidates, key=saved_params, reverse=True)
    return f"Most is saved by {listed([plain(one.name) for one in ordered], LARGEST)}"


def no_convolutions(report: ReportData, name: str = "") -> str:
    model = plain(name or report.model)
    return f"{model} has no convolutions, so nothing in it can be made depthwise separable."


class Reason(NamedTuple):
    """A verdict with its reason, and how often it occurs; ``label`` is the word in the table."""

    label: str
    verdict: str
    times: int
    reason: str

    def __str__(self) -> str:
        if self.label == self.verdict:
            return f"{self.label} ({self.times:,}): {self.reason}"
        return f"{self.label} ({self.verdict}, {self.times:,}): {self.reason}"


def reasons(findings: Sequence[Finding]) -> list[Reason]:
    """One for each reason that occurs, in the order of the table."""
    once = Counter(
        Reason(plain(label(finding)), finding.verdict.value, 1, plain(finding.reason))
        for finding in findings
    )
    return [reason._replace(times=times) for reason, times in once.items()]


def remarks(report: ReportData) -> list[str]:
    """What is special about some layers: aliases, several calls, an origin of their own, ties."""
    findings = report.findings
    lines = []
    for finding in findings:
        if finding.aliases:
            aliases = ", ".join(map(plain, finding.aliases))
            lines.append(f"{plain(finding.name)} is also known as {aliases}")
    for finding in findings:
        if finding.calls > 1:
            runs = f"{plain(finding.name)} runs {finding.calls} times"
            lines.append(f"{runs}, its MACs are of all calls")
    others: dict[Origin, list[str]] = {}
    for finding in findings:
        if finding.origin is not report.origin:
            others.setdefault(finding.origin, []).append(plain(finding.name))
    lines += [f"{origin.value}: {', '.join(names)}" for origin, names in others.items()]
    if any(Trait.TIED in finding.spec.traits for finding in findings):
        lines.append("a tied weight is counted in each of its layers, and once in the whole model")
    return lines


def evidence(report: ReportData) -> list[str]:
    """What is known of the model's latency with replacements, one line per target and source."""
    return list(map(str, report.evidence))


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
    """The operators that are in no total, on one line; empty if there is none."""
    if not report.not_counted:
        return ""
    operators = []
    for name, times in report.not_counted:
        operators.append(plain(name) if times == 1 else f"{plain(name)} x {times:,}")
    return f"Not counted in MACs: {', '.join(operators)}"


def budget_line(check: AnyCheck) -> str:
    """A limit, and whether the model keeps it."""
    if check.exceeded:
        return f"over budget: {check}"
    actual, limit = (humanize(value, check.unit) for value in (check.actual, check.limit))
    return f"within budget: {actual} {plain(check.noun)}, at most {limit}"
