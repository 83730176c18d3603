from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pytest_dwsconv import analyze
from pytest_dwsconv.core.findings import Origin
from pytest_dwsconv.errors import InputError


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


class Assigned(nn.Module):
    """Eight channels wait until they are written into the result."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_empty(1, 16, 8, 8)
        part, whole = self.a(x), self.b(x)
        out[:, :8] = part
        out[:, 8:] = whole[:, :8]
        return out


class Picked(nn.Module):
    """Some channels: by a slice, which is a view, or by a list of them, which is a copy."""

    def __init__(self, index: Any) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.index]


FLOAT = 4
CASES = [
    pytest.param(
        nn.Conv2d(3, 16, 3), (1, 3, 10, 10), (300 + 16 * 64) * FLOAT, id="input and output"
    ),
    pytest.param(Residual(False), (1, 3, 8, 8), 3 * 8 * 64 * FLOAT, id="residual"),
    pytest.param(Residual(True), (1, 3, 8, 8), 3 * 8 * 64 * FLOAT, id="residual in place"),
    pytest.param(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(True)),
        (1, 3, 8, 8),
        (192 + 288) * FLOAT,
        id="in place",
    ),
    pytest.param(
        nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Identity()),
        (1, 3, 8, 8),
        192 * FLOAT,
        id="nothing",
    ),
    pytest.param(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
        (1, 3, 8, 8),
        2 * 288 * FLOAT,
        id="not in place",
    ),
    pytest.param(
        Assigned(), (1, 3, 8, 8), (3 + 16 + 8 + 32) * 64 * FLOAT, id="written into a part"
    ),
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
def test_never_more_than_a_real_forward_holds_and_hardly_less(
    model: nn.Module, shape: tuple[int, ...]
) -> None:
    """A caller keeps its input to the end: a real forward may hold that beyond ours."""
    ours, real = analyze(model, shape).peak_activations, really(model, shape)
    assert ours is not None
    inputs = torch.zeros(shape).nbytes
    assert ours <= real <= ours + inputs


class Does(nn.Module):
    """A forward written in place, with the modules it calls."""

    def __init__(self, forward: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.does, self.parts = forward, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Any:
        return self.does(x, *self.parts)


def unpooled(x: Tensor, pool: nn.Module, unpool: nn.Module) -> Any:
    return unpool(*pool(x))


def needs_data(x: Tensor) -> Tensor:
    """What runs on real tensors only: the largest and the smallest of what is not negative."""
    low, high = x[x >= 0].aminmax()
    return high - low


X = 4 * 8 * 8 * FLOAT
SEVERAL_RESULTS = {
    "both of a sort": (Does(lambda x: x.sort(1)), (1, 1000), 4000 + 4000 + 8000),
    "one of a sort": (Does(lambda x: x.sort(1)[0]), (1, 1000), 4000 + 4000 + 8000),
    "the other is gone by then": (
        Does(lambda x: torch.cat([x.sort(1)[0]] * 4, 1)),
        (1, 1000),
        4000 + 16000,
    ),
    "by its name": (Does(lambda x: x.topk(1, 1).values), (8, 10), 320 + 32 + 64),
    "pooling with indices": (
        Does(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
        (1, 4, 8, 8),
        X + 256 + 512,
    ),
    "unpooling": (
        Does(unpooled, nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)),
        (1, 16, 8, 16),
        8192 + 2048 + 4096,
    ),
    "views of two": (
        Does(lambda x: torch.broadcast_tensors(x.relu(), x[:, :1].exp())),
        (1, 4, 8, 8),
        X * 9 // 4,
    ),
    "chunk": (Does(lambda x: x.chunk(2, 1)), (1, 4, 8, 8), X),
    "split": (Does(lambda x: x.relu().split([1, 3], 1)[1]), (1, 4, 8, 8), 2 * X),
    "tensor_split": (Does(lambda x: torch.tensor_split(x, 3, 1)), (1, 4, 8, 8), X),
    "unbind": (Does(lambda x: [part + 1 for part in x.unbind(1)]), (1, 4, 8, 8), 2 * X),
    "those of a parameter": (
        Does(lambda x, layer: x @ layer.weight.chunk(2)[1].t(), nn.Linear(4, 8)),
        (2, 4),
        64,
    ),
}


@pytest.mark.parametrize("case", SEVERAL_RESULTS)
def test_several_results_of_one_operator(case: str) -> None:
    """Each has memory of its own from then on, if only until the operator is done; parts of a
    tensor have none.
    """
    model, shape, expected = SEVERAL_RESULTS[case]
    ours, real = analyze(model, shape).peak_activations, really(model, shape)
    assert ours == expected
    assert ours <= real <= ours + torch.zeros(shape).nbytes


@pytest.mark.parametrize(
    ("model", "shape", "least"),
    [
        (
            Does(lambda x, attend: x + attend(x, x, x)[0], nn.MultiheadAttention(64, 4)),
            (1, 196, 64),
            3 * 50_176,
        ),
        (Does(lambda x, lstm: lstm(x)[0], nn.LSTM(8, 512)), (100, 1, 8), 3200 + 100 * 512 * FLOAT),
        (Does(lambda x, gru: gru(x)[1][0] + 1, nn.GRU(8, 16)), (10, 1, 8), 320 + 640 + 64),
    ],
)
def test_several_results_of_composite_operators(
    model: nn.Module, shape: tuple[int, ...], least: int
) -> None:
    """These have scratch memory too, which a real forward holds and ours leaves out."""
    ours = analyze(model, shape).peak_activations
    assert ours is not None
    assert least <= ours <= really(model, shape)


COPIES_AND_VIEWS = {
    "sliding windows, a copy": (lambda x: F.unfold(x, 3), X + 36 * 36 * FLOAT),
    "sliding windows, a view": (lambda x: x.unfold(2, 3, 1), X),
    "not": (lambda x: ~(x > 0).repeat(8, 1, 1, 1), 2 * 8 * 256),
    "augmented": (lambda x: x.__itruediv__(2), X),
    "in place by position": (lambda x: F.relu(x, True), X),
    "into another": (lambda x: torch.add(x, 1, out=x), X),
    "contiguous already": (lambda x: x.contiguous(), X),
    "contiguous otherwise": (lambda x: x.contiguous(memory_format=torch.channels_last), 2 * X),
    "to another format": (lambda x: x.to(memory_format=torch.channels_last), 2 * X),
    "to the same dtype": (lambda x: x.to(torch.float32), X),
    "to a copy": (lambda x: x.to(torch.float32, copy=True), 2 * X),
    "to the same device": (lambda x: x.to("cpu").cpu(), X),
    "to a copy on the same device": (lambda x: x.to("cpu", copy=True), 2 * X),
    "dropout as a function": (lambda x: F.dropout(x, 0.5), 2 * X),
    "dropout that does nothing": (lambda x: F.dropout(x, 0.5, training=False), X),
    "complex numbers": (
        lambda x: torch.view_as_real(torch.view_as_complex(x.view(1, 4, 8, 4, 2))),
        X,
    ),
    "real part": (lambda x: torch.view_as_complex(x.view(1, 4, 8, 4, 2)).real, X),
    "transposed and flattened": (lambda x: x.mT.flatten(), 2 * X),
    "flattened as far as it is dense": (lambda x: x.transpose(0, 1).flatten(2), X),
    "transposed property": (lambda x: x.mT, X),
    "at least as many dimensions": (torch.atleast_3d, X),
}


@pytest.mark.parametrize("case", COPIES_AND_VIEWS)
def test_copies_and_views(case: str) -> None:
    forward, expected = COPIES_AND_VIEWS[case]
    model = Does(forward)
    ours, real = analyze(model, (1, 4, 8, 8)).peak_activations, really(model, (1, 4, 8, 8))
    assert ours == expected
    assert ours <= real <= ours + X


def test_results_that_only_real_tensors_have() -> None:
    """Which of several are not used cannot be told then; what is used counts."""
    report = analyze(Does(needs_data), example_inputs=torch.ones(1, 1000))
    assert report.origin is Origin.REAL
    assert report.peak_activations == 4000 + 1000 + 4000


def test_a_nested_tensor_is_refused() -> None:
    model = Does(lambda x: torch.nested.nested_tensor([x[0], x[1][:3]], layout=torch.jagged) * 2)
    with pytest.raises(
        InputError, match="makes a nested tensor, whose shape does not tell its size"
    ):
        analyze(model, (2, 4, 5))


def test_the_random_state_is_left_as_found() -> None:
    before = torch.get_rng_state()
    analyze(Does(lambda x: F.dropout(x, 0.5) + torch.rand_like(x)), (1, 4, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_it_scales_with_the_dtype_and_the_batch() -> None:
    one, two = (
        analyze(nn.Conv2d(3, 16, 3), (batch, 3, 10, 10)).peak_activations for batch in (1, 2)
    )
    assert two == 2 * (one or 0)
    assert analyze(nn.Conv2d(3, 16, 3).half(), (1, 3, 10, 10)).peak_activations == (one or 0) // 2
    assert analyze(nn.Conv2d(3, 16, 3)).peak_activations is None
