"""The least-squares fit from moments: checked against known kernels and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pytest_dwsconv.core.conv import ConvSpec, Form
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit.least_squares import problem as module
from pytest_dwsconv.fit.least_squares.problem import Parts, Problem, alternate
from pytest_dwsconv.fit.least_squares.solution import LEAST_ROUNDS, _affordable, fit
from pytest_dwsconv.separable.factorize import Factors, decompose, dense_kernel

SIZES = [
    (Form.DEPTHWISE_FIRST, 1),
    (Form.DEPTHWISE_FIRST, 3),
    (Form.POINTWISE_FIRST, 1),
    (Form.POINTWISE_FIRST, 2),
    (Form.BOTTLENECK, 6),
    (Form.BOTTLENECK, 12),
    (Form.GROUPED, 2),
    (Form.GROUPED, 3),
]
every_form = pytest.mark.parametrize(("form", "size"), SIZES)


def random_problem(groups: int, channels: int, filters: int, taps: int) -> Problem:
    torch.manual_seed(1)
    inputs = channels * taps
    # neighbours are much alike
    x = torch.randn(groups, inputs, 3 * inputs, dtype=torch.float64).cumsum(1)
    root = torch.randn(groups, filters, filters, dtype=torch.float64)
    kernel = torch.randn(groups, filters, inputs, dtype=torch.float64)
    gram = x @ x.mT / x.shape[2]
    return Problem(gram, kernel @ gram, root @ root.mT + torch.eye(filters, dtype=torch.float64))


def entry_of(groups: int, form: Form, size: int, kernel_size: tuple[int, ...]) -> PlanEntry:
    spec = ConvSpec(len(kernel_size), groups * 6, groups * 7, kernel_size, groups=groups)
    return PlanEntry.of("conv", spec, form, size)


def start_of(problem: Problem, entry: PlanEntry) -> Factors:
    weight = torch.linalg.solve(problem.gram, problem.cross.mT).mT
    weight = weight.reshape(entry.out_channels, -1, *entry.kernel_size)
    return decompose(weight, entry.groups, entry.form).factors(entry.size)


def kernel_of(factors: Factors, entry: PlanEntry) -> Tensor:
    found = dense_kernel(factors, entry.form, entry.size, entry.groups)
    return found.reshape(entry.groups, entry.out_channels // entry.groups, -1)


@every_form
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel_size", [(9,), (3, 3), (1, 3, 3)])
def test_a_kernel_of_the_form_is_found_again(
    form: Form, size: int, groups: int, kernel_size: tuple[int, ...]
) -> None:
    problem, entry = random_problem(groups, 6, 7, 9), entry_of(groups, form, size, kernel_size)
    start = start_of(problem, entry)
    wanted = kernel_of(start, entry)
    exact = Problem(problem.gram, wanted @ problem.gram, problem.weight)
    torch.manual_seed(3)
    near = Factors(
        **{name: part + 0.1 * torch.randn_like(part) for name, part in start.by_part().items()}
    )
    before, found = (
        exact.loss(kernel_of(factors, entry)) - exact.loss(wanted)
        for factors in (near, fit(exact, entry, near, 300))
    )
    assert found < 0.02 * before


@every_form
def test_no_gradient_is_left(monkeypatch: pytest.MonkeyPatch, form: Form, size: int) -> None:
    monkeypatch.setattr(module, "TOLERANCE", 0.0)
    problem, entry = random_problem(1, 6, 7, 9), entry_of(1, form, size, (3, 3))
    if form is Form.POINTWISE_FIRST:  # whose output channels are fitted one by one
        weight = torch.diag_embed(problem.weight.diagonal(dim1=1, dim2=2))
        problem = Problem(problem.gram, problem.cross, weight)
    start = start_of(problem, entry)
    found = fit(problem, entry, start, 800)
    before, after = (gradient(problem, entry, factors) for factors in (start, found))
    assert after < 0.02 * before
    assert problem.loss(kernel_of(found, entry)) < problem.loss(kernel_of(start, entry))


def gradient(problem: Problem, entry: PlanEntry, factors: Factors) -> float:
    """The norm of the loss's gradient with respect to all parts."""
    parts = {name: part.clone().requires_grad_() for name, part in factors.by_part().items()}
    kernel = kernel_of(Factors(**parts), entry)
    loss = ((problem.weight @ kernel) * (kernel @ problem.gram - 2 * problem.cross)).sum()
    found = torch.autograd.grad(loss, list(parts.values()))
    return float(torch.cat([part.flatten() for part in found]).norm())


@every_form
def test_inputs_that_are_never_there_do_no_harm(form: Form, size: int) -> None:
    problem, entry = random_problem(1, 6, 7, 9), entry_of(1, form, size, (3, 3))
    start = start_of(problem, entry)
    alive = torch.ones(54, dtype=torch.float64)
    alive[:9] = 0
    dead = Problem(problem.gram * alive * alive[:, None], problem.cross * alive, problem.weight)
    factors = fit(dead, entry, start, 20)
    assert all(bool(torch.isfinite(part).all()) for part in factors.by_part().values())
    assert dead.loss(kernel_of(factors, entry)) <= dead.loss(kernel_of(start, entry))


@every_form
def test_parts_that_are_zero_are_left_finite(form: Form, size: int) -> None:
    problem, entry = random_problem(1, 6, 7, 9), entry_of(1, form, size, (3, 3))
    nothing = {name: 0 * part for name, part in start_of(problem, entry).by_part().items()}
    factors = fit(problem, entry, Factors(**nothing), 3)
    assert all(bool(torch.isfinite(part).all()) for part in factors.by_part().values())


def test_a_step_that_makes_it_worse_is_not_taken() -> None:
    start = (torch.ones(1),)
    assert alternate(lambda parts: ((3 * parts[0],), 2.0), start, 1.0, 5) == start


def test_a_narrow_valley_is_descended_faster_than_by_steps_alone() -> None:
    curvature = torch.tensor([1.0, 0.01])

    def loss(parts: Parts) -> float:
        return float((curvature * parts[0].square()).sum())

    def step(parts: Parts) -> tuple[Parts, float]:
        moved = (parts[0] - curvature * parts[0],)
        return moved, loss(moved)

    start = (torch.ones(2),)
    alone: Parts = start
    for _ in range(60):
        alone, reached = step(alone)
    assert loss(alternate(step, start, loss(start), 60)) < 0.1 * reached


def test_rounds_are_saved_where_a_step_takes_long() -> None:
    rounds = {}
    for channels in (32, 256):
        spec = ConvSpec(2, channels, channels, (3, 3))
        for form, size in ((Form.BOTTLENECK, 64), (Form.DEPTHWISE_FIRST, 1)):
            rounds[channels, form] = _affordable(PlanEntry.of("conv", spec, form, size), 16)
    assert rounds[32, Form.BOTTLENECK] == rounds[256, Form.DEPTHWISE_FIRST] == 16
    assert LEAST_ROUNDS <= rounds[256, Form.BOTTLENECK] < 8
