"""SOAP: Adam where nothing turns, the eigenvectors of the moments where something does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv.fit.training import soap
from pytest_dwsconv.fit.training.recovery import warm_cosine
from pytest_dwsconv.fit.training.soap import SOAP

BETAS = (0.9, 0.99)


def descended(
    make: Callable[[list[Tensor]], torch.optim.Optimizer], start: Tensor, pull: Tensor, steps: int
) -> Tensor:
    """Where an optimiser gets from ``start`` on the squared norm of a matrix product."""
    weight = nn.Parameter(start.clone())
    optimiser = make([weight])
    for _ in range(steps):
        optimiser.zero_grad()
        (weight.flatten(1) @ pull if weight.dim() > 1 else weight * pull).square().sum().backward()
        optimiser.step()
    return weight.detach()


def adam(weights: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(weights, lr=0.02, betas=BETAS)


def rotated(weights: list[Tensor]) -> torch.optim.Optimizer:
    return SOAP(weights, lr=0.02, betas=BETAS)


@pytest.mark.parametrize(
    ("shape", "pull"), [((12,), (12,)), ((1, 6, 1, 1), (6, 8)), ((4, 6, 1), (6, 8))]
)
def test_what_does_not_turn_gets_adam(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], pull: tuple[int, ...]
) -> None:
    monkeypatch.setattr(soap, "WIDEST", 5)
    torch.manual_seed(0)
    start, factor = torch.randn(shape), torch.randn(pull)
    torch.testing.assert_close(
        descended(rotated, start, factor, 25), descended(adam, start, factor, 25)
    )


@pytest.mark.parametrize("seed", range(3))
def test_correlated_inputs_are_fitted_better_in_as_many_steps(seed: int) -> None:
    torch.manual_seed(seed)
    directions, _ = torch.linalg.qr(torch.randn(16, 16))
    inputs = torch.randn(512, 16) * torch.logspace(0, -1, 16) @ directions.T
    targets = inputs @ torch.randn(16, 8)
    errors = []
    for kind in (torch.optim.Adam, SOAP):
        layer = nn.Linear(16, 8, bias=False)
        nn.init.zeros_(layer.weight)
        optimiser = kind(layer.parameters(), lr=0.1, betas=BETAS)
        schedule = warm_cosine(optimiser, 300)
        for _ in range(300):
            chosen = torch.randint(0, 512, (32,))
            optimiser.zero_grad()
            (layer(inputs[chosen]) - targets[chosen]).square().mean().backward()
            optimiser.step()
            schedule.step()
        errors.append(float((layer(inputs) - targets).detach().norm()))
    assert errors[1] < 0.5 * errors[0], errors


def test_the_directions_are_eigenvectors_of_the_moments() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 9, dtype=torch.float64))
    mix = torch.randn(6, 6, dtype=torch.float64), torch.randn(9, 9, dtype=torch.float64)
    optimiser = SOAP([weight], lr=1e-2, betas=(0.9, 0.999))
    for _ in range(3001):
        weight.grad = mix[0] @ torch.randn(6, 9, dtype=torch.float64) @ mix[1]
        optimiser.step()
    state = optimiser.state[weight]
    for moment, basis in zip(state["moments"], state["bases"], strict=True):
        found = basis.T @ moment @ basis
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis), dtype=basis.dtype))
        assert float((found - found.diag().diag()).norm() / found.norm()) < 0.02
        torch.testing.assert_close(
            found.diagonal().sort().values, torch.linalg.eigvalsh(moment), rtol=0.1, atol=1e-3
        )


def test_weights_without_a_gradient_stay_and_zero_gradients_move_nothing() -> None:
    still, dead = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    optimiser = SOAP([still, dead], lr=1.0, betas=BETAS)
    for _ in range(12):
        dead.grad = torch.zeros(4, 4)
        optimiser.step()
    assert torch.equal(still, torch.ones(4, 4))
    assert torch.equal(dead, torch.ones(4, 4))


def test_half_precision_weights_keep_their_moments_in_single() -> None:
    weight = nn.Parameter(torch.ones(4, 6, dtype=torch.bfloat16))
    optimiser = SOAP([weight], lr=0.125, betas=BETAS)
    weight.grad = torch.randn(4, 6).bfloat16()
    optimiser.step()
    assert weight.dtype == torch.bfloat16
    assert optimiser.state[weight]["square"].dtype == torch.float32
    assert not torch.equal(weight, torch.ones(4, 6, dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_that_goes_on_from_its_state_takes_the_same_steps(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(4, 6).to(dtype) for _ in range(30)]
    weights = [nn.Parameter(torch.ones(4, 6, dtype=dtype)) for _ in range(2)]
    whole = SOAP(weights[:1], lr=0.125, betas=BETAS)
    for number, gradient in enumerate(gradients):
        if number == 15:
            saved, at = whole.state_dict(), weights[0].detach().clone()
            other = SOAP(weights[1:], lr=0.125, betas=BETAS)
            other.load_state_dict(saved)
            weights[1].data.copy_(at)
        for weight, optimiser in zip(
            weights, (whole, other) if number >= 15 else (whole,), strict=False
        ):
            weight.grad = gradient.clone()
            optimiser.step()
    assert torch.equal(*weights)
