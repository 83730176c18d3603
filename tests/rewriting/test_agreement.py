"""Agreement of two networks: its figures, its sentences, and what it leaves as found."""

from __future__ import annotations

import random
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv.core.limits import AgreementLimits
from pytest_dwsconv.errors import DwsconvError, InputError, TracingError
from pytest_dwsconv.rewriting.agreement import Agreement, measure_agreement, shortfall


class Scale(nn.Module):
    """Gives its input times a factor, one for each of the last side."""

    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.tensor(factors))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


class Named(Scale):
    def forward(self, x: Tensor) -> Any:
        return {"first": super().forward(x), "second": [x * self.factors.square()]}


class Noisy(nn.Module):
    """Draws in evaluation mode, counts its calls and writes into its input."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.modes: list[bool] = []
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.modes.append(self.training)
        assert not torch.is_grad_enabled()
        dropped: Tensor = self.drop(x.add_(torch.rand(x.shape)) + random.random())
        return dropped


ROWS = torch.tensor([[1.0, 3.0], [4.0, 3.0], [5.0, 1.0], [2.0, 9.0]])


def test_top1_counts_the_samples_of_one_class_and_the_error_is_relative() -> None:
    found = measure_agreement(Scale(2.0, 1.0), Scale(1.0, 1.0), iter([ROWS[:3], ROWS[3:]]))
    square = float(ROWS.square().sum())
    error = (float(ROWS[:, 0].square().sum()) / square) ** 0.5
    assert found == Agreement("Scale", "Scale", found.error, 1.0, 4, 2)
    assert found.error == pytest.approx(error)
    other = measure_agreement(Scale(0.5, 1.0), Scale(1.0, 1.0), [ROWS])
    assert (other.top1, other.samples) == (0.75, 4)


@pytest.mark.parametrize(
    "batch", [ROWS, (ROWS,), [ROWS], {"x": ROWS}], ids=["tensor", "tuple", "list", "dict"]
)
def test_a_batch_is_what_the_forward_takes(batch: Any) -> None:
    assert measure_agreement(Scale(1.0, 1.0), Scale(1.0, 1.0), [batch]).error == 0


@pytest.mark.parametrize("shape", [(4, 2, 2), (4, 1), (2,)])
def test_what_is_no_row_of_class_scores_has_an_error_alone(shape: tuple[int, ...]) -> None:
    found = measure_agreement(Scale(1.1), Scale(1.0), [torch.ones(shape), torch.ones(shape)])
    assert found == Agreement("Scale", "Scale", found.error, None, 0, 2)
    assert found.error == pytest.approx(0.1)


def test_of_several_outputs_the_worst_counts() -> None:
    found = measure_agreement(Named(1.0, 1.1), Named(1.0, 1.0), [torch.tensor([[0.0, 1.0]])])
    assert found.error == pytest.approx(0.21)
    assert found.top1 is None


@pytest.mark.parametrize("factor", [nan, inf])
def test_a_student_without_numbers_agrees_on_nothing(factor: float) -> None:
    found = measure_agreement(Scale(1.0, factor), Scale(1.0, 1.0), [ROWS])
    assert (found.error, found.top1) == (inf, 0.0)
    assert "a relative output error of inf (at most 1)" in shortfall(found, limits(None, 1))


def test_networks_batches_and_random_numbers_are_left_as_found() -> None:
    student, teacher, batch = Noisy().eval(), Noisy().train(), torch.zeros(2, 3)
    torch.manual_seed(3)
    random.seed(3)
    state = torch.get_rng_state()
    with torch.enable_grad():
        found = measure_agreement(student, teacher, (batch + torch.rand(1) for _ in range(2)))
        assert torch.is_grad_enabled()
    assert (found.error, found.top1) == (0, 1)
    assert (student.training, teacher.training, teacher.drop.training) == (False, True, True)
    assert not student.calls
    assert not teacher.calls
    assert student.modes == teacher.modes == []
    assert not batch.any()
    assert torch.equal(torch.get_rng_state(), state)
    assert random.random() == random.Random(3).random()


def limits(min_top1: Any, max_error: Any) -> AgreementLimits:
    return AgreementLimits.of(min_top1, max_error)


NEXT = (
    ": fit it with init='fit' on more calibration batches, raise depth_multiplier, or train it "
    "further with distill."
)


@pytest.mark.parametrize(
    ("top1", "error", "asked", "sentence"),
    [
        (0.98, 0.05, ("98%", 0.05), ""),
        (0.98, 0.05, (None, "5 %"), ""),
        (
            0.97996,
            0.04,
            ("98%", "5%"),
            "Small agrees with Large on 97.996 % of 50000 samples (at least 98 %), with a relative "
            "output error of 0.04 (at most 0.05)" + NEXT,
        ),
        (
            1.0,
            0.050001,
            (None, 0.05),
            "Small agrees with Large on 100 % of 50000 samples, with a relative output error of "
            "0.050001 (at most 0.05)" + NEXT,
        ),
        (
            None,
            0.25,
            (None, 0.05),
            "Small follows Large with a relative output error of 0.25 (at most 0.05) on 2 batches"
            + NEXT,
        ),
    ],
)
def test_a_shortfall_names_both_figures_and_the_next_step(
    top1: float | None, error: float, asked: tuple[Any, Any], sentence: str
) -> None:
    found = Agreement("Small", "Large", error, top1, 0 if top1 is None else 50_000, 2)
    assert shortfall(found, limits(*asked)) == sentence
    assert str(found).startswith("Small ")


ONE = Scale(1.0, 1.0)


@pytest.mark.parametrize(
    ("student", "teacher", "batches", "kind", "sentence"),
    [
        (ONE, ONE, [ROWS], InputError, "student and teacher are one network, "),
        (Scale(1.0), None, [ROWS], InputError, "teacher must be a torch.nn.Module, not NoneType: "),
        (Scale(1.0), ONE, ROWS, InputError, "batches is one tensor, not batches: pass "),
        (Scale(1.0), ONE, [], InputError, "batches gives none: pass a list or a data loader"),
        (
            Scale(1.0, 1.0),
            ONE,
            [(ROWS, torch.ones(4))],
            TracingError,
            "batch 0 of teacher: the forward fails: TypeError: ",
        ),
        (
            Scale(1.0),
            ONE,
            [ROWS, torch.ones(3, 1)],
            InputError,
            "student and teacher must give tensors of the same shapes, and on batch 1 they give "
            "[(3, 1)] and [(3, 2)]: ",
        ),
        (Scale(1.0), ONE, [ROWS / 0], InputError, "teacher gives NaN or infinity on batch 0: "),
        (
            Scale(1.0).to("meta"),
            ONE,
            [ROWS],
            InputError,
            "student has weights on the meta device, which hold no values: ",
        ),
        (
            nn.Flatten(),
            nn.ReLU(),
            [torch.ones(2, 2, dtype=torch.int)],
            InputError,
            "teacher gives no output of floating point on batch 0, so ",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    student: Any, teacher: Any, batches: Any, kind: type[DwsconvError], sentence: str
) -> None:
    with pytest.raises(kind) as error:
        measure_agreement(student, teacher, batches)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ((None, None), "dws_agreement without a limit checks nothing: give min_top1, as in "),
        ((98, None), 'min_top1 98 is not a share: write it as in "98%" or 0.98'),
        (("101%", None), "min_top1 '101%' is not a share"),
        (("-1%", None), "min_top1 '-1%' is not a share"),
        ((True, None), "min_top1 True is not a share"),
        ((None, nan), "max_error nan is not a share"),
        ((None, "5 percent"), "max_error '5 percent' is not a share"),
    ],
)
def test_what_is_no_limit_is_one_sentence(asked: tuple[Any, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        limits(*asked)
    assert str(error.value).startswith(sentence)


def test_min_top1_of_networks_without_classes_is_an_error() -> None:
    found = measure_agreement(Scale(1.0), Scale(1.0), [torch.ones(2, 1)])
    with pytest.raises(InputError, match=r"^min_top1 is for networks that give one tensor of "):
        shortfall(found, limits(0.5, 0.5))
