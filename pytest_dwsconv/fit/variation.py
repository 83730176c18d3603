"""How much a network's outputs and activations vary: the unit that their errors are measured in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pytest_dwsconv.fit.moments import place_in_group

SHARE = 0.5
"""The least variation that a batch counts as having, as a share of that in all batches.

One sample has none at all.
"""
ROUNDING = 1e-9
"""A variation below this share of the mean square is rounding."""
OTHER_UNIT = 30.0
"""Channels that vary so many times as much as the next are in another unit, as pixels beside
probabilities.
"""


class Part(NamedTuple):
    """The numbers of one output that are in one unit: all, or those at some indices of an axis.

    ``least`` is the squared variation to be assumed at least.
    """

    axis: int | None
    indices: tuple[int, ...]
    least: float

    def of(self, tensor: Tensor) -> Tensor:
        if self.axis is None:
            return tensor
        return tensor.index_select(self.axis, torch.tensor(self.indices, device=tensor.device))

    def __str__(self) -> str:
        """The indices as they are written in Python, empty where it is the whole output."""
        if self.axis is None:
            return ""
        first, last = self.indices[0], self.indices[-1]
        run = len(self.indices) == last - first + 1
        shown = f"{first}:{last + 1}" if run else ",".join(map(str, self.indices[:8]))
        more = "" if run or len(self.indices) <= 8 else ",..."
        return f"[{':, ' * self.axis}{shown}{more}]"


class Variation:
    """What some lists of tensors, each known by a name, vary over the batches added."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._channels: dict[tuple[int, int], Tensor | None] = {}
        """By output and axis, the same sums per index; None where batches differ in its length."""
        self._parts: dict[int, list[Part]] = {}

    def add(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Add one batch; the network's outputs have the empty name."""
        for index, tensor in enumerate(tensors):
            values = tensor.detach().double()
            self._include({(name, index): _sums(values.flatten()[None])[:, 0]})
            if name or values.dim() < 3:  # reason: scores, (samples, classes), are in one unit
                continue
            self._include_channels(
                {
                    (index, axis): _sums(values.movedim(axis, 0).flatten(1))
                    for axis in range(1, values.dim())
                }
            )

    def gather(self) -> Variation:
        """That of the batches of all processes, the same in each."""
        world = place_in_group()[1]
        if world == 1:
            return self
        gathered: list[Variation] = [Variation() for _ in range(world)]
        dist.all_gather_object(gathered, self)
        found = Variation()
        for one in gathered:
            found._include(one._sums)
            found._include_channels(one._channels)
        return found

    def _include(self, sums: Mapping[tuple[str, int], Tensor]) -> None:
        self._parts.clear()
        for key, value in sums.items():
            self._sums[key] = self._sums.get(key, 0) + value

    def _include_channels(self, sums: Mapping[tuple[int, int], Tensor | None]) -> None:
        for key, value in sums.items():
            before = self._channels.get(key, value)
            if before is None or value is None or before.shape != value.shape:
                self._channels[key] = None
            else:
                self._channels[key] = before + value if key in self._channels else value

    @property
    def outputs(self) -> int:
        """How many outputs the network has."""
        return sum(not name for name, _ in self._sums)

    def least(self, name: str, index: int) -> float:
        """The squared variation to be assumed at least; of a constant its square, of zeros 1."""
        return _least(self._sums.get((name, index), torch.zeros(3, device="cpu")))

    def parts(self, index: int) -> list[Part]:
        """One output's numbers by their units.

        Some detectors give boxes in pixels and probabilities in one tensor, where errors of the
        boxes hide all others. The channels that vary by far the most are one part, all others a
        second. An output that varies by less than 1, as probabilities do, is in one unit.
        """
        if index not in self._parts:
            self._parts[index] = self._split(index)
        return self._parts[index]

    def _split(self, index: int) -> list[Part]:
        best: tuple[float, int, list[int], list[int]] | None = None
        for (output, axis), sums in self._channels.items():
            if output != index or sums is None:
                continue
            spread = _variances(sums).sqrt()
            order = spread.argsort(descending=True)
            falling = spread[order]
            gaps = falling[:-1] / falling[1:].clamp(min=1e-30)
            usable = (gaps >= OTHER_UNIT) & (falling[:-1] > 1) & (falling[1:] > 0)
            if not bool(usable.any()):
                continue
            first = int(usable.int().argmax())
            split = sorted(order[: first + 1].tolist()), sorted(order[first + 1 :].tolist())
            if best is None or float(gaps[first]) > best[0]:
                best = float(gaps[first]), axis, *split
        if best is None:
            return [Part(None, (), self.least("", index))]
        _, axis, *groups = best
        sums = self._channels[index, axis]
        assert sums is not None
        return [
            Part(axis, tuple(indices), _least(sums[:, indices].sum(1)))
            for indices in sorted(groups)
        ]


def _sums(rows: Tensor) -> Tensor:
    """Count, sum and sum of squares, (3, rows), of the finite numbers in each row."""
    finite = torch.isfinite(rows)
    values = torch.where(finite, rows, 0.0)
    return torch.stack([finite.sum(1).double(), values.sum(1), values.square().sum(1)]).cpu()


def _variances(sums: Tensor) -> Tensor:
    count, total, squares = sums
    mean = total / count.clamp(min=1)
    variances: Tensor = squares / count.clamp(min=1) - mean.square()
    return variances.clamp(min=0)


def _least(sums: Tensor) -> float:
    count, total, squares = sums.tolist()
    if not count or not squares or not isfinite(squares):
        return 1.0
    square = squares / count
    variation = square - (total / count) ** 2
    return SHARE * variation if variation > ROUNDING * square else square  # type: ignore[no-any-return]  # numbers of a list
