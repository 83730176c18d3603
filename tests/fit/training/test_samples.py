"""What the steps of a refinement see: calibration batches, and samples mixed from similar ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.comparison import Seen
from pytest_dwsconv.fit.training.samples import SIDES, Mixer, Mixtures, pieces


@pytest.mark.parametrize(
    "batch", [torch.arange(70.0).view(70, 1), (torch.arange(70.0).view(70, 1), torch.ones(70))]
)
def test_batches_are_refined_on_in_pieces(batch: Any) -> None:
    inputs = batch if isinstance(batch, Tensor) else batch[0]
    wanted = Seen([2 * inputs], {"a": [3 * inputs, 4 * inputs]})
    found = pieces(batch, wanted)
    assert [len(part.outputs[0]) for _, part in found] == [32, 32, 6]
    for piece, part in found:
        own = piece if isinstance(piece, Tensor) else piece[0]
        assert torch.equal(part.outputs[0], 2 * own)
        assert torch.equal(part.inner["a"][1], 4 * own)


@pytest.mark.parametrize("other", [torch.ones(2), 70, torch.tensor(1.0)])
def test_a_batch_whose_samples_cannot_be_told_apart_stays_whole(other: Any) -> None:
    batch, wanted = (torch.ones(70, 1), other), Seen([torch.ones(70)], {})
    assert pieces(batch, wanted) == [(batch, wanted)]


def numbered(count: int, *shape: int) -> Tensor:
    """Samples that hold their own number everywhere."""
    return torch.arange(float(count)).view(-1, *(1,) * len(shape)).expand(count, *shape).clone()


def mixer(batches: list[Any], outputs: list[Tensor]) -> Mixer:
    found = Mixer.of(batches, [Seen([part], {}) for part in outputs])
    assert found is not None
    return found


def everything(of: Mixer) -> Any:
    whole = of._replace(pieces=[torch.arange(len(of.near))])
    return whole.mixed(0, Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 40), (3, 20, 24), (2, 10, 10, 10)])
def test_boxes_of_other_samples_are_pasted_in(shape: tuple[int, ...]) -> None:
    x = numbered(200, *shape)
    mixed = everything(mixer(list(x.split(64)), list(torch.randn(200, 5).split(64))))
    assert mixed.shape == x.shape
    assert all(torch.equal(channel, mixed[:, 0]) for channel in mixed.unbind(1))
    changed = (mixed != x)[:, 0]
    shares, rank = changed.flatten(1).float().mean(1), len(shape) - 1
    assert float(shares.min()) >= 0.8 * SIDES[0] ** rank
    assert float(shares.max()) <= 1.2 * SIDES[1] ** rank
    assert {len(sample.unique()) for sample in mixed} == {2}
    for axis in range(1, rank + 1):
        assert bool(changed.select(axis, 0).any())
        assert bool(changed.select(axis, -1).any())


def test_boxes_come_from_samples_with_similar_outputs() -> None:
    outputs = (numbered(60, 2) % 3) * 5 + 0.1 * torch.randn(60, 2)
    mixed = everything(mixer([numbered(60, 1, 16, 16)], [outputs]))
    for number, sample in enumerate(mixed):
        assert {value % 3 for value in sample.unique().tolist()} == {number % 3}


def test_outputs_count_alike_whatever_their_units_and_their_size() -> None:
    small, large = torch.randn(40, 1) * 1e-3, 1e3 * torch.randn(40, 50)
    small[::2] += 1.0
    found = Mixer.of([numbered(40, 1, 8, 8)], [Seen([small, large], {})])
    assert found is not None
    alike = (found.near % 2 == torch.arange(40)[:, None] % 2).float().mean()
    assert float(alike) > 0.9


def test_tensors_of_a_sample_are_cut_at_the_same_place() -> None:
    image, depth, vector = numbered(30, 3, 12, 12), numbered(30, 1, 24, 24), numbered(30, 7)
    mixed = everything(mixer([{"image": image, "rest": [depth, vector]}], [torch.randn(30, 4)]))
    assert torch.equal(mixed["rest"][1], vector)  # it has no place for a box
    finer = mixed["image"][:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert float((finer == mixed["rest"][0]).float().mean()) > 0.9  # but for rounding at the edges
    assert not torch.equal(mixed["image"], image)


def test_each_mixture_is_new_and_of_as_many_samples_as_the_piece() -> None:
    x = numbered(77, 1, 8, 8)
    batches = [x[:70], x[70:]]
    source = Mixtures(
        mixer(batches, [torch.randn(70, 3), torch.randn(7, 3)]),
        lambda x: Seen([x.sum((1, 2, 3))], {}),
    )
    shuffle = Generator().manual_seed(0)
    assert sorted(source.order(shuffle)) == [0, 1, 2, 3]
    for which, piece in enumerate([x[:32], x[32:64], x[64:70], x[70:]]):
        (first, wanted), (second, _) = source.take(which, shuffle), source.take(which, shuffle)
        assert first.shape == piece.shape
        assert torch.equal(wanted.outputs[0], first.sum((1, 2, 3)))
        assert not torch.equal(first, second)
        assert 0.5 < float((first == piece).float().mean()) < 1


def refusing(batch: Tensor) -> Seen:
    raise ValueError("real samples only")


@pytest.mark.parametrize(
    ("see", "message"),
    [
        (refusing, r"the original fails on mixed samples \(ValueError: real samples only\)"),
        (
            lambda x: Seen([x.sum((1, 2, 3)).log()], {}),
            "the original gives NaN or infinity for mixed samples",
        ),
    ],
)
def test_an_original_that_takes_real_samples_alone_is_noticed(
    see: Callable[[Tensor], Seen], message: str
) -> None:
    source = Mixtures(mixer([-numbered(8, 1, 8, 8)], [torch.randn(8, 3)]), see)
    assert not source.usable()
    with pytest.raises(InputError, match=message):
        source.take(0, Generator())


def test_many_samples_are_compared_in_groups() -> None:
    near = mixer([numbered(2500, 1, 2)], [torch.randn(2500, 2)]).near
    assert len(near) == 2500
    assert bool((near != torch.arange(2500)[:, None]).all())
    assert all(len(set(row.tolist())) == len(row) for row in near[::100])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: [x, torch.full((len(x), 1), 5.0)],
        lambda x: [x + 3000],
        lambda x: [x[:, :1], x[:, 1:] * 2 - 7],
        lambda x: [x, x[:, :0]],
    ],
    ids=["one is constant", "far from 0", "in parts", "one is empty"],
)
def test_constants_in_the_outputs_hide_no_similarity(
    spoil: Callable[[Tensor], list[Tensor]],
) -> None:
    outputs = torch.randn(600, 2)
    exact = mixer([numbered(600, 1, 2)], [outputs]).near
    found = Mixer.of([numbered(600, 1, 2)], [Seen(spoil(outputs), {})])
    assert found is not None
    shared = [
        len(set(a.tolist()) & set(b.tolist())) for a, b in zip(exact, found.near, strict=True)
    ]
    assert sum(shared) > 0.9 * exact.numel()


def test_one_number_a_sample_and_many_numbers_tell_which_are_similar() -> None:
    group = torch.arange(60.0) % 3
    dense = group.view(-1, 1, 1, 1) + 0.1 * torch.randn(60, 4, 50, 50)
    for outputs in (group, dense):
        near = mixer([numbered(60, 1, 4)], [outputs]).near
        assert bool((near % 3 == torch.arange(60)[:, None] % 3).all())


@pytest.mark.parametrize(
    "batches",
    [
        [torch.ones(4, 3, 8, 8), torch.ones(4, 3, 9, 9)],
        [(torch.ones(4, 3, 8, 8), torch.tensor(2.0))],
        [(torch.ones(4, 3, 8, 8), 4)],
        [(torch.ones(4, 3, 8, 8), torch.ones(3, 5))],
        [torch.ones(4, 3)],
        [torch.ones(1, 3, 8, 8)],
        [torch.ones(4, 3, 8, 8), torch.ones(4, 3, 8, 8).double()],
        [torch.ones(4, 3, 8, 8), (torch.ones(4, 3, 8, 8),)],
        [],
    ],
    ids=[
        "two shapes",
        "a scalar",
        "a number",
        "two counts",
        "vectors",
        "one sample",
        "two dtypes",
        "two forms",
        "none",
    ],
)
def test_what_cannot_be_mixed_is_not(batches: list[Any]) -> None:
    counts = [len(batch[0] if isinstance(batch, tuple) else batch) for batch in batches]
    assert Mixer.of(batches, [Seen([torch.randn(count, 2)], {}) for count in counts]) is None


def test_outputs_that_are_not_of_single_samples_leave_nothing_to_compare_samples_by() -> None:
    assert Mixer.of([torch.ones(4, 3, 8, 8)], [Seen([torch.tensor(1.0)], {})]) is None
