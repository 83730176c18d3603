"""Second moments of what a convolution sees: checked against direct computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pytest_dwsconv.fit.moments import Cross, Moments, padded, patches
from pytest_dwsconv.separable.modules import CONVS

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride, padding": {"stride": 2, "padding": 1},
    "dilation": {"dilation": 2},
    "same": {"padding": "same", "kernel_size": 4},
    "groups": {"groups": 2, "padding": 1},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "circular": {"padding": 2, "padding_mode": "circular", "groups": 4},
}


def make(rank: int, **options: Any) -> Any:
    torch.manual_seed(0)
    return CONVS[rank](8, 12, **{"kernel_size": 3, **options}).double()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("setting", SETTINGS)
def test_moments_are_those_of_what_the_convolution_sees(setting: str, rank: int) -> None:
    conv = make(rank, **SETTINGS[setting])
    x = torch.randn(3, 8, *(9, 8, 7)[:rank], dtype=torch.float64)
    with torch.no_grad():
        y = conv(x)
        taps = patches(padded(x, conv), conv)
        kernel = conv.weight.reshape(conv.groups, -1, taps.shape[1])
        expected = (y - conv.bias.view(-1, *[1] * rank)).transpose(0, 1).flatten(1)
        torch.testing.assert_close((kernel @ taps).flatten(0, 1), expected)
        moments, cross = Moments(conv), Cross(conv)
        for part, out in zip(x.split(2), y.split(2), strict=True):
            moments.add(part)
            cross.add(part, out)
        moments.finish()
        cross.finish(moments.count)
    assert float(moments.count) == y[:, 0].numel()
    torch.testing.assert_close(moments.gram, taps @ taps.mT / taps.shape[2])
    torch.testing.assert_close(moments.mean_x, taps.mean(2))
    outputs = y.transpose(0, 1).reshape(conv.groups, -1, taps.shape[2])
    torch.testing.assert_close(cross.cross.view(kernel.shape), outputs @ taps.mT / taps.shape[2])
    torch.testing.assert_close(cross.mean_y, outputs.mean(2).flatten())


def test_moments_do_not_depend_on_how_the_batch_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = make(2, padding=1), torch.randn(6, 8, 9, 8, dtype=torch.float64)
    whole = Moments(conv)
    whole.add(x)
    monkeypatch.setattr("pytest_dwsconv.fit.moments.CHUNK_BYTES", 1)
    monkeypatch.setattr("pytest_dwsconv.fit.moments.BAND", 5)
    cut = Moments(conv)
    cut.add(x)
    torch.testing.assert_close(cut.finish().gram, whole.finish().gram)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize(
    "changed", [{"_reversed_padding_repeated_twice": [2, 0, 2, 0]}, {"padding": (0, 0)}]
)
def test_padding_changed_afterwards_is_the_convolutions(changed: dict[str, Any], mode: str) -> None:
    conv, x = make(2, padding=1, padding_mode=mode), torch.randn(2, 8, 9, 8, dtype=torch.float64)
    vars(conv).update(changed)
    taps = patches(padded(x, conv), conv)[0]
    with torch.no_grad():
        expected = (conv(x) - conv.bias.view(-1, 1, 1)).transpose(0, 1).flatten(1)
        torch.testing.assert_close(conv.weight.flatten(1) @ taps, expected)


def test_patches_are_what_unfold_gives() -> None:
    conv, x = (
        make(2, stride=2, padding=1, dilation=2),
        torch.randn(2, 8, 11, 10, dtype=torch.float64),
    )
    expected = F.unfold(x, 3, dilation=2, padding=1, stride=2).transpose(0, 1).flatten(1)
    torch.testing.assert_close(patches(padded(x, conv), conv)[0], expected)
