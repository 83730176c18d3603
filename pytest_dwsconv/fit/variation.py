"""How much a tensor varies from sample to sample, by which errors in it are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import torch
import torch.distributed as dist
from torch import Tensor

from pytest_dwsconv.fit.moments import place_in_group

SHARE = 0.5
"""The least variation that a batch counts as having, as a share of that in all batches: one sample
has none at all.
"""
ROUNDING = 1e-9
"""A variation below this share of the mean square is rounding."""


class Variation:
    """What some lists of tensors, each known by a name, vary over the batches added."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], Tensor] = {}

    def add(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Add one batch."""
        for index, tensor in enumerate(tensors):
            values = tensor.detach().double()
            values = values[torch.isfinite(values)]
            sums = torch.stack(
                [values.new_tensor(values.numel()), values.sum(), values.square().sum()]
            ).cpu()
            self._include({(name, index): sums})

    def gather(self) -> Variation:
        """That of the batches of all processes of the default group, the same in each; alone, this
        one.
        """
        world = place_in_group()[1]
        if world == 1:
            return self
        parts: list[dict[tuple[str, int], Tensor]] = [{} for _ in range(world)]
        dist.all_gather_object(parts, self._sums)
        found = Variation()
        for sums in parts:
            found._include(sums)
        return found

    def _include(self, sums: Mapping[tuple[str, int], Tensor]) -> None:
        for key, value in sums.items():
            self._sums[key] = self._sums.get(key, 0) + value

    def least(self, name: str, index: int) -> float:
        """The squared variation to be assumed at least; of a constant its square, of zeros 1."""
        count, total, squares = (
            self._sums[name, index].tolist() if (name, index) in self._sums else (0.0, 0.0, 0.0)
        )
        if not count or not squares or not isfinite(squares):
            return 1.0
        square = squares / count
        variation = square - (total / count) ** 2
        return SHARE * variation if variation > ROUNDING * square else square


def wide(tensor: Tensor) -> Tensor:
    """In a precision in which small errors can be squared."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
