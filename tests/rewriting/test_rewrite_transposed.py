"""Transposed convolutions: which are candidates, and their replacement in a live model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.errors import FormatError, InputError
from pytest_dwsconv.rewriting.application import apply_plan
from pytest_dwsconv.rewriting.planning.options import options_by_weights
from pytest_dwsconv.rewriting.rewrite import rewrite
from pytest_dwsconv.separable.transposed import SeparableConvTranspose2d

SIZE = (2, 8, 6, 6)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1, bias=False)
        self.odd = nn.ConvTranspose2d(12, 12, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.flat = nn.ConvTranspose2d(12, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.flat(self.odd(self.up(x).relu()).relu())
        return out


@pytest.fixture
def net() -> Decoder:
    torch.manual_seed(0)
    return Decoder().eval()


@pytest.mark.parametrize("form", [None, "auto", *Form])
def test_they_are_replaced_where_they_save(net: Decoder, form: str | None) -> None:
    result = rewrite(net, SIZE, form=form, verify="exact")
    assert [entry.name for entry in result.plan.entries] == ["flat", "odd", "up"]
    assert all(entry.transposed for entry in result.plan.entries)
    assert all(type(child) is SeparableConvTranspose2d for child in result.model.children())
    assert result.model(torch.randn(SIZE)).shape == (2, 16, 24, 24)
    before, after = result.report_before, result.report_after
    assert after.params == sum(p.numel() for p in result.model.parameters()) < before.params
    assert not after.candidates
    if form is None:
        assert (after.params, after.macs) == (before.separable_params, before.separable_macs)


def test_what_enlarges_its_input_gets_its_pointwise_part_first(net: Decoder) -> None:
    forms = {e.name: e.form for e in rewrite(net, SIZE, order="depthwise_first").plan.entries}
    first = Form.POINTWISE_FIRST
    assert forms == {"up": first, "odd": first, "flat": Form.DEPTHWISE_FIRST}
    reasons = {found.name: found.reason for found in analyze(net, SIZE).findings}
    assert "its input has fewer positions than its output" in reasons["up"]


@pytest.mark.parametrize(
    "conv",
    [
        nn.ConvTranspose2d(8, 8, 3, groups=8),
        nn.ConvTranspose2d(8, 8, 1),
        nn.ConvTranspose1d(2, 2, 2),
    ],
)
def test_what_saves_nothing_stays(conv: nn.Module) -> None:
    (found,) = analyze(conv).findings
    assert found.code == "DWS103"


def test_a_policy_can_leave_them_alone(net: Decoder) -> None:
    report = analyze(net, SIZE, policy=Policy(transposed=False))
    assert {found.code for found in report.findings} == {"DWS103"}


def test_for_the_edge_tpu_they_stay(net: Decoder) -> None:
    result = rewrite(net, (1, 8, 6, 6), target="edgetpu")
    assert not result.plan.entries
    assert {found.code for found in result.report_before.findings} == {"DWS103"}


def test_without_data_they_are_weighed_by_their_kernels(net: Decoder) -> None:
    result = rewrite(net, SIZE)
    entries = {entry.name: [entry] for entry in result.plan.entries}
    options = options_by_weights(net, result.report_before, entries)
    for name, (_, replaced) in options.items():
        assert replaced.loss**0.5 == pytest.approx(result.errors[name])


def test_a_functional_one_stays() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.rand(8, 8, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv_transpose2d(x, self.kernel)

    (found,) = analyze(Functional(), SIZE).findings
    assert found.code == "DWS103"


def test_the_nearest_kernel_is_that_of_each_slice(net: Decoder) -> None:
    """A transposed kernel is (C, M, *k), and its slices by input channel are its rows."""
    result = rewrite(net, SIZE, select=["flat"])
    u, s, v = torch.linalg.svd(net.flat.weight.detach().flatten(2), full_matrices=False)
    best = (u[:, :, :1] * s[:, None, :1] @ v[:, :1]).reshape(net.flat.weight.shape)
    found = result.model.get_submodule("flat").weight
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found.detach(), best, rtol=1e-4, atol=1e-5)


def test_a_plan_says_which_convolutions_are_transposed(net: Decoder) -> None:
    result = rewrite(net, SIZE)
    plan = Plan.from_json(result.plan.to_json())
    assert plan == result.plan
    again = apply_plan(Decoder().eval(), plan)
    again.load_state_dict(result.model.state_dict())
    x = torch.randn(SIZE)
    assert torch.equal(again(x), result.model(x))
    standard = nn.Sequential()
    standard.flat = nn.Conv2d(12, 16, 3)
    only = Plan(tuple(entry for entry in plan.entries if entry.name == "flat"))
    with pytest.raises(InputError, match="flat is not a transposed convolution"):
        apply_plan(standard, only)
    with pytest.raises(FormatError, match="transposed: 1 is not true or false"):
        Plan.from_json(only.to_json().replace('"transposed": true', '"transposed": 1'))


def test_an_output_size_of_the_caller_is_kept() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(8, 8, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.up(x, output_size=[14, 14])
            return out

    net = Sized().eval()
    result = rewrite(net, SIZE, depth_multiplier=9)
    torch.testing.assert_close(result.model(x := torch.randn(SIZE)), net(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="up is called with an output_size"):
        rewrite(net, init="fit", calibration=[x, x])
