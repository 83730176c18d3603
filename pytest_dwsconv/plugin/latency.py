"""Latencies of models on targets as plain data, and what a run knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dwsconv.core.measurement import Measurement, NotMeasured

if TYPE_CHECKING:
    import pytest
    from torch import nn

    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.core.measurement import LatencyPrediction
    from pytest_dwsconv.edgetpu.modelfile import ModelFile


@dataclass(frozen=True)
class Latency:
    """A latency measured on a target, and the conditions it was measured under."""

    target: str
    conditions: str
    measurement: Measurement


@dataclass(frozen=True)
class Unmeasured:
    """Why a latency on a target is not known, as a sentence.

    ``skipped``: there is no device, without which a test is skipped. ``required``: there is none
    although it is required, which fails the run.
    """

    target: str
    sentence: str
    skipped: bool = False
    required: bool = False


def unknown_latency(report: ReportData, target: str) -> str:
    return f"the latency of {report.model} on {target} is unknown"


def predict(config: pytest.Config, source: ReportData | ModelFile) -> LatencyPrediction:
    """Predict the latency on the kind of host that ``dws_prediction_host`` names.

    Raises:
        InputError: the report or the file does not tell a latency.
    """
    from pytest_dwsconv.edgetpu.prediction import LatencyFeatures, predict_latency

    return predict_latency(LatencyFeatures.of(source), config.getini("dws_prediction_host"))


def predicted_figures(config: pytest.Config, report: ReportData, target: str) -> str:
    """What is predicted for a target, after a semicolon; empty where nothing is."""
    from pytest_dwsconv.errors import InputError

    if target != "edgetpu":
        return ""
    try:
        return f"; {predict(config, report).figures}"
    except InputError:  # reason: the report is of a batch, or has no MACs
        return ""


def predicted_instead(
    config: pytest.Config,
    model: nn.Module | bytes | str | PathLike[str],
    shape: tuple[int, ...] | None,
    name: str,
    why: str,
) -> NotMeasured | None:
    """What is predicted of a model that is not measured, None where nothing can be."""
    from pytest_dwsconv.edgetpu.modelfile import read_model
    from pytest_dwsconv.errors import DwsconvError

    source: ReportData | ModelFile
    try:
        if isinstance(model, (bytes, str, PathLike)):
            source = read_model(model if isinstance(model, bytes) else Path(model))
        else:
            from pytest_dwsconv.analysis.analyze import analyze

            source = analyze(model, shape)
        return NotMeasured(name, why, predict(config, source))
    except DwsconvError:  # reason: that the test is skipped, and why, is what matters
        return None


class KnownLatencies:
    """What a run knows of its models' latencies, on the process that prints.

    Of several latencies under the same conditions the shortest counts.
    """

    def __init__(self) -> None:
        self._measured: dict[ReportData, dict[str, Latency]] = {}
        self._unmeasured: dict[ReportData, dict[str, Unmeasured]] = {}

    def add(self, report: ReportData, outcome: Latency | Unmeasured) -> None:
        if isinstance(outcome, Unmeasured):
            self._unmeasured.setdefault(report, {}).setdefault(outcome.target, outcome)
            return
        known = self._measured.setdefault(report, {})
        best = known.setdefault(outcome.conditions, outcome)
        if outcome.measurement.median < best.measurement.median:
            known[outcome.conditions] = outcome

    def medians(self) -> dict[ReportData, dict[str, float]]:
        """Seconds by conditions, for each model that was measured."""
        found = {}
        for report, known in self._measured.items():
            found[report] = {
                conditions: latency.measurement.median for conditions, latency in known.items()
            }
        return found

    def on(self, report: ReportData, target: str) -> Sequence[Latency | Unmeasured]:
        """The latencies of a model on a target, or else why they are not known."""
        known = self._measured.get(report, {}).values()
        if found := [latency for latency in known if latency.target == target]:
            return found
        unknown = unknown_latency(report, target)
        nobody = f"{unknown}: no test or target had the model at hand to measure it"
        return [self._unmeasured.get(report, {}).get(target, Unmeasured(target, nobody))]
