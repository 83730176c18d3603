"""The depthwise separable convolution whose outputs are nearest, from second moments alone.

With central second moments A = E[x x^T] of the inputs under an output position (n = C/G k of them)
and B = E[y x^T] of the targets, a kernel W errs by tr H (W A W^T - 2 W B^T) plus a constant, where
H says how much the errors of the outputs matter, one by one and together. A separable kernel is
linear in its depthwise part and linear in its pointwise part, so each half is a linear
least-squares problem given the other half; they are solved in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.separable.factorize import Factors

DIRECT = 1500
"""Unknowns up to which a normal matrix is formed and factorised; above, it is iterated on."""
CHUNK_NUMBERS = 4 * 1024 * 1024
CG_STEPS, CG_GAIN = 40, 1e-3
TOLERANCE = 1e-4


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


def fit(problem: Problem, entry: PlanEntry, start: Factors, rounds: int) -> Factors:
    """Improve a pair of weights by alternating least squares, until it gains nothing.

    Args:
        problem: the moments, float64, of all groups.
        entry: order, multiplier and shape of the replacement.
        start: the weights to start from, in the layout of ``SeparableConvNd``.
        rounds: how often both halves are solved.

    Returns:
        Weights of the same shapes, in float64, both halves of each product of equal norm.
    """
    if entry.order is None:  # the nearest kernel: no half-steps of the other forms yet
        return Factors(**{name: part.double() for name, part in start.by_part().items()})
    groups, multiplier = entry.groups, entry.size
    taps = start.depthwise[0, 0].numel()
    channels, filters = entry.in_channels // groups, entry.out_channels // groups
    first = entry.form is Form.DEPTHWISE_FIRST
    if first:
        depthwise = start.depthwise.double().reshape(groups, channels, multiplier, taps)
        pointwise = (
            start.pointwise.double().reshape(groups, filters, channels, multiplier).transpose(2, 3)
        )
    else:
        depthwise = start.depthwise.double().reshape(groups, filters, multiplier, taps)
        pointwise = start.pointwise.double().reshape(groups, filters, multiplier, channels)
    solver = _depthwise_first if first else _pointwise_first
    fitted = [
        solver(part, d, p, rounds)
        for part, d, p in zip(problem.split(), depthwise, pointwise, strict=True)
    ]
    depthwise, pointwise = (torch.stack(parts) for parts in zip(*fitted, strict=True))
    if first:
        pointwise = pointwise.transpose(2, 3)
    return Factors(
        depthwise.reshape(start.depthwise.shape), pointwise.reshape(start.pointwise.shape)
    )


Halves = tuple[Tensor, Tensor]


def _alternate(
    problem: Problem,
    halves: Halves,
    step: Callable[[Tensor, Tensor], Halves],
    kernel: Callable[..., Tensor],
    rounds: int,
) -> Halves:
    """Repeat ``step`` until the loss no longer falls; the result is never worse than the start."""
    best, lowest = halves, problem.loss(kernel(*halves)[None])
    scale = abs(lowest)
    for _ in range(rounds):
        halves = step(*halves)
        loss = problem.loss(kernel(*halves)[None])
        gain, scale = lowest - loss, max(scale, abs(loss))
        if not gain > 0:
            break
        best, lowest = halves, loss
        if gain < TOLERANCE * scale:
            break
    return best


def _depthwise_first(problem: Problem, depthwise: Tensor, pointwise: Tensor, rounds: int) -> Halves:
    """One group: depthwise (C, r, k), pointwise (M, r, C)."""
    channels, multiplier, taps = depthwise.shape
    filters = pointwise.shape[0]
    gram = problem.gram[0].view(channels, taps, channels, taps)
    cross, weight = problem.cross[0].view(filters, channels, taps), problem.weight[0]
    weighted = torch.einsum("mp,pck->mck", weight, cross)

    def kernel(d: Tensor, p: Tensor) -> Tensor:
        return torch.einsum("mrc,crk->mck", p, d).reshape(filters, -1)

    def step(d: Tensor, p: Tensor) -> Halves:
        inner = torch.einsum("crk,ckdl,dsl->crds", d, gram, d).reshape(channels * multiplier, -1)
        right = torch.einsum("mck,crk->crm", cross, d).reshape(channels * multiplier, filters)
        p = _solve(inner, right).view(channels, multiplier, filters).permute(2, 1, 0)
        coupling = torch.einsum("mrc,mp,psd->crds", p, weight, p)
        right = torch.einsum("mrc,mck->crk", p, weighted)
        return _taps(coupling, right, d), p

    def _taps(coupling: Tensor, right: Tensor, d: Tensor) -> Tensor:
        unknowns = d.numel()
        if unknowns <= DIRECT:
            normal = coupling[:, :, None, :, :, None] * gram[:, None, :, :, None, :]
            return _solve(normal.reshape(unknowns, unknowns), right.reshape(-1, 1)).view(d.shape)

        def product(v: Tensor) -> Tensor:
            coupled = torch.einsum("crds,dsl->cdlr", coupling, v).reshape(channels, -1, multiplier)
            return (gram.view(channels, taps, -1) @ coupled).mT

        blocks = torch.einsum("crcs,ckcl->crksl", coupling, gram).reshape(
            channels, multiplier * taps, -1
        )
        return _conjugate_gradients(product, right, d, blocks)

    depthwise, pointwise = _alternate(problem, (depthwise, pointwise), step, kernel, rounds)
    share = (_norms(depthwise, 2) / _norms(pointwise, 0).permute(2, 1, 0)).sqrt()  # (C, r, 1)
    return depthwise / share, pointwise * share.permute(2, 1, 0)


def _pointwise_first(problem: Problem, depthwise: Tensor, pointwise: Tensor, rounds: int) -> Halves:
    """One group: depthwise (M, r, k), pointwise (M, r, C); each output channel by itself."""
    filters, multiplier, taps = depthwise.shape
    channels = pointwise.shape[2]
    gram = problem.gram[0].view(channels, taps, channels, taps)
    cross = problem.cross[0].view(filters, channels, taps)
    own = Problem(problem.gram, problem.cross, torch.diag(problem.weight[0].diagonal())[None])

    def kernel(d: Tensor, p: Tensor) -> Tensor:
        return torch.einsum("mrc,mrk->mck", p, d).reshape(filters, -1)

    def image(d: Tensor, p: Tensor) -> Tensor:
        return (kernel(d, p) @ problem.gram[0]).view(filters, channels, taps)

    def best_taps(d: Tensor, p: Tensor) -> Tensor:
        right = torch.einsum("mrc,mck->mrk", p, cross)
        if multiplier * taps <= DIRECT:
            return _solve_in_parts(
                partial(_normal_of_taps, gram), p, right, multiplier * taps * channels * taps
            )
        blocks = torch.einsum("mrc,ckdk,msd->mkrs", p, gram, p).flatten(0, 1)
        product = partial(torch.einsum, "mck,mrc->mkr")
        return _conjugate_gradients(lambda v: product(image(v.mT, p), p), right.mT, d.mT, blocks).mT

    def best_channels(d: Tensor, p: Tensor) -> Tensor:
        right = torch.einsum("mrk,mck->mrc", d, cross)
        if multiplier * channels <= DIRECT:
            return _solve_in_parts(
                partial(_normal_of_channels, gram), d, right, (multiplier * channels) ** 2
            )
        blocks = torch.einsum("mrk,ckcl,msl->mcrs", d, gram, d).flatten(0, 1)
        product = partial(torch.einsum, "mck,mrk->mcr")
        return _conjugate_gradients(lambda v: product(image(d, v.mT), d), right.mT, p.mT, blocks).mT

    def step(d: Tensor, p: Tensor) -> Halves:
        d = best_taps(d, p)
        return d, best_channels(d, p)

    depthwise, pointwise = _alternate(own, (depthwise, pointwise), step, kernel, rounds)
    share = (_norms(depthwise, 2) / _norms(pointwise, 2)).sqrt()  # (M, r, 1)
    return depthwise / share, pointwise * share


def _solve_in_parts(
    normal: Callable[[Tensor], Tensor], fixed: Tensor, right: Tensor, numbers: int
) -> Tensor:
    """Solve every output channel's system given the other half; one takes ``numbers`` numbers."""
    together = max(1, CHUNK_NUMBERS // numbers)
    parts = zip(fixed.split(together), right.split(together), strict=True)
    return torch.cat([_solve(normal(f), r.reshape(len(r), -1, 1)).view(r.shape) for f, r in parts])


def _normal_of_taps(gram: Tensor, p: Tensor) -> Tensor:
    """The normal matrices (M, r k, r k) of the taps, given pointwise weights (M, r, C)."""
    filters, _, channels = p.shape
    # (M, r k, C, k)
    half = (p.flatten(0, 1) @ gram.flatten(1)).view(filters, -1, channels, gram.shape[1])
    return (p[:, None] @ half).flatten(2)


def _normal_of_channels(gram: Tensor, d: Tensor) -> Tensor:
    """The normal matrices (M, r C, r C) of the pointwise weights, given taps (M, r, k)."""
    filters, multiplier, taps = d.shape
    pairs = torch.einsum("mrk,msl->mrskl", d, d).reshape(-1, taps * taps)
    parts = [
        (pairs @ rows.permute(1, 3, 0, 2).reshape(taps * taps, -1)).view(
            filters, multiplier, multiplier, len(rows), -1
        )
        for rows in gram.split(max(1, CHUNK_NUMBERS // gram[0].numel()))
    ]
    return torch.cat(parts, 3).transpose(2, 3).flatten(3).flatten(1, 2)


def _norms(part: Tensor, dim: int) -> Tensor:
    """Norms over one dimension, 1 where a filter is 0."""
    norms = part.norm(dim=dim, keepdim=True)
    return torch.where(norms > 0, norms, 1.0)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve positive semi-definite systems, with the least ridge that lets it be done."""
    size = matrix.shape[-1]
    level = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    level = torch.where(level > 0, level, 1.0)
    eye = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    ridge = 1e-12
    while True:
        factor, info = torch.linalg.cholesky_ex(matrix + ridge * level * eye)
        if not bool(info.any()) or ridge > 1:
            return torch.cholesky_solve(right, factor)
        ridge *= 100


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, start: Tensor, blocks: Tensor
) -> Tensor:
    """Solve product(v) = right from ``start``.

    ``blocks`` are the diagonal blocks of the operator, one per channel.
    """
    size = blocks.shape[-1]
    level = blocks.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    level = torch.where(level > 0, level, 1.0)
    factor = torch.linalg.cholesky(
        blocks + 1e-9 * level * torch.eye(size, dtype=blocks.dtype, device=blocks.device)
    )

    def condition(v: Tensor) -> Tensor:
        return torch.cholesky_solve(v.reshape(-1, size, 1), factor).view(v.shape)

    v, rest = start, right - product(start)
    direction = conditioned = condition(rest)
    energy = (rest * conditioned).sum()
    # reason: the other half moves next, so what is left of an error need only be small beside what
    # was there
    goal = max(1e-10 * float((right * condition(right)).sum()), CG_GAIN * float(energy))
    for _ in range(CG_STEPS):
        if float(energy) <= goal:
            break
        image = product(direction)
        length = energy / (direction * image).sum()
        v, rest = v + length * direction, rest - length * image
        conditioned = condition(rest)
        before, energy = energy, (rest * conditioned).sum()
        direction = conditioned + energy / before * direction
    return v
