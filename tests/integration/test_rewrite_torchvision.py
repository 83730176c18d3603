"""``rewrite`` on torchvision's classification models, one per family."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dwsconv.rewriting.application import apply_plan
from pytest_dwsconv.rewriting.rewrite import rewrite
from pytest_dwsconv.separable.modules import SeparableConvNd

models = pytest.importorskip("torchvision.models")

FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "vgg11": 32,
    "vit_b_32": 224,
    "wide_resnet50_2": 32,
}
"""A model of each family, and a small input side that it accepts."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread: with many small operators, several threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    options: dict[str, Any] = (
        {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    )
    model: nn.Module = getattr(models, name)(weights=None, **options)
    return model.eval()


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def forward(model: nn.Module, side: int) -> torch.Tensor:
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out: torch.Tensor = model(x)
    return out


def test_the_printed_saving_of_resnet18_is_the_change_in_parameters() -> None:
    model = build("resnet18")
    result = rewrite(model, (1, 3, 224, 224), ignore=["conv1"], order="depthwise_first")
    before, after = count(model), count(result.model)
    printed = re.search(r"parameters of the model: ([\d,]+) -> ([\d,]+) \(([\d.]+)x\)", str(result))
    layers = re.search(r"parameters of the replaced layers: ([\d,]+) -> ([\d,]+)", str(result))
    assert printed is not None
    assert layers is not None
    assert [int(number.replace(",", "")) for number in printed.groups()[:2]] == [before, after]
    assert printed[3] == f"{before / after:.2f}" == "5.98"
    assert int(layers[1].replace(",", "")) - int(layers[2].replace(",", "")) == before - after
    assert len(result.plan.entries) == 16
    assert isinstance(result.model.get_submodule("conv1"), nn.Conv2d)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_at_multiplier_1(name: str) -> None:
    model, side = build(name), FAMILIES[name]
    expected = forward(model, side)
    result = rewrite(model, (2, 3, side, side))
    assert forward(result.model, side).shape == expected.shape
    torch.testing.assert_close(forward(model, side), expected, rtol=0, atol=0)
    assert (
        count(model) - count(result.model) == result.plan.params_before - result.plan.params_after
    )
    separable = {m for m in result.model.modules() if isinstance(m, SeparableConvNd)}
    assert len(separable) == len(result.plan.entries) == len(result.report_before.candidates)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "resnext50_32x4d"])
def test_full_multiplier_is_the_same_function(name: str) -> None:
    model = build(name)
    result = rewrite(model, (2, 3, 64, 64), depth_multiplier=10**6)
    expected, found = forward(model, 64), forward(result.model, 64)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_a_plan_rebuilds_resnet18() -> None:
    result = rewrite(build("resnet18"), (1, 3, 32, 32), depth_multiplier=2)
    network = apply_plan(build("resnet18"), result.plan)
    network.load_state_dict(result.model.state_dict())
    torch.testing.assert_close(forward(network, 32), forward(result.model, 32), rtol=0, atol=0)
