"""Replacements of two parts: depthwise or grouped, then pointwise; pointwise, then depthwise."""

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


def spatial_first(problem: Problem, spatial: Tensor, pointwise: Tensor, rounds: int) -> Parts:
    """One group, whose channels come in B blocks that the spatial part keeps apart.

    Depthwise first has a block per channel. The spatial part gives r maps per block, (B, r, t) from
    the t inputs of a block, and the pointwise part mixes them all, (M, r, B).
    """
    blocks, maps, inputs = spatial.shape
    filters = pointwise.shape[0]
    gram = problem.gram[0].view(blocks, inputs, blocks, inputs)
    cross, weight = problem.cross[0].view(filters, blocks, inputs), problem.weight[0]
    weighted = torch.einsum("mp,pbt->mbt", weight, cross)
    own = factorise(torch.einsum("btbu->btu", gram))

    def best_spatial(d: Tensor, p: Tensor) -> Tensor:
        coupling = torch.einsum("mrb,mp,psc->brcs", p, weight, p)
        right = torch.einsum("mrb,mbt->brt", p, weighted)

        def product(v: Tensor) -> Tensor:
            coupled = torch.einsum("brcs,csu->bcur", coupling, v).reshape(blocks, -1, maps)
            return (gram.view(blocks, inputs, -1) @ coupled).mT

        condition = Conditioner(factorise(torch.einsum("brbs->brs", coupling)), own)
        return conjugate_gradients(product, right, d, condition)

    def step(parts: Parts) -> tuple[Parts, float]:
        d = best_spatial(*parts)
        share = norms(d, 2) / norms(parts[1], 0).permute(2, 1, 0)  # (B, r, 1)
        d = d / share.sqrt()
        half = torch.einsum("brt,btcu->brcu", d, gram)
        inner = torch.einsum("brcu,csu->brcs", half, d).reshape(blocks * maps, -1)
        right = torch.einsum("mbt,brt->brm", cross, d).reshape(blocks * maps, filters)
        p = solve(inner, right)
        # what is left where the normal equations hold
        loss = -float(((right @ weight) * p).sum())
        return (d, p.view(blocks, maps, filters).permute(2, 1, 0)), loss

    kernel = torch.einsum("mrb,brt->mbt", pointwise, spatial).reshape(1, filters, -1)
    return alternate(step, (spatial, pointwise), problem.loss(kernel), rounds)


def pointwise_first(problem: Problem, depthwise: Tensor, pointwise: Tensor, rounds: int) -> Parts:
    """One group: depthwise (M, r, k), pointwise (M, r, C); each output channel by itself."""
    filters, _, taps = depthwise.shape
    channels = pointwise.shape[2]
    # reason: with a channel of its own for each output, what one does changes no other's best
    weight = problem.weight[0].diagonal()[:, None]
    gram = problem.gram[0]
    # reason: what iterates needs a direction alone, which costs half as much so
    single = gram.float()
    cross = problem.cross[0].view(filters, channels, taps)
    of_channels, of_taps = separated(gram.view(channels, taps, channels, taps))
    factor_of_channels, factor_of_taps = factorise(of_channels), factorise(of_taps)

    def kernel(d: Tensor, p: Tensor) -> Tensor:
        return torch.einsum("mrc,mrk->mck", p, d)

    def image(d: Tensor, p: Tensor) -> Tensor:
        imaged = kernel(d, p).reshape(filters, -1).float() @ single
        return imaged.double().view(filters, channels, taps)

    def step(parts: Parts) -> tuple[Parts, float]:
        d, p = parts
        d = conjugate_gradients(
            lambda v: torch.einsum("mck,mrc->mrk", image(v, p), p),
            torch.einsum("mck,mrc->mrk", cross, p),
            d,
            Conditioner(factorise(p @ of_channels @ p.mT), factor_of_taps),
        )
        share = (norms(d, 2) / norms(p, 2)).sqrt()  # (M, r, 1)
        d, p = d / share, p * share
        p = conjugate_gradients(
            lambda v: torch.einsum("mck,mrk->mrc", image(d, v), d),
            torch.einsum("mck,mrk->mrc", cross, d),
            p,
            Conditioner(factorise(d @ of_taps @ d.mT), factor_of_channels),
        )
        return (d, p), loss(d, p)

    def loss(d: Tensor, p: Tensor) -> float:
        own = kernel(d, p).reshape(filters, -1)
        return float((weight * own * (own @ gram - 2 * problem.cross[0])).sum())

    start = depthwise, pointwise
    return alternate(step, start, loss(*start), rounds)
