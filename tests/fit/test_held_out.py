"""What the outputs of held-out batches say of a fitted network."""

from __future__ import annotations

from math import inf, sqrt

import pytest
import torch
from torch import Tensor

from pytest_dwsconv.fit.held_out import Scores, scores
from pytest_dwsconv.fit.variation import Variation


def measured(found: list[Tensor], wanted: list[Tensor]) -> Scores:
    varying = Variation()
    varying.add("", wanted)
    result = scores([(found, wanted)], varying)
    assert result is not None
    return result


def test_an_error_of_one_is_that_of_the_mean() -> None:
    wanted = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 7
    assert measured([wanted.mean().expand(50, 3)], [wanted]).error == pytest.approx(1)
    half = wanted + 0.5 * (wanted - wanted.mean())
    assert measured([half], [wanted]).error == pytest.approx(0.5)


def test_samples_of_one_class_are_counted_and_nan_agrees_on_nothing() -> None:
    wanted = torch.eye(4)
    found = wanted.clone()
    found[0], found[1, 2] = torch.tensor([0.0, 2.0, 0.0, 0.0]), torch.nan
    result = measured([found], [wanted])
    assert (result.agreeing, result.samples, result.error) == (2, 4, inf)


@pytest.mark.parametrize("outputs", [2, 1])
def test_what_is_no_class_score_has_no_agreement(outputs: int) -> None:
    wanted = [torch.randn(2, 3, 4)] if outputs == 1 else [torch.randn(2, 3), torch.randn(2, 3)]
    assert measured(wanted, wanted).samples == 0


def test_numbers_that_the_original_does_not_give_are_left_out() -> None:
    wanted = torch.tensor([[1.0, 2.0, -inf], [3.0, torch.nan, 0.0]])
    assert measured([wanted.nan_to_num(9.0, neginf=9.0)], [wanted]).error == 0


@pytest.mark.parametrize(
    ("found", "better"),
    [
        ((0.2, 1.0), True),
        ((0.25, 1.0), False),  # nothing gained
        ((0.01, 1.2), False),  # one pays for the other
        ((0.01, 1.05), True),  # by less than a twentieth
        ((0.01, torch.nan), False),
    ],
)
def test_no_output_pays_for_the_gain_of_another(found: tuple[float, float], better: bool) -> None:
    assert Scores(found).better_than(Scores((0.25, 1.0))) is better


def detections(last: bool = False) -> tuple[Tensor, Tensor]:
    """Boxes in pixels and probabilities in one tensor; the same with all classes mistaken."""
    torch.manual_seed(0)
    boxes, classes = 200 * torch.rand(8, 4, 50), torch.rand(8, 6, 50)
    wanted = torch.cat([boxes, classes], 1)
    found = torch.cat([boxes + 2 * torch.randn(8, 4, 50), 1 - classes], 1)
    return (found.mT, wanted.mT) if last else (found, wanted)


@pytest.mark.parametrize("last", [False, True])
def test_channels_of_another_unit_have_an_error_of_their_own(last: bool) -> None:
    found, wanted = detections(last)
    boxes, classes = map(sqrt, measured([found], [wanted]).squares)
    assert boxes < 0.05
    assert classes == pytest.approx(2, abs=0.05)


def test_parts_are_written_as_their_indices() -> None:
    varying = Variation()
    varying.add("", list(detections()))
    assert [str(part) for part in varying.parts(0)] == ["[:, 0:4]", "[:, 4:10]"]


@pytest.mark.parametrize(
    "output",
    [
        torch.randn(20, 10) * torch.logspace(0, 4, 10),  # scores of classes are in one unit
        torch.softmax(9 * torch.randn(4, 8, 5, 5), 1) * torch.logspace(-4, 0, 8)[:, None, None],
        torch.randn(4, 8, 5, 5) * torch.linspace(1, 20, 8)[:, None, None],
    ],
    ids=["scores", "probabilities", "steps"],
)
def test_one_unit_is_one_part(output: Tensor) -> None:
    varying = Variation()
    varying.add("", [output])
    assert len(varying.parts(0)) == 1


def test_batches_of_several_lengths_are_told_apart_by_the_axis_that_they_have_in_common() -> None:
    varying = Variation()
    for part in detections()[1].split((30, 20), 2):
        varying.add("", [part])
    assert [part.axis for part in varying.parts(0)] == [1, 1]


def test_the_mean_of_an_output_that_hardly_varies_from_sample_to_sample_has_a_small_error() -> None:
    torch.manual_seed(0)
    offset, own = torch.randn(1, 200), torch.randn(40, 200)
    wanted = offset + 0.1 * own
    (of_mean,) = measured([wanted], [wanted]).of_means
    assert sqrt(of_mean) == pytest.approx(0.1, rel=0.15)
    assert measured([wanted[:7]], [wanted[:7]]).of_means == (1.0,)  # too few to know their mean
