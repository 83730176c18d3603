"""A layer's replacement, and how far it is from the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit.held_out import own_variation
from pytest_dwsconv.fit.moments import all_reduce
from pytest_dwsconv.fit.observations import Layer, Observation
from pytest_dwsconv.separable.modules import SeparableConvNd


@dataclass
class Fitted:
    """A layer's replacement, the constant to add to its outputs, and its relative output errors."""

    layer: Layer
    entry: PlanEntry
    module: SeparableConvNd
    offset: Tensor | None
    weight_error: float
    error: float | None = None
    held_out_error: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self.module.forward(x)  # reason: hooks are nodes of the record already
        if self.offset is None:
            return out
        return out + self.offset.to(out.dtype).view(-1, *(1,) * (len(self.entry.kernel_size)))

    @torch.no_grad()
    def settle(self) -> None:
        """Move the constant into the bias, or out of the mean that a normalisation takes off."""
        if self.offset is None:
            return
        bias = self.module.bias
        if bias is not None:
            bias.add_(self.offset)
        else:
            for norm in {call.norm for call in self.layer.calls}:
                norm.running_mean.sub_(self.offset)
        self.offset = None


def weighted_loss(
    seen: Sequence[Observation], fitted: Fitted, weights: Mapping[int, Tensor]
) -> float:
    """Sum over positions of e^T H e, where e is the error at the reference after the rectifier."""
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    for one in seen:
        error = _seen_through(one, one.reached(fitted(one.x))) - _seen_through(one, one.target)
        flat = error.movedim(-len(fitted.entry.kernel_size) - 1, 0).flatten(1).double()
        total += ((weights[one.call.reference] @ flat) * flat).sum().cpu()
    all_reduce(total)
    return float(total)


def relative_error(seen: Sequence[Observation], fitted: Fitted) -> float | None:
    """Root of the squared error over the squared variation of the layer's own part.

    Both are taken at the reference.

    None where there is no data, or nothing varies.
    """
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    for one in seen:
        error = one.reached(fitted(one.x)) - one.target
        total += error.double().square().sum().cpu()
    all_reduce(total)
    variation = float(own_variation(seen))
    return sqrt(float(total) / variation) if variation > 0 else None


def _seen_through(one: Observation, value: Tensor) -> Tensor:
    return value if one.call.clip is None else value.clamp(*one.call.clip)
