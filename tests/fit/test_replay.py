"""Calibration batches: what they may be, and that each is run as the network itself runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from pytest_dwsconv.errors import DwsconvError, InputError, TracingError
from pytest_dwsconv.rewriting.result import RewriteResult
from pytest_dwsconv.rewriting.rewrite import rewrite


def images(count: int = 10) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(4, 8, 8, 8).cumsum(2) for _ in range(count)]


def fitted(model: nn.Module, batches: Any, **options: Any) -> RewriteResult:
    return rewrite(model.eval(), init="fit", calibration=batches, **{"refine": 0, **options})


class Parts(nn.Module):
    """Two convolutions to choose from, and one to begin with."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(8, 16, 3)
        self.a = nn.Conv2d(16, 16, 3)
        self.b = nn.Conv2d(16, 16, 3)


class ByArgument(Parts):
    def forward(self, x: Tensor, head: str) -> Tensor:
        return (self.a if head == "a" else self.b)(F.relu(self.stem(x)))  # type: ignore[no-any-return]


class ByData(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return (self.a if bool(x.mean() > 0) else self.b)(F.relu(self.stem(x)))  # type: ignore[no-any-return]


class Scaled(Parts):
    def forward(self, x: Tensor, factor: float) -> Tensor:
        return self.a(F.relu(self.stem(x))) * factor  # type: ignore[no-any-return]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = nn.Conv2d(8, 16, 3), nn.Conv2d(8, 16, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.relu(self.one(left)) + F.relu(self.other(right))


class Silent(nn.Sequential):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)  # type: ignore[no-any-return, no-untyped-call]


class Mixed(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)  # type: ignore[no-any-return, no-untyped-call]


def two() -> tuple[nn.Module, ...]:
    torch.manual_seed(0)
    return nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)


def test_a_path_chosen_by_an_argument_or_by_data_is_seen_on_whichever_batch_takes_it() -> None:
    with pytest.raises(
        InputError,
        match=r"^calibration batch 3 takes another path through the forward than batch 0",
    ):
        fitted(ByArgument(), [(x, "b" if index == 3 else "a") for index, x in enumerate(images())])
    with pytest.raises(
        InputError,
        match=r"^ByData cannot be run again .* calibration batch 5 gives something else then, "
        r"for a loop or a condition of the forward depends on the values of its inputs",
    ):
        fitted(ByData(), [x.abs() * (-1 if index == 5 else 1) for index, x in enumerate(images())])


@pytest.mark.parametrize("draw", [torch.randn_like, F.dropout, lambda x: np.random.rand() * x])
def test_a_forward_that_draws_random_numbers_is_said_to(draw: Callable[[Tensor], Tensor]) -> None:
    class Noisy(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + draw(x).mean()  # type: ignore[no-any-return, no-untyped-call]

    with pytest.raises(InputError, match=r"for the forward draws random numbers, as by randn_like"):
        fitted(Noisy(*two()), images())


def test_a_forward_that_depends_on_the_calls_before_is_said_to() -> None:
    class Following(nn.Sequential):
        def __init__(self, *layers: nn.Module) -> None:
            super().__init__(*layers)
            self.register_buffer("level", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            level = self.get_buffer("level").mul_(0.9).add_(0.1 * x.mean())
            return super().forward(x - level)  # type: ignore[no-any-return, no-untyped-call]

    with pytest.raises(InputError, match=r"or depends on the calls before"):
        fitted(Following(*two()), [x + 1 for x in images()])


def test_arrays_in_batches_are_said_to_be_made_tensors() -> None:
    with pytest.raises(TracingError, match=r"by torch\.from_numpy\(array\)\.$"):
        fitted(nn.Sequential(*two()), [x.numpy() for x in images()])


def test_numbers_among_the_arguments_may_change_from_batch_to_batch() -> None:
    scaled = fitted(Scaled(), [(x, 1.0 + index) for index, x in enumerate(images())])
    assert scaled.calibration_errors.keys() == {"stem", "a"}


def test_the_order_of_names_in_a_batch_does_not_matter() -> None:
    left, right = images(), [x.roll(3, 1).flip(3) for x in images()]
    pairs = list(enumerate(zip(left, right, strict=True)))
    same = fitted(Pair(), [{"left": a, "right": b} for _, (a, b) in pairs])
    turned = fitted(
        Pair(),
        [{"right": b, "left": a} if i % 2 else {"left": a, "right": b} for i, (a, b) in pairs],
    )
    for found, wanted in zip(turned.model.parameters(), same.model.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_forward_without_gradients_is_fitted_and_not_refined() -> None:
    assert fitted(Silent(*two()), images()).calibration_errors
    with pytest.raises(
        InputError,
        match=r"^Silent cannot be trained: it computes without gradients .*; pass refine=0",
    ):
        fitted(Silent(*two()), images(), refine=1)


def test_precision_switched_in_the_forward_is_refused_and_around_the_call_left_aside() -> None:
    with pytest.raises(InputError, match=r"^Mixed cannot be run again from its recorded forward"):
        fitted(Mixed(*two()), images())
    plain = fitted(nn.Sequential(*two()), images(), refine=2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = fitted(nn.Sequential(*two()), images(), refine=2)
    for found, wanted in zip(inside.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(found, wanted)


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.cat(images())


def test_a_loader_without_length() -> None:
    assert fitted(nn.Sequential(*two()), DataLoader(Stream(), 4)).calibration_errors


@pytest.mark.parametrize(
    ("batches", "kind", "message"),
    [
        (
            torch.cat(images()).numpy(),
            InputError,
            r"calibration is one array, .*=torch.from_numpy\(images\).split",
        ),
        (
            3,
            InputError,
            "calibration must be batches, as a list or a data loader gives them, not int",
        ),
        (
            [(x, torch.zeros(4)) for x in images()],
            TracingError,
            "batch 0: Sequential rejected .*, without labels.$",
        ),
        (
            [*images(2), images()[0][:, :2]],
            TracingError,
            "batch 2: Sequential rejected .*, without labels.$",
        ),
    ],
    ids=["array", "number", "labels", "channels"],
)
def test_batches_that_cannot_be_used_are_named(
    batches: Any, kind: type[DwsconvError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        fitted(nn.Sequential(*two()), batches)
    assert "input size" not in str(caught.value)


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(InputError, match=r"^Sequential has weights on the meta device"):
        fitted(nn.Sequential(*two()).to("meta"), images())


def test_a_default_device_is_not_taken_for_the_models() -> None:
    model = nn.Sequential(*two(), nn.BatchNorm2d(16))
    data = images()
    with torch.device("meta"):
        assert fitted(model, data, refine=22).calibration_errors


def counting(model: nn.Module) -> nn.Module:
    model.register_buffer("calls", torch.zeros(()))
    model.register_forward_pre_hook(
        lambda module, args: module.get_buffer("calls").add_(1) and None
    )
    return model


@pytest.mark.parametrize(("budget", "fails"), [("1k", False), (10, True)], ids=["kept", "refused"])
def test_a_budget_leaves_buffers_as_found(budget: Any, fails: bool) -> None:
    model = counting(nn.Sequential(*two()))
    call: Callable[[], Any] = lambda: fitted(model, images(), budget=budget, inplace=True)  # noqa: E731
    if fails:
        with pytest.raises(InputError, match="cannot be kept"):
            call()
    else:
        call()
    assert int(model.get_buffer("calls")) == 0


@pytest.mark.parametrize("training", [True, False])
def test_what_is_fitted_is_in_the_mode_of_what_it_replaces(training: bool) -> None:
    model = nn.Sequential(*two()).train(training)
    found = rewrite(model, init="fit", calibration=images(), refine=0).model
    assert {module.training for module in found.modules()} == {training}
