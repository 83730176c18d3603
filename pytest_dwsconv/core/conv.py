"""A convolution as plain numbers, and its cost before and after it is made separable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any, NamedTuple, TypeVar

from pytest_dwsconv.core.jsonio import Positive
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.errors import InputError


class Form(str, Enum):
    """What replaces a convolution: the parts, in the order in which they run.

    One whole number, the size, says how large the parts are (see ``parts``).
    """

    DEPTHWISE_FIRST = "depthwise_first"
    POINTWISE_FIRST = "pointwise_first"
    BOTTLENECK = "bottleneck"
    GROUPED = "grouped"

    # reason: ``Form(Order.POINTWISE_FIRST)`` and dictionaries find the member by its word
    __hash__ = str.__hash__


class Order(str, Enum):
    """Which part of a depthwise separable convolution runs first.

    These are the two forms whose size is the depth multiplier, and those that a report reckons
    with.
    """

    DEPTHWISE_FIRST = "depthwise_first"
    POINTWISE_FIRST = "pointwise_first"

    __hash__ = str.__hash__


ORDERS = (Form.DEPTHWISE_FIRST, Form.POINTWISE_FIRST)
"""The forms that there is an ``Order`` for."""


def parse_order(value: object, *other_words: str) -> Order:
    """An order, from itself or its word.

    Raises:
        InputError: it is neither; ``other_words`` are what the caller takes besides.
    """
    return _member(Order, "order", value, other_words)


def parse_form(value: object, *other_words: str) -> Form:
    """A form, from itself, its word or an order; raises as ``parse_order`` does."""
    return _member(Form, "form", value, other_words)


_Word = TypeVar("_Word", bound=Enum)


def _member(words: type[_Word], noun: str, value: object, other_words: Sequence[str]) -> _Word:
    try:
        return words(value)
    except ValueError as error:
        *most, last = (repr(word) for word in (*other_words, *(word.value for word in words)))
        raise InputError(
            f"{noun} must be {', '.join(most)} or {last}, not {quoted(value)}"
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
    PART = "part of a separable convolution"


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
        return 0 < inputs <= few

    @property
    def input_positions(self) -> int | None:
        """Input sites per channel, the batch included (i in the formulas of a cost)."""
        return _positions(self.input_shape, self.rank)

    @property
    def output_positions(self) -> int | None:
        """Output sites per channel, the batch included (o in the formulas of a cost)."""
        return _positions(self.output_shape, self.rank)


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


def transposed_sides(conv: Any, inputs: Sequence[int]) -> tuple[int, ...]:
    """The sides of a transposed convolution's output, without output padding.

    ``conv`` is a spec or a module: they have the same attributes.
    """
    sides = []
    for axis, side in enumerate(inputs):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1 - 2 * conv.padding[axis]
        sides.append((side - 1) * conv.stride[axis] + reach)
    return tuple(sides)


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


class Part(NamedTuple):
    """One of the convolutions that a replacement consists of.

    The spatial one has the kernel of the original, its stride, padding and dilation; the others are
    pointwise. The last one has the bias.
    """

    name: str
    in_channels: int
    out_channels: int
    groups: int
    spatial: bool

    def weight_shape(self, kernel_size: Sequence[int]) -> tuple[int, ...]:
        """Of the weight, as PyTorch's convolutions have it."""
        sides = kernel_size if self.spatial else (1,) * len(kernel_size)
        # reason: PyTorch has convolutions without channels, of which depthwise parts have no groups
        return (self.out_channels, self.in_channels // max(1, self.groups), *sides)


def parts(
    in_channels: int, out_channels: int, groups: int, form: Form | Order, size: int
) -> tuple[Part, ...]:
    """The parts of a replacement, in the order in which they run.

    - depthwise_first: r filters per channel, then a pointwise part (MobileNets, Howard et al.
      2017); its size is r, the depth multiplier.
    - pointwise_first: r channels for each output, then one filter for each of them, summed by r
      (blueprint separable convolutions, Haase and Amthor 2020); its size is r.
    - bottleneck: a pointwise part to Q channels, a filter for each, and a pointwise part (the order
      of MobileNetV2, Sandler et al. 2018, without its nonlinearity; a CP decomposition, Lebedev et
      al. 2015); its size is Q.
    - grouped: the kernel within groups of s channels, then a pointwise part (filter group
      approximation, Peng et al. 2018); its size is s, and 1 is depthwise_first at 1.

    Raises:
        InputError: the groups do not divide Q, or s does not divide the channels of a group.
    """
    channels, filters = in_channels, out_channels
    form = Form(form)
    if form is Form.DEPTHWISE_FIRST:
        return (
            Part("depthwise", channels, size * channels, channels, spatial=True),
            Part("pointwise", size * channels, filters, groups, spatial=False),
        )
    if form is Form.POINTWISE_FIRST:
        return (
            Part("pointwise", channels, size * filters, groups, spatial=False),
            Part("depthwise", size * filters, filters, filters, spatial=True),
        )
    if form is Form.BOTTLENECK:
        if size % groups:
            raise InputError(
                f"the size of a bottleneck, its inner channels ({size}), must be divisible by "
                f"groups ({groups})"
            )
        return (
            Part("pointwise_in", channels, size, groups, spatial=False),
            Part("depthwise", size, size, size, spatial=True),
            Part("pointwise", size, filters, groups, spatial=False),
        )
    if channels // groups % size:
        raise InputError(
            f"the size of form 'grouped' ({size}) must divide the channels of a group "
            f"({channels // groups})"
        )
    return (
        Part("depthwise", channels, channels, channels // size, spatial=True),
        Part("pointwise", channels, filters, groups, spatial=False),
    )


def separable_cost(
    spec: ConvSpec, form: Form | Order = Form.DEPTHWISE_FIRST, size: int = 1
) -> Cost | None:
    """Cost of the replacement of this form and size; None where the original's cost is not known.

    ::

        form             parameters (+ M when biased)   MACs
        depthwise_first  r C k + r C M / G              o r C (k + M / G)
        pointwise_first  r M C / G + r M k              i r M C / G + o r M k
        bottleneck       Q (C / G + k + M / G)          i Q C / G + o Q (k + M / G)
        grouped          C s k + C M / G                o C (s k + M / G)

    What runs before the spatial part runs at the input's resolution, and so does the spatial part
    itself, with o for i in its k, where the convolution is transposed.

    Raises:
        InputError: there is no replacement of this size (see ``parts``).
    """
    numbers = _numbers(spec)
    if numbers is None or spec.kernel_size is None:
        return None
    channels, filters, _, groups, bias = numbers
    inputs, outputs = spec.input_positions, spec.output_positions
    params, macs, positions = bias, 0, inputs
    for part in parts(channels, filters, groups, form, size):
        if part.spatial and not spec.transposed:
            positions = outputs
        weights = prod(part.weight_shape(spec.kernel_size))
        params += weights
        macs += weights * (positions or 0)
        if part.spatial:  # reason: a transposed one multiplies at its inputs
            positions = outputs
    return Cost(params, None if inputs is None or outputs is None else macs)


def full_size(spec: ConvSpec, form: Form | Order) -> int:
    """The largest size of a form that is of use: no size above it comes closer.

    The replacement is then the convolution exactly, but for ``grouped`` where a group has more
    outputs than inputs.

    Raises:
        InputError: a number of the convolution is not known.
    """
    form = Form(form)
    if (
        spec.in_channels is None
        or spec.out_channels is None
        or spec.kernel_size is None
        or not spec.groups
    ):
        raise InputError("a convolution whose numbers are not known cannot be planned")
    taps = prod(spec.kernel_size)
    inputs, outputs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    if form is Form.DEPTHWISE_FIRST:
        return min(outputs, taps)
    if form is Form.POINTWISE_FIRST:
        return min(inputs, taps)
    if form is Form.BOTTLENECK:
        return spec.in_channels * min(outputs, taps)
    return inputs


def traffic(spec: ConvSpec, params: int) -> int | None:
    """Elements of input, parameters and output, each moved once; None without shapes."""
    if spec.input_shape is None or spec.output_shape is None:
        return None
    return prod(spec.input_shape) + params + prod(spec.output_shape)


def separable_traffic(spec: ConvSpec, params: int, form: Form | Order, size: int) -> int | None:
    """As ``traffic``, for the replacement: what lies between two parts is written and read."""
    elements = traffic(spec, params)
    inputs, outputs, numbers = spec.input_positions, spec.output_positions, _numbers(spec)
    if elements is None or inputs is None or outputs is None or numbers is None:
        return None
    channels, filters, _, groups, _ = numbers
    positions = inputs
    for part in parts(channels, filters, groups, form, size)[:-1]:
        if part.spatial:
            positions = outputs
        elements += 2 * part.out_channels * positions
    return elements
