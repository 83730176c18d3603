"""What is known, on a target, of the replacements that reports reckon with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, TypeVar

from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.latency.comparison import Comparison, Speed
from pytest_dwsconv.core.latency.evidence import CPU, EDGETPU, Effect, Evidence, Provenance
from pytest_dwsconv.core.plan import plan_of
from pytest_dwsconv.edgetpu.prediction import HOST, host_of
from pytest_dwsconv.edgetpu.savings import predicted_evidence
from pytest_dwsconv.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.latency import Conditions

_Data = TypeVar("_Data", bound=ReportData)


def with_targets(report: _Data, model: nn.Module, targets: str | Sequence[str]) -> _Data:
    """The report with what is known on one target or several, as its model is run on the CPU.

    Raises:
        InputError: as for ``with_target``.
    """
    # reason: timing needs NumPy, and is rarely asked for
    from pytest_dwsconv.latency.runs import conditions_of

    for target in [targets] if isinstance(targets, str) else targets:
        (report,) = with_target([report], target, conditions=conditions_of(model))
    return report


def with_target(
    reports: Sequence[_Data],
    target: str,
    *,
    host: str = HOST,
    conditions: Conditions | None = None,
    remeasure: bool = False,
) -> list[_Data]:
    """The reports with evidence of what replacing their candidates does on a target.

    On the CPU the replacements of all reports are timed as ``time_layers`` does, each beside its
    convolution. No network is timed, because a report has no model to run.

    Args:
        reports: what ``analyze`` returned.
        target: ``"cpu"``, ``"edgetpu"``, or ``"edgetpu:HOST"``.
        host: the kind of host of ``"edgetpu"`` alone.
        conditions: of the CPU; by default those of this process, for networks in float32.
        remeasure: time again what is kept from an earlier time.

    Raises:
        InputError: it is another target, or nothing is known of the host.
    """
    kind = host_of(target, host)
    if kind is not None:
        return [report.with_evidence(_predicted(report, kind)) for report in reports]
    from pytest_dwsconv.latency import time_layers

    asked = []
    for report in reports:
        for finding, entry in zip(
            report.candidates, plan_of(report, report.candidates).entries, strict=True
        ):
            if not _obstacle(finding, conditions):
                asked.append((finding.spec, entry))
    comparisons = iter(time_layers(asked, conditions, remeasure=remeasure))
    found = []
    for report in reports:
        timed = {}
        for finding in report.candidates:
            if not _obstacle(finding, conditions):
                timed[finding.name] = next(comparisons)
        found.append(report.with_evidence(_measured(report, timed, conditions)))
    return found


def _predicted(report: ReportData, host: str) -> dict[str, Evidence]:
    try:
        return predicted_evidence(report, host=host)
    except InputError as error:
        return {"": Evidence.unknown(EDGETPU, str(error))}


def _obstacle(finding: Finding, conditions: Conditions | None) -> str:
    """Why a candidate cannot be timed; empty if it can."""
    shape = finding.spec.input_shape
    if shape is None:
        return "it did not run; analyse the model with an input shape"
    # reason: a report tells how many bytes a number has, and two types have two
    if conditions is None and finding.input_bytes != 4 * prod(shape):
        return "it is not in float32; pass the model to analyze(target='cpu')"
    return ""


def _measured(
    report: ReportData, timed: Mapping[str, Comparison], conditions: Conditions | None
) -> dict[str, Evidence]:
    """By layer what was measured, and ``""`` for how much that says of the network."""
    found = {}
    for finding in report.candidates:
        if finding.name in timed:
            found[finding.name] = Evidence.measured(CPU, timed[finding.name])
        else:
            found[finding.name] = Evidence.unknown(CPU, _obstacle(finding, conditions))
    # reason: a model that is one convolution has no name, and its evidence is that of the whole
    found.setdefault("", _network(report, timed))
    return found


def _network(report: ReportData, timed: Mapping[str, Comparison]) -> Evidence:
    faster = sum(one.verdict is Speed.FASTER for one in timed.values())
    if not report.candidates:
        return Evidence(CPU, Provenance.MEASURED, Effect.NONE, reason="there is nothing to replace")
    if not faster and len(timed) == len(report.candidates):
        where = next(iter(timed.values())).circumstances
        none = "no replacement of a single layer was measured faster"
        return Evidence(CPU, Provenance.MEASURED, Effect.NONE, where, reason=none)
    layers = f"{faster} of {len(report.candidates)} layers by themselves are measured faster"
    return Evidence.unknown(CPU, f"{layers}; rewrite(target='cpu') measures the network")
