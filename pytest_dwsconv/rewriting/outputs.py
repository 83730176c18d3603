"""What a network gives on copies of its inputs, and how two such results differ."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from math import isnan, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pytest_dwsconv.errors import TracingError, first_line
from pytest_dwsconv.fit.comparison import buffers_as_found
from pytest_dwsconv.tracing.preserving import as_found, copied

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a forward."""
Outputs = Mapping[str, Tensor | float]
"""The tensors and numbers among the outputs, each under its place, such as ``dict['logits']``."""


@torch.no_grad()
def outputs(model: nn.Module, inputs: Inputs) -> Outputs:
    """Run the model once, in evaluation mode; it and the inputs are left as found.

    Raises:
        InputError: the inputs cannot be copied.
        TracingError: the forward fails.
    """
    args, kwargs = tree_map(copied, inputs)
    with buffers_as_found(model), as_found(list(model.modules())):
        try:
            out = model(*args, **kwargs)
            if isinstance(out, Generator):
                out = tuple(out)
        except Exception as error:  # whatever the user's own forward raises
            raise TracingError(f"the forward fails: {first_line(error)}") from error
    return dict(_values(out, ""))


def _values(value: Any, place: str) -> Iterator[tuple[str, Tensor | float]]:
    place = f"{place}{type(value).__name__}" if isinstance(value, (dict, tuple, list)) else place
    if isinstance(value, dict):
        for key, item in value.items():
            # reason: how other objects show themselves may differ from run to run
            shown = repr(key) if isinstance(key, (str, int)) else type(key).__name__
            yield from _values(item, f"{place}[{shown}]")
    elif isinstance(value, (tuple, list)):
        for number, item in enumerate(value):
            yield from _values(item, f"{place}[{number}]")
    else:
        for number, leaf in enumerate(tree_leaves(value)):
            numeric = getattr(getattr(leaf, "dtype", None), "kind", "") in tuple("biufc")
            if isinstance(leaf, (Tensor, bool, int, float)):
                yield f"{place}.{number}" if number else place, leaf
            elif numeric:  # an array or a number of NumPy
                yield f"{place}.{number}" if number else place, torch.as_tensor(leaf.copy())


def unlike(found: Outputs, wanted: Outputs, rounding: float) -> str:
    """How two outputs differ by more than a network that rounds so does; empty if they do not."""
    if list(found) != list(wanted):
        return f"outputs {_shown(found)} in place of {_shown(wanted)}"
    for what in (_shape, _dtype):
        given, expected = list(map(what, found.values())), list(map(what, wanted.values()))
        if given != expected:
            return f"outputs of {what.__name__[1:]} {given} in place of {expected}"
    largest = 0.0
    for other in wanted.values():
        largest = max(largest, _scale(other))
    for place in wanted:
        one, other = found[place], wanted[place]
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            difference = _unlike_tensors(one, other, rounding)
        else:
            difference = _unlike_numbers(one, other, _allowed(rounding) * largest)
        if difference:
            return difference
    return ""


def _shown(values: Outputs) -> str:
    return ", ".join(place or "a single one" for place in values) or "without tensors"


def _shape(value: Tensor | float) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _dtype(value: Tensor | float) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _scale(value: Tensor | float) -> float:
    """The largest magnitude among the finite values of a result that is rounded, or 0."""
    if isinstance(value, (int, float)):
        return abs(value) if isinstance(value, float) and abs(value) < float("inf") else 0.0
    if not _rounded(value) or not value.numel():
        return 0.0
    return float(_plain(value).nan_to_num(0.0, 0.0, 0.0).abs().max())


def _rounded(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _plain(value: Tensor) -> Tensor:
    """Dense, and of a type that can be compared."""
    value = value if value.layout is torch.strided else value.to_dense()
    return value.float() if _rounded(value) and value.itemsize == 1 else value


def _allowed(rounding: float) -> float:
    # reason: an exact kernel is rounded once more per layer, and many layers add up
    return 3 * sqrt(rounding)


def _unlike_tensors(one: Tensor, other: Tensor, rounding: float) -> str:
    if not _rounded(other):
        # reason: rounding may decide between two classes, but rarely
        apart = int((_plain(one).to(other.device) != _plain(other)).sum())
        if apart <= max(0.05, _allowed(rounding)) * other.numel():
            return ""
        return f"{apart} of {other.numel()} whole numbers differ"
    allowed, scale = _allowed(max(rounding, torch.finfo(other.dtype).eps)), _scale(other)
    one, other = _plain(one).to(other.device), _plain(other)
    if torch.allclose(one, other, rtol=allowed, atol=allowed * scale, equal_nan=True):
        return ""
    return f"outputs of up to {scale:.3g} differ by {float((one - other).abs().max()):.3g}"


def _unlike_numbers(one: Any, other: Any, allowed: float) -> str:
    both_nan = isinstance(one, float) and isnan(one) and isnan(other)
    if one == other or both_nan or (isinstance(one, float) and abs(one - other) <= allowed):
        return ""
    return f"the number {one} in place of {other}"
