"""The columns of the table of convolutions and the rows of its totals: the same in every form a
person reads.

A quantity that a finding gains becomes visible everywhere with one more row in ``COLUMNS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.rules import Verdict


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def integer(value: int) -> str:
    return f"{value:,}"


def ratio(value: float) -> str:
    return f"{value:.2f}x"


class Column(NamedTuple):
    """One column: what a finding has there, as a number or text to sort by, and how that is
    written.
    """

    key: str
    label: str
    value: Callable[[Finding], Any]
    """None where there is none."""
    show: Callable[[Any], str] = plain
    numeric: bool = False
    missing: str = "not known"
    """What None means, in words."""
    dispensable: int = 0
    """Where the table is too wide for a terminal, the column with the highest number is left out
    first, 0 never.
    """

    def text(self, finding: Finding) -> str:
        value = self.value(finding)
        return "-" if value is None else self.show(value)


def label(finding: Finding) -> str:
    """The word in the column of verdicts: a candidate is called so, all else by its code."""
    return Verdict.CANDIDATE.value if finding.verdict is Verdict.CANDIDATE else finding.code


def _output(finding: Finding) -> tuple[int, ...] | None:
    shape = finding.output_shape
    return shape[1:] if shape is not None and len(shape) == finding.spec.rank + 2 else shape


COLUMNS: tuple[Column, ...] = (
    Column("name", "layer", lambda finding: finding.name),
    Column("type", "type", lambda finding: finding.type_name, dispensable=6),
    Column("kernel", "kernel", lambda finding: finding.spec.kernel_size, sides, dispensable=3),
    Column("output", "output", _output, sides, numeric=True, dispensable=4),
    Column("params", "params", lambda finding: finding.params, integer, numeric=True),
    Column("macs", "MACs", lambda finding: finding.macs, integer, numeric=True, dispensable=1),
    Column("verdict", "verdict", label),
    Column(
        "separable_params",
        "separable params",
        lambda finding: finding.separable_params,
        integer,
        numeric=True,
        missing="not replaced",
        dispensable=2,
    ),
    Column(
        "separable_macs",
        "separable MACs",
        lambda finding: finding.separable_macs,
        integer,
        numeric=True,
        missing="not known or not replaced",
        dispensable=5,
    ),
    Column(
        "saving",
        "saving",
        lambda finding: finding.saving,
        ratio,
        numeric=True,
        missing="not replaced",
    ),
)


class Total(NamedTuple):
    """A row of the totals: the cost now, and with the candidates replaced."""

    key: str
    label: str
    params: int
    macs: int | None
    separable_params: int
    separable_macs: int | None

    @property
    def saving(self) -> float | None:
        return (
            self.params / self.separable_params if self.params and self.separable_params else None
        )

    def written(self) -> dict[str, str]:
        """By the key of the column that it is the total of."""
        numbers = {
            key: getattr(self, key)
            for key in ("params", "macs", "separable_params", "separable_macs")
        }
        counts = {
            key: "-" if number is None else integer(number) for key, number in numbers.items()
        }
        return {**counts, "saving": "-" if self.saving is None else ratio(self.saving)}

    def texts(self) -> list[str]:
        """A cell for each of ``TOTAL_COLUMNS``."""
        written = self.written()
        return [self.label, *(written[column.key] for column in TOTAL_COLUMNS[1:])]


_TOTALLED = ("params", "macs", "separable_params", "separable_macs", "saving")
TOTAL_COLUMNS = (
    COLUMNS[0]._replace(label=""),
    *(column for column in COLUMNS if column.key in _TOTALLED),
)


def totals(report: ReportData) -> tuple[Total, Total, Total]:
    """The candidates, all convolutions and the whole model."""
    candidates, findings = report.candidates, report.findings
    whole = (report.params, report.macs, report.separable_params, report.separable_macs)
    return (
        Total("candidates", count(len(candidates), "candidate"), *sums(candidates)),
        Total("convolutions", count(len(findings), "convolution"), *sums(findings)),
        Total("model", "whole model", *whole),
    )


def sums(findings: Sequence[Finding]) -> tuple[int, int | None, int, int | None]:
    """Of some convolutions: parameters and MACs before, and after the candidates among them are
    replaced.
    """
    params = sum(finding.params or 0 for finding in findings)
    separable = sum(_or_else(finding.separable_params, finding.params) for finding in findings)
    if all(finding.macs is None for finding in findings):
        return params, None, separable, None
    macs = sum(finding.macs or 0 for finding in findings)
    return params, macs, separable, sum(_or_else(f.separable_macs, f.macs) for f in findings)


def _or_else(first: int | None, second: int | None) -> int:
    return first if first is not None else second or 0


def tabulated(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], shown: Sequence[Column]
) -> str:
    """These rows, of all ``columns``, with the columns that are shown."""
    from tabulate import SEPARATING_LINE, tabulate

    places = [index for index, column in enumerate(columns) if column in shown]
    header = [column.label.replace(" ", "\n") for column in shown]
    # reason: given as headers, tabulate pads every column by two and the table would not fit 120
    # columns
    body = [header, SEPARATING_LINE, *([row[place] for place in places] for row in rows)]
    sides = ["right" if column.numeric else "left" for column in shown]
    return tabulate(body, tablefmt="simple", disable_numparse=True, colalign=sides)
