"""Where a converted network is compared with its original."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv.fit.comparison import alike, buffers_as_found, compared
from pytest_dwsconv.fit.held_out import Reference
from pytest_dwsconv.fit.training.distillation import distill
from pytest_dwsconv.rewriting.rewrite import rewrite


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3)


class Block(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        for index in range(count):
            self.add_module(f"c{index}", conv())

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


def flat(count: int) -> nn.Module:
    return Block(count)


def nested(*counts: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict((f"b{index}", Block(count)) for index, count in enumerate(counts))
    )


def listed() -> nn.Module:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([conv(), conv()])

    return Listed()


def normalised() -> nn.Module:
    parts = [part for _ in range(3) for part in (conv(), nn.BatchNorm2d(4), nn.ReLU())]
    return nn.Sequential(*parts, conv())


def normalised_elsewhere() -> nn.Module:
    network = Block(0)
    for index in range(3):
        network.add_module(f"c{index}", nn.Conv2d(4, 4, 3, bias=index == 0))
    network.add_module("n0", nn.BatchNorm2d(4))
    return network


CASES = {
    "flat": (flat(5), ["c0", "c2", "c4"]),
    "flat, the last counts": (flat(4), ["c1", "c3"]),
    "a single one": (flat(1), ["c0"]),
    "nothing else": (conv(), []),
    "pairs": (nested(2, 2), ["b0", "b1"]),
    "pairs after a single one": (nested(1, 2, 2), ["b0", "b1", "b2"]),
    "single ones": (nested(1, 1, 1), ["b0", "b2"]),
    "a long stretch in a part": (nested(4), ["b0.c1", "b0.c3"]),
    "normalisation takes off what a fit adds": (normalised(), ["4", "9"]),
    "who takes it off cannot be told": (normalised_elsewhere(), ["c0", "n0"]),
    "a list, which has no outputs": (listed(), ["convs.1"]),
}


@pytest.mark.parametrize(("network", "expected"), CASES.values(), ids=CASES)
def test_every_second_replacement_is_compared(network: nn.Module, expected: list[str]) -> None:
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert compared(network, names) == expected


def test_a_flat_network_is_refined_towards_its_activations() -> None:
    batch = torch.rand(2, 4, 16, 16)
    reference = Reference(flat(4), [f"c{index}" for index in range(4)], [batch], [])
    (wanted,) = reference.wanted
    assert {name: [tuple(one.shape) for one in ones] for name, ones in wanted.inner.items()} == {
        "c1": [(2, 4, 12, 12)],
        "c3": [(2, 4, 8, 8)],
    }


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ([torch.tensor([1000.0, 0.5])], [torch.tensor([1000.0, 0.0])], True),
        ([torch.tensor([1000.0, 2.0])], [torch.tensor([1000.0, 0.0])], False),
        ([torch.ones(2)], [torch.ones(1)], False),
        ([torch.ones(2)], [], False),
        ([torch.ones(0)], [torch.ones(0)], True),
        ([torch.tensor([torch.nan])], [torch.tensor([torch.nan])], False),
        ([torch.tensor([torch.inf])], [torch.tensor([torch.inf])], False),
    ],
)
def test_tensors_are_alike_if_they_differ_by_rounding(
    found: list[Tensor], wanted: list[Tensor], same: bool
) -> None:
    assert alike(found, wanted) is same


class Counting(nn.Module):
    """It counts its calls in tensors that are no buffers, and keeps what it saw in another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3)
        self.calls = torch.zeros(3)
        self.counts: dict[str, list[Any]] = {"calls": [torch.zeros(())]}
        self.counts["calls"].append(self.counts["calls"])
        self.last = torch.empty(0)
        self.first_bias = self.a.bias.detach()[:1] if self.a.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.counts["calls"][0] += 1
        with torch.no_grad():
            torch.cat([x.detach()], out=self.last)
        return self.b(self.a(x).relu())  # type: ignore[no-any-return]

    def counted(self) -> tuple[float, float, int]:
        return float(self.calls.sum()), float(self.counts["calls"][0]), len(self.last)


def images() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(8, 4, 9, 9) for _ in range(4)]


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
def test_tensors_that_are_no_buffers_are_put_back() -> None:
    model = Counting()
    with buffers_as_found(model), torch.no_grad():
        model(images()[0])
        assert model.counted() == (3, 1, 8)
        assert model.a.bias is not None
        model.a.bias += 1
        trained = model.a.bias.clone()
    assert model.counted() == (0, 0, 0)
    assert torch.equal(model.a.bias, trained), "a view of a parameter is the parameter's"


def fitted(model: nn.Module) -> list[nn.Module]:
    return [rewrite(model, init="fit", calibration=images(), refine=1).model]


def within_budget(model: nn.Module) -> list[nn.Module]:
    return [rewrite(model, init="fit", calibration=images(), refine=0, budget="600").model]


def as_teacher(model: nn.Module) -> list[nn.Module]:
    distill(rewrite(model).model, model, images(), steps=2)
    return []


def verified(model: nn.Module) -> list[nn.Module]:
    return [rewrite(model, example_inputs=images()[0], verify="exact").model]


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("use", [fitted, within_budget, as_teacher, verified])
def test_nothing_counts_in_a_model_or_its_copy(use: Callable[[nn.Module], list[nn.Module]]) -> None:
    model = Counting().eval()
    for one in [model, *use(model)]:
        assert isinstance(one, Counting)
        assert one.counted() == (0, 0, 0)
