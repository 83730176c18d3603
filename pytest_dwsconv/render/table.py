"""The columns of the table of convolutions and the rows of its totals, for every form.

One more row in ``COLUMNS`` makes a quantity of a finding visible in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from operator import attrgetter
from typing import Any, NamedTuple

from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.latency.evidence import Evidence, Provenance
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
    """One column: the value of a row there, to sort by, and how it is written.

    A row is a finding, or an architecture in the overview of a run.
    """

    key: str
    label: str
    value: Callable[[Any], Any]
    """A number or text; None if it is not known."""
    show: Callable[[Any], str] = plain
    numeric: bool = False
    missing: str = "not known"
    """What None means, in words."""
    dispensable: int = 0
    """In a narrow terminal the column with the highest number is left out first, 0 never."""
    order: Callable[[Any], Any] | None = None
    """What a page sorts it by where that is not the value."""

    def text(self, row: object) -> str:
        value = self.value(row)
        return "-" if value is None else self.show(value)


def quantity(
    key: str,
    label: str = "",
    value: Callable[[Any], Any] | None = None,
    show: Callable[[Any], str] = integer,
    missing: str = "not known",
    dispensable: int = 0,
) -> Column:
    """A column of numbers: by default the attribute ``key`` of a row, under the same words."""
    label, value = label or key.replace("_", " "), value or attrgetter(key)
    return Column(key, label, value, show, True, missing, dispensable)


def written(columns: Sequence[Column], rows: Iterable[object]) -> list[list[str]]:
    """The cells of these rows."""
    return [[column.text(row) for column in columns] for row in rows]


MEASURES = {"params": "parameters", "macs": "MACs"}
"""What is compared before and after, by the attributes of a finding."""


def label(finding: Finding) -> str:
    """What stands in the column of verdicts: the rule's code, or the word for a candidate.

    That is the order of a candidate whose order is not the report's.
    """
    if finding.verdict is Verdict.CANDIDATE:
        if finding.order is not None:
            return finding.order.value.replace("_", " ")
        return Verdict.CANDIDATE.value
    return finding.code


def _output(finding: Finding) -> tuple[int, ...] | None:
    """The shape of the output without its batch, if it has one."""
    shape = finding.output_shape
    if shape is not None and len(shape) == finding.spec.rank + 2:
        return shape[1:]
    return shape


COLUMNS: tuple[Column, ...] = (
    Column("name", "layer", attrgetter("name")),
    Column("type", "type", attrgetter("type_name"), dispensable=6),
    Column("kernel", "kernel", attrgetter("spec.kernel_size"), sides, dispensable=3),
    quantity("output", value=_output, show=sides, dispensable=4),
    quantity("params"),
    quantity("macs", "MACs", dispensable=1),
    Column("verdict", "verdict", label),
    quantity("separable_params", missing="not replaced", dispensable=2),
    quantity(
        "separable_macs", "separable MACs", missing="not known or not replaced", dispensable=5
    ),
    quantity("saving", show=ratio, missing="not replaced"),
)


def evidence_columns(findings: Iterable[Finding]) -> tuple[Column, ...]:
    """One column per target and way of knowing: what is measured is not sorted with predictions."""
    known = {(one.target, one.source) for finding in findings for one in finding.evidence}
    return tuple(_evidence_column(*one) for one in sorted(known))


def possible_evidence_columns(report: ReportData) -> tuple[Column, ...]:
    """Those that a report may have, however the noise of a measurement turns out."""
    known = [*report.evidence, *(one for finding in report.findings for one in finding.evidence)]
    targets = sorted({one.target for one in known})
    return tuple(_evidence_column(*one) for one in product(targets, Provenance))


def _evidence_column(target: str, source: Provenance) -> Column:
    def claim(finding: Finding) -> str | None:
        return next((one.claim for one in known(finding)), None)

    def gain(finding: Finding) -> float | str | None:
        gains = (one.gain for one in known(finding))
        return next((one for one in gains if one is not None), claim(finding))

    def known(finding: Finding) -> list[Evidence]:
        return [one for one in finding.evidence if (one.target, one.source) == (target, source)]

    key = plain(f"{target}_{source.name.lower()}")
    return Column(key, plain(f"{target} {source.value}"), claim, dispensable=1, order=gain)


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
        if not self.params or not self.separable_params:
            return None
        return self.params / self.separable_params

    def written(self) -> dict[str, str]:
        """The cells by the key of their column."""
        cells = {}
        for column in TOTAL_COLUMNS[1:]:
            value = getattr(self, column.key)
            cells[column.key] = "-" if value is None else column.show(value)
        return cells

    def texts(self) -> list[str]:
        """A cell for each of ``TOTAL_COLUMNS``."""
        return [self.label, *self.written().values()]


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
    """Parameters and MACs now, and with the candidates among these convolutions replaced.

    MACs are None if they are known of none.
    """
    params = macs = separable_params = separable_macs = 0
    for finding in findings:
        params += finding.params or 0
        macs += finding.macs or 0
        if finding.separable_params is None:  # not replaced: it costs the same afterwards
            separable_params += finding.params or 0
            separable_macs += finding.macs or 0
        else:
            separable_params += finding.separable_params
            separable_macs += finding.separable_macs or 0
    if all(finding.macs is None for finding in findings):
        return params, None, separable_params, None
    return params, macs, separable_params, separable_macs


def tabulated(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], shown: Sequence[Column]
) -> str:
    """The table of these rows, which have a cell for each of ``columns``, with some columns."""
    from tabulate import SEPARATING_LINE, tabulate

    places = [index for index, column in enumerate(columns) if column in shown]
    header = [column.label.replace(" ", "\n") for column in shown]
    # reason: given as headers, tabulate pads every column by two, and the table passes 120 columns
    body = [header, SEPARATING_LINE, *([row[place] for place in places] for row in rows)]
    alignment = ["right" if column.numeric else "left" for column in shown]
    return tabulate(body, tablefmt="simple", disable_numparse=True, colalign=alignment)
