"""Forwards that copy, pickle or save tensors, in the ways that Python and PyTorch have."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pytest_dwsconv import analyze
from pytest_dwsconv.core.findings import Origin
from pytest_dwsconv.errors import TracingError
from pytest_dwsconv.tracing.trace import trace


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def pickled_as_torch_does(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, protocol=2))


def saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def as_parameter(value: Tensor) -> Tensor:
    return nn.Parameter(value, requires_grad=False)


COPIES = [copy.copy, copy.deepcopy, pickled, pickled_as_torch_does, saved]
Copy = Callable[[Any], Any]


class Copying(nn.Module):
    """Two convolutions, what each gives or takes copied somewhere; ``reads`` asks for real data."""

    def __init__(self, copied: Callable[..., Any], reads: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.register_buffer("table", torch.arange(5.0).reshape(5, 1, 1))
        self.table: Tensor
        self.copied, self.reads = copied, reads
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Any:
        if self.reads and x.sum().item() < -1e9:
            return x
        return self.work(x)

    def work(self, x: Tensor) -> Any:
        raise NotImplementedError


class OfTheInput(Copying):
    def work(self, x: Tensor) -> Any:
        return self.norm(self.b(self.a(self.copied(x))))


class OfTheOutput(Copying):
    def work(self, x: Tensor) -> Any:
        return self.copied(self.norm(self.b(self.a(x))))


class OfAnActivation(Copying):
    def work(self, x: Tensor) -> Any:
        return self.norm(self.b(self.copied(self.a(x))) + self.copied(self.table))


class OfSeveral(Copying):
    def work(self, x: Tensor) -> Any:
        found = self.copied({"one": self.a(x), "both": [x, self.a(x).chunk(2, 1)]})
        return self.norm(self.b(found["one"] + torch.cat(found["both"][1], 1)))


class OfAParameter(Copying):
    def work(self, x: Tensor) -> Any:
        return self.norm(self.b(self.a(x))) * self.copied(self.b.weight).sum()


class OfTheState(Copying):
    def work(self, x: Tensor) -> Any:
        state = self.copied(self.state_dict())
        return self.norm(self.b(self.a(x))) * state["b.weight"].sum() + state["table"]


class OfAModule(Copying):
    def work(self, x: Tensor) -> Any:
        if self.copied is saved:  # which torch.load refuses to read back
            return self.norm(self.b(self.a(x)))
        other = self.copied(self.b)
        return self.norm(self.copied(self.norm)(other(self.a(x))))


@pytest.mark.parametrize("reads", [False, True], ids=["meta", "real"])
@pytest.mark.parametrize("copied", [*COPIES, Tensor.clone, as_parameter])
@pytest.mark.parametrize("kind", [OfTheInput, OfTheOutput, OfAnActivation])
def test_a_copied_tensor_is_followed(kind: type[Copying], copied: Copy, reads: bool) -> None:
    check(kind(copied, reads))


@pytest.mark.parametrize("reads", [False, True], ids=["meta", "real"])
@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", [OfSeveral, OfAParameter, OfTheState, OfAModule])
def test_what_holds_tensors_may_be_copied(kind: type[Copying], copied: Copy, reads: bool) -> None:
    check(kind(copied, reads))


def check(model: Copying) -> None:
    x = torch.rand(2, 3, 8, 8)
    with FlopCounterMode(display=False) as counter:
        expected = model(x)
    report = analyze(model, example_inputs=x)
    assert report.macs == counter.get_total_flops() // 2
    assert report.origin is (Origin.REAL if model.reads else Origin.META)
    torch.testing.assert_close(trace(model, (x,)).graph_module()(2 * x), model(2 * x))
    assert torch.equal(model(x), expected)


class Complex(nn.Module):
    def __init__(self, convolution: nn.Module, reads: bool) -> None:
        super().__init__()
        self.f, self.reads = convolution, reads

    def forward(self, x: Tensor) -> Any:
        return x if self.reads and x.abs().sum().item() < 0 else self.f(x)


@pytest.mark.parametrize("reads", [False, True], ids=["meta", "real"])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Conv2d(4, 8, 3, dtype=torch.complex64),
        lambda: nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False, dtype=torch.complex64),
        lambda: nn.ConvTranspose2d(4, 8, 3, dtype=torch.complex64),
        lambda: nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular", dtype=torch.complex64),
        lambda: nn.Linear(8, 5, dtype=torch.complex64),
    ],
)
def test_complex_layers_count_as_pytorch_counts_them(
    layer: Callable[[], nn.Module], reads: bool
) -> None:
    model = Complex(layer(), reads).eval()
    x = torch.randn(1, 4, 8, 8, dtype=torch.complex64)
    with FlopCounterMode(display=False) as counter:
        model(x)
    report = analyze(model, example_inputs=x)
    assert report.macs == counter.get_total_flops() // 2
    assert report.origin is (Origin.REAL if reads else Origin.META)
    assert [finding.macs for finding in report.findings] in ([], [report.macs])


class OnCuda(Copying):
    def work(self, x: Tensor) -> Any:
        return self.norm(self.b(self.a(self.copied(x))))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device to move to")
@pytest.mark.parametrize("move", [Tensor.cuda, lambda x: x.to("cuda"), lambda x: x.to("cuda:0")])
def test_a_forward_that_needs_a_gpu_says_so(move: Copy) -> None:
    assert analyze(OnCuda(move, reads=False), (1, 3, 8, 8)).macs == 6768

    expected = "OnCuda moves data to a CUDA device, which this machine does not have"
    with pytest.raises(TracingError, match=expected):
        analyze(OnCuda(move, reads=True), (1, 3, 8, 8))


class Exchanging(Copying):
    """A tensor is given the data of another, in ways of which some are seen by no mode."""

    def work(self, x: Tensor) -> Any:
        y = self.a(x)
        self.copied(y, 2 * y)
        return self.norm(self.b(y))


def by_assignment(tensor: Tensor, other: Tensor) -> None:
    tensor.data = other


def by_set(tensor: Tensor, other: Tensor) -> None:
    tensor.set_(other)  # type: ignore[call-overload]  # torch leaves this form out


def by_set_with_a_keyword(tensor: Tensor, other: Tensor) -> None:
    tensor.set_(source=other)  # type: ignore[call-overload]  # torch leaves this form out


def by_swapping(tensor: Tensor, other: Tensor) -> None:
    torch.utils.swap_tensors(tensor, other)


def by_item(tensor: Tensor, other: Tensor) -> None:
    tensor[:] = other


def by_the_real_part(tensor: Tensor, other: Tensor) -> None:
    tensor.real = other


def by_a_part_of_a_complex_tensor(tensor: Tensor, other: Tensor) -> None:
    both = torch.complex(tensor, tensor)
    both.imag = other
    tensor.copy_(both.imag + both.real)


@pytest.mark.parametrize("reads", [False, True], ids=["meta", "real"])
@pytest.mark.parametrize(
    "exchange",
    [
        by_assignment,
        by_set,
        by_set_with_a_keyword,
        by_swapping,
        by_item,
        by_the_real_part,
        by_a_part_of_a_complex_tensor,
    ],
)
def test_a_tensor_with_the_data_of_another_is_followed(exchange: Any, reads: bool) -> None:
    check(Exchanging(exchange, reads))
    assert not {"set_", "real", "imag"} & vars(Tensor).keys()
