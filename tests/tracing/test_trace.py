"""The recorded graph: it runs, has shapes, and recording leaves everything as it was."""

from __future__ import annotations

import copy
import random
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pytest_dwsconv.core.findings import Origin
from pytest_dwsconv.errors import TracingError
from pytest_dwsconv.tracing.counting import MACS
from pytest_dwsconv.tracing.trace import trace


class Residual(nn.Module):
    """Modules and functions, in place and not, a buffer, a shared module, and control flow."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.conv = nn.Conv2d(8, 8, 3, padding="same")
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)
        self.kernel = nn.Parameter(torch.rand(8, 1, 3, 3))
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        if x.shape[-1] > 4:
            x = x + F.relu(self.conv(self.conv(x)))
        x = F.conv2d(x, self.kernel, groups=8) * self.scale
        x += torch.arange(x.shape[-1], device=x.device)
        left, right = x.chunk(2, dim=1)
        x = torch.cat([right, left], dim=1).mean((2, 3))
        x = F.linear(x, weight=self.head.weight.T @ self.head.weight)
        out: Tensor = self.head(x.view(x.size(0), -1).T.T)
        return out.softmax(-1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.rnn = nn.LSTM(16, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.attention(x, x, x)
        x, _ = self.rnn(x)
        x = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
        return torch.einsum("bse,bte->bst", x, x) @ x


class NeedsData(nn.Module):
    """Works on real tensors only: a data-dependent branch and a boolean index."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if x.mean() > 100:
            x = -x
        return x[x > 0].sum()


class Assigning(nn.Module):
    """Writes results and numbers into parts of a tensor, where no operator has a result."""

    patch: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.register_buffer("patch", torch.rand(3, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = x.new_zeros(1, 6, 8, 8)
        y[:, :3] = self.conv(x)
        y[:, 3:, 1] = 2.0
        y[:, 3:, 4:6, 4:6] = self.patch
        out: Tensor = self.conv(y[:, 2:5])
        return out


MODELS: list[tuple[Callable[[], nn.Module], tuple[int, ...], Origin]] = [
    (Assigning, (1, 3, 8, 8), Origin.META),
    (Residual, (2, 3, 10, 12), Origin.META),
    (Attention, (2, 6, 16), Origin.META),
    (NeedsData, (2, 1, 8, 8), Origin.REAL),
]


@pytest.mark.parametrize(("make", "shape", "origin"), MODELS)
def test_the_graph_computes_what_the_model_computes(
    make: Callable[[], nn.Module], shape: tuple[int, ...], origin: Origin
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    recorded = trace(model, (torch.empty(shape, device="meta"),))
    assert recorded.origin is origin
    recorded.graph.lint()
    with torch.no_grad():
        for _ in range(2):
            x = torch.rand(shape)
            torch.testing.assert_close(recorded.graph_module()(x.clone()), model(x.clone()))


@pytest.mark.parametrize(("make", "shape", "origin"), MODELS)
def test_macs_are_half_of_what_pytorch_counts(
    make: Callable[[], nn.Module], shape: tuple[int, ...], origin: Origin
) -> None:
    model = make()  # in training mode, in which PyTorch takes no shortcut that it does not count
    recorded = trace(model, (torch.empty(shape, device="meta"),))
    with FlopCounterMode(display=False) as counter:
        model.to("meta")(torch.rand(shape, device="meta")) if origin is Origin.META else model(
            torch.rand(shape)
        )
    assert (
        sum(node.meta.get(MACS, 0) for node in recorded.graph.nodes) * 2
        == counter.get_total_flops()
    )


def test_every_node_has_the_shape_its_value_has() -> None:
    model = Residual().eval()
    recorded = trace(model, (torch.empty(2, 3, 10, 12, device="meta"),))
    values: dict[str, Any] = {}

    class Shapes(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            values[n.name] = super().run_node(n)
            return values[n.name]

    with torch.no_grad():
        Shapes(recorded.graph_module()).run(torch.rand(2, 3, 10, 12))
    checked = 0
    for node in recorded.graph.nodes:
        if isinstance(values[node.name], Tensor) and node.op != "output":
            meta = node.meta["tensor_meta"]
            assert (meta.shape, meta.dtype) == (values[node.name].shape, values[node.name].dtype), (
                node.name
            )
            checked += 1
    assert checked > 20


class Marks(nn.Module):
    """A forward with every kind of side effect."""

    running: Tensor

    def __init__(self, fail: bool, real: bool) -> None:
        super().__init__()
        self.fail, self.real = fail, real
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 2, 3))
        self.old = nn.utils.spectral_norm(nn.Linear(4, 4))
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("running", torch.zeros(3))
        self.plain = torch.zeros(3)
        self.seen: list[Any] = []
        self.cache: dict[str, Tensor] = {}
        self.conv.bias.requires_grad_(False)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.running.add_(1)
        self.running += 1
        self.plain.mul_(2).add_(1)
        self.norm.weight.data.fill_(7) if self.norm.weight is not None else None
        self.norm.weight.add_(1) if not torch.is_grad_enabled() else None
        self.seen.append(x)
        self.cache["x"] = x
        self.extra = x
        self.drop.p = 0.1
        self.register_buffer("late", x)
        self.conv.train()
        x = self.drop(self.norm(self.conv(x))) + torch.rand(1) + random.random()
        if self.real and x.sum().item() == 12345:
            raise AssertionError
        if self.fail:
            raise ValueError("failing on purpose")
        out: Tensor = self.old(x)
        return out


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that an observer could find changed."""
    return {
        "state_dict": {name: value.clone() for name, value in model.state_dict().items()},
        "identity": [id(value) for value in model.state_dict(keep_vars=True).values()],
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: (dict(module._forward_hooks), dict(module._forward_pre_hooks))
            for name, module in model.named_modules()
        },
        "attributes": {name: list(module.__dict__) for name, module in model.named_modules()},
        "grad": {
            name: (value.requires_grad, value.grad) for name, value in model.named_parameters()
        },
        "seen": list(model.seen) if isinstance(model, Marks) else [],
        "cache": dict(model.cache) if isinstance(model, Marks) else {},
        "plain": model.plain.clone() if isinstance(model, Marks) else None,
        "p": [module.p for module in model.modules() if isinstance(module, nn.Dropout)],
        "random": (torch.get_rng_state(), random.getstate()),
        "marks": [name for name, value in model.state_dict(keep_vars=True).items() if vars(value)],
        "call": nn.Module.__call__,
    }


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_found(fail: bool, real: bool, training: bool) -> None:
    model = Marks(fail, real).train(training)
    x = torch.rand(1, 2, 6, 6)
    before, x_before = state_of(model), x.clone()
    if fail:
        with pytest.raises(TracingError, match="failing on purpose"):
            trace(model, (x,))
    else:
        assert trace(model, (x,)).origin is (Origin.REAL if real else Origin.META)
    after = state_of(model)
    assert after.keys() == before.keys()
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0) if key in {
            "state_dict",
            "plain",
        } else None
        if key not in {"state_dict", "plain", "random"}:
            assert after[key] == before[key], key
    assert torch.equal(after["random"][0], before["random"][0])
    assert after["random"][1] == before["random"][1]
    assert torch.equal(x, x_before)
    assert not vars(x)


class Keeps(nn.Module):
    """Works on tensors that it holds in places where a state_dict does not look."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.anchors: list[Any] = [torch.ones(6), {"half": torch.ones(6)}]
        self.cache: dict[str, list[Tensor]] = {"keys": []}
        self.recent: deque[Tensor] = deque(maxlen=2)
        self.pair = ([1.0], [2.0], torch.Size())

    def forward(self, x: Tensor) -> Tensor:
        self.anchors[0].add_(1)
        self.anchors[1]["half"].to(x.dtype).mul_(2)
        self.cache["keys"].append(self.conv(x))
        self.recent.append(x)
        self.pair[0].append(3.0)
        return torch.cat(self.cache["keys"])


def test_tensors_and_containers_inside_containers_are_as_found() -> None:
    model, x = Keeps(), torch.rand(1, 2, 4, 4)
    assert trace(model, (x,)).origin is Origin.META
    assert torch.equal(model.anchors[0], torch.ones(6))
    assert torch.equal(model.anchors[1]["half"], torch.ones(6))
    assert not vars(model.anchors[0])
    assert not vars(model.anchors[1]["half"])
    assert model.cache == {"keys": []}
    assert not model.recent
    assert model.pair == ([1.0], [2.0], torch.Size())
    copy.deepcopy(model)
    assert model(x).shape == (1, 2, 4, 4)


OUTSIDE = torch.ones(4, requires_grad=True)


class Holds(nn.Module):
    """Reads a tensor that it holds as a plain attribute, and one from outside that its forward
    comes to hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.within = nn.Module()
        self.within.scale = torch.full((4,), 2.0, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        within: Any = self.within
        within.shift = OUTSIDE
        out: Tensor = x * within.scale + within.shift
        return out


def test_plain_attributes_are_the_models_own_as_they_were_before_the_forward() -> None:
    model, x = Holds(), torch.rand(2, 4)
    trace_ = trace(model, (x,))
    assert [step.target for step in trace_.steps if step.op == "get_attr"] == [
        "within.scale",
        "_constant0",
    ]
    assert trace_.constants["_constant0"] is OUTSIDE
    assert not hasattr(model.within, "shift")
    assert torch.equal(trace_.graph_module()(x), model(x))


class Threads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            out: Tensor = pool.submit(self.conv, x).result()
        return out


def test_a_forward_in_other_threads_is_refused_rather_than_counted_as_nothing() -> None:
    with pytest.raises(TracingError, match="conv ran in another thread"):
        trace(Threads(), (torch.rand(1, 2, 4, 4),))


class InPlaceInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(1) if x.sum() > -1 else x


def test_inputs_are_not_written_to() -> None:
    x = torch.ones(3)
    assert trace(InPlaceInput(), (x,)).origin is Origin.REAL
    assert torch.equal(x, torch.ones(3))


def test_a_rejected_shape_names_the_module_the_shape_and_the_cause() -> None:
    with pytest.raises(
        TracingError,
        match=r"Residual rejected inputs of shape \(1, 4, 8, 8\): RuntimeError in stem: ",
    ) as info:
        trace(Residual(), (torch.empty(1, 4, 8, 8, device="meta"),))
    assert isinstance(info.value.__cause__, RuntimeError)
    assert "\n" not in str(info.value)


def test_models_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = Residual()
    assert trace(model, (torch.empty(2, 3, 10, 12, device="meta"),)).origin is Origin.META
    with torch.device("meta"):
        needs_data = NeedsData()
    with pytest.raises(TracingError, match="NeedsData rejected"):
        trace(needs_data, (torch.empty(2, 1, 8, 8, device="meta"),))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3)
        self.embed = nn.Embedding(10, 2)

    def forward(
        self, tokens: Tensor, *, extra: dict[str, list[Tensor]], flag: bool = True
    ) -> dict[str, Any]:
        x = self.embed(tokens).transpose(1, 2) + extra["shift"][0]
        return {"out": self.conv(x), "list": [x, None, 3], "flag": flag}


def test_keyword_nested_and_integer_inputs() -> None:
    model = Nested().eval()
    tokens, shift = torch.randint(0, 10, (1, 7)), torch.rand(1, 2, 1)
    recorded = trace(model, (tokens,), {"extra": {"shift": [shift]}})
    assert recorded.input_shapes == ((1, 7), (1, 2, 1))
    out, expected = recorded.graph_module()(tokens, shift), model(tokens, extra={"shift": [shift]})
    torch.testing.assert_close(out["out"], expected["out"])
    assert (out["list"][1:], out["flag"]) == ([None, 3], True)


def test_other_threads_are_not_recorded() -> None:
    """Calls of another thread during a recording go their own way."""
    other = nn.Conv2d(1, 1, 1)
    results: list[Tensor] = []

    class Starts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)

        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=lambda: results.append(other(torch.ones(1, 1, 2, 2))))
            thread.start()
            thread.join()
            out: Tensor = self.conv(x)
            return out

    recorded = trace(Starts(), (torch.empty(1, 1, 4, 4, device="meta"),))
    assert results[0].device.type == "cpu"
    assert [str(node.target) for node in recorded.graph.nodes if node.op == "call_module"] == [
        "conv"
    ]


def test_concurrent_traces_do_not_disturb_each_other() -> None:
    before = nn.Module.__call__
    counts: list[int] = []

    def work() -> None:
        for _ in range(5):
            counts.append(
                len(trace(Residual(), (torch.empty(1, 3, 8, 8, device="meta"),)).graph.nodes)
            )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 20
    assert len(set(counts)) == 1
    assert nn.Module.__call__ is before
