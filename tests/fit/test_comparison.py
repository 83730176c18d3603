"""Where a converted network is compared with its original."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv.fit.comparison import alike, compared
from pytest_dwsconv.fit.recovery import Reference


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
