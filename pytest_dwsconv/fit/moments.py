"""Sums over the data, added up over batches and processes: all that a fit needs to know of it.

Second moments of a convolution's inputs and targets, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from itertools import combinations_with_replacement, product
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from pytest_dwsconv.separable.modules import CONVS, standard_kernel

Conv = Any
"""nn.Conv1d, 2d or 3d; PyTorch's stubs know no common type with all of their attributes."""

CHUNK_BYTES = 64 * 1024 * 1024
BAND = 512
"""Rows of the matrix of second moments that are computed at once."""


def place_in_group() -> tuple[int, int]:
    """This process's rank in the default group, and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def all_reduce(*sums: Tensor) -> None:
    """Add up each tensor over the processes of the default group, in place."""
    if place_in_group()[1] > 1:
        for tensor in sums:
            dist.all_reduce(tensor)


class UnstridedConv:
    """A transposed convolution as the convolution of stride 1 that it equals.

    That runs over the input with zeros put between its positions and around them, and has the taps
    turned around: ``weight`` is (M, C/G, *k).
    """

    def __init__(self, conv: Conv) -> None:
        self.transposed_conv = conv
        self.kernel_size, self.dilation, self.groups = conv.kernel_size, conv.dilation, conv.groups
        self.stride = (1,) * len(conv.kernel_size)
        self.out_channels = conv.out_channels
        self.weight = turned(standard_kernel(conv).detach())

    def stuffed(self, x: Tensor) -> Tensor:
        """The input (N, C, *sides) with all the zeros that it needs."""
        conv = self.transposed_conv
        sides = [(side - 1) * step + 1 for side, step in zip(x.shape[2:], conv.stride, strict=True)]
        wide = x.new_zeros(*x.shape[:2], *sides)
        places = (slice(None), slice(None), *(slice(None, None, step) for step in conv.stride))
        wide[places] = x
        around: list[int] = []
        for axis in reversed(range(len(sides))):
            reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1) - conv.padding[axis]
            around += [reach, reach + conv.output_padding[axis]]
        return F.pad(wide, around)  # reason: a padding beyond the reach of the taps cuts off


def turned(kernel: Tensor) -> Tensor:
    """A kernel, or the taps of a depthwise part, with the order of its taps reversed."""
    return kernel.flip(tuple(range(2, kernel.dim())))


def padded(x: Tensor, conv: Conv) -> Tensor:
    """``x`` as the convolution itself would pad it, a batch dimension added where it has none."""
    if x.dim() == len(conv.kernel_size) + 1:
        x = x.unsqueeze(0)
    if isinstance(conv, UnstridedConv):
        return conv.stuffed(x)
    mode, sides = conv.padding_mode, conv._reversed_padding_repeated_twice
    if mode == "zeros":
        mode, sides = "constant", _zeros_around(conv)
    return F.pad(x, sides, mode=mode) if any(sides) else x


def _zeros_around(conv: Conv) -> Sequence[int]:
    """The padding as ``F.pad`` takes it, of the settings that ``conv`` has now."""
    make: Any = CONVS[len(conv.kernel_size)]
    alike = make(
        1, 1, conv.kernel_size, padding=conv.padding, dilation=conv.dilation, device="meta"
    )
    sides: Sequence[int] = alike._reversed_padding_repeated_twice
    return sides


def patches(x: Tensor, conv: Conv) -> Tensor:
    """The taps under every output position of a padded input: (G, C/G k, positions)."""
    rank, taps = len(conv.kernel_size), prod(conv.kernel_size)
    for axis, (side, stride, dilation) in enumerate(
        zip(conv.kernel_size, conv.stride, conv.dilation, strict=True), start=2
    ):
        x = x.unfold(axis, dilation * (side - 1) + 1, stride)[..., ::dilation]
    batch, channels, *sides = x.shape
    x = x.reshape(batch, conv.groups, channels // conv.groups, prod(sides[:rank]), taps)
    return x.permute(1, 2, 4, 0, 3).reshape(conv.groups, channels // conv.groups * taps, -1)


class Moments:
    """Sums over positions for one convolution with n = C/G k inputs per output.

    ``gram`` (G, n, n) of x xᵀ, ``mean_x`` (G, n) of x, ``cross`` (M, n) of y xᵀ, ``mean_y`` (M) of
    y, and ``count``; divided by ``count`` once ``finish`` ran, all in float64.
    """

    def __init__(self, conv: Conv) -> None:
        self.conv = conv
        inputs = conv.weight[0].numel()
        new = {"dtype": torch.float64, "device": conv.weight.device}
        self.gram = torch.zeros(conv.groups, inputs, inputs, **new)
        self.mean_x = torch.zeros(conv.groups, inputs, **new)
        self.count = torch.zeros((), **new)
        self.windows = [Windows(conv) for _ in range(conv.groups)]

    def add(self, x: Tensor) -> None:
        """Add the positions of one batch of inputs."""
        conv = self.conv
        wide = padded(x, conv)
        if wide.dtype not in (torch.float32, torch.float64):
            wide = wide.float()
        shift = _shifts(wide, conv)
        taps = 1 if shift else prod(conv.kernel_size)
        per_sample = prod(wide.shape[1:]) * taps * wide.element_size()
        for part in wide.split(max(1, CHUNK_BYTES // max(1, per_sample))):
            if shift:
                self._add_windows(part)
            else:
                self._add_patches(part)

    def _add_patches(self, wide: Tensor) -> None:
        taps = patches(wide, self.conv)
        for group in range(self.conv.groups):
            _add_gram(self.gram[group], taps[group])
        self.mean_x += taps.sum(2, dtype=torch.float64)
        self.count += taps.shape[2]

    def _add_windows(self, wide: Tensor) -> None:
        channels = wide.shape[1] // self.conv.groups
        inputs = wide.transpose(0, 1).split(channels)
        for group, (windows, own) in enumerate(zip(self.windows, inputs, strict=True)):
            self.mean_x[group] += windows.add(own)
        self.count += len(wide) * prod(self.windows[0].sides(inputs[0]))

    def finish(self) -> Moments:
        """Add up over processes, and turn the sums into central moments per position."""
        for group, windows in zip(self.gram, self.windows, strict=True):
            _mirror(group)
            windows.add_to(group)
        self.windows.clear()
        all_reduce(self.gram, self.mean_x, self.count)
        self.gram /= self.count
        self.mean_x /= self.count
        return self


def _shifts(wide: Tensor, conv: Conv) -> bool:
    """Whether the taps see one another's inputs, so that most of their products are the same."""
    sides = zip(wide.shape[2:], conv.kernel_size, conv.dilation, strict=True)
    return all(stride == 1 for stride in conv.stride) and all(
        side - step * (taps - 1) >= 4 * step for side, taps, step in sides if taps > 1
    )


class Windows:
    """What each tap of a convolution of stride 1 sees of its inputs: a window of them.

    The products of two taps, summed over positions, are nearly those of the two taps before them:
    the windows of these lie one less far along an axis, and have a strip less at the one end and a
    strip more at the other. So only one pair of all that lie equally far apart is summed in full.
    """

    def __init__(self, conv: Conv) -> None:
        self.kernel_size, self.dilation = conv.kernel_size, conv.dilation
        self.places: list[Place] = list(product(*map(range, self.kernel_size)))
        self._sums: dict[tuple[Place, Place], Tensor] = {}
        """By pair of taps (C, C), less those of the pair before it, where there is one."""

    def add(self, x: Tensor) -> Tensor:
        """Add inputs (C, N, *sides); gives the sum over positions of what each tap sees (C k)."""
        window = partial(self._cut, x, self.sides(x))
        # reason: of the strips, and not of the windows, there are few numbers
        strip = cache(window)
        for here, there in combinations_with_replacement(self.places, 2):
            axis = _common(here, there)
            if axis is None:
                found = window(here) @ window(there).T
            else:
                before, after = _back(here, axis), _back(there, axis)
                found = strip(here, axis, -1) @ strip(there, axis, -1).T
                found -= strip(before, axis, 0) @ strip(after, axis, 0).T
            if (here, there) in self._sums:
                self._sums[here, there] += found
            else:
                self._sums[here, there] = found.double()
        sums = [window(place).sum(1, dtype=torch.float64) for place in self.places]
        return torch.stack(sums, 1).flatten()

    def add_to(self, gram: Tensor) -> None:
        """Add the products (C k, C k) of what the taps see, summed over positions."""
        grid = gram.view(-1, len(self.places), gram.shape[0] // len(self.places), len(self.places))
        number = {place: index for index, place in enumerate(self.places)}
        for (here, there), sums in self._sums.items():
            axis = _common(here, there)
            if axis is not None:
                sums.add_(self._sums[_back(here, axis), _back(there, axis)])
            grid[:, number[here], :, number[there]] += sums
            if here != there:
                grid[:, number[there], :, number[here]] += sums.T

    def sides(self, x: Tensor) -> list[int]:
        """Those of the windows, which are the output's."""
        shape = zip(x.shape[2:], self.kernel_size, self.dilation, strict=True)
        return [side - step * (taps - 1) for side, taps, step in shape]

    def _cut(
        self, x: Tensor, sides: Sequence[int], place: Place, along: int | None = None, end: int = 0
    ) -> Tensor:
        """A tap's window (C, N positions); or the strip of it at an end, 0 or -1, of an axis."""
        for axis, (tap, step) in enumerate(zip(place, self.dilation, strict=True)):
            first, length = tap * step, sides[axis]
            if axis == along:
                first += (length - step) * -end
                length = step
            x = x.narrow(axis + 2, first, length)
        return x.flatten(1)


Place = tuple[int, ...]
"""A tap by its place along each axis of the kernel."""


def _common(here: Place, there: Place) -> int | None:
    """The first axis along which both taps have one before them."""
    return next((a for a, pair in enumerate(zip(here, there, strict=True)) if all(pair)), None)


def _back(place: Place, axis: int) -> Place:
    return (*place[:axis], place[axis] - 1, *place[axis + 1 :])


def _add_gram(gram: Tensor, taps: Tensor) -> None:
    """Add taps tapsᵀ, by bands of rows and only from their diagonal on.

    That is half the work, and needs no second n x n matrix.
    """
    for top in range(0, len(gram), BAND):
        gram[top : top + BAND, top:] += taps[top : top + BAND] @ taps[top:].T


def _mirror(gram: Tensor) -> None:
    """Copy what is above the diagonal below it."""
    for top in range(0, len(gram), BAND):
        gram[top + BAND :, top : top + BAND] = gram[top : top + BAND, top + BAND :].T


class Cross:
    """The moments of targets y with the inputs, in float64.

    ``cross`` (M, n) of y xᵀ and ``mean_y`` (M) of y.
    """

    def __init__(self, conv: Conv) -> None:
        new = {"dtype": torch.float64, "device": conv.weight.device}
        self.conv = conv
        self.cross = torch.zeros(conv.out_channels, conv.weight[0].numel(), **new)
        self.mean_y = torch.zeros(conv.out_channels, **new)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add one batch.

        The sum over positions of y xᵀ is what a convolution calls the gradient of its weight.
        """
        conv = self.conv
        wide = padded(x, conv)
        y = (y.unsqueeze(0) if y.dim() == len(conv.kernel_size) + 1 else y).to(wide.dtype)
        rank = len(conv.kernel_size)
        _, gradient, _ = torch.ops.aten.convolution_backward(
            y, wide, conv.weight.detach(), None, conv.stride, [0] * rank, conv.dilation, False,
            [0] * rank, conv.groups, [False, True, False],
        )  # fmt: skip
        self.cross += gradient.flatten(1)
        self.mean_y += y.transpose(0, 1).flatten(1).sum(1, dtype=torch.float64)

    def finish(self, count: Tensor) -> Cross:
        """Add up over processes and divide by the number of positions."""
        all_reduce(self.cross, self.mean_y)
        self.cross /= count
        self.mean_y /= count
        return self


def wide(tensor: Tensor) -> Tensor:
    """In a precision in which small errors can be squared."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
