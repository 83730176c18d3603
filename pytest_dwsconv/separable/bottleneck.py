"""The bottleneck whose kernel is nearest: a CP decomposition, by alternating least squares.

W[m, c, t] = sum_q O[m, q] D[q, t] I[q, c]. With two of the three factors given, the third is a
linear least-squares problem (Lebedev et al., *Speeding-up Convolutional Neural Networks Using
Fine-tuned CP-Decomposition*, ICLR 2015). It starts with the strongest products of
``depthwise_first``, for which I picks one channel each: a random start ends in poor minima.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MOST_ROUNDS, GAIN = 30, 1e-3
WORK = 1 << 26
"""Multiplications of one half-step, times rounds: a tenth of a second, or one round."""
RIDGE = 1e-10
"""Of factors of length 1; it keeps columns that are nearly the same apart."""
CHUNK_NUMBERS = 4 * 1024 * 1024


class Bottleneck(NamedTuple):
    """Outer (G, Q/G, M/G), taps (G, Q/G, k) and inner (G, Q/G, C/G) factors, float64.

    The loss is the squared error of the kernel.
    """

    outer: Tensor
    taps: Tensor
    inner: Tensor
    loss: float


def nearest_bottleneck(
    kernel: Tensor, products: tuple[Tensor, Tensor, Tensor], width: int
) -> Bottleneck:
    """Improve the strongest products until it gains little; their three factors get equal norms.

    Args:
        kernel: (G, M/G, C/G, k), float64.
        products: of each input channel's slice, as ``depthwise_first`` has them: left (C, M/G, n),
            right (C, n, k), and their norms (C, n), the singular values.
        width: Q/G, at most n C/G.
    """
    outer, taps, inner = _strongest(kernel, products, width)
    unfolded = (
        kernel.flatten(2),
        kernel.permute(0, 3, 1, 2).flatten(2),
        kernel.transpose(1, 2).flatten(2),
    )
    energy = float(kernel.square().sum())
    outer, lowest = _half_step(unfolded[0], outer, inner, taps, energy)
    best = outer, taps, inner
    rounds = min(MOST_ROUNDS, WORK // (kernel.numel() * width))
    for _ in range(max(1, rounds)):
        if lowest <= GAIN**4 * energy:  # exact, but for rounding
            break
        taps, _ = _half_step(unfolded[1], taps, outer, inner, energy)
        inner, _ = _half_step(unfolded[2], inner, outer, taps, energy)
        outer, loss = _half_step(unfolded[0], outer, inner, taps, energy)
        if not loss < lowest:
            break
        gain, lowest, best = lowest - loss, loss, (outer, taps, inner)
        if gain < GAIN * loss:
            break
    outer, taps, inner = _balanced(*best)
    return Bottleneck(outer, taps, inner, lowest)


def _strongest(
    kernel: Tensor, products: tuple[Tensor, Tensor, Tensor], width: int
) -> tuple[Tensor, Tensor, Tensor]:
    left, right, sigma = products
    groups, _, channels, _ = kernel.shape
    chosen = sigma.reshape(groups, -1).topk(width).indices  # (G, Q/G)
    number = torch.arange(groups)[:, None]
    outer = left.mT.reshape(groups, -1, left.shape[1])[number, chosen]
    taps = right.reshape(groups, -1, right.shape[2])[number, chosen]
    each = torch.eye(channels, dtype=kernel.dtype).repeat_interleave(sigma.shape[1], dim=0)
    # reason: a product of norm 0 could never be moved if another of its factors became 0 as well
    taps = torch.where(taps.any(dim=2, keepdim=True), taps, 1.0)
    return outer, taps, each[chosen]


def _half_step(
    unfolded: Tensor, old: Tensor, first: Tensor, second: Tensor, energy: float
) -> tuple[Tensor, float]:
    """The best factor given the two others, and the squared error then.

    Args:
        unfolded: the kernel (G, x, a b), where x is the factor's side.
        old: the factor (G, Q/G, x), kept where the others are 0.
        first: one of the others, (G, Q/G, a).
        second: the other one, (G, Q/G, b).
        energy: of the kernel.
    """
    lengths = first.norm(dim=2, keepdim=True) * second.norm(dim=2, keepdim=True)
    alive = lengths > 0
    first = first / torch.where(alive, lengths, 1.0)
    normal = (first @ first.mT) * (second @ second.mT)
    together = max(1, CHUNK_NUMBERS // unfolded[0, 0].numel())
    pairs = zip(first.split(together, dim=1), second.split(together, dim=1), strict=True)
    right = torch.cat(
        [(a[:, :, :, None] * b[:, :, None, :]).flatten(2) @ unfolded.mT for a, b in pairs], dim=1
    )
    ridge = RIDGE * torch.eye(normal.shape[1], dtype=normal.dtype)
    solved = torch.linalg.solve(normal + ridge, right)
    loss = energy + float((solved * (normal @ solved - 2 * right)).sum())
    return torch.where(alive, solved / torch.where(alive, lengths, 1.0), old), max(loss, 0.0)


def _balanced(*factors: Tensor) -> tuple[Tensor, ...]:
    """The same products, with three factors of equal norm; those of norm 0 are left as they are."""
    norms = [factor.norm(dim=2, keepdim=True) for factor in factors]
    product = norms[0] * norms[1] * norms[2]
    wanted = product ** (1 / 3)
    return tuple(
        torch.where(product > 0, factor * (wanted / norm), factor)
        for factor, norm in zip(factors, norms, strict=True)
    )
