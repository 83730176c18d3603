"""Formulas that others register with PyTorch's counter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from pytest_dwsconv import analyze


@torch.library.custom_op("dwsconv_tests::mix", mutates_args=())
def mix(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight


@mix.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[1])


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 7))

    def forward(self, x: Tensor) -> Any:
        return mix(mix(x, self.weight), self.weight.t())


def test_a_formula_counts_from_its_registration_on() -> None:
    model, shape = Mixing(), (3, 5)
    before = analyze(model, shape)
    assert (before.macs, dict(before.not_counted)) == (0, {"mix.default": 2})

    @register_flop_formula(torch.ops.dwsconv_tests.mix)
    def flops(x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return int(2 * x[0] * x[1] * weight[1])

    after = analyze(model, shape)
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(shape))
    assert after.macs == counter.get_total_flops() // 2 == 2 * 3 * 5 * 7
    assert not after.not_counted
