"""The least-squares fit from moments: checked against direct computation and other solvers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pytest_dwsconv.core.conv import ConvSpec, Order
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit import least_squares
from pytest_dwsconv.fit.least_squares import Problem, fit
from pytest_dwsconv.fit.moments import Cross, Moments, padded, patches
from pytest_dwsconv.separable.factorize import Factors, decompose, dense_kernel
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


def random_problem(groups: int, channels: int, filters: int, taps: int) -> Problem:
    torch.manual_seed(1)
    inputs = channels * taps
    # neighbours are much alike
    x = torch.randn(groups, inputs, 3 * inputs, dtype=torch.float64).cumsum(1)
    root = torch.randn(groups, filters, filters, dtype=torch.float64)
    kernel = torch.randn(groups, filters, inputs, dtype=torch.float64)
    gram = x @ x.mT / x.shape[2]
    return Problem(gram, kernel @ gram, root @ root.mT + torch.eye(filters, dtype=torch.float64))


def entry_of(groups: int, channels: int, filters: int, order: Order, multiplier: int) -> PlanEntry:
    spec = ConvSpec(2, groups * channels, groups * filters, (3, 3), groups=groups)
    return PlanEntry.of("conv", spec, order, multiplier)


def start_of(problem: Problem, entry: PlanEntry) -> Factors:
    weight = torch.linalg.solve(problem.gram, problem.cross.mT).mT
    weight = weight.reshape(entry.out_channels, -1, *entry.kernel_size)
    return decompose(weight, entry.groups, entry.form).factors(entry.size)


def kernel_of(factors: Factors, entry: PlanEntry) -> Tensor:
    found = dense_kernel(factors, entry)
    return found.reshape(entry.groups, entry.out_channels // entry.groups, -1)


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize(("groups", "multiplier"), [(1, 1), (1, 3), (2, 2)])
def test_a_kernel_that_is_separable_is_found_again(
    order: Order, groups: int, multiplier: int
) -> None:
    problem, entry = random_problem(groups, 5, 6, 9), entry_of(groups, 5, 6, order, multiplier)
    wanted = kernel_of(start_of(problem, entry), entry)
    exact = Problem(problem.gram, wanted @ problem.gram, problem.weight)
    torch.manual_seed(3)
    start = start_of(problem, entry)[:2]
    near = Factors(*(part + 0.1 * torch.randn_like(part) for part in start))
    found = kernel_of(fit(exact, entry, near, 2000), entry)
    assert exact.loss(found) - exact.loss(wanted) < 1e-2 * abs(exact.loss(wanted))


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("multiplier", [1, 2])
def test_no_gradient_is_left(
    monkeypatch: pytest.MonkeyPatch, order: Order, multiplier: int
) -> None:
    monkeypatch.setattr(least_squares, "TOLERANCE", 0.0)
    problem, entry = random_problem(1, 4, 5, 9), entry_of(1, 4, 5, order, multiplier)
    if order is Order.POINTWISE_FIRST:  # whose output channels are fitted one by one
        problem = Problem(
            problem.gram, problem.cross, torch.diag_embed(problem.weight.diagonal(dim1=1, dim2=2))
        )
    start = start_of(problem, entry)
    parts = [part.requires_grad_() for part in fit(problem, entry, start, 3000).by_part().values()]
    kernel = kernel_of(Factors(*parts), entry)
    loss = ((problem.weight @ kernel) * (kernel @ problem.gram - 2 * problem.cross)).sum()
    loss.backward()
    size = max(float(part.detach().norm()) for part in parts)
    assert all(
        float(part.grad.norm()) * size < 1e-3 * abs(loss.item())
        for part in parts
        if part.grad is not None
    )
    assert loss.item() < problem.loss(kernel_of(start, entry))


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("multiplier", [1, 2])
def test_iterating_and_factorising_agree(
    monkeypatch: pytest.MonkeyPatch, multiplier: int, order: Order
) -> None:
    problem, entry = random_problem(1, 6, 7, 9), entry_of(1, 6, 7, order, multiplier)
    start = start_of(problem, entry)
    direct = problem.loss(kernel_of(fit(problem, entry, start, 5), entry))
    monkeypatch.setattr(least_squares, "DIRECT", 0)
    monkeypatch.setattr(least_squares, "CG_STEPS", 500)
    monkeypatch.setattr(least_squares, "CG_GAIN", 0)
    assert problem.loss(kernel_of(fit(problem, entry, start, 5), entry)) == pytest.approx(
        direct, rel=1e-4
    )


@pytest.mark.parametrize("order", list(Order))
def test_one_channel_at_a_time_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, order: Order
) -> None:
    problem, entry = random_problem(1, 6, 7, 9), entry_of(1, 6, 7, order, 2)
    whole = fit(problem, entry, start_of(problem, entry), 3)
    monkeypatch.setattr(least_squares, "CHUNK_NUMBERS", 1)
    for part, same in zip(fit(problem, entry, start_of(problem, entry), 3), whole, strict=True):
        torch.testing.assert_close(part, same)


@pytest.mark.parametrize("order", list(Order))
def test_inputs_that_are_never_there_do_no_harm(order: Order) -> None:
    problem, entry = random_problem(1, 4, 5, 9), entry_of(1, 4, 5, order, 1)
    alive = torch.ones(36, dtype=torch.float64)
    alive[:9] = 0
    dead = Problem(problem.gram * alive * alive[:, None], problem.cross * alive, problem.weight)
    factors = fit(dead, entry, start_of(problem, entry), 20)
    assert all(bool(torch.isfinite(part).all()) for part in factors.by_part().values())
    assert dead.loss(kernel_of(factors, entry)) <= dead.loss(
        kernel_of(start_of(problem, entry), entry)
    )


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


def test_a_step_that_makes_it_worse_is_not_taken() -> None:
    """A solution by iteration may miss its optimum; the weights given are then the better ones."""
    problem = Problem(
        torch.eye(2).double()[None], torch.ones(1, 1, 2).double(), torch.ones(1, 1, 1).double()
    )
    start = torch.full((1, 2), 0.9).double(), torch.ones(1, 1).double()

    def worse(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return first * 3, second

    found = least_squares._alternate(problem, start, worse, torch.mul, 5)
    assert torch.equal(found[0], start[0])
