from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pytest_dwsconv import analyze


class Watched(TorchDispatchMode):
    """The most bytes of live storages after any operator of a real forward, parameters left out.

    An independent count: it asks PyTorch which storages exist, and knows no operator by name.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without
        self._known = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        self._live: dict[int, int] = {}
        self.peak: int = 0
        self._see(x)

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._live and key not in self._known:
            self._live[key] = storage.nbytes()
            weakref.finalize(storage, self._live.pop, key, None)
        self.peak = max(self.peak, sum(self._live.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for item in tree_leaves(out):
            if isinstance(item, Tensor):
                self._see(item)
        return out


def really(model: nn.Module, shape: tuple[int, ...]) -> int:
    model.eval()
    x = torch.zeros(shape)
    watched = Watched(model, x)
    with torch.no_grad(), watched:
        model(x)
    return watched.peak


class Residual(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(8), nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self._sum(self.a(x)))
        return out.flatten(1)

    def _sum(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.b(x))
        return y + x


class Views(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        y = torch.cat([a[:, :, ::2], b.transpose(2, 3)[..., ::2].transpose(2, 3)], 2).reshape(1, -1)
        y += 1
        return y.view(-1).relu_()


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self._weighted(torch.cat([x, x, x], 1))[:, [0, 1]].to(torch.float64).float()

    def _weighted(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True)


class Picked(nn.Module):
    """Some channels: by a slice, which is a view, or by a list of them, which is a copy."""

    def __init__(self, index: Any) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.index]


FLOAT = 4
CASES = [
    pytest.param(nn.Conv2d(3, 16, 3), (1, 3, 10, 10), (300 + 16 * 64) * FLOAT, id="input and output"),
    pytest.param(Residual(False), (1, 3, 8, 8), 3 * 8 * 64 * FLOAT, id="residual"),
    pytest.param(Residual(True), (1, 3, 8, 8), 3 * 8 * 64 * FLOAT, id="residual in place"),
    pytest.param(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(True)), (1, 3, 8, 8), (192 + 288) * FLOAT, id="in place"),
    pytest.param(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Identity()), (1, 3, 8, 8), 192 * FLOAT, id="nothing"),
    pytest.param(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (1, 3, 8, 8), 2 * 288 * FLOAT, id="not in place"),
    pytest.param(Picked(slice(2)), (1, 3, 8, 8), 192 * FLOAT, id="slice"),
    pytest.param(Picked([0, 1]), (1, 3, 8, 8), (192 + 128) * FLOAT, id="list of channels"),
]


@pytest.mark.parametrize(("model", "shape", "expected"), CASES)
def test_worked_out_by_hand(model: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert analyze(model, shape).peak_activations == expected


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv2d(3, 16, 3), (1, 3, 10, 10)),
        (Residual(False), (1, 8 - 5, 8, 8)),
        (Residual(True), (1, 3, 8, 8)),
        (Views(), (1, 4, 8, 8)),
        (Branches(), (1, 2, 8, 8)),
    ],
)
def test_never_more_than_a_real_forward_holds_and_hardly_less(model: nn.Module, shape: tuple[int, ...]) -> None:
    """A caller keeps its input to the end, which is all that a real forward may hold beyond ours."""
    ours, real = analyze(model, shape).peak_activations, really(model, shape)
    assert ours is not None
    inputs = torch.zeros(shape).nbytes
    assert ours <= real <= ours + inputs


def test_it_scales_with_the_dtype_and_the_batch() -> None:
    one, two = (analyze(nn.Conv2d(3, 16, 3), (batch, 3, 10, 10)).peak_activations for batch in (1, 2))
    assert two == 2 * (one or 0)
    assert analyze(nn.Conv2d(3, 16, 3).half(), (1, 3, 10, 10)).peak_activations == (one or 0) // 2
    assert analyze(nn.Conv2d(3, 16, 3)).peak_activations is None
