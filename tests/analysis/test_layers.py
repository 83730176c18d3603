"""All layers of a model, whose parameters and MACs add up to its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv import Report, analyze
from pytest_dwsconv.core.findings import Layer


class Mixed(nn.Module):
    """A convolution as a module and as a function, attention, a tied weight, a parameter alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.kernel = nn.Parameter(torch.zeros(8, 8, 3, 3))
        self.attention = nn.MultiheadAttention(8, 2)
        self.first = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.stem(x), self.kernel).mean((2, 3))
        mixed, _ = self.attention(x, x, x)
        out: Tensor = self.second(self.norm(self.first(self.first(mixed))))
        return out


def layers(report: Report) -> dict[str, Layer]:
    return {layer.name: layer for layer in report.all_layers}


def test_parameters_and_macs_add_up_to_those_of_the_model() -> None:
    report = analyze(Mixed(), (2, 3, 8, 8))
    assert sum(layer.params for layer in report.all_layers) == report.params
    assert sum(layer.macs or 0 for layer in report.all_layers) == report.macs


def test_each_layer_has_its_own() -> None:
    found = layers(analyze(Mixed(), (2, 3, 8, 8)))
    assert list(found) == [
        *("", "stem", "attention", "attention.out_proj", "first", "norm", "second", "unused")
    ]
    assert found[""] == Layer("", "Mixed", 576, 2 * 8 * 8 * 9 * 4 * 4, 1, None)
    assert found["stem"] == Layer("stem", "Conv2d", 224, 2 * 8 * 3 * 9 * 36, 1, (2, 8, 6, 6))
    assert found["first"] == Layer("first", "Linear", 72, 2 * 2 * 8 * 8, 2, (2, 8))
    assert (found["second"].params, found["second"].macs) == (8, 2 * 8 * 8)
    assert (found["norm"].params, found["norm"].macs) == (16, 0)
    assert found["unused"] == Layer("unused", "Linear", 6, 0, 0, None)


def test_without_inputs_there_are_parameters_alone() -> None:
    report = analyze(Mixed())
    assert sum(layer.params for layer in report.all_layers) == report.params
    assert {(layer.macs, layer.calls, layer.output_shape) for layer in report.all_layers} == {
        (None, 0, None)
    }


def test_layers_are_stored_and_make_no_report_another() -> None:
    report = analyze(Mixed(), (2, 3, 8, 8))
    again = Report.from_json(report.to_json())
    assert again.all_layers == report.all_layers
    data = report.to_dict()
    del data["all_layers"]
    assert Report.from_dict(data) == report
