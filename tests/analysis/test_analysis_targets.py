"""What a report tells of the machines that it is made for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dwsconv import latency
from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.analysis.targets import with_target
from pytest_dwsconv.core.latency.comparison import Comparison, Conditions
from pytest_dwsconv.core.latency.evidence import Effect, Evidence, Provenance
from pytest_dwsconv.edgetpu import predicted_evidence
from pytest_dwsconv.errors import InputError

SHAPE = (1, 32, 6, 6)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 64, 3))


class Timing:
    """Stands for ``time_layers``: each next replacement has the next of these ratios."""

    def __init__(self, *ratios: float) -> None:
        self.ratios = ratios
        self.conditions: Conditions | None = None
        self.remeasure = False

    def __call__(
        self, candidates: Sequence[Any], conditions: Conditions | None, *, remeasure: bool
    ) -> list[Comparison]:
        self.conditions, self.remeasure = conditions, remeasure
        assert len(candidates) == len(self.ratios)
        return [self.comparison(ratio) for ratio in self.ratios]

    def comparison(self, ratio: float) -> Comparison:
        low, high = 0.95 * ratio, 1.05 * ratio
        return Comparison(2.0, 2.0 / ratio, ratio, low, high, 0.05, 99, Conditions(2), 1)


def timing(monkeypatch: pytest.MonkeyPatch, *ratios: float) -> Timing:
    found = Timing(*ratios)
    monkeypatch.setattr(latency, "time_layers", found)
    return found


def test_a_report_tells_what_is_predicted_for_the_edge_tpu() -> None:
    plain = analyze(network(), SHAPE)
    report = analyze(network(), SHAPE, target="edgetpu:desktop_usb3")
    expected = predicted_evidence(plain, host="desktop_usb3")
    assert report == plain
    assert report.evidence == (expected[""],)
    assert {one.name: one.evidence for one in report.findings} == {
        "0": (expected["0"],),
        "1": (),
        "2": (expected["2"],),
    }


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (None, "the report of Sequential has no MACs; analyse the model with an input shape"),
        ((8, *SHAPE[1:]), "the report of Sequential is for a batch of 8, and the Edge TPU takes 1"),
    ],
)
def test_what_cannot_be_predicted_is_unknown_with_the_reason(shape: Any, reason: str) -> None:
    (evidence,) = analyze(network(), shape, target="edgetpu").evidence
    assert evidence.source is Provenance.UNKNOWN
    assert evidence.reason.startswith(reason)


@pytest.mark.parametrize(
    ("ratios", "line"),
    [
        (
            (2.0, 0.5),
            "cpu: unknown: 1 of 2 layers by themselves are measured faster; "
            "rewrite(target='cpu') measures the network",
        ),
        (
            (1.0, 0.5),
            "cpu: no gain (measured, PyTorch, 2 threads, contiguous, batch 1): "
            "no replacement of a single layer was measured faster",
        ),
    ],
)
def test_on_a_cpu_each_layer_is_measured_and_the_network_is_not(
    monkeypatch: pytest.MonkeyPatch, ratios: tuple[float, float], line: str
) -> None:
    timed = timing(monkeypatch, *ratios)
    report = analyze(network().to(torch.bfloat16), SHAPE, target=["cpu"])
    assert timed.conditions is not None
    assert timed.conditions.dtype == "bfloat16"
    assert [str(one) for one in report.evidence] == [line]
    expected = [Evidence.measured("cpu", timed.comparison(ratio)) for ratio in ratios]
    assert [one.evidence for one in report.candidates] == [(one,) for one in expected]


def test_reports_are_measured_together_and_what_cannot_be_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: list[Any] = [SHAPE, None]
    reports = [analyze(network(), shape) for shape in shapes]
    reports.append(analyze(network().half(), SHAPE))
    timed = timing(monkeypatch, 2.0, 2.0)
    first, *others = with_target(reports, "cpu", remeasure=True)
    assert timed.remeasure
    assert first.candidates[0].evidence[0].effect is Effect.FASTER
    reasons = {one.evidence[0].reason for each in others for one in each.candidates}
    assert reasons == {
        "it did not run; analyse the model with an input that reaches it",
        "it is not in float32; pass the model to analyze(target='cpu')",
    }
    assert all(one.evidence[0].source is Provenance.UNKNOWN for one in others)


def test_exported_layers_take_a_batch_of_1_and_what_fails_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise InputError("it is not installed")

    monkeypatch.setattr(latency, "time_layers", missing)
    reports = [analyze(network(), (batch, *SHAPE[1:])) for batch in (1, 2)]
    one, two = with_target(reports, "litert_int8")
    assert [str(each) for each in (*one.evidence, *two.evidence)] == [
        "litert_int8: unknown: it is not installed",
        "litert_int8: unknown: LiteRT runs a batch of 1; analyse the model with one",
    ]


def test_the_runtime_is_that_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = timing(monkeypatch, 2.0, 2.0)
    analyze(network(), SHAPE, target="torch_compile")
    assert timed.conditions is not None
    assert timed.conditions.runtime is latency.Runtime.COMPILED


def test_a_model_that_is_one_convolution_has_its_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed = timing(monkeypatch, 2.0)
    report = analyze(nn.Conv2d(32, 32, 3), SHAPE, target="cpu")
    assert report.evidence == (Evidence.measured("cpu", timed.comparison(2.0)),)


def test_where_nothing_can_be_replaced_nothing_is_gained() -> None:
    report = analyze(nn.Conv2d(32, 32, 1), SHAPE, target=["cpu", "edgetpu"])
    assert [one.effect for one in report.evidence] == [Effect.NONE, Effect.NONE]


@pytest.mark.parametrize("target", ["gpu", "edgetpu:pi", ["cpu", "gpu"], "", [3], [["cpu"]]])
def test_a_target_that_is_not_known_is_refused(target: Any) -> None:
    with pytest.raises(InputError, match=r"target must be 'cpu', .* not|is not a host with"):
        analyze(nn.Conv2d(3, 8, 1), (1, 3, 4, 4), target=target)


@pytest.mark.parametrize("targets", [["cpu", "cpu"], ["edgetpu", "edgetpu:desktop_usb3"]])
def test_a_target_that_is_named_twice_is_refused(targets: list[str]) -> None:
    with pytest.raises(InputError, match="name each once"):
        analyze(network(), SHAPE, target=targets)
