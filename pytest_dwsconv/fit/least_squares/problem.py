"""The problem in numbers, and what all forms need to solve it in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""A round that gains less than this share of the loss is the last one."""
CG_STEPS = 4
"""Steps towards one part's best. The other parts move next, so more would gain nothing."""


@dataclass(frozen=True)
class Problem:
    """What is to be approximated.

    Gram (G, n, n), cross (G, M/G, n) and the outputs' weight H (G, M/G, M/G).
    """

    gram: Tensor
    cross: Tensor
    weight: Tensor

    def loss(self, kernel: Tensor) -> float:
        """The error of a kernel (G, M/G, n) up to a constant."""
        return float(((self.weight @ kernel) * (kernel @ self.gram - 2 * self.cross)).sum())

    def split(self) -> list[Problem]:
        """One problem per group: groups share nothing."""
        parts = zip(self.gram.split(1), self.cross.split(1), self.weight.split(1), strict=True)
        return [Problem(*part) for part in parts]


Parts = tuple[Tensor, ...]
"""The parts of one group's replacement, in any layout."""


def alternate(
    step: Callable[[Parts], tuple[Parts, float]], start: Parts, loss: float, rounds: int
) -> Parts:
    """Repeat ``step``, which solves for every part once, until the loss no longer falls.

    Solving in turns creeps along narrow valleys. So each round starts from where the last ones lead
    to, with the momentum of Nesterov's method, and anew from the best parts where that went too far
    (Mitchell, Ye and De Sterck 2020, for the canonical polyadic decomposition).

    Args:
        step: gives better parts and their loss.
        start: the parts to start from.
        loss: that of the start.
        rounds: how many steps at most.

    Returns:
        The best parts found, never worse than the start.
    """
    best, before, lowest = start, start, loss
    pace = 1.0
    for _ in range(rounds):
        next_pace = (1 + sqrt(1 + 4 * pace * pace)) / 2
        momentum = (pace - 1) / next_pace
        ahead = tuple(b + momentum * (b - a) for b, a in zip(best, before, strict=True))
        found, loss = step(ahead)
        gain = lowest - loss
        if gain > 0:
            before, best, lowest, pace = best, found, loss, next_pace
            if gain < TOLERANCE * abs(loss):
                break
        elif momentum > 0:
            before, pace = best, 1.0
        else:
            break
    return best


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve positive semi-definite systems, with the least ridge that lets it be done."""
    return torch.cholesky_solve(right, factorise(matrix))


def factorise(matrix: Tensor) -> Tensor:
    """The Cholesky factors of positive semi-definite matrices with the least ridge that does."""
    level = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    level = torch.where(level > 0, level, 1.0)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    ridge = 1e-12
    while True:
        factor: Tensor
        factor, info = torch.linalg.cholesky_ex(matrix + ridge * level * eye)
        if not bool(info.any()) or ridge > 1:
            return factor
        ridge *= 100


@dataclass(frozen=True)
class Conditioner:
    """A rough inverse of a normal matrix: that of a Kronecker product which it is nearly.

    The product's two factors are given by their Cholesky factors, ``rows`` (..., R, R) and
    ``columns`` (..., S, S), for unknowns (..., R, S).
    """

    rows: Tensor
    columns: Tensor

    def __call__(self, v: Tensor) -> Tensor:
        solved = torch.cholesky_solve(v, self.rows)
        return torch.cholesky_solve(solved.mT, self.columns).mT


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    start: Tensor,
    condition: Callable[[Tensor], Tensor],
) -> Tensor:
    """Nearly solve product(v) = right from ``start``."""
    v, rest = start, right - product(start)
    direction = conditioned = condition(rest)
    energy = (rest * conditioned).sum()
    for _ in range(CG_STEPS):
        image = product(direction)
        curvature = (direction * image).sum()
        if not (float(energy) > 0 and float(curvature) > 0):
            break
        length = energy / curvature
        v, rest = v + length * direction, rest - length * image
        conditioned = condition(rest)
        before, energy = energy, (rest * conditioned).sum()
        direction = conditioned + energy / before * direction
    return v


def separated(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The moments (C, k, C, k), roughly, as a product of those of channels and those of taps."""
    channels = torch.einsum("ckdk->cd", gram)
    size = channels.norm()
    if not float(size) > 0:
        return channels, torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    taps = torch.einsum("ckdl,cd->kl", gram, channels) / size**2
    return channels, taps


def norms(part: Tensor, dim: int) -> Tensor:
    """Norms over one dimension, 1 where a filter is 0."""
    found = part.norm(dim=dim, keepdim=True)
    return torch.where(found > 0, found, 1.0)
