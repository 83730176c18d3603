"""Separable convolutions in the place of ``nn.ConvTranspose1d``, ``2d`` or ``3d``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.jit import is_scripting  # type: ignore[attr-defined]  # torch does not list it

from pytest_dwsconv.core.conv import Form, Order
from pytest_dwsconv.separable.arguments import form_and_size
from pytest_dwsconv.separable.modules import (
    SEPARABLE_CONVS,
    SeparableConvNd,
    agreed_with_depthwise,
)


class SeparableConvTransposeNd(SeparableConvNd):
    """Depthwise and pointwise convolutions in place of one transposed convolution.

    Takes the arguments of ``nn.ConvTransposeNd`` at the same positions, then those of
    ``SeparableConvNd``. Its ``depthwise`` part is a transposed convolution, which has the stride,
    the padding, the dilation and the output padding; the forms, and all else, are those of
    ``SeparableConvNd``. ``weight`` has the layout of ``nn.ConvTransposeNd``, ``(C, M / groups,
    *kernel_size)``.

    Raises:
        InputError: an argument is out of range or does not fit the others.
    """

    transposed: ClassVar[bool] = True
    _agreed: ClassVar[tuple[str, ...]] = (*SeparableConvNd._agreed, "output_padding")
    _words: ClassVar[tuple[str, ...]] = ("padding_mode",)
    __constants__: ClassVar[list[str]] = [*SeparableConvNd.__constants__, "output_padding"]
    __jit_unused_properties__: ClassVar[list[str]] = [
        *SeparableConvNd.__jit_unused_properties__,
        "output_padding",
    ]

    def __init__(  # noqa: PLR0913, PLR0917  # the signature of nn.ConvTranspose2d, which it replaces
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        depth_multiplier: int = 1,
        order: Order | str = Order.DEPTHWISE_FIRST,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        form: Form | str | None = None,
        size: int | None = None,
    ) -> None:
        super(SeparableConvNd, self).__init__()
        self.form, self.size = form_and_size(form, size, order, depth_multiplier)
        spatial = {
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "dilation": dilation,
            "padding_mode": padding_mode,
        }
        options = {"device": device, "dtype": dtype}
        self._make(in_channels, out_channels, kernel_size, groups, bias, spatial, options)

    output_padding = agreed_with_depthwise("output_padding")

    # reason: callers of nn.ConvTranspose2d may spell the arguments' names
    def forward(
        self,
        input: Tensor,  # noqa: A002
        output_size: list[int] | None = None,
    ) -> Tensor:
        if not is_scripting():
            self._agree()
        if self.form == "pointwise_first":
            output: Tensor = self.depthwise(self.pointwise(input), output_size)
            return output
        if self.pointwise_in is not None:
            input = self.pointwise_in(input)  # noqa: A001  # see above
        output = self.pointwise(self.depthwise(input, output_size))
        return output  # noqa: RET504  # TorchScript takes no other type than a Tensor's


class SeparableConvTranspose1d(SeparableConvTransposeNd):
    __doc__ = SeparableConvTransposeNd.__doc__
    rank = 1


class SeparableConvTranspose2d(SeparableConvTransposeNd):
    __doc__ = SeparableConvTransposeNd.__doc__
    rank = 2


class SeparableConvTranspose3d(SeparableConvTransposeNd):
    __doc__ = SeparableConvTransposeNd.__doc__
    rank = 3


SEPARABLE_TRANSPOSED: dict[int, type[SeparableConvTransposeNd]] = {
    1: SeparableConvTranspose1d,
    2: SeparableConvTranspose2d,
    3: SeparableConvTranspose3d,
}
"""The replacement of each rank."""


def separable_class(rank: int, transposed: bool) -> type[SeparableConvNd]:
    return SEPARABLE_TRANSPOSED[rank] if transposed else SEPARABLE_CONVS[rank]
