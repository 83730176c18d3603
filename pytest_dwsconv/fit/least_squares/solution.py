"""Every form's weights in the layout of its modules, improved group by group."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt

import torch
from torch import Tensor

from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit.least_squares.bottleneck import bottleneck
from pytest_dwsconv.fit.least_squares.pairs import pointwise_first, spatial_first
from pytest_dwsconv.fit.least_squares.problem import Parts, Problem
from pytest_dwsconv.separable.factorize import Factors

SOLVERS: dict[Form, Callable[..., Parts]] = {
    Form.DEPTHWISE_FIRST: spatial_first,
    Form.GROUPED: spatial_first,
    Form.POINTWISE_FIRST: pointwise_first,
    Form.BOTTLENECK: bottleneck,
}


LARGE, LEAST_ROUNDS = 1e8, 2
"""Multiplications per step above which rounds are saved; of 128 channels and 3 x 3 taps it has so
many. Refining all layers together brings most of what is left.
"""


def fit(problem: Problem, entry: PlanEntry, start: Factors, rounds: int) -> Factors:
    """Improve a replacement's weights by alternating least squares, until it gains nothing.

    Args:
        problem: the moments, float64, of all groups.
        entry: form, size and shape of the replacement.
        start: the weights to start from, in the layout of ``SeparableConvNd``.
        rounds: how often every part is solved; less often where a step takes long.

    Returns:
        Weights of the entry's shapes, in float64, all parts of each product of equal norm.
    """
    rounds = _affordable(entry, rounds)
    fitted = [
        SOLVERS[entry.form](own, *parts, rounds)
        for own, parts in zip(problem.split(), _parts(start, entry), strict=True)
    ]
    return _factors([torch.stack(parts) for parts in zip(*fitted, strict=True)], entry)


def inputs_of(entry: PlanEntry) -> int:
    """Inputs of one output of the layer: channels of a group times taps."""
    return entry.in_channels // entry.groups * prod(entry.kernel_size)


def _affordable(entry: PlanEntry, rounds: int) -> int:
    if entry.form not in (Form.BOTTLENECK, Form.POINTWISE_FIRST):
        return rounds  # reason: theirs need no product of a dense kernel with the moments
    work = entry.out_channels * inputs_of(entry) ** 2
    share = min(1.0, sqrt(LARGE / work))
    return max(min(rounds, LEAST_ROUNDS), round(rounds * share))


def _parts(factors: Factors, entry: PlanEntry) -> list[Parts]:
    """The parts of each group, in the layout of its solver."""
    groups = entry.groups
    depthwise, pointwise = factors.depthwise.double(), factors.pointwise.double()
    if entry.form is Form.POINTWISE_FIRST:
        size = entry.size
        taps = depthwise.reshape(groups, -1, size, depthwise[0, 0].numel())
        found = [taps, pointwise.reshape(groups, -1, size, pointwise.shape[1])]
    elif entry.form is Form.BOTTLENECK:
        assert factors.pointwise_in is not None
        rank = pointwise.shape[1]
        found = [
            factors.pointwise_in.double().reshape(groups, rank, -1),
            depthwise.reshape(groups, rank, -1),
            pointwise.reshape(groups, -1, rank),
        ]
    else:
        maps = entry.size  # per block: one channel, or a group of them
        spatial = depthwise.reshape(groups, -1, maps, depthwise[0].numel())
        mixing = pointwise.reshape(groups, -1, spatial.shape[1], maps)
        found = [spatial, mixing.transpose(2, 3)]
    return list(zip(*found, strict=True))


def _factors(parts: list[Tensor], entry: PlanEntry) -> Factors:
    """The reverse of ``_parts``, the groups stacked."""
    sides = entry.kernel_size
    ones = (1,) * len(sides)
    if entry.form is Form.POINTWISE_FIRST:
        taps, channels = parts
        size, inputs = channels.shape[2:]
        return Factors(taps.reshape(-1, size, *sides), channels.reshape(-1, inputs, *ones))
    if entry.form is Form.BOTTLENECK:
        inner, taps, outer = parts
        return Factors(
            taps.reshape(-1, 1, *sides),
            outer.reshape(-1, outer.shape[2], *ones),
            inner.reshape(-1, inner.shape[2], *ones),
        )
    spatial, mixing = parts
    inputs = entry.size if entry.form is Form.GROUPED else 1
    return Factors(
        spatial.reshape(-1, inputs, *sides),
        mixing.transpose(2, 3).reshape(entry.out_channels, -1, *ones),
    )
