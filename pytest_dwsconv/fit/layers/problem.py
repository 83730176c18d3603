"""A layer's least-squares problem: moments of its inputs, summed once, and of its targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.least_squares.problem import Problem
from pytest_dwsconv.fit.moments import Cross, Moments, all_reduce
from pytest_dwsconv.fit.observations import Layer, Observation

RIDGE, STRONGEST = 3.0, 0.1
"""White noise assumed on the inputs, in units of their mean power: ``RIDGE`` over the number of
samples, at most ``STRONGEST``. It ties a fit of few data to the kernel itself.
"""


class LayerProblem:
    """A layer's moments, tied to its kernel by a ridge.

    They are central if the layer can move its outputs.
    """

    def __init__(self, layer: Layer, seen: Sequence[Observation], weight: Tensor) -> None:
        moments = Moments(layer.plain)
        for one in seen:
            moments.add(one.x)
        moments.finish()
        power = moments.gram.diagonal(dim1=1, dim2=2)
        if not bool(torch.isfinite(power).all()):
            raise InputError(
                f"{layer.name} gets NaN or infinite inputs from the calibration batches; leave it "
                "out with ignore"
            )
        self.layer, self.weight, self.count = layer, weight, moments.count
        self.mean_x, self.gram = moments.mean_x, moments.gram
        # reason: what is left of constant inputs, once centred, is rounding
        least = 1e-8 * power.mean()
        if layer.movable:
            self.gram.baddbmm_(self.mean_x[:, :, None], self.mean_x[:, None, :], alpha=-1)
        share = min(STRONGEST, RIDGE / _samples(layer, seen))
        level = torch.maximum(share * power.mean(), least)
        self.ridge = torch.where(level > 0, level, 1.0)
        power += self.ridge
        self.kernel = (
            layer.plain.weight.detach().double().reshape(layer.conv.groups, -1, self.gram.shape[1])
        )

    def own(self) -> Problem:
        """The problem whose targets are what the kernel itself gives."""
        return Problem(self.gram, self.kernel @ self.gram, self.weight)

    def targets(
        self, seen: Sequence[Observation], wanted: Callable[[Observation], Tensor]
    ) -> Targets:
        """The moments of these targets."""
        sums = Cross(self.layer.plain)
        for one in seen:
            sums.add(one.x, wanted(one))
        sums.finish(self.count)
        cross = sums.cross.view(self.kernel.shape)
        mean_y = sums.mean_y.view(self.kernel.shape[:2])
        if self.layer.movable:
            cross -= mean_y[:, :, None] * self.mean_x[:, None, :]
        tied = cross + self.ridge * self.kernel
        return Targets(Problem(self.gram, tied, self.weight), mean_y)

    def offset(self, kernel: Tensor, mean: Tensor) -> Tensor | None:
        """What brings the outputs of a kernel (G, M/G, n) to this mean; None if nothing can."""
        if not self.layer.movable:
            return None
        return (mean - (kernel @ self.mean_x[:, :, None])[:, :, 0]).flatten()


class Targets(NamedTuple):
    """What a layer is to give: the problem, and the means of the targets (G, M/G)."""

    problem: Problem
    mean: Tensor


def _samples(layer: Layer, seen: Sequence[Observation]) -> float:
    """How many samples the layer's first call saw, in all processes."""
    first = layer.calls[0]
    batched = len(layer.conv.kernel_size) + 2
    sizes = [len(one.x) if one.x.dim() == batched else 1 for one in seen if one.call is first]
    total = torch.tensor(float(sum(sizes)), device="cpu")
    all_reduce(total)
    return float(total)


def output_weight(layer: Layer, weights: Mapping[int, Tensor]) -> Tensor:
    """How much errors of the convolution's outputs matter, (G, M/G, M/G), summed over its calls."""
    groups = layer.conv.groups
    total = sum(
        weights[call.reference] * torch.outer(call.scale, call.scale) for call in layer.calls
    )
    assert isinstance(total, Tensor)
    size = layer.conv.out_channels // groups
    blocks = total.view(groups, size, groups, size)
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
