"""Reports on torchvision's networks against PyTorch's own counters and published figures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pytest_dwsconv import analyze
from pytest_dwsconv.core.findings import Origin

models: Any = pytest.importorskip("torchvision.models")

FAMILIES = """
    alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3
    maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf resnet18
    resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11 vit_b_32
    wide_resnet50_2
""".split()


def build(name: str) -> nn.Module:
    extra = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    model: nn.Module = models.get_model(name, weights=None, **extra)
    return model.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_totals_equal_what_pytorch_counts(name: str) -> None:
    model = build(name)
    size = (1, 3, 299, 299) if name == "inception_v3" else (1, 3, 224, 224)
    convolutions = [
        n for n, module in model.named_modules() if isinstance(module, nn.modules.conv._ConvNd)
    ]
    called: set[str] = set()
    report = analyze(model, size)
    assert report.origin is Origin.META
    for module_name, module in model.named_modules():
        module.register_forward_pre_hook(
            lambda m, i, module_name=module_name: called.add(module_name)
        )
    # reason: with gradients, attention takes no fused path that PyTorch does not count
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.rand(size))
    assert report.params == sum(parameter.numel() for parameter in model.parameters())
    assert report.macs is not None
    assert report.macs * 2 == counter.get_total_flops()
    assert [f.name for f in report.findings if f.calls] == [
        n for n in _in_order(report, convolutions) if n in called
    ]
    assert {f.name for f in report.findings} == set(convolutions)


def _in_order(report: Any, names: list[str]) -> list[str]:
    return sorted(names, key=[finding.name for finding in report.findings].index)


def test_resnet18_reads_as_torchsummary_prints_it() -> None:
    """0.57, 62.79, 44.59 and 107.96 MB are what torchsummary prints for ResNet-18 at 224 x 224."""
    report = analyze(build("resnet18"), (1, 3, 224, 224))
    memory = report.memory
    assert memory is not None
    sizes = (memory.inputs, memory.activations, memory.params, memory.total)
    assert [f"{size / 2**20:.2f}" for size in sizes] == ["0.57", "62.79", "44.59", "107.96"]
    assert (report.params, f"{report.saving:.1f}") == (11_689_512, "6.0")


@pytest.mark.parametrize(("name", "saving"), [("resnet50", "1.65"), ("vgg16", "1.10")])
def test_a_network_saves_less_than_its_layers(name: str, saving: str) -> None:
    report = analyze(build(name))
    assert f"{report.saving:.2f}" == saving
    assert max(finding.saving or 0 for finding in report.candidates) > 8


def test_a_detector_runs_on_real_tensors() -> None:
    model = models.get_model(
        "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None
    ).eval()
    images = [torch.rand(3, 96, 96)]
    report = analyze(model, example_inputs=(images,))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    assert report.origin is Origin.REAL
    assert (report.macs or 0) * 2 == counter.get_total_flops()
