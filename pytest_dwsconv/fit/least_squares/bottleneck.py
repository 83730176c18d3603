"""Replacements of three parts: pointwise, depthwise, pointwise.

The kernel is W[m, c, t] = sum over q of O[m, q] D[q, t] I[q, c]: the canonical polyadic
decomposition of rank Q (Lebedev et al. 2015), here of what the layer does to its inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_dwsconv.fit.least_squares.problem import (
    Conditioner,
    Parts,
    Problem,
    alternate,
    conjugate_gradients,
    factorise,
    norms,
    separated,
    solve,
)


def bottleneck(problem: Problem, inner: Tensor, taps: Tensor, outer: Tensor, rounds: int) -> Parts:
    """One group: inner (Q, C), taps (Q, k), outer (M, Q)."""
    rank, channels = inner.shape
    sides = rank, channels, taps.shape[1]
    gram, cross, weight = problem.gram[0], problem.cross[0], problem.weight[0]
    weighted = weight @ cross
    # reason: what iterates needs a direction alone, which costs half as much so
    single, single_weight = gram.float(), weight.float()
    of_channels, of_taps = separated(gram.view(*sides[1:], *sides[1:]))
    factor_of_channels, factor_of_taps = factorise(of_channels), factorise(of_taps)

    def image(o: Tensor, d: Tensor, i: Tensor) -> Tensor:
        """What the normal equations make of a kernel, up to the part that is solved for."""
        o = o.float()
        imaged = (o @ rows(d, i).float()) @ single
        return (o.T @ (single_weight @ imaged)).double().view(sides)

    def step(parts: Parts) -> tuple[Parts, float]:
        i, d, o = balanced(parts)
        coupling, targets = o.T @ weight @ o, (o.T @ weighted).view(sides)
        i = conjugate_gradients(
            lambda v: torch.einsum("qck,qk->qc", image(o, d, v), d),
            torch.einsum("qck,qk->qc", targets, d),
            i,
            Conditioner(factorise(coupling * (d @ of_taps @ d.T)), factor_of_channels),
        )
        d = conjugate_gradients(
            lambda v: torch.einsum("qck,qc->qk", image(o, v, i), i),
            torch.einsum("qck,qc->qk", targets, i),
            d,
            Conditioner(factorise(coupling * (i @ of_channels @ i.T)), factor_of_taps),
        )
        basis = rows(d, i)
        right = basis @ cross.T
        solved = solve(basis @ gram @ basis.T, right)
        # what is left where the normal equations hold
        loss = -float(((right @ weight) * solved).sum())
        return balanced((i, d, solved.T)), loss

    kernel = (outer @ rows(taps, inner))[None]
    return alternate(step, balanced((inner, taps, outer)), problem.loss(kernel), rounds)


def rows(taps: Tensor, inner: Tensor) -> Tensor:
    """What each of the Q maps is of the inputs, (Q, C k)."""
    return (inner[:, :, None] * taps[:, None, :]).flatten(1)


def balanced(parts: Parts) -> Parts:
    """The same product, the three factors of each of the Q maps of equal norm."""
    i, d, o = parts
    sizes = norms(i, 1), norms(d, 1), norms(o, 0)
    mean = (sizes[0] * sizes[1] * sizes[2].T).pow(1 / 3)
    return i * (mean / sizes[0]), d * (mean / sizes[1]), o * (mean.T / sizes[2])
