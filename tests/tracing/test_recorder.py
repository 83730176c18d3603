"""What a forward may do: each is counted as PyTorch counts it, and leaves the model as it was."""

from __future__ import annotations

import copy
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.immutable_collections import immutable_list
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pytest_dwsconv import analyze
from pytest_dwsconv.core.findings import Origin
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.errors import TracingError
from pytest_dwsconv.report import Report
from pytest_dwsconv.tracing.trace import trace


class Parts(nn.Module):
    """Two convolutions and a linear layer, for forwards of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.b = nn.Conv2d(3, 3, 1)
        self.linear = nn.Linear(8, 8)
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("bank", torch.zeros(0, 3, 8, 8))
        self.count: Tensor
        self.bank: Tensor


@torch.jit.script
def scripted(x: Tensor, weight: Tensor) -> Tensor:
    return torch.conv2d(x, weight, padding=1)


class Scripted(Parts):
    def forward(self, x: Tensor) -> Any:
        return scripted(self.a(x), self.a.weight)


class Generating(Parts):
    def forward(self, x: Tensor) -> Iterator[Tensor]:
        yield self.a(x)
        yield self.b(x)


class Counting(Parts):
    """Reads a buffer that it has written."""

    def forward(self, x: Tensor) -> Tensor:
        self.count.zero_()
        while self.count.item() < 3:
            x = self.a(x)
            self.count += 1
        return x


class Growing(Parts):
    """Exchanges the data of a buffer, and reads its shape."""

    def forward(self, x: Tensor) -> Tensor:
        self.bank.data = torch.cat([self.bank.data, x])
        for _ in range(self.bank.shape[0]):
            x = self.linear(x)
        return x


class Training(Parts):
    """Needs data, and has a normalisation at work that keeps statistics."""

    def forward(self, x: Tensor) -> Any:
        self.norm.train()
        y = self.norm(self.a(x))
        return self.b(y) if y.sum().item() < 1e9 else y


class Descending(Parts):
    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            y = self.a(x)
            y.square().mean().backward()
        return self.b(y.detach())


class Conjugating(Parts):
    def forward(self, x: Tensor) -> Any:
        z = torch.complex(x, x).conj()
        return self.a(self.a(x)) if z.is_conj() else self.b(x)


class Differentiating(Parts):
    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            y = torch.sin(x.detach().requires_grad_())
        return self.a(self.a(x)) if y.requires_grad else self.b(x)


class Deciding(Parts):
    """Decides by values of tensors that are its own making."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(torch.sigmoid(input=torch.tensor(0.0)) * 4 + torch.arange(3).max())):
            x = self.linear(x)
        return x


class Randomised(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()
        self.random = random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.rand(1, generator=self.generator)
        return self.a(x) if self.random.random() < 2 else x


class Frozen(OrderedDict[str, int]):
    """As in diffusers: what is in it stays."""

    def __setitem__(self, key: str, value: int) -> None:
        if len(self):
            raise TypeError("frozen")
        super().__setitem__(key, value)


class Configured(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.config = Frozen(width=3)
        self.sizes = immutable_list([1, 2])

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.a(x))


def state_of(model: nn.Module) -> list[Any]:
    tensors = model.state_dict(keep_vars=True).items()
    values = [(name, id(tensor), tensor._version, tensor.tolist()) for name, tensor in tensors]
    return [
        *values,
        *((module.training, sorted(vars(module)), repr(module)) for module in model.modules()),
    ]


def counted(model: nn.Module, x: Tensor) -> Any:
    model = copy.deepcopy(model).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = model(x)
        list(out)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    "kind",
    [
        Scripted,
        Generating,
        Counting,
        Growing,
        Training,
        Conjugating,
        Differentiating,
        Deciding,
        Configured,
    ],
)
def test_counted_as_pytorch_counts_and_left_as_found(kind: type[Parts]) -> None:
    model = kind().train()
    before = state_of(model)
    first, second = (analyze(model, (2, 3, 8, 8)) for _ in range(2))
    assert state_of(model) == before
    assert first.macs == second.macs == counted(model, torch.zeros(2, 3, 8, 8))


def test_values_are_known_where_the_forward_needs_them() -> None:
    """What makes a forward ask for values, and what does not."""
    assert analyze(Deciding(), (2, 3, 8, 8)).origin is Origin.META
    assert analyze(Counting(), (2, 3, 8, 8)).origin is Origin.META
    assert analyze(Growing(), (2, 3, 8, 8)).origin is Origin.REAL


def test_gradients_inside_a_forward_stay_there() -> None:
    model = Descending()
    assert analyze(model, (1, 3, 8, 8)).macs == 8 * 8 * (81 + 9)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_generators_are_put_back() -> None:
    model = Randomised()
    before = model.generator.get_state(), model.random.getstate()
    analyze(model, (1, 3, 8, 8))
    assert torch.equal(model.generator.get_state(), before[0])
    assert model.random.getstate() == before[1]


def test_operators_of_other_threads_are_refused() -> None:
    class Threaded(Parts):
        def forward(self, x: Tensor) -> Tensor:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(F.conv2d, x, self.a.weight).result() + 1

    with pytest.raises(TracingError, match="no recorded operator made"):
        analyze(Threaded(), (1, 3, 8, 8))


def test_a_convolution_in_a_hook_is_its_own() -> None:
    model, other = nn.Sequential(nn.Conv2d(8, 8, 3)), nn.Conv2d(8, 8, 3)
    model[0].register_forward_hook(lambda module, args, out: F.conv2d(out, other.weight))
    report = analyze(model, (1, 8, 10, 10))
    assert [(row.macs, row.output_shape) for row in report.findings] == [
        (64 * 576, (1, 8, 8, 8)),
        (36 * 576, (1, 8, 6, 6)),
    ]


def test_a_convolution_pruned_by_hand_is_what_its_weight_says() -> None:
    first, second = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3)
    model = nn.Sequential(first, second)
    first.weight, first.bias = (nn.Parameter(p[:5]) for p in first.parameters())
    second.weight = nn.Parameter(second.weight[:, :5])
    report = analyze(model, (1, 4, 8, 8))
    assert report.macs == counted(model, torch.zeros(1, 4, 8, 8))
    assert sum(row.params or 0 for row in report.findings) == report.params
    assert report.findings[0].output_shape == (1, 5, 6, 6)


def test_modules_that_share_much_are_walked_in_no_time() -> None:
    layers: list[nn.Module] = [nn.Linear(4, 4), nn.Linear(4, 4)]
    for _ in range(60):
        layers.append(nn.ModuleList(layers[-2:]))
    model = nn.Sequential(nn.Linear(4, 4))
    model.add_module("shared", nn.Identity())
    model[1].held = layers[-1]
    report: Report = analyze(model, (1, 4))
    assert report.macs == 16


def test_nested_as_deep_as_a_forward_may_be() -> None:
    model: nn.Module = nn.Linear(4, 4)
    for _ in range(200):
        model = nn.Sequential(model)
    model(torch.zeros(1, 4))
    assert analyze(model, (1, 4)).macs == 16


def test_a_weight_that_is_no_parameter_has_no_parameters() -> None:
    class Blurred(Parts):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kernel", torch.ones(3, 3, 3, 3))
            self.kernel: Tensor

        def forward(self, x: Tensor) -> Tensor:
            x = F.conv2d(self.a(x), self.kernel)
            return F.conv2d(x, x.new_ones(3, 3, 2, 2))

    report = analyze(Blurred(), (1, 3, 8, 8), policy=Policy(functional=True))
    assert report.macs == counted(Blurred(), torch.zeros(1, 3, 8, 8))
    rows = {row.name: (row.code, row.params, row.params_share) for row in report.findings}
    assert rows["kernel"] == rows["conv2d_1"] == ("DWS112", 0, 0.0)


def test_a_complex_convolution_is_counted_and_left_alone() -> None:
    model = nn.Conv2d(3, 8, 3, dtype=torch.complex64)
    x = torch.zeros(1, 3, 8, 8, dtype=torch.complex64)
    report = analyze(model, example_inputs=x)
    (row,) = report.findings
    assert (row.code, row.calls, row.macs) == ("DWS113", 1, report.macs)
    assert report.macs == counted(model, x)


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_a_quantized_convolution_that_runs_is_counted() -> None:
    from torch.ao.nn import quantized

    model = nn.Sequential(
        quantized.Quantize(torch.tensor(0.1), torch.tensor(0), torch.quint8),
        quantized.Conv2d(3, 8, 3),
        quantized.DeQuantize(),
    )
    (row,) = analyze(model, example_inputs=torch.rand(1, 3, 8, 8)).findings
    assert (row.code, row.calls, row.macs, row.output_shape) == (
        "DWS102",
        1,
        36 * 8 * 27,
        (1, 8, 6, 6),
    )


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("values", [False, True], ids=["meta", "real"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (nn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 3}),
        (nn.LSTM, {}),
        (nn.GRU, {"bidirectional": True}),
        (nn.RNN, {"num_layers": 2, "nonlinearity": "relu"}),
    ],
)
def test_recurrent_networks(
    kind: Callable[..., nn.RNNBase], settings: dict[str, Any], batch_first: bool, values: bool
) -> None:
    """As the steps of time that PyTorch takes on meta tensors: its counter sees nothing in the
    CPU's own kernels.
    """

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(8, 6, batch_first=batch_first, **settings)

        def forward(self, x: Tensor) -> Any:
            return x if values and x.sum().item() > 1e9 else self.layer(x)

    model = Recurrent()
    with FlopCounterMode(display=False) as counter:
        out, state = kind(8, 6, batch_first=batch_first, device="meta", **settings)(
            torch.zeros(5, 2, 8, device="meta")
        )
    report = analyze(model, (5, 2, 8))
    assert report.origin is (Origin.REAL if values else Origin.META)
    assert (report.macs or 0) * 2 == counter.get_total_flops()
    final = trace(model, (torch.zeros(5, 2, 8),)).graph_module()(torch.zeros(5, 2, 8))
    assert final[0].shape == out.shape
    assert [one.shape for one in tree_leaves(final[1])] == [one.shape for one in tree_leaves(state)]


def test_an_argument_may_have_any_name() -> None:
    class Named(Parts):
        def forward(self, module: Tensor, original: Tensor) -> Any:
            return self.a(module) + original

    x = torch.zeros(1, 3, 8, 8)
    report = analyze(
        nn.ModuleDict({"it": Named()})["it"], example_inputs={"module": x, "original": x}
    )
    assert report.macs == 8 * 8 * 81


def test_an_interrupt_while_module_calls_are_being_replaced_puts_them_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call: Any = nn.Module._call_impl
    limit, real = sys.getrecursionlimit(), sys.setrecursionlimit

    def interrupted(new: int) -> None:
        real(new)
        if new != limit:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "setrecursionlimit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trace(nn.ReLU(), (torch.rand(2),))
    assert nn.Module._call_impl is call
    assert sys.getrecursionlimit() == limit
