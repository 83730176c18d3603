"""What a forward is run on: shapes or example inputs, checked, and advice where it refuses them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import BoundArguments
from math import prod
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from pytest_dwsconv.core.conv import ConvSpec
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.targets import parse_input_size

_LARGEST = 2**63 - 1
"""Bytes: PyTorch counts them in 64 bits."""
_MOST_SHOWN = 100


def forward_arguments(
    parameters: Sequence[nn.Parameter], input_size: Any, example_inputs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Positional and keyword arguments for the forward; None if neither kind of input is given.

    Shapes become tensors without memory, of the dtype of the first floating-point parameter.

    Raises:
        InputError: both kinds are given, or ``input_size`` is not a shape or several shapes.
    """
    if input_size is not None and example_inputs is not None:
        raise InputError("pass either input_size or example_inputs, not both")
    if input_size is not None:
        dtype = _float_dtype(parameters)
        return tuple(_without_memory(shape, dtype) for shape in _shapes(input_size)), {}
    if example_inputs is None:
        return None
    if isinstance(example_inputs, BoundArguments):
        return example_inputs.args, example_inputs.kwargs
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def _float_dtype(parameters: Sequence[nn.Parameter]) -> torch.dtype:
    for parameter in parameters:
        # one byte is float8, which models store and do not compute in
        if parameter.dtype.is_floating_point and parameter.element_size() > 1:
            return parameter.dtype
    return torch.get_default_dtype()


def _without_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if prod(shape) * dtype.itemsize > _LARGEST:
        raise InputError(
            f"an input of shape {_shown(shape)} is larger than any tensor can be; give a smaller "
            "input_size"
        )
    return torch.empty(shape, dtype=dtype, device="meta")


def _shapes(input_size: Any) -> tuple[tuple[int, ...], ...]:
    """One shape or several as several, each side checked."""
    if isinstance(input_size, Tensor):
        raise InputError(
            "input_size is a shape such as (1, 3, 224, 224); pass tensors as example_inputs="
        )
    if isinstance(input_size, str):
        return parse_input_size(input_size)
    if not _is_sequence(input_size) or not input_size:
        raise InputError(
            f"input_size is a shape such as (1, 3, 224, 224), not {_shown(input_size)}"
        )
    nested = [_is_sequence(part) for part in input_size]
    if all(nested):
        return tuple(_sides(shape, input_size) for shape in input_size)
    if any(nested):
        raise InputError(
            f"input_size {_shown(input_size)} mixes shapes and sides; several inputs take one "
            "shape each"
        )
    return (_sides(input_size, input_size),)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def _sides(shape: Sequence[Any], input_size: Any) -> tuple[int, ...]:
    sides = []
    for side in shape:
        number = _whole(side)
        if number is None or number < 1:
            raise InputError(
                f"input_size {_shown(input_size)} has the side {_shown(side)}; sides are whole "
                "numbers from 1, such as (1, 3, 224, 224)"
            )
        sides.append(number)
    return tuple(sides)


def _whole(side: Any) -> int | None:
    """A side as Python's own number; NumPy's and a tensor of one element are welcome."""
    if isinstance(side, bool):
        return None
    try:
        return index(side)
    except TypeError:
        return None


def _shown(value: object) -> str:
    """What somebody passed, for an error in one line."""
    try:
        text = repr(value)
    except ValueError:  # reason: Python does not write a number of more than 4300 digits
        return "of thousands of digits"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def advice_on_shapes(shapes: Iterable[tuple[int, ...]], convolutions: Iterable[ConvSpec]) -> str:
    """What is probably wrong with the shapes that a forward refused, and what to pass instead.

    Judged by the first convolution, which often is the first to see the input. Empty if the shapes
    look right for it.
    """
    first = next(iter(convolutions), None)
    if first is None or first.in_channels is None:
        return ""
    rank, channels = first.rank, first.in_channels
    for shape in shapes:
        batched = shape if len(shape) == rank + 2 else (1, *shape)
        if len(batched) != rank + 2:
            continue
        batch, second, *sides = batched
        if second != channels and batched[-1] == channels:
            wanted = (batch, channels, second, *sides[:-1])
            layout = ", ".join(("N", "C", *"DHW"[-rank:])) if rank > 1 else "N, C, L"
            return f"{shape} looks like channels last, and PyTorch wants ({layout}): pass {wanted}."
        if second == channels and batched is not shape:
            return f"{shape} has no batch side, which some layers need: pass {batched}."
    return ""
