"""The replacement of a form whose kernel is nearest to a convolution's, without data.

A depthwise separable convolution with multiplier r equals a standard one whose kernel, cut into one
matrix per input channel (``depthwise_first``: M/G x k) or per output channel (``pointwise_first``:
C/G x k), has matrices of rank r. The nearest such kernel is each matrix's truncated singular value
decomposition (Eckart and Young 1936; Network Decoupling, Guo et al., BMVC 2018, for
``depthwise_first``). So it is of ``grouped``, with one matrix M/G x s k of rank s per group of s
channels. A ``bottleneck`` is a CP decomposition, which has no closed form (see ``bottleneck``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import inf, prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pytest_dwsconv.core.conv import ORDERS, ConvSpec, Form, Order, full_size, parts
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.separable.bottleneck import Bottleneck, nearest_bottleneck


class Factors(NamedTuple):
    """The weights of the parts, by their names, in the layout of ``SeparableConvNd``."""

    depthwise: Tensor
    pointwise: Tensor
    pointwise_in: Tensor | None = None

    def by_part(self) -> Mapping[str, Tensor]:
        """The weights of the parts that there are."""
        return {name: weight for name, weight in self._asdict().items() if weight is not None}


def dense_kernel(factors: Factors, form: Form | str, size: int, groups: int) -> Tensor:
    """The kernel (M, C / groups, *k) of the standard convolution that the parts amount to.

    - depthwise_first: W[m, c, t] = sum_j P[m, c r + j] D[c r + j, t], c within the group of m.
    - pointwise_first: W[m, c, t] = sum_j P[m r + j, c] D[m, j, t].
    - bottleneck: W[m, c, t] = sum_q O[m, q] D[q, t] I[q, c], q within the group of m.
    - grouped: W[m, c, t] = sum_u P[m, u] S[u, c, t], u in the s channels around c.
    """
    depthwise, pointwise = factors.depthwise, factors.pointwise
    sides, form = depthwise.shape[2:], Form(form)
    if form is Form.POINTWISE_FIRST:
        channels = pointwise.reshape(depthwise.shape[0], depthwise.shape[1], -1)
        kernel = torch.einsum("mrc,mrt->mct", channels, depthwise.flatten(2))
    elif form is Form.BOTTLENECK:
        assert factors.pointwise_in is not None
        outer = pointwise.reshape(groups, -1, pointwise.shape[1])
        inner = factors.pointwise_in.reshape(groups, pointwise.shape[1], -1)
        taps = depthwise.reshape(groups, pointwise.shape[1], -1)
        products = inner[:, :, :, None] * taps[:, :, None, :]
        kernel = torch.einsum("gmq,gqct->gmct", outer, products)
    else:  # blocks of input channels, and of the maps that are made of them
        inputs = depthwise.shape[1]
        outer = pointwise.reshape(groups, pointwise.shape[0] // groups, -1, size)
        taps = depthwise.reshape(groups, -1, size, inputs, depthwise[0, 0].numel())
        kernel = torch.einsum("gmbu,gbuct->gmbct", outer, taps).flatten(2, 3)
    return kernel.reshape(-1, kernel.shape[-2], *sides)


def swapped(kernel: Tensor, groups: int) -> Tensor:
    """A standard kernel (M, C/G, *k) as transposed convolutions hold it, (C, M/G, *k), or back."""
    rows, columns, *sides = kernel.shape
    blocks = kernel.reshape(groups, rows // groups, columns, *sides)
    return blocks.transpose(1, 2).reshape(groups * columns, rows // groups, *sides)


class Decomposition:
    """A kernel's nearest replacements of one form, of any size; made by ``decompose``."""

    def __init__(
        self, kernel: Tensor, peak: Tensor, weight: Tensor, groups: int, form: Form
    ) -> None:
        self._kernel, self._peak, self._weight = kernel, peak, weight
        self._groups, self._form = groups, form
        # reason: both the factors and their error are asked for
        self._products, self._bottleneck = cache(self._products_of), cache(self._bottleneck_of)

    def error(self, size: int) -> float:
        """Relative weight error: the root of the energy left out over the whole energy."""
        total = float(self._kernel.square().sum())
        if not total:
            return 0.0
        if self._form is Form.BOTTLENECK:
            return sqrt(self._bottleneck(size).loss / total)
        sigma = self._products(self._block(size))[2]
        return sqrt(float(sigma[:, size:].square().sum()) / total)

    def factors(self, size: int) -> Factors:
        """The parts' weights of this size, of the kernel's dtype and on its device.

        Raises:
            InputError: there is no such size, or it is above the largest that is of use.
        """
        filters, channels, *sides = self._weight.shape
        spec = ConvSpec(
            len(sides), channels * self._groups, filters, tuple(sides), groups=self._groups
        )
        full = full_size(spec, self._form)
        if not 1 <= size <= full:
            noun = "depth_multiplier" if self._form in ORDERS else "the size"
            raise InputError(f"{noun} must be from 1 to {full} here, not {size}")
        shapes = part_shapes(self._weight, self._groups, self._form, size)
        found = self._cubes(size) if self._form is Form.BOTTLENECK else self._truncated(size)
        weights = {}
        for name, shape in shapes.items():
            part = found[name].reshape(shape)
            weights[name] = part.to(self._weight.device, self._weight.dtype).contiguous()
        return Factors(**weights)

    def _block(self, size: int) -> int:
        """The channels in one slice."""
        return size if self._form is Form.GROUPED else 1

    def _products_of(self, block: int) -> tuple[Tensor, Tensor, Tensor]:
        return _products(_slices(self._kernel, self._groups, self._form, block))

    def _bottleneck_of(self, size: int) -> Bottleneck:
        filters, channels = self._kernel.shape[:2]
        kernel = self._kernel.reshape(self._groups, filters // self._groups, channels, -1)
        return nearest_bottleneck(kernel, self._products(1), size // self._groups)

    def _cubes(self, size: int) -> dict[str, Tensor]:
        found, scale = self._bottleneck(size), self._peak ** (1 / 3)
        return {
            "pointwise": found.outer.mT * scale,
            "depthwise": found.taps * scale,
            "pointwise_in": found.inner * scale,
        }

    def _truncated(self, size: int) -> dict[str, Tensor]:
        left, right, _ = self._products(self._block(size))
        left, right = left[:, :, :size], right[:, :size]
        # reason: with more channels in a slice than outputs there are fewer products than channels
        missing = size - left.shape[2]
        if missing:
            unit = torch.eye(right.shape[2], dtype=right.dtype, device=right.device)[:missing]
            left = F.pad(left, (0, missing))
            right = torch.cat([right, unit.expand(len(right), -1, -1)], dim=1)
        if self._form is Form.POINTWISE_FIRST:
            pointwise = left.mT
        else:  # (G, M/G, slices, size)
            pointwise = left.reshape(self._groups, -1, *left.shape[1:]).transpose(1, 2)
        scale = self._peak.sqrt()
        return {"pointwise": pointwise * scale, "depthwise": right * scale}


def part_shapes(weight: Tensor, groups: int, form: Form, size: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of a replacement's parts, for a kernel (M, C/G, *k)."""
    filters, channels, *sides = weight.shape
    return {
        part.name: part.weight_shape(sides)
        for part in parts(channels * groups, filters, groups, form, size)
    }


@torch.no_grad()
def decompose(weight: Tensor, groups: int, form: Form | Order) -> Decomposition:
    """Decompose a kernel (M, C/G, *k) for one form.

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
        raise InputError(
            "the kernel holds NaN or infinite values and cannot be factorised: load finite weights"
        )
    # reason: in units of its largest entry, no kernel over- or underflows
    peak = torch.where(peak > 0, peak, 1.0)
    return Decomposition(kernel / peak, peak, weight, groups, Form(form))


def _slices(kernel: Tensor, groups: int, form: Form, block: int) -> Tensor:
    """The kernel as matrices whose rank counts: (C/b, M/G, b k) of b channels, or (M, C/G, k)."""
    filters, channels = kernel.shape[:2]
    if form is Form.POINTWISE_FIRST:
        return kernel.reshape(filters, channels, -1)
    blocks = kernel.reshape(groups, filters // groups, channels // block, -1).transpose(1, 2)
    return blocks.reshape(groups * channels // block, filters // groups, -1)


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


def fresh(weight: Tensor, groups: int, form: Form | Order, size: int) -> Factors:
    """New random weights whose product varies as much as the kernel (M, C/G, *k) does.

    With independent parts of mean 0 every entry of the product has the variance n var_d var_p,
    times var_in for a bottleneck; n products add up to it, r or s of them, or Q / G. Parts before
    the last pointwise one hand their input's variance on: var_d is 1 / k, 1 / (s k) in groups of s
    channels, and var_in is G / C. The pointwise part gets the rest of v, the kernel's own variance,
    or that of PyTorch's default, 1 / (3 fan_in), where the kernel is constant, not finite or
    without values (on the meta device). A kernel of zeros has the variance 0, so the pointwise part
    is zeros and the product too, and training moves them by way of the other parts. Entries are
    uniform, drawn from torch's global generator.

    Raises:
        InputError: the kernel is not floating point.
    """
    _check_floating(weight)
    form = Form(form)
    taps, products = weight[0, 0].numel(), size
    variances = {"depthwise": 1 / taps}
    if form is Form.GROUPED:
        variances["depthwise"] /= size
    if form is Form.BOTTLENECK:
        products = size // groups
        variances["pointwise_in"] = 1 / weight.shape[1]
    variances["pointwise"] = _variance(weight) / (products * prod(variances.values()))
    shapes = part_shapes(weight, groups, form, size)
    drawn = {
        name: _uniform(shapes[name], variances[name], weight)
        for name in Factors._fields
        if name in shapes
    }
    return Factors(**drawn)


def _uniform(shape: tuple[int, ...], variance: float, like: Tensor) -> Tensor:
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
