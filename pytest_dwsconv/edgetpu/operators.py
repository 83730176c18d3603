"""What the Edge TPU's vendor documents of each operator, as data; what nobody could confirm is
marked as such.

Names are TFLite's. An operator that is not in the table is not among those the vendor lists as
supported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_dwsconv.edgetpu.modelfile import Operator, Tensor

Limit = Callable[[Operator], str]
"""What is wrong with an operator, in words that follow "stays on the CPU:"; empty where nothing is.
"""


@dataclass(frozen=True)
class Row:
    """What is known of one operator.

    ``runtime`` is the lowest runtime version the vendor documents (0: any). ``max_version`` is the
    highest version of the operator that the compiler of 2021 accepts, inferred from its refusals.
    ``doubt`` says why nobody can tell whether it maps; ``caveat`` is what the vendor adds to an
    operator that does.
    """

    limits: tuple[Limit, ...] = ()
    runtime: int = 0
    max_version: int | None = None
    doubt: str = ""
    caveat: str = ""


def _no_activation(operator: Operator) -> str:
    return "it has a fused activation function" if operator.options.get("activation") else ""


def _square_dilation(operator: Operator) -> str:
    across, down = operator.options.get("dilation_w", 1), operator.options.get("dilation_h", 1)
    return "" if across == down else f"its dilation differs in x and y ({across} and {down})"


def _default_weights(operator: Operator) -> str:
    return (
        "its weights are not in the default format"
        if operator.options.get("weights_format")
        else ""
    )


def _per_tensor_weights(operator: Operator) -> str:
    quantization = operator.inputs[1].quantization if operator.inputs[1] is not None else None
    per_channel = quantization is not None and quantization.per_channel
    return "its weights are quantised per channel" if per_channel else ""


def _no_batch_reduction(operator: Operator) -> str:
    data, axes = _first_and_values(operator)
    reduced = axes is not None and any(axis % max(len(data.shape), 1) == 0 for axis in axes)
    return "it reduces the batch" if reduced and len(data.shape) > 1 else ""


def _no_batch_padding(operator: Operator) -> str:
    data, amounts = _first_and_values(operator)
    return (
        "it pads the batch"
        if amounts is not None and len(data.shape) > 3 and any(amounts[:2])
        else ""
    )


def _flat_alpha(operator: Operator) -> str:
    alpha = operator.inputs[1]
    return (
        ""
        if alpha is None or all(side == 1 for side in alpha.shape[:-1])
        else "its alpha has more than one dimension"
    )


def _small_softmax(operator: Operator) -> str:
    shape = operator.outputs[0].shape
    if any(side != 1 for side in shape[:-1]):
        return "its input has more than one dimension"
    return "" if shape[-1] <= 16_000 else f"it has {shape[-1]:,} elements, and 16,000 is the most"


def _unit_strides(operator: Operator) -> str:
    strides = operator.inputs[3]
    known = strides.values if strides is not None else None
    return (
        "" if known is None or all(stride == 1 for stride in known) else "its strides are not all 1"
    )


def _first_and_values(operator: Operator) -> tuple[Tensor, tuple[int, ...] | None]:
    first, second = operator.inputs[0], operator.inputs[1]
    return first or operator.outputs[0], second.values if second is not None else None


_SIZES = "the vendor says that it may stay on the CPU, depending on its sizes"
_UNCONFIRMED = "not verified that the compiler maps it"

SUPPORTED: dict[str, Row] = {
    **dict.fromkeys(("ADD", "MAXIMUM", "MINIMUM", "MUL", "SUB"), Row()),
    **dict.fromkeys(("AVERAGE_POOL_2D", "CONCATENATION", "MAX_POOL_2D"), Row((_no_activation,))),
    "CONV_2D": Row((_square_dilation,), max_version=5),
    "DEPTHWISE_CONV_2D": Row((_square_dilation,)),
    **dict.fromkeys(("EXPAND_DIMS", "PACK", "SUM"), Row(runtime=13)),
    "QUANTIZE": Row(runtime=13, max_version=2),
    "TRANSPOSE_CONV": Row(runtime=13, max_version=3),
    "FULLY_CONNECTED": Row((_default_weights, _per_tensor_weights)),
    **dict.fromkeys(
        ("L2_NORMALIZATION", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1", "TANH"), Row()
    ),
    **dict.fromkeys(("LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM"), Row(runtime=14)),
    "MEAN": Row((_no_batch_reduction,)),
    "PAD": Row((_no_batch_padding,)),
    "PRELU": Row((_flat_alpha,)),
    **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN"), Row(runtime=14)),
    "RESHAPE": Row(caveat="a large one may stay on the CPU"),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), Row(doubt=_SIZES)),
    **dict.fromkeys(("SLICE", "SPACE_TO_DEPTH", "SPLIT", "SQUEEZE"), Row()),
    "STRIDED_SLICE": Row((_unit_strides,)),
    **dict.fromkeys(
        ("SQUARED_DIFFERENCE", "RSQRT", "TRANSPOSE"), Row(runtime=14, doubt=_UNCONFIRMED)
    ),
    "SOFTMAX": Row((_small_softmax,)),
    "EXP": Row(max_version=1, doubt=_UNCONFIRMED),
    "HARD_SWISH": Row(doubt="seen left on the CPU, not verified"),
}
"""The vendor's list, with what is only inferred or not verified."""

REFUSED = frozenset(
    "GATHER LEAKY_RELU PADV2 ARG_MAX CAST DIV FLOOR_DIV UNPACK DEQUANTIZE "
    "TFLite_Detection_PostProcess".split()
)
"""Operators seen left on the CPU, with nothing documented to the contrary."""
