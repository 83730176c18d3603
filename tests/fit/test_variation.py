"""What errors are measured by, where a batch tells little of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv.fit.training.distillation import distill
from pytest_dwsconv.fit.variation import SHARE, Variation
from pytest_dwsconv.rewriting.rewrite import rewrite


def least(*batches: Tensor) -> float:
    found = Variation()
    for batch in batches:
        found.add("a", [batch])
    return found.least("a", 0)


def test_the_least_variation_is_a_share_of_that_over_all_batches() -> None:
    torch.manual_seed(0)
    x = 3 + torch.randn(50, 4)
    assert least(*x.split(7)) == pytest.approx(SHARE * float(x.double().var(correction=0)))


def test_what_does_not_vary_is_measured_by_its_size() -> None:
    assert least(torch.full((3, 2), 5.0), torch.full((1, 2), 5.0)) == 25
    assert least(torch.zeros(3)) == 1
    assert Variation().least("b", 0) == 1


def test_what_is_not_finite_is_left_out() -> None:
    assert least(torch.tensor([-1.0, torch.inf, 1.0, torch.nan])) == SHARE
    assert least(torch.tensor([torch.inf])) == 1


def scoring(outputs: int = 1, scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    head = nn.Linear(32, outputs)
    with torch.no_grad():
        head.weight.mul_(scale)
    return nn.Sequential(*layers, head).eval()


def data(count: int, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(count, 3, 10, 10).cumsum(2)


@torch.no_grad()
def error(student: nn.Module, teacher: nn.Module) -> float:
    x = data(128, seed=2).to(next(teacher.parameters()).dtype)
    found, wanted = student(x).double(), teacher(x).double()
    return float((found - wanted).square().mean() / wanted.var())


def refined(teacher: nn.Module, x: Tensor) -> nn.Module:
    return rewrite(teacher, init="fit", calibration=x.split(16)).model


def distilled(teacher: nn.Module, x: Tensor) -> nn.Module:
    student = rewrite(teacher).model
    done = distill(
        student,
        teacher,
        x.split(16),
        steps=60,
        learning_rate=1e-2,
        held_out=x.split(25),
        check_every=20,
    )
    assert max(done.held_out_loss.values()) < 100
    return student


@pytest.mark.parametrize("train", [refined, distilled])
def test_a_batch_of_one_sample_counts_no_more_than_others(
    train: Callable[[nn.Module, Tensor], nn.Module],
) -> None:
    teacher, x = scoring(), data(129)
    whole, one_left = (error(train(teacher, x[:count]), teacher) for count in (128, 129))
    assert whole < 0.5 * error(rewrite(teacher).model, teacher)
    assert one_left < 1.3 * whole


@pytest.mark.parametrize("train", [refined, distilled])
def test_errors_too_large_for_their_type_when_squared(
    train: Callable[[nn.Module, Tensor], nn.Module],
) -> None:
    teacher = scoring(4, scale=3000.0).half()
    x = data(128).half()
    assert float(teacher(x).detach().abs().max()) > 300
    assert error(train(teacher, x), teacher) < 0.8 * error(
        rewrite(teacher, example_inputs=x[:1]).model, teacher
    )
