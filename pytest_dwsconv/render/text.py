"""A report as the text table people read in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from textwrap import fill

from pytest_dwsconv.conv import Trait
from pytest_dwsconv.report import MIB, Finding, Memory, Report
from pytest_dwsconv.rules import Verdict

WIDTH = 100
"""Columns that sentences are wrapped at; a table is as wide as its numbers need."""

_LAYER_HEADER = (
    "layer",
    "type",
    "kernel",
    "output",
    "params",
    "MACs",
    "verdict",
    "separable\nparams",
    "separable\nMACs",
    "saving",
)
_LAYER_ALIGN = ("left", "left", "left", "right", "right", "right", "left", "right", "right", "right")
_TOTAL_HEADER = ("", "params", "MACs", "separable\nparams", "separable\nMACs", "saving")
_TOTAL_ALIGN = ("left", "right", "right", "right", "right", "right")


def render(report: Report) -> str:
    """The whole report: its layers, totals, reasons, memory, and what was not counted."""
    blocks = [
        heading(report),
        layers(report.findings) if report.findings else no_convolutions(report),
        totals(report) if report.findings else "",
        _reasons(report.findings),
        _remarks(report),
        _memory(report.memory) if report.memory else "",
        _not_counted(report),
    ]
    return "\n\n".join(block for block in blocks if block)


def brief(report: Report) -> str:
    """One line: the model's parameters before and after."""
    if not report.findings:
        return no_convolutions(report)
    after = f"{report.separable_params:,} with {_count(len(report.candidates), 'candidate')} separable"
    return f"{report.model}: {report.params:,} params, {after} ({report.saving:.2f}x)"


def heading(report: Report) -> str:
    """One line: the model, what it was given, and how it was looked at."""
    shapes = " and ".join(_sides(shape) for shape in report.input_shapes)
    return f"{report.model}, {f'input {shapes}' if shapes else 'no input given'} ({report.origin.value})"


def no_convolutions(report: Report) -> str:
    return f"{report.model} has no convolutions, so nothing in it can be made depthwise separable."


def layers(findings: Iterable[Finding]) -> str:
    """The table of these convolutions, in the order given."""
    return _table(_LAYER_HEADER, [_layer(finding) for finding in findings], _LAYER_ALIGN)


def largest(report: Report, count: int = 5) -> str:
    """The table of the ``count`` convolutions with the most parameters."""
    return layers(sorted(report.findings, key=lambda finding: finding.params or 0, reverse=True)[:count])


def totals(report: Report) -> str:
    """The candidates, all convolutions and the whole model: cost before and after, and the saving."""
    candidates, findings = report.candidates, report.findings
    rows = [
        _total(_count(len(candidates), "candidate"), *_sums(candidates)),
        _total(_count(len(findings), "convolution"), *_sums(findings)),
        _total("whole model", report.params, report.macs, report.separable_params, report.separable_macs),
    ]
    return _table(_TOTAL_HEADER, rows, _TOTAL_ALIGN)


def _table(header: Sequence[str], rows: list[list[str]], align: Sequence[str]) -> str:
    from tabulate import SEPARATING_LINE, tabulate

    # reason: given as headers, tabulate pads every column by two and the table would not fit 120 columns
    body = [list(header), SEPARATING_LINE, *rows]
    return tabulate(body, tablefmt="simple", disable_numparse=True, colalign=align)


def _layer(finding: Finding) -> list[str]:
    return [
        finding.name,
        finding.type_name,
        _sides(finding.spec.kernel_size),
        _sides(_without_batch(finding)),
        _number(finding.params),
        _number(finding.macs),
        _label(finding),
        _number(finding.separable_params),
        _number(finding.separable_macs),
        _ratio(finding.params, finding.separable_params),
    ]


def _total(label: str, params: int, macs: int | None, separable: int, separable_macs: int | None) -> list[str]:
    counts = (params, macs, separable, separable_macs)
    return [label, *map(_number, counts), _ratio(params, separable)]


def _sums(findings: Sequence[Finding]) -> tuple[int, int | None, int, int | None]:
    """Parameters and MACs before, and after the candidates among them are replaced."""
    params = sum(finding.params or 0 for finding in findings)
    separable = sum(_or_else(finding.separable_params, finding.params) for finding in findings)
    if all(finding.macs is None for finding in findings):
        return params, None, separable, None
    macs = sum(finding.macs or 0 for finding in findings)
    return params, macs, separable, sum(_or_else(f.separable_macs, f.macs) for f in findings)


def _or_else(first: int | None, second: int | None) -> int:
    return first if first is not None else second or 0


def _label(finding: Finding) -> str:
    return Verdict.CANDIDATE.value if finding.verdict is Verdict.CANDIDATE else finding.code


def _without_batch(finding: Finding) -> tuple[int, ...] | None:
    shape = finding.output_shape
    return shape[1:] if shape is not None and len(shape) == finding.spec.rank + 2 else shape


def _reasons(findings: Sequence[Finding]) -> str:
    """One line for each reason that occurs: the verdict column's word, how often, and why."""
    counts = Counter((_label(finding), finding.verdict.value, finding.reason) for finding in findings)
    lines = []
    for (label, verdict, reason), count in counts.items():
        word = "" if label == verdict else f"{verdict}, "
        lines.append(_wrapped(f"{label} ({word}{count}): {reason}"))
    return "\n".join(lines)


def _remarks(report: Report) -> str:
    findings = report.findings
    lines = [f"{f.name} is also known as {', '.join(f.aliases)}" for f in findings if f.aliases]
    lines += [f"{f.name} runs {f.calls} times, its MACs are of all calls" for f in findings if f.calls > 1]
    odd = [finding for finding in findings if finding.origin is not report.origin]
    for origin in dict.fromkeys(finding.origin for finding in odd):
        lines.append(f"{origin.value}: {', '.join(f.name for f in odd if f.origin is origin)}")
    if any(Trait.TIED in finding.spec.traits for finding in findings):
        lines.append("a tied weight is counted in each of its layers, and once in the whole model")
    return "\n".join(_wrapped(line) for line in lines)


def _memory(memory: Memory) -> str:
    rows = (
        ("Input size (MB):", memory.inputs),
        ("Forward/backward pass size (MB):", memory.activations),
        ("Params size (MB):", memory.params),
        ("Estimated Total Size (MB):", memory.total),
    )
    return "\n".join(f"{label} {size / MIB:.2f}" for label, size in rows)


def _not_counted(report: Report) -> str:
    operators = ", ".join(name if count == 1 else f"{name} x {count}" for name, count in report.not_counted)
    return _wrapped(f"Not counted in MACs: {operators}") if operators else ""


def _wrapped(text: str) -> str:
    return fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _sides(sides: Sequence[int] | None) -> str:
    return "-" if sides is None else " x ".join(map(str, sides))


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _ratio(before: int | None, after: int | None) -> str:
    return f"{before / after:.2f}x" if before and after else "-"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
