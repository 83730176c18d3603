"""Findings: what helps to choose among convolutions, and verdicts that somebody else gives."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv import Order, Policy, Report, SeparableConv2d, Verdict, analyze
from pytest_dwsconv.analysis.verdicts import rejudged, replacement_cost
from pytest_dwsconv.core.conv import Cost, separable_cost
from pytest_dwsconv.core.rules import Judgement

IMAGE = (1, 8, 10, 10)


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))


def test_bytes_intensity_and_shares_of_the_worked_example() -> None:
    """100 to 1000 channels, K = 3, no bias, 17 x 17: every element moved once, float32."""
    (found,) = analyze(nn.Conv2d(100, 1000, 3, bias=False), (1, 100, 17, 17)).findings
    read, weights, written = 100 * 17 * 17, 900_000, 1000 * 15 * 15
    assert (found.input_bytes, found.output_bytes) == (4 * read, 4 * written)
    assert found.arithmetic_intensity == 15 * 15 * weights / (4 * (read + weights + written))
    between = 100 * 15 * 15
    after = 15 * 15 * 100_900 / (4 * (read + 100_900 + written + 2 * between))
    assert found.separable_intensity == after
    assert (found.params_share, found.macs_share) == (1, 1)


def test_half_precision_takes_half_the_bytes_and_twice_the_intensity() -> None:
    conv = nn.Conv2d(16, 32, 3)
    (single,), (half,) = (
        analyze(m, (1, 16, 9, 9)).findings for m in (conv, copy.deepcopy(conv).half())
    )
    assert (single.input_bytes, single.output_bytes) == (
        2 * (half.input_bytes or 0),
        2 * (half.output_bytes or 0),
    )
    assert half.arithmetic_intensity == 2 * (single.arithmetic_intensity or 0)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_pointwise_first_is_counted_at_the_input_before_it_is_padded(
    mode: Literal["zeros", "reflect", "circular"],
) -> None:
    conv = nn.Conv2d(8, 16, (3, 5), padding="same", padding_mode=mode)
    (found,) = analyze(conv, IMAGE, policy=Policy(order=Order.POINTWISE_FIRST)).findings
    assert (found.input_shape, found.input_bytes) == (IMAGE, 4 * 8 * 10 * 10)
    new = SeparableConv2d(8, 16, (3, 5), padding="same", padding_mode=mode, order="pointwise_first")
    assert found.separable_macs == analyze(new, IMAGE).macs


class Followed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.norm, self.act = nn.BatchNorm2d(8), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.a(x)))
        x = F.relu(self.b(x))
        y = self.c(x)
        out: Tensor = self.d(torch.tanh(y) + y)
        return out


def test_what_follows_a_convolution() -> None:
    """A result that several use, and one that nobody uses, is followed by nothing."""
    report = analyze(Followed(), (1, 8, 9, 9))
    assert {found.name: found.followed_by for found in report.findings} == {
        "a": ("BatchNorm2d", "SiLU"),
        "b": ("relu",),
        "c": (),
        "d": (),
    }
    assert sum(found.params_share or 0 for found in report.findings) == pytest.approx(
        1 - 16 / report.params
    )
    assert [found.macs_share for found in report.findings] == [0.25] * 4


def test_without_inputs_there_are_no_bytes_and_no_intensity() -> None:
    for found in analyze(Followed()).findings:
        assert (
            found.input_bytes,
            found.output_bytes,
            found.arithmetic_intensity,
            found.macs_share,
        ) == (None,) * 4
        assert found.params_share


def test_a_convolution_promoted_by_another_judge_gets_its_intensity() -> None:
    model = pair()
    expected = analyze(model, IMAGE).findings[0]
    ignored = analyze(model, IMAGE, policy=Policy(ignore=("0",)))
    assert ignored.findings[0].separable_intensity is None
    promoted = rejudged(
        ignored, lambda finding: Judgement(Verdict.CANDIDATE, "X1", "I say so")
    ).findings[0]
    assert promoted.separable_intensity == expected.separable_intensity
    demoted = rejudged(
        analyze(model, IMAGE), lambda finding: Judgement(Verdict.INELIGIBLE, "X2", "never")
    )
    assert all(finding.separable_intensity is None for finding in demoted.findings)


def test_macs_of_a_replacement_are_scaled_from_the_first_call_to_all() -> None:
    conv = nn.Conv2d(8, 16, 3, padding=1, bias=False)
    (found,) = analyze(nn.Sequential(conv, nn.Conv2d(16, 8, 1), conv), (1, 8, 6, 6)).findings[:1]
    assert found.calls == 2
    after = replacement_cost(found, Order.DEPTHWISE_FIRST, 2)
    assert after == Cost(2 * (8 * 9 + 8 * 16), 2 * 36 * 2 * (8 * 9 + 8 * 16))
    (unseen,) = analyze(conv).findings
    assert replacement_cost(unseen, Order.DEPTHWISE_FIRST, 1) == Cost(8 * 9 + 8 * 16, None)


def test_a_finding_of_few_channels_has_its_own_order_and_keeps_it_in_json() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 7, stride=2, bias=False), nn.Conv2d(64, 64, 3))
    report = analyze(model, (2, 3, 32, 32))
    stem, body = report.findings
    assert (stem.order, body.order) == (Order.POINTWISE_FIRST, None)
    one = separable_cost(stem.spec, Order.POINTWISE_FIRST)
    assert one is not None
    assert (stem.separable_params, stem.separable_macs) == (192 + 3136, one.macs)
    assert Report.from_json(report.to_json()) == report
    lifted = analyze(model, (2, 3, 32, 32), policy=Policy(few_channels=True))
    assert lifted.findings[0].separable_params == 147 + 192
    assert "order" not in lifted.to_dict()["findings"][0]  # as in files of releases without it
