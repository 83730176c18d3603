"""Separable convolutions of all forms, each in the place of ``nn.Conv1d``, ``2d`` or ``3d``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # torch does not list it

from pytest_dwsconv.core.conv import ORDERS, Form, Order, parts
from pytest_dwsconv.core.quantities import whole_number
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.separable.arguments import form_and_size, per_dimension
from pytest_dwsconv.separable.factorize import Factors, decompose, dense_kernel, swapped
from pytest_dwsconv.separable.kernel import ComputedKernel

TRANSPOSED: dict[int, type[nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
CONVS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
"""PyTorch's convolution of each rank; the parts are of these types."""


def standard_kernel(conv: Any) -> Tensor:
    """The kernel (M, C/G, *k) of a convolution, which a transposed one holds as (C, M/G, *k)."""
    weight: Tensor = conv.weight
    return swapped(weight, conv.groups) if conv.transposed else weight


_SETTINGS = ("groups", "stride", "padding", "dilation", "padding_mode")
_AGREED = ("stride", "padding", "dilation", "padding_mode", "_reversed_padding_repeated_twice")
"""Settings that the depthwise part obeys."""


def agreed_with_depthwise(name: str) -> Any:
    """A setting that this module and its depthwise part each hold, and agree on at each forward.

    Code that walks over all modules and changes what it reads visits both, and must not change a
    setting twice: one value for both would be read changed by the second visit.
    """

    def get(self: SeparableConvNd) -> Any:
        self._check_agreed(name)
        return self._own[name]

    def set_(self: SeparableConvNd, value: Any) -> None:
        self._own = {**self._own, name: value}
        if name not in self._written:
            self._written = (*self._written, name)
        setattr(self.depthwise, name, value)

    return property(get, set_)


class SeparableConvNd(nn.Module):
    """Depthwise and pointwise convolutions in place of one standard convolution.

    Takes the arguments of ``nn.ConvNd`` at the same positions, then the depth multiplier r and the
    order; or the form and its size. Input and output shapes are those of the standard convolution,
    unbatched inputs included.

    ``depthwise_first`` (MobileNets, Howard et al. 2017): ``depthwise`` maps C channels to r C,
    filter j of channel c giving channel c r + j, and carries stride, padding and dilation;
    ``pointwise`` maps r C to M in ``groups`` groups and carries the bias.

    ``pointwise_first`` (blueprint separable convolutions, Haase and Amthor 2020): ``pointwise``
    maps C channels to r M in ``groups`` groups without bias, so that zero padding after it stays
    exact; ``depthwise`` maps channels m r .. m r + r - 1 to channel m and carries stride, padding,
    dilation and the bias.

    ``bottleneck``: ``pointwise_in`` maps C channels to Q in ``groups`` groups without bias,
    ``depthwise`` filters each and carries stride, padding and dilation, and ``pointwise`` maps Q to
    M in ``groups`` groups and carries the bias. Its size is Q.

    ``grouped``: ``depthwise`` maps C channels to C in groups of s channels, and carries stride,
    padding and dilation; ``pointwise`` maps C to M in ``groups`` groups and carries the bias. Its
    size is s; at 1 it is ``depthwise_first`` at multiplier 1.

    The attributes that a forward or later code may set on a convolution work: ``stride``,
    ``padding``, ``dilation`` and ``padding_mode`` are handed on to the depthwise part, ``bias`` is
    that of the part that runs last, and a ``weight`` that is assigned is approximated by the
    nearest separable kernel.

    Raises:
        InputError: an argument is out of range or does not fit the others.
    """

    # reason: TorchScript reads annotations at run time and knows no unions of modules
    if TYPE_CHECKING:
        depthwise: nn.Conv1d | nn.Conv2d | nn.Conv3d
        pointwise: nn.Conv1d | nn.Conv2d | nn.Conv3d
        pointwise_in: nn.Conv1d | nn.Conv2d | nn.Conv3d | None
        _own: dict[str, Any]  # the settings as last agreed on, or written on this module
        _written: tuple[str, ...]  # the settings written on this module since the last forward

    rank: ClassVar[int]
    transposed: ClassVar[bool] = False
    _agreed: ClassVar[tuple[str, ...]] = _AGREED
    _words: ClassVar[tuple[str, ...]] = ("padding", "padding_mode")
    """Settings that may be words."""
    __constants__: ClassVar[list[str]] = ["form", *_SETTINGS]
    # reason: TorchScript's compiler cannot take these properties; it has the settings as constants,
    # and a scripted module has no use for the dense kernel
    __jit_unused_properties__: ClassVar[list[str]] = [
        *_SETTINGS,
        "order",
        "depth_multiplier",
        "weight",
        "bias",
        "_last",
        "_reversed_padding_repeated_twice",
    ]

    def __init__(  # noqa: PLR0913, PLR0917  # the signature of nn.Conv2d, which it replaces
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        depth_multiplier: int = 1,
        order: Order | str = Order.DEPTHWISE_FIRST,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        form: Form | str | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.output_padding = (0,) * self.rank
        self.form, self.size = form_and_size(form, size, order, depth_multiplier)
        spatial = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "padding_mode": padding_mode,
        }
        options = {"device": device, "dtype": dtype}
        self._make(in_channels, out_channels, kernel_size, groups, bias, spatial, options)

    def _make(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        groups: int,
        bias: bool,
        spatial: Mapping[str, int | Sequence[int] | str],
        options: dict[str, Any],
    ) -> None:
        """Make the parts; ``spatial`` are settings of the spatial one, ``options`` of all."""
        self.in_channels = whole_number("in_channels", in_channels)
        self.out_channels = whole_number("out_channels", out_channels)
        self.kernel_size = per_dimension("kernel_size", kernel_size, self.rank)
        groups = whole_number("groups", groups)
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % groups:
                raise InputError(
                    f"{name} ({getattr(self, name)}) must be divisible by groups ({groups})"
                )
        settings: dict[str, Any] = {}
        for name, value in spatial.items():
            is_word = isinstance(value, str) and name in self._words
            settings[name] = value if is_word else per_dimension(name, value, self.rank)
        # the stubs want a pair, a triple, ... and not any tuple
        conv: Any = CONVS[self.rank]
        spatial_conv: Any = TRANSPOSED[self.rank] if self.transposed else conv
        every = parts(self.in_channels, self.out_channels, groups, Form(self.form), self.size)
        for part in every:
            own = {**options, "groups": part.groups, "bias": bias and part is every[-1]}
            channels = part.in_channels, part.out_channels
            try:
                if part.spatial:
                    module = spatial_conv(*channels, self.kernel_size, **own, **settings)
                else:
                    module = conv(*channels, 1, **own)
            except ValueError as error:
                raise InputError(f"{type(self).__name__}: {error}") from error
            self.add_module(part.name, module)
        if self.form != "bottleneck":
            # reason: TorchScript leaves out what is done with an attribute that is None
            self.pointwise_in = None
        self._own, self._written = {}, ()
        self._agree()

    # reason: callers of nn.Conv2d may spell the argument's name
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if not is_scripting():
            self._agree()
        if self.form == "pointwise_first":
            output: Tensor = self.depthwise(self.pointwise(input))
            return output
        if self.pointwise_in is not None:
            input = self.pointwise_in(input)  # noqa: A001  # see above
        output = self.pointwise(self.depthwise(input))
        return output  # noqa: RET504  # TorchScript takes no other type than a Tensor's

    stride = agreed_with_depthwise("stride")
    padding = agreed_with_depthwise("padding")
    dilation = agreed_with_depthwise("dilation")
    padding_mode = agreed_with_depthwise("padding_mode")
    # reason: modes other than zeros pad by this, whatever ``padding`` says
    _reversed_padding_repeated_twice = agreed_with_depthwise("_reversed_padding_repeated_twice")

    def _agree(self) -> None:
        """Take over what was set on the depthwise part alone."""
        for name in self._agreed:
            self._check_agreed(name)
        if torch.compiler.is_compiling():
            return  # an export allows no assignments
        # reason: what a quantizer or a wrapper puts in the part's place may lack some
        present = [name for name in self._agreed if hasattr(self.depthwise, name)]
        agreed = {**self._own, **{name: getattr(self.depthwise, name) for name in present}}
        if self._own != agreed:
            self._own = agreed
        if self._written:
            self._written = ()

    def _check_agreed(self, name: str) -> None:
        if name not in self._written:
            return
        own = self._own[name]
        depthwise = getattr(self.depthwise, name, own)
        if depthwise != own:
            raise InputError(
                f"{name} was set on a separable convolution and then differently on its depthwise "
                f"part ({own!r} and {depthwise!r}): which is meant? Set it on the separable "
                "convolution alone; code that goes through modules() should skip the parts of one"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "form" not in state:  # of the release before
            state = {**state, "form": state["order"], "size": state["depth_multiplier"]}
            del state["order"], state["depth_multiplier"]
            state["pointwise_in"] = None
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch has no types here
        if "_written" not in state:  # of a release before
            self._own, self._written = {}, ()
            self._agree()

    @property
    def order(self) -> str | None:
        """The old word for a form of two parts whose size is a depth multiplier."""
        return self.form if Form(self.form) in ORDERS else None

    @property
    def depth_multiplier(self) -> int | None:
        """The size, if it is a depth multiplier."""
        return self.size if Form(self.form) in ORDERS else None

    @property
    def groups(self) -> int:
        """The groups of the pointwise part, which the shapes of both parts depend on."""
        return self.pointwise.groups

    @groups.setter
    def groups(self, value: int) -> None:
        if value != self.groups:
            raise InputError(
                f"groups of a separable convolution cannot change from {self.groups} to {value}: "
                "make a new one"
            )

    @property
    def weight(self) -> Tensor:
        """The kernel of the standard convolution this equals, (M, C / groups, *kernel_size).

        It is computed and differentiable, and refuses to be written to. What is assigned, of that
        shape, is approximated by the nearest separable kernel; the parts keep their parameters,
        dtype and device, and take ``requires_grad`` from a Parameter.

        Raises:
            InputError: what is assigned is not such a kernel, or cannot be factorised.
        """
        inner = None if self.pointwise_in is None else self.pointwise_in.weight
        taps = self.depthwise.weight
        if self.transposed:
            taps = swapped(taps, self.depthwise.groups)
        factors = Factors(taps, self.pointwise.weight, inner)
        kernel = dense_kernel(factors, self.form, self.size, self.groups)
        return ComputedKernel.of(self._own_layout(kernel))

    @weight.setter
    def weight(self, kernel: Tensor) -> None:
        ends = self.out_channels, self.in_channels
        rows, columns = reversed(ends) if self.transposed else ends
        shape = (rows, columns // self.groups, *self.kernel_size)
        if not isinstance(kernel, Tensor) or tuple(kernel.shape) != shape:
            found = tuple(kernel.shape) if isinstance(kernel, Tensor) else kernel
            raise InputError(f"the weight must be a tensor of shape {shape}, not {found!r}")
        for name, part in self.named_children():
            if part._parameters.get("weight") is None:
                raise InputError(
                    f"the weight of the {name} part is computed from other parameters, so that no "
                    "kernel can be assigned; remove its parametrization first"
                )
        if self.depthwise.weight.is_meta:
            raise InputError("the parts are on the meta device and cannot take a kernel's values")
        standard = self._own_layout(kernel)
        factors = decompose(standard, self.groups, Form(self.form)).factors(self.size)
        for name, value in self._in_own_layout(factors).items():
            weight: Any = self.get_submodule(name).weight
            with torch.no_grad():
                weight.copy_(value)
            if isinstance(kernel, nn.Parameter):
                weight.requires_grad_(kernel.requires_grad)

    def _in_own_layout(self, factors: Factors) -> dict[str, Tensor]:
        """The weights of the parts by name, as the parts hold them."""
        found = dict(factors.by_part())
        if self.transposed:
            found["depthwise"] = swapped(factors.depthwise, self.depthwise.groups)
        return found

    def _own_layout(self, kernel: Tensor) -> Tensor:
        """The kernel of a standard convolution as one of this kind holds it, or back."""
        return swapped(kernel, self.groups) if self.transposed else kernel

    @property
    def bias(self) -> Tensor | None:
        """The bias, held by the part that runs last: a Parameter or None, also when assigned."""
        return self._last.bias

    @bias.setter
    def bias(self, value: nn.Parameter | None) -> None:
        if isinstance(value, nn.Parameter) and tuple(value.shape) != (self.out_channels,):
            raise InputError(
                f"the bias must be of shape ({self.out_channels},), not {tuple(value.shape)}"
            )
        self._last.bias = value

    @property
    def _last(self) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
        return self.depthwise if self.form == "pointwise_first" else self.pointwise

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        # reason: nn.Module, which assigns Parameters by this, refuses names that the class computes
        if name in ("weight", "bias"):
            object.__setattr__(self, name, param)
        elif isinstance(param, ComputedKernel):
            raise InputError(
                f"{name} cannot be the weight of a separable convolution, which is computed: prune "
                "or reparametrize its depthwise and pointwise parts"
            )
        else:
            super().register_parameter(name, param)

    def reset_parameters(self) -> None:
        """New random weights for all parts, as a new convolution gets them."""
        for part in self.children():
            part.reset_parameters()  # type: ignore[operator]  # they are convolutions

    def extra_repr(self) -> str:
        if self.order is None:
            return f"form={self.form}, size={self.size}"
        return f"depth_multiplier={self.depth_multiplier}, order={self.order}"


class SeparableConv1d(SeparableConvNd):
    __doc__ = SeparableConvNd.__doc__
    rank = 1


class SeparableConv2d(SeparableConvNd):
    __doc__ = SeparableConvNd.__doc__
    rank = 2


class SeparableConv3d(SeparableConvNd):
    __doc__ = SeparableConvNd.__doc__
    rank = 3


SEPARABLE_CONVS: dict[int, type[SeparableConvNd]] = {
    1: SeparableConv1d,
    2: SeparableConv2d,
    3: SeparableConv3d,
}
"""The replacement of each rank."""
