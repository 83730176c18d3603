"""Published decompositions of trained convolutions, written anew as baselines for the fit.

Each makes the kernel of a convolution, as an M x n matrix with n = C k, a product of an outer
part, the last pointwise convolution, and of inner parts:

- canonical polyadic (CP) of four parts and Tucker-2, by alternating least squares under the
  second moments of the layer's inputs: Kalle, Rudkiewicz, Ouerfelli and Tamaazousti,
  *Distribution-Aware Tensor Decomposition for Compression of Convolutional Neural Networks*, 2025;
- filter groups, a grouped convolution and a pointwise one: Peng, Tan, Li, Zhang, Xie and Pu,
  *Extreme Network Compression via Filter Group Approximation*, ECCV 2018.

They follow what the papers' abstracts state; starts and steps are ours, and so is fitting filter
groups to the inputs. The authors' own code may do better.
Every layer is decomposed on its own, from inputs of the original network, and nothing is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROUNDS, STEPS, RIDGE = 30, 5, 1e-6
"""Rounds over all parts; steps of conjugate gradients per part; share of the mean moment."""


@dataclass(frozen=True)
class Form:
    """The inner parts of a kernel, by their shapes, and the p x n matrix that they make."""

    shapes: list[tuple[int, ...]]
    inner: Callable[..., Tensor]


def canonical(conv: nn.Conv2d, params: int) -> Form:
    outputs, channels, height, width = conv.weight.shape
    rank = params // (outputs + channels + height + width)
    return Form(
        [(rank, channels), (rank, height), (rank, width)],
        lambda pointwise, rows, columns: torch.einsum(
            "rc,rh,rw->rchw", pointwise, rows, columns
        ).flatten(1),
    )


def tucker(conv: nn.Conv2d, params: int) -> Form:
    """The largest core within ``params`` whose two ranks are the same share of the channels."""
    outputs, channels, height, width = conv.weight.shape
    taps, ranks = height * width, (1, 1)
    for first in range(1, channels + 1):
        last = max(1, round(first * outputs / channels))
        if first * channels + last * first * taps + last * outputs <= params:
            ranks = (last, first)
    return Form(
        [(ranks[1], channels), (*ranks, taps)],
        lambda pointwise, core: torch.einsum("qc,pqt->pct", pointwise, core).flatten(1),
    )


def groups(conv: nn.Conv2d, params: int) -> Form:
    """The largest groups within ``params``, with as many filters as channels."""
    outputs, channels, height, width = conv.weight.shape
    taps, size = height * width, 1
    for divisor in range(1, channels + 1):
        if channels % divisor == 0 and channels * (divisor * taps + outputs) <= params:
            size = divisor
    return Form(
        [(channels // size, size, size * taps)],
        lambda blocks: torch.block_diag(*blocks),
    )


class Factored(nn.Module):
    """A convolution that computes its kernel from the parts, which are its parameters."""

    def __init__(self, conv: nn.Conv2d, form: Form, outer: Tensor, parts: list[Tensor]) -> None:
        super().__init__()
        self.inner, self.shape = form.inner, conv.weight.shape
        self.outer = nn.Parameter(outer)
        self.parts = nn.ParameterList(nn.Parameter(part) for part in parts)
        self.bias = conv.bias
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation

    def forward(self, inputs: Tensor) -> Tensor:
        kernel = (self.outer @ self.inner(*self.parts)).view(self.shape)
        return F.conv2d(inputs, kernel, self.bias, self.stride, self.padding, self.dilation)


def tensorly_torch(network: nn.Module, sizes: Mapping[str, int]) -> nn.Module:
    """The nearest canonical polyadic kernels, by the package tensorly-torch."""
    from tltorch import FactorizedConv  # type: ignore[import-not-found]  # not among our dependencies

    options = {"factorization": "cp", "implementation": "reconstructed", "decompose_weights": True}
    model = copy.deepcopy(network)
    for name, params in sizes.items():
        conv: Any = model.get_submodule(name)
        rank = params // (conv.in_channels + conv.out_channels + sum(conv.kernel_size))
        model.set_submodule(name, FactorizedConv.from_conv(conv, rank=rank, **options))
    return model


def blueprint_replaced(network: nn.Module) -> nn.Module:
    """The BSConv package's own replacer: blueprint convolutions with new random weights."""
    from bsconv.pytorch import BSConvU_Replacer  # type: ignore[import-not-found]  # not among our dependencies

    replaced: nn.Module = BSConvU_Replacer().apply(copy.deepcopy(network))
    return replaced


def outer_part(weight: Tensor, moments: Tensor | None, inner: Tensor) -> Tensor:
    """The M x p matrix that is best for the inner p x n matrix."""
    weighted = inner if moments is None else inner @ moments
    system, target = (weighted @ right.T for right in (inner, weight))
    outer: Tensor = torch.linalg.lstsq(system.double(), target.double()).solution.T.float()
    return outer


def alternating(
    weight: Tensor, moments: Tensor | None, form: Form, parts: list[Tensor], rounds: int = ROUNDS
) -> tuple[Tensor, list[Tensor]]:
    """Outer and inner parts of least tr (W - V) S (W - V)^T, S the n x n moments of the inputs.

    Without moments S is the identity. The kernel V is linear in each part, so each in turn is a
    problem of linear least squares.
    """

    def seen(rows: Tensor) -> Tensor:
        return rows if moments is None else rows @ moments

    parts = list(parts)
    for _ in range(rounds):
        outer = outer_part(weight, moments, form.inner(*parts))
        gram, wanted = outer.T @ outer, outer.T @ seen(weight)
        for place in range(len(parts)):

            def of_part(part: Tensor, place: int = place) -> Tensor:
                return form.inner(*parts[:place], part, *parts[place + 1 :])

            made, adjoint, *_ = torch.func.vjp(of_part, parts[place])
            residual: Tensor = adjoint(wanted - gram @ seen(made))[0]
            direction, squared = residual, residual.square().sum()
            for _ in range(min(STEPS, residual.numel())):
                product: Tensor = adjoint(gram @ seen(of_part(direction)))[0]
                curvature = (direction * product).sum()
                if curvature <= 0 or squared <= 0:
                    break
                step = squared / curvature
                parts[place] = parts[place] + step * direction
                residual = residual - step * product
                last, squared = squared, residual.square().sum()
                direction = residual + squared / last * direction
    return outer_part(weight, moments, form.inner(*parts)), parts


def moments_of(network: nn.Module, names: list[str], batches: list[Tensor]) -> dict[str, Tensor]:
    """Sums of x x^T over all output positions, x the C k inputs under one, in the original."""
    sums: dict[str, Tensor] = {}

    def add(name: str, conv: Any, inputs: tuple[Tensor, ...]) -> None:
        geometry = (conv.kernel_size, conv.dilation, conv.padding, conv.stride)
        columns = F.unfold(inputs[0], *geometry).transpose(0, 1).flatten(1)
        sums[name] = sums.get(name, 0) + columns @ columns.T

    hooks = []
    for name in names:
        conv = network.get_submodule(name)
        hooks.append(
            conv.register_forward_pre_hook(lambda conv, inputs, name=name: add(name, conv, inputs))
        )
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for hook in hooks:
        hook.remove()
    return sums


def decomposed(
    network: nn.Module,
    sizes: Mapping[str, int],
    form_of: Callable[[nn.Conv2d, int], Form],
    batches: list[Tensor],
) -> nn.Module:
    """The network with each named convolution in a form of at most so many parameters.

    Without batches the nearest kernels are found. With them these are the start.
    """
    model = copy.deepcopy(network)
    moments = moments_of(network, list(sizes), batches)
    for name, params in sizes.items():
        conv: Any = model.get_submodule(name)
        form = form_of(conv, params)
        weight = conv.weight.detach().flatten(1)
        draw = torch.Generator().manual_seed(0)
        parts = [torch.randn(shape, generator=draw) for shape in form.shapes]
        outer, parts = alternating(weight, None, form, parts)
        if batches:
            scaled = moments[name] / moments[name].diagonal().mean()
            scaled.diagonal().add_(RIDGE)
            outer, parts = alternating(weight, scaled, form, parts)
        model.set_submodule(name, Factored(conv, form, outer, parts))
    return model
