"""What is known, on a target, of the replacements that reports reckon with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, TypeVar

from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.latency.comparison import RUNTIMES, Comparison, Conditions, Speed
from pytest_dwsconv.core.latency.evidence import EDGETPU, Evidence
from pytest_dwsconv.core.plan import plan_of
from pytest_dwsconv.edgetpu.prediction import HOST, check_targets, host_of
from pytest_dwsconv.edgetpu.savings import predicted_evidence
from pytest_dwsconv.errors import DwsconvError, InputError

if TYPE_CHECKING:
    from torch import nn

_Data = TypeVar("_Data", bound=ReportData)
_Timed = dict[str, Comparison | str]
"""By layer what was measured, or why it was not."""


def with_targets(report: _Data, model: nn.Module, targets: str | Sequence[str]) -> _Data:
    """The report with what is known on one target or several, for its model as it is.

    Raises:
        InputError: as for ``with_target``, or a target is named twice.
    """
    # reason: timing needs NumPy, and is rarely asked for
    from pytest_dwsconv.latency.runs import conditions_of

    targets = [targets] if isinstance(targets, str) else targets
    check_targets(targets)
    for target in targets:
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

    On a CPU the replacements of all reports are timed as ``time_layers`` does, each beside its
    convolution. No network is timed, because a report has no model to run.

    Args:
        reports: what ``analyze`` returned.
        target: one of ``RUNTIMES``, ``"edgetpu"``, or ``"edgetpu:HOST"``.
        host: the kind of host of ``"edgetpu"`` alone.
        conditions: of the CPU; by default those of this process, for networks in float32. The
            runtime is that of the target.
        remeasure: time again what is kept from an earlier time.

    Raises:
        InputError: it is another target, or nothing is known of the host.
    """
    kind = host_of(target, host)
    if kind is not None:
        return [report.with_evidence(_predicted(report, kind)) for report in reports]
    times = _times(reports, target, conditions, remeasure)
    found = []
    for report, timed in zip(reports, times, strict=True):
        found.append(report.with_evidence(_measured(report, target, timed)))
    return found


def _predicted(report: ReportData, host: str) -> dict[str, Evidence]:
    try:
        return predicted_evidence(report, host=host)
    except InputError as error:
        return {"": Evidence.unknown(EDGETPU, str(error))}


def _times(
    reports: Sequence[ReportData], target: str, conditions: Conditions | None, remeasure: bool
) -> list[_Timed]:
    """For each report its candidates, measured together with those of the others."""
    from pytest_dwsconv.latency import time_layers
    from pytest_dwsconv.latency.runs import current_conditions

    runtime = replace(conditions or current_conditions(), runtime=RUNTIMES[target])
    asked, places = [], []
    times: list[_Timed] = []
    for report in reports:
        timed: _Timed = {}
        entries = plan_of(report, report.candidates).entries
        for finding, entry in zip(report.candidates, entries, strict=True):
            timed[finding.name] = _obstacle(finding, runtime, any_type=conditions is not None)
            if not timed[finding.name]:
                asked.append((finding.spec, entry))
                places.append((timed, finding.name))
        times.append(timed)
    found: Sequence[Comparison | str]
    try:
        found = time_layers(asked, runtime, remeasure=remeasure)
    except DwsconvError as error:
        # reason: what is not installed, say, is no reason to have no report
        found = [str(error)] * len(asked)
    for (timed, name), one in zip(places, found, strict=True):
        timed[name] = one
    return times


def _obstacle(finding: Finding, conditions: Conditions, *, any_type: bool) -> str:
    """Why a candidate cannot be timed; empty if it can."""
    shape = finding.spec.input_shape
    if shape is None:
        return "it did not run; analyse the model with an input that reaches it"
    # reason: a report tells how many bytes a number has, and two types have two
    if not any_type and finding.input_bytes != 4 * prod(shape):
        return "it is not in float32; pass the model to analyze(target='cpu')"
    if conditions.is_litert and shape[0] != 1:
        return "LiteRT runs a batch of 1; analyse the model with one"
    return ""


def _measured(report: ReportData, target: str, timed: _Timed) -> dict[str, Evidence]:
    """By layer what was measured, and ``""`` for how much that says of the network."""
    found = {}
    for name, one in timed.items():
        if isinstance(one, Comparison):
            found[name] = Evidence.measured(target, one)
        else:
            found[name] = Evidence.unknown(target, one)
    # reason: a model that is one convolution has no name, and its evidence is that of the whole
    found.setdefault("", _network(target, list(timed.values())))
    return found


def _network(target: str, layers: Sequence[Comparison | str]) -> Evidence:
    timed = [one for one in layers if isinstance(one, Comparison)]
    if layers and not timed:
        return Evidence.unknown(target, str(layers[0]))
    faster = sum(one.verdict is Speed.FASTER for one in timed)
    if not faster and len(timed) == len(layers):
        return Evidence.without_a_faster_layer(target, timed)
    said = f"{faster} of {len(layers)} layers by themselves are measured faster"
    return Evidence.unknown(target, f"{said}; rewrite(target={target!r}) measures the network")
