"""What the steps of the joint refinement see: calibration batches, or samples mixed from them.

After some passes over few samples a network is overfitted to them. Pasted boxes (CutMix, Yun et al.
2019) give as many others as are asked for, and no label has to be mixed, for the original computes
the targets. Boxes of similar samples keep them near to what real ones look like, which counts where
the replacements can hardly represent even those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.comparison import Seen
from pytest_dwsconv.fit.held_out import samples

STEP = 32
"""Samples that a step takes at most: many small steps gain more from few data than few large ones.
"""
INNER = 10.0
"""What activations count for beside the outputs: they tell much more of each sample."""
PLAIN_PASSES = 20
"""Passes over the samples themselves; then they are overfitted, and mixing them gains more."""
SIDES = 0.15, 0.6
"""The least and greatest side of a box, as a share of the sample's."""
NEAREST, AMONG, NUMBERS = 16, 1024, 4096
"""Boxes come from the ``NEAREST`` samples by their outputs.

They are sought among at most ``AMONG``, by about ``NUMBERS`` numbers of the outputs.
"""


class Source(Protocol):
    """Batches with what the original gives for them."""

    def order(self, shuffle: Generator) -> Sequence[Any]:
        """The names of the batches of one pass."""
        ...

    def take(self, which: Any, shuffle: Generator) -> tuple[Any, Seen]:
        """The batch of this name."""
        ...

    def inner(self, done: float) -> float:
        """What activations count for, beside the outputs, when this share of the passes is done."""
        ...


class Pieces:
    """The batches as they are, in pieces of at most ``STEP`` samples."""

    def __init__(self, batches: Sequence[Any], wanted: Sequence[Seen]) -> None:
        self.pieces = [
            piece for pair in zip(batches, wanted, strict=True) for piece in pieces(*pair)
        ]

    def order(self, shuffle: Generator) -> list[int]:
        found: list[int] = torch.randperm(
            len(self.pieces), generator=shuffle, device="cpu"
        ).tolist()
        return found

    def take(self, which: int, shuffle: Generator) -> tuple[Any, Seen]:
        return self.pieces[which]

    def inner(self, done: float) -> float:
        return INNER


def pieces(batch: Any, wanted: Seen) -> list[tuple[Any, Seen]]:
    """A batch and what it gives, in pieces of at most ``STEP`` samples.

    It stays whole where samples cannot be told apart.
    """
    leaves, form = tree_flatten((batch, wanted))
    size = samples(leaves)
    if size is None or size <= STEP:
        return [(batch, wanted)]
    cut = zip(*(leaf.split(STEP) for leaf in leaves), strict=True)
    return [tree_unflatten(list(part), form) for part in cut]


class Mixtures(NamedTuple):
    """The same pieces mixed, anew for each step, and what the original gives for them."""

    mixer: Mixer
    see: Callable[[Any], Seen]

    def order(self, shuffle: Generator) -> list[int]:
        found: list[int] = torch.randperm(
            len(self.mixer.pieces), generator=shuffle, device="cpu"
        ).tolist()
        return found

    def take(self, which: int, shuffle: Generator) -> tuple[Any, Seen]:
        """The piece of this number, mixed.

        Raises:
            InputError: the original fails on it, or gives NaN or infinity.
        """
        with torch.no_grad():
            batch = self.mixer.mixed(which, shuffle)
            try:
                wanted = self.see(batch)
            except Exception as error:  # whatever a user's forward raises
                raise InputError(
                    _refused(f"fails on mixed samples ({type(error).__name__}: {error})")
                ) from error
        if not all(bool(torch.isfinite(output).all()) for output in wanted.outputs):
            raise InputError(_refused("gives NaN or infinity for mixed samples"))
        return batch, wanted

    def usable(self) -> bool:
        """Whether the original takes a mixture of every piece; some take real samples alone."""
        shuffle = Generator().manual_seed(0)
        try:
            for which in self.order(shuffle):
                self.take(which, shuffle)
        except InputError:
            return False
        return True

    def inner(self, done: float) -> float:
        # outputs matter in the end, and nobody can overfit to these
        return float(INNER ** (1 - done))


def _refused(why: str) -> str:
    return f"the original {why}; pass refine={PLAIN_PASSES} or less, which mixes none"


class Mixer(NamedTuple):
    """All samples of some batches, as tensors (N, ...), their pieces, and which are similar."""

    leaves: Sequence[Tensor]
    form: TreeSpec
    pieces: Sequence[Tensor]
    near: Tensor

    @classmethod
    def of(cls, batches: Sequence[Any], wanted: Sequence[Seen]) -> Mixer | None:
        """The samples of ``batches``; similar are those with similar outputs in ``wanted``.

        None where samples cannot be told apart, are not of one shape, or have no extent beside
        their channels.
        """
        flat = [
            (*tree_flatten(batch), seen.outputs)
            for batch, seen in zip(batches, wanted, strict=True)
        ]
        sizes = [samples([*leaves, *outputs]) for leaves, _, outputs in flat]
        if None in sizes:
            return None
        kinds = {
            (str(form), *((x.shape[1:], x.dtype) for x in (*leaves, *outputs)))
            for leaves, form, outputs in flat
        }
        if len(kinds) != 1 or all(leaf.dim() < 3 for leaf in flat[0][0]):
            return None
        near = _nearest([outputs for _, _, outputs in flat])
        if not near.numel():
            return None
        numbers = torch.arange(len(near), device="cpu").split(sizes)
        cut = [piece for batch in numbers for piece in batch.split(STEP)]
        leaves = [
            torch.cat(parts) for parts in zip(*(leaves for leaves, _, _ in flat), strict=True)
        ]
        return cls(leaves, flat[0][1], cut, near)

    def mixed(self, which: int, shuffle: Generator) -> Any:
        """A piece, with a box of a similar sample in each, at one place in all its tensors."""
        chosen = self.pieces[which]
        own = [leaf[chosen] for leaf in self.leaves]
        column = torch.randint(self.near.shape[1], chosen.shape, generator=shuffle, device="cpu")
        other = [leaf[self.near[chosen, column]] for leaf in self.leaves]
        axes, (low, high) = max(leaf.dim() for leaf in own) - 2, SIDES
        shares = low + (high - low) * torch.rand(len(chosen), axes, generator=shuffle, device="cpu")
        places = torch.rand(len(chosen), axes, generator=shuffle, device="cpu")
        mixed = [_pasted(*pair, shares, places) for pair in zip(own, other, strict=True)]
        return tree_unflatten(mixed, self.form)


def _nearest(outputs: Sequence[Sequence[Tensor]]) -> Tensor:
    """For each sample of these batches those with the nearest outputs, (N, at most ``NEAREST``)."""
    points = torch.cat(
        [_in_units_of_variation(parts) for parts in zip(*outputs, strict=True)], dim=1
    )
    groups = torch.randperm(len(points), generator=Generator().manual_seed(0), device="cpu")
    near = torch.empty(len(points), min(NEAREST, len(points) - 1), dtype=torch.long, device="cpu")
    for group in groups.tensor_split(-(-len(points) // AMONG)):
        distances = torch.cdist(points[group], points[group]).fill_diagonal_(torch.inf)
        near[group] = group[distances.topk(near.shape[1], largest=False).indices]
    return near


def _in_units_of_variation(parts: Sequence[Tensor]) -> Tensor:
    """One output of all batches (N, numbers), scaled so that every output counts alike.

    It is 0 where the output is constant.
    """
    flat = [part.reshape(len(part), -1) for part in parts]
    apart = max(1, -(-flat[0].shape[1] // NUMBERS))
    points = torch.cat([part[:, ::apart].double().cpu() for part in flat])
    size = points.norm()
    points -= points.mean(0)
    spread = points.norm()
    return (points / spread if spread > 1e-9 * size else torch.zeros_like(points)).float()


def _pasted(x: Tensor, other: Tensor, shares: Tensor, places: Tensor) -> Tensor:
    """``x`` (N, C, ...), with a box of ``other`` in each sample.

    There is none where there is nothing beside the channels.
    """
    inside = (
        torch.ones_like(x[:, :1], dtype=torch.bool)
        if x.dim() > 2
        else torch.zeros_like(x, dtype=torch.bool)
    )
    for axis, size in enumerate(x.shape[2:]):
        length = (shares[:, axis] * size).round().clamp(min=1)
        start = (places[:, axis] * (size - length + 1)).floor()
        at = torch.arange(size, device="cpu")
        along = (at >= start[:, None]) & (at < (start + length)[:, None])
        inside &= along.view(len(x), *(1,) * (axis + 1), size, *(1,) * (x.dim() - axis - 3)).to(
            x.device
        )
    return torch.where(inside, other, x)
