"""A convolution as plain numbers, and its cost before and after it is made separable."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import NamedTuple

from pytest_dwsconv.core.jsonio import Positive
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.errors import InputError


class Order(str, Enum):
    """Which part of a depthwise separable convolution runs first."""

    DEPTHWISE_FIRST = "depthwise_first"
    POINTWISE_FIRST = "pointwise_first"


def parse_order(value: object, *other_words: str) -> Order:
    """An order, from itself or its word.

    Raises:
        InputError: it is neither; ``other_words`` are what the caller takes besides.
    """
    try:
        return Order(value)
    except ValueError as error:
        *words, last = (repr(word) for word in (*other_words, *(order.value for order in Order)))
        raise InputError(
            f"order must be {', '.join(words)} or {last}, not {quoted(value)}"
        ) from error


class Kind(str, Enum):
    """What a convolution is, by its groups and kernel."""

    STANDARD = "standard"
    GROUPED = "grouped"
    DEPTHWISE = "depthwise"
    POINTWISE = "pointwise"
    TRANSPOSED = "transposed"
    UNKNOWN = "unknown"


class Trait(str, Enum):
    """What is special about the place where a convolution was found; rules look at these."""

    SUBCLASS = "subclass"
    FUNCTIONAL = "functional"
    REPARAMETRIZED = "reparametrized"
    TIED = "tied"
    READ_ELSEWHERE = "read elsewhere"
    QUANTIZED = "quantized"
    COMPLEX = "complex"
    NO_PARAMETER = "weight is no parameter"
    UNREGISTERED = "module is not registered"
    IGNORED = "ignored"
    UNPACKED_ARGUMENTS = "unpacked arguments"
    REFERENCE = "reference"
    LEFT_OPEN = "left open"


class Cost(NamedTuple):
    """Parameters, and multiply-accumulates of one forward (None without shapes)."""

    params: int
    macs: int | None


FEW_CHANNELS = 4
"""As many as an image has, with its transparency."""
FEW_CHANNELS_OF_PATCHES = 16
"""As many as a multispectral image has."""


@dataclass(frozen=True)
class ConvSpec:
    """One convolution. What is not known (a name in source, a shape never seen) is ``None``.

    ``input_shape`` and ``output_shape`` are whole tensor shapes, ``(N, C, *sides)`` or unbatched
    ``(C, *sides)``; every other tuple has ``rank`` entries.
    """

    rank: Positive
    in_channels: int | None
    out_channels: int | None
    kernel_size: tuple[Positive, ...] | None
    stride: tuple[Positive, ...] | None = None
    padding: tuple[int, ...] | str | None = None
    dilation: tuple[Positive, ...] | None = None
    groups: Positive | None = 1
    bias: bool | None = True
    padding_mode: str | None = "zeros"
    transposed: bool = False
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    traits: tuple[Trait, ...] = ()

    def shaped(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> ConvSpec:
        """The same with shapes, as ``dataclasses.replace`` gives it in ten times as long."""
        shaped = object.__new__(ConvSpec)
        shaped.__dict__.update(self.__dict__, input_shape=input_shape, output_shape=output_shape)
        return shaped

    @property
    def kind(self) -> Kind:
        if self.transposed:
            return Kind.TRANSPOSED
        if self.kernel_size is not None and prod(self.kernel_size) == 1:
            return Kind.POINTWISE
        if self.groups == 1:
            return Kind.STANDARD if self.kernel_size is not None else Kind.UNKNOWN
        if self.groups is None or self.in_channels is None or self.kernel_size is None:
            return Kind.UNKNOWN
        return Kind.DEPTHWISE if self.groups == self.in_channels else Kind.GROUPED

    @property
    def has_few_inputs(self) -> bool:
        """Whether depthwise first would make all outputs mixtures of too few maps.

        At depth multiplier r its M outputs are mixtures of r C maps: with one input channel all are
        multiples of one filter, with three they span three dimensions. So it is with up to
        ``FEW_CHANNELS``; where the kernel is as large as the stride (patch embeddings, whose every
        input counts for one output site alone) with up to ``FEW_CHANNELS_OF_PATCHES``. Of a grouped
        convolution it is the channels of a group, where they are fewer than its outputs.
        """
        if self.in_channels is None or self.kernel_size is None or not self.groups:
            return False
        inputs = self.in_channels // self.groups
        if inputs > FEW_CHANNELS_OF_PATCHES:  # most of them
            return False
        if self.groups > 1 and (self.out_channels or 0) // self.groups <= inputs:
            return False
        patches = prod(self.kernel_size) > 1 and self.kernel_size == self.stride
        few = FEW_CHANNELS_OF_PATCHES if patches else FEW_CHANNELS
        return 0 < inputs <= few and not self.transposed

    @property
    def input_positions(self) -> int | None:
        """Input sites per channel, the batch included (i in the formulas of a cost)."""
        return _positions(self.input_shape, self.rank)

    @property
    def output_positions(self) -> int | None:
        """Output sites per channel, the batch included (o in the formulas of a cost)."""
        return _positions(self.output_shape, self.rank)

    @property
    def full_multiplier(self) -> dict[Order, int] | None:
        """The depth multiplier at which each order equals the convolution exactly."""
        if (
            self.in_channels is None
            or self.out_channels is None
            or self.kernel_size is None
            or not self.groups
        ):
            return None
        taps = prod(self.kernel_size)
        return {
            Order.DEPTHWISE_FIRST: min(self.out_channels // self.groups, taps),
            Order.POINTWISE_FIRST: min(self.in_channels // self.groups, taps),
        }


def _positions(shape: tuple[int, ...] | None, rank: int) -> int | None:
    if shape is None:
        return None
    batch = shape[0] if len(shape) == rank + 2 else 1
    return batch * prod(shape[len(shape) - rank :])


def _numbers(spec: ConvSpec) -> tuple[int, int, int, int, int] | None:
    """C, M, k, G and the bias's parameters, or None where one is not known."""
    if spec.in_channels is None or spec.out_channels is None or spec.kernel_size is None:
        return None
    if spec.groups is None or spec.bias is None:
        return None
    bias = spec.out_channels if spec.bias else 0
    return spec.in_channels, spec.out_channels, prod(spec.kernel_size), spec.groups, bias


def cost(spec: ConvSpec) -> Cost | None:
    """Cost of the convolution as it is; None where a channel count or kernel side is not known.

    Parameters M (C/G) k, and M more when biased. MACs o M (C/G) k, or i M (C/G) k when transposed:
    each input site is scattered once. The bias is an addition and is not counted in MACs.
    """
    numbers = _numbers(spec)
    if numbers is None:
        return None
    channels, filters, taps, groups, bias = numbers
    weights = filters * channels // groups * taps
    positions = spec.input_positions if spec.transposed else spec.output_positions
    return Cost(weights + bias, None if positions is None else positions * weights)


def separable_cost(
    spec: ConvSpec, order: Order = Order.DEPTHWISE_FIRST, depth_multiplier: int = 1
) -> Cost | None:
    """Cost of the depthwise separable replacement; None where the original's cost is not known.

    - depthwise_first: parameters r C k + r C M / G, MACs o r C (k + M / G) (MobileNets, Howard et
      al. 2017).
    - pointwise_first: parameters r M C / G + r M k, MACs i r M C / G + o r M k (blueprint separable
      convolutions, Haase and Amthor 2020): its pointwise part runs at the input's resolution.
    """
    numbers = _numbers(spec)
    if numbers is None:
        return None
    channels, filters, taps, groups, bias = numbers
    pointwise = depth_multiplier * channels * filters // groups
    first = order is Order.DEPTHWISE_FIRST
    depthwise = depth_multiplier * (channels if first else filters) * taps
    outputs, inputs = spec.output_positions, spec.input_positions
    if outputs is None or inputs is None:
        return Cost(pointwise + depthwise + bias, None)
    macs = outputs * depthwise + (outputs if first else inputs) * pointwise
    return Cost(pointwise + depthwise + bias, macs)


def traffic(spec: ConvSpec, params: int) -> int | None:
    """Elements of input, parameters and output, each moved once; None without shapes."""
    if spec.input_shape is None or spec.output_shape is None:
        return None
    return prod(spec.input_shape) + params + prod(spec.output_shape)


def separable_traffic(
    spec: ConvSpec, params: int, order: Order, depth_multiplier: int
) -> int | None:
    """As ``traffic``, for the replacement.

    What lies between its two parts is written and read again. That is r C channels at the output's
    resolution for depthwise_first, r M at the input's for pointwise_first.
    """
    ends = traffic(spec, params)
    first = order is Order.DEPTHWISE_FIRST
    channels, positions = (
        (spec.in_channels, spec.output_positions)
        if first
        else (spec.out_channels, spec.input_positions)
    )
    if ends is None or channels is None or positions is None:
        return None
    return ends + 2 * depth_multiplier * channels * positions
