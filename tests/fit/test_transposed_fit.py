"""Transposed convolutions are fitted as the convolutions of stride 1 that they equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.fit.moments import UnstridedConv
from pytest_dwsconv.rewriting.rewrite import rewrite
from pytest_dwsconv.separable.modules import TRANSPOSED

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("stride", "padding", "output_padding", "dilation", "groups"),
    [(1, 1, 0, 1, 1), (2, 0, 1, 1, 2), (3, 2, 1, 2, 1), (2, 4, 1, 1, 1)],
)
def test_it_is_a_convolution_of_its_input_with_zeros_between(
    rank: int, stride: int, padding: int, output_padding: int, dilation: int, groups: int
) -> None:
    make: Any = TRANSPOSED[rank]
    conv = make(4, 6, 3, stride, padding, output_padding, groups, False, dilation).double()
    plain = UnstridedConv(conv)
    x = torch.randn(2, 4, *(7, 6, 5)[:rank], dtype=torch.float64)
    found = CONVOLVE[rank](plain.stuffed(x), plain.weight, None, 1, 0, dilation, groups)
    torch.testing.assert_close(found, conv(x))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.flat = nn.ConvTranspose2d(12, 16, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.flat(self.norm(self.up(x)).relu())
        return out


@pytest.fixture
def net() -> Decoder:
    torch.manual_seed(0)
    return Decoder().eval()


def batches() -> list[Tensor]:
    # smooth, so that taps are alike and a fit can gain by it
    return [F.avg_pool2d(torch.randn(8, 8, 12, 12), 5, 1) for _ in range(8)]


def error(model: nn.Module, net: nn.Module) -> float:
    x = torch.cat(batches())
    with torch.no_grad():
        return float((model(x) - net(x)).norm() / net(x).norm())


@pytest.mark.parametrize("form", [None, Form.BOTTLENECK, Form.GROUPED])
def test_a_fit_is_nearer_to_the_original_than_the_nearest_kernels(
    net: Decoder, form: Form | None
) -> None:
    fitted = rewrite(net, init="fit", calibration=batches(), form=form, refine=0)
    nearest = rewrite(net, form=form)
    assert set(fitted.calibration_errors) == {"up", "flat"}
    assert error(fitted.model, net) < 0.9 * error(nearest.model, net)


def test_it_is_exact_where_the_form_is(net: Decoder) -> None:
    result = rewrite(net, init="fit", calibration=batches(), depth_multiplier=16, refine=0)
    assert error(result.model, net) < 1e-4


def test_a_budget_plans_them_too(net: Decoder) -> None:
    result = rewrite(net, init="fit", calibration=batches(), budget="1200", refine=0)
    assert {entry.name for entry in result.plan.entries} == {"up", "flat"}
    assert result.report_after.params <= 1200
