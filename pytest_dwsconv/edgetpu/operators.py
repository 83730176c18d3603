"""What is known of each operator on the Edge TPU, as data, and what each claim rests on.

Names are TFLite's. The vendor documents a list; where public compiled files and logs of the
compiler say more, or other, they count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_dwsconv.edgetpu.modelfile import Operator, Tensor

Objection = Callable[[Operator], str]
"""What speaks against mapping an operator, in words that follow a colon; empty for nothing."""

DOCUMENTED = "documented by the vendor"


@dataclass(frozen=True)
class OperatorSupport:
    """What is known of one operator that may map.

    An operator with an objection of ``limits`` stays on the CPU; with one of ``doubts`` nobody can
    tell. ``runtime`` is the lowest runtime version that is documented or was seen in a compiled
    file (0: any). ``max_version`` is the highest version of the operator that the compiler of 2021
    accepts, inferred from its refusals. ``compiler`` is the first major version of the compiler
    that was seen to map it (0: any). ``caveat`` is what the vendor adds to an operator that maps,
    and ``basis`` what the claim rests on.
    """

    limits: tuple[Objection, ...] = ()
    doubts: tuple[Objection, ...] = ()
    runtime: int = 0
    max_version: int | None = None
    compiler: int = 0
    caveat: str = ""
    basis: str = DOCUMENTED


def _no_activation(operator: Operator) -> str:
    return "it has a fused activation function" if operator.options.get("activation") else ""


def _equal_dilation(operator: Operator) -> str:
    down, across = operator.options.get("dilation_h", 1), operator.options.get("dilation_w", 1)
    weight = operator.input(1)
    if weight is not None and len(weight.shape) == 4 and 1 in weight.shape[1:3]:
        return ""  # a dilation has no effect where the kernel is 1 wide, and compiler 16 knows it
    return "" if across == down else f"its dilation differs in x and y ({across} and {down})"


def _default_weights(operator: Operator) -> str:
    if operator.options.get("weights_format"):
        return "its weights are not in the default format"
    return ""


def _no_batch_reduction(operator: Operator) -> str:
    data, axes = _first_and_values(operator)
    if axes is None or len(data.shape) < 2:
        return ""
    return "it reduces the batch" if any(axis % len(data.shape) == 0 for axis in axes) else ""


def _no_batch_padding(operator: Operator) -> str:
    data, amounts = _first_and_values(operator)
    if amounts is None or len(data.shape) < 4:
        return ""
    return "it pads the batch" if any(amounts[:2]) else ""


def _flat_alpha(operator: Operator) -> str:
    alpha = operator.input(1)
    if alpha is None or all(side == 1 for side in alpha.shape[:-1]):
        return ""
    return "its alpha has more than one dimension"


def _flat_softmax(operator: Operator) -> str:
    if any(side != 1 for output in operator.outputs for side in output.shape[:-1]):
        return "its input has more than one dimension"
    return ""


def _small_softmax(operator: Operator) -> str:
    sizes = [output.shape[-1] for output in operator.outputs if output.shape]
    if max(sizes, default=0) <= 16_000:
        return ""
    return (
        f"it has {max(sizes):,} elements: the vendor says that 16,000 is the most, and compiler 16 "
        "mapped 16,384"
    )


def _unit_strides(operator: Operator) -> str:
    strides = operator.input(3)
    if strides is None or strides.values is None or all(one == 1 for one in strides.values):
        return ""
    return "its strides are not all 1, which compiler 15 refused and 16 may map"


def _not_one_pixel(operator: Operator) -> str:
    before, after = _sides(operator)
    if before == (1, 1) and after != before:
        return "it enlarges a single pixel, which the compiler was seen to leave on the CPU"
    return ""


def _doubled(operator: Operator) -> str:
    """The vendor maps a resize or not by its sizes, to avoid a loss in precision.

    Weights of quarters are exact in binary: those of doubling, unless corners are aligned.
    """
    before, after = _sides(operator)
    doubles = len(before) == 2 and after == tuple(2 * side for side in before)
    if not doubles or operator.options.get("align_corners"):
        return "the compiler maps it or not by its sizes, and was seen to map an exact doubling"
    if max(after) > _LARGEST_RESIZED:
        return (
            f"the compiler maps it or not by its sizes: to {_LARGEST_RESIZED} a side was seen to "
            "map, to 512 not"
        )
    return ""


def _sides(operator: Operator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Height and width of what an operator works on, and of what it computes."""
    data = operator.input(0)
    before = data.shape if data is not None else ()
    return before[1:3], operator.outputs[0].shape[1:3] if operator.outputs else ()


def _whole_lanes(operator: Operator) -> str:
    data, axes = _first_and_values(operator)
    rank = len(data.shape)
    if axes is None or rank == 0 or data.shape[-1] % 4 == 0:
        return ""
    if all(axis % rank != rank - 1 for axis in axes):
        return ""
    return f"it reduces {data.shape[-1]} channels, and the vendor asks for a multiple of 4"


def _unconfirmed(operator: Operator) -> str:
    return "not verified that the compiler maps it"


def _first_and_values(operator: Operator) -> tuple[Tensor, tuple[int, ...] | None]:
    """The data that an operator works on, and the integers that say how, where they are known."""
    second = operator.input(1)
    values = None if second is None else second.values
    return operator.input(0) or operator.outputs[0], values


_ANY = OperatorSupport()
_DILATED = OperatorSupport((_equal_dilation,))
_UNFUSED = OperatorSupport((_no_activation,))

PER_CHANNEL = "FULLY_CONNECTED with a scale per channel"

_LARGEST_RESIZED = 128  # a side, as users report: from 64 mapped, from 256 to 512 not

SUPPORTED: dict[str, OperatorSupport] = {
    **dict.fromkeys(("ADD", "MAXIMUM", "MINIMUM", "MUL", "SUB"), _ANY),
    **dict.fromkeys(("AVERAGE_POOL_2D", "CONCATENATION", "MAX_POOL_2D"), _UNFUSED),
    "CONV_2D": OperatorSupport((_equal_dilation,), max_version=5),
    "DEPTHWISE_CONV_2D": _DILATED,
    **dict.fromkeys(("EXPAND_DIMS", "PACK", "SUM"), OperatorSupport(runtime=13)),
    "QUANTIZE": OperatorSupport(
        runtime=12, max_version=2, basis="mapped in 19 files of runtime 12"
    ),
    "TRANSPOSE_CONV": OperatorSupport(runtime=13, max_version=3),
    "FULLY_CONNECTED": OperatorSupport((_default_weights,)),
    PER_CHANNEL: OperatorSupport(
        (_default_weights,), compiler=16, basis="compiler 16 mapped 3 of 3"
    ),
    **dict.fromkeys(
        ("L2_NORMALIZATION", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1", "TANH"), _ANY
    ),
    "LSTM": OperatorSupport(runtime=14),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": OperatorSupport(
        runtime=12, basis="documented for runtime 14, mapped in a file of runtime 12"
    ),
    "MEAN": OperatorSupport((_no_batch_reduction,), (_whole_lanes,)),
    "PAD": OperatorSupport((_no_batch_padding,)),
    "PRELU": OperatorSupport((_flat_alpha,), basis="documented, and mapped 19 of 19 times"),
    **dict.fromkeys(
        ("REDUCE_MAX", "REDUCE_MIN"), OperatorSupport((_no_batch_reduction,), runtime=14)
    ),
    "RESHAPE": OperatorSupport(caveat="a large one may stay on the CPU"),
    "RESIZE_BILINEAR": OperatorSupport(
        (_not_one_pixel,),
        (_doubled,),
        runtime=12,
        compiler=16,
        basis="three exact doublings mapped in a file of runtime 12; the vendor says that it may "
        "stay",
    ),
    "RESIZE_NEAREST_NEIGHBOR": OperatorSupport(
        compiler=16, basis="compiler 16 mapped 12 of 12, the vendor says that it may stay"
    ),
    **dict.fromkeys(("SLICE", "SPACE_TO_DEPTH", "SPLIT", "SQUEEZE"), _ANY),
    "STRIDED_SLICE": OperatorSupport(doubts=(_unit_strides,)),
    **dict.fromkeys(
        ("SQUARED_DIFFERENCE", "RSQRT"), OperatorSupport(doubts=(_unconfirmed,), runtime=14)
    ),
    "TRANSPOSE": OperatorSupport(runtime=14, compiler=16, basis="compiler 16 mapped 24 of 24"),
    "SOFTMAX": OperatorSupport((_flat_softmax,), (_small_softmax,)),
    "EXP": OperatorSupport(doubts=(_unconfirmed,), max_version=1),
}
"""The operators that may map. One that neither this nor ``REFUSED`` names is unknown."""


def support_of(operator: Operator) -> OperatorSupport | None:
    """What is known of this operator, None if it is not among those that may map."""
    if operator.custom:
        return None
    weight = operator.input(1)
    scales = None if weight is None else weight.quantization
    if operator.name == "FULLY_CONNECTED" and scales is not None and scales.per_channel:
        return SUPPORTED[PER_CHANNEL]
    return SUPPORTED.get(operator.name)


REFUSED = frozenset(
    "GATHER LEAKY_RELU HARD_SWISH PADV2 ARG_MAX CAST DIV FLOOR_DIV UNPACK DEQUANTIZE "
    "TFLite_Detection_PostProcess".split()
)
"""Operators seen left on the CPU, with nothing documented to the contrary."""
