"""The best depthwise separable approximation of a kernel, in closed form.

A depthwise separable convolution with multiplier r equals a standard one whose kernel, cut into one
matrix per input channel (``depthwise_first``: M/G x k) or per output channel (``pointwise_first``:
C/G x k), has matrices of rank r. The nearest such kernel is each matrix's truncated singular value
decomposition (Eckart and Young 1936; Network Decoupling, Guo et al., BMVC 2018, for
``depthwise_first``).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from pytest_dwsconv.core.conv import Order
from pytest_dwsconv.errors import InputError


class Factors(NamedTuple):
    """The weights of the two parts, in the layout of ``SeparableConvNd``."""

    depthwise: Tensor
    pointwise: Tensor


@dataclass(frozen=True)
class Decomposition:
    """A kernel's slices, each a sum of products ``left[:, :, j] right[:, j, :]`` of falling energy.

    With S slices (C or M), R rows (M/G or C/G), k taps and n = min(R, k): ``left`` is (S, R, n),
    ``right`` (S, n, k) and ``energy`` (S, n), all float64 on the CPU. ``energy`` holds the squared
    singular values, in units of the kernel's largest entry squared, so that no kernel over- or
    underflows.
    """

    left: Tensor
    right: Tensor
    energy: Tensor
    weight: Tensor
    groups: int
    order: Order

    def error(self, depth_multiplier: int) -> float:
        """Relative weight error of keeping r products per slice: sqrt(energy left out / energy)."""
        total = float(self.energy.sum())
        return sqrt(float(self.energy[:, depth_multiplier:].sum()) / total) if total else 0.0

    def factors(self, depth_multiplier: int) -> Factors:
        """The parts' weights with r products per slice, of the kernel's dtype and on its device.

        Raises:
            InputError: r is below 1 or above the multiplier at which the factors are exact already.
        """
        full = self.energy.shape[1]
        if not 1 <= depth_multiplier <= full:
            raise InputError(
                f"depth_multiplier must be from 1 to {full} here, not {depth_multiplier}"
            )
        left, right = self.left[:, :, :depth_multiplier], self.right[:, :depth_multiplier]
        sides = self.weight.shape[2:]
        ones = (1,) * len(sides)
        if self.order is Order.DEPTHWISE_FIRST:
            depthwise = right.reshape(-1, 1, *sides)
            # (G, M/G, C/G, r)
            blocks = left.reshape(self.groups, -1, *left.shape[1:]).transpose(1, 2)
            pointwise = blocks.reshape(self.weight.shape[0], -1, *ones)
        else:
            depthwise = right.reshape(self.weight.shape[0], depth_multiplier, *sides)
            pointwise = left.transpose(1, 2).reshape(-1, self.weight.shape[1], *ones)
        return Factors(self._like_weight(depthwise), self._like_weight(pointwise))

    def _like_weight(self, part: Tensor) -> Tensor:
        return part.to(device=self.weight.device, dtype=self.weight.dtype).contiguous()


@torch.no_grad()
def decompose(weight: Tensor, groups: int, order: Order) -> Decomposition:
    """Decompose a kernel (M, C/G, *k) for one order.

    The singular vectors of the smaller side are the eigenvectors of the slices' Gram matrices (k x
    k, or R x R when R is smaller), one batched ``eigh`` in float64. The other side is the slice
    times these vectors: their orthogonality alone makes the full product exact, however inaccurate
    the small eigenvalues are. Each product of singular value sigma has sqrt(sigma) on both sides;
    where sigma is 0 one side is 0 and the other of length 1, so that training can still move it.

    Raises:
        InputError: the kernel is not floating point, has no values, or holds NaN or infinite ones.
    """
    _check_floating(weight)
    if weight.is_meta:
        raise InputError("the kernel is on the meta device and has no values to factorise")
    kernel = weight.detach().to(device="cpu", dtype=torch.float64)
    peak = kernel.abs().max()
    if not torch.isfinite(peak):
        raise InputError("the kernel holds NaN or infinite values and cannot be factorised")
    peak = torch.where(peak > 0, peak, 1.0)
    left, right, sigma = _products(_slices(kernel / peak, groups, order))
    return Decomposition(
        left * peak.sqrt(), right * peak.sqrt(), sigma.square(), weight, groups, order
    )


def _slices(kernel: Tensor, groups: int, order: Order) -> Tensor:
    """The kernel as matrices whose rank is the multiplier: (C, M/G, k), or (M, C/G, k)."""
    filters, channels = kernel.shape[:2]
    if order is Order.POINTWISE_FIRST:
        return kernel.reshape(filters, channels, -1)
    blocks = kernel.reshape(groups, filters // groups, channels, -1).transpose(1, 2)
    return blocks.reshape(groups * channels, filters // groups, -1)


def _products(slices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left (S, R, n) and right (S, n, k) factors and singular values (S, n), falling."""
    rows, taps = slices.shape[1:]
    if taps <= rows:
        vectors = _eigenvectors(slices.mT @ slices)
        left, right = slices @ vectors, vectors.mT
        sigma = left.norm(dim=1)
        root = torch.where(sigma > 0, sigma, 1.0).sqrt()
        return left / root[:, None, :], right * root[:, :, None], sigma
    vectors = _eigenvectors(slices @ slices.mT)
    left, right = vectors, vectors.mT @ slices
    sigma = right.norm(dim=2)
    root = torch.where(sigma > 0, sigma, 1.0).sqrt()
    return left * root[:, None, :], right / root[:, :, None], sigma


def _eigenvectors(gram: Tensor) -> Tensor:
    """Eigenvectors in columns, that of the largest eigenvalue first."""
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors.flip(-1)


def _check_floating(weight: Tensor) -> None:
    if not weight.is_floating_point():
        raise InputError(
            f"a kernel of {weight.dtype} cannot be made separable, only one of floating point"
        )


def fresh(weight: Tensor, groups: int, order: Order, depth_multiplier: int) -> Factors:
    """New random weights whose product varies as much as the kernel (M, C/G, *k) does.

    With independent parts of mean 0 every entry of the product has variance r var_d var_p. The
    depthwise part gets var_d = 1 / k, which hands its input's variance on, so var_p = v k / r,
    where v is the kernel's own variance, or that of PyTorch's default, 1 / (3 fan_in), where the
    kernel is constant, not finite or without values (on the meta device). A kernel of zeros has the
    variance 0, so the pointwise part is zeros and the product too, and training moves them by way
    of the depthwise part. Entries are uniform, drawn from torch's global generator.

    Raises:
        InputError: the kernel is not floating point.
    """
    _check_floating(weight)
    filters, channels, *sides = weight.shape
    ones = [1] * len(sides)
    if order is Order.DEPTHWISE_FIRST:
        depthwise = [depth_multiplier * channels * groups, 1, *sides]
        pointwise = [filters, depth_multiplier * channels, *ones]
    else:
        depthwise = [filters, depth_multiplier, *sides]
        pointwise = [depth_multiplier * filters, channels, *ones]
    taps = prod(sides)
    variance = _variance(weight) * taps / depth_multiplier
    return Factors(_uniform(depthwise, 1 / taps, weight), _uniform(pointwise, variance, weight))


def _uniform(shape: list[int], variance: float, like: Tensor) -> Tensor:
    """Uniform numbers in +-b, b^2 / 3 the variance, with the dtype and device of ``like``."""
    bound = sqrt(3 * variance)
    # reason: PyTorch cannot draw in every dtype
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    drawn = torch.empty(shape, dtype=dtype, device=like.device).uniform_(-bound, bound)
    return drawn.to(like.dtype)


def _variance(weight: Tensor) -> float:
    default = 1 / (3 * weight[0].numel())
    if weight.is_meta:
        return default
    values = weight.detach().to(device="cpu", dtype=torch.float64)
    variance = float(values.var(correction=0))
    return variance if 0 < variance < inf or not values.any() else default
