"""Random networks: counted as PyTorch counts them, exact at the exact multiplier, left as found."""

from __future__ import annotations

import copy

import pytest
import torch
from random_networks import Maker
from torch.utils.flop_counter import FlopCounterMode

from pytest_dwsconv import analyze, rewrite
from pytest_dwsconv.tracing.trace import trace

EXACT = 999


def check(seed: int) -> None:
    maker = Maker(seed)
    model, shape = maker.network, maker.shape
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        expected = model(x.clone())
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    report = analyze(model, shape)
    assert report.params == sum(parameter.numel() for parameter in model.parameters())
    assert report.macs == counter.get_total_flops() // 2
    with torch.no_grad():
        again = trace(model, (x,)).graph_module()(x.clone())
        torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)
        exact = rewrite(model, shape, depth_multiplier=EXACT).model(x.clone())
        torch.testing.assert_close(exact, expected, rtol=1e-3, atol=1e-4)
        assert torch.equal(model(x.clone()), expected)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("seed", [*range(32), 456, 955])
def test_some_networks(seed: int) -> None:
    check(seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(32, 2032, 20))
def test_many_networks(seed: int) -> None:
    for one in range(seed, seed + 20):
        check(one)
