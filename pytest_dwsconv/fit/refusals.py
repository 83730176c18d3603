"""Why the calibration batches cannot be used: what the forward does with them, named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from pytest_dwsconv.errors import TracingError
from pytest_dwsconv.tracing.preserving import copied
from pytest_dwsconv.tracing.trace import ADVICE, trace

Path = list[tuple[str, str]]
"""What a forward calls, in order."""


def rejected(batch: Any, index: int, error: TracingError) -> TracingError:
    """The same of a batch, whose forward nobody chose inputs for."""
    said = str(error).removesuffix(ADVICE).rstrip()
    arrays = any(
        hasattr(leaf, "__array_interface__") and not isinstance(leaf, Tensor)
        for leaf in tree_leaves(batch)
    )
    advice = "Batches hold inputs of the forward, without labels."
    if arrays:
        advice = "Where it takes tensors, make them of NumPy arrays by torch.from_numpy(array)."
    return TracingError(f"calibration batch {index}: {said} {advice}")


def path(nodes: Iterable[fx.Node]) -> Path:
    return [(node.op, str(node.target)) for node in nodes]


@torch.no_grad()
def why_not_repeated(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], known: Path | None
) -> str:
    """What the forward does that its record does not, found by running it twice more.

    Args:
        model: in evaluation mode.
        args: of a batch; the forward gets copies.
        kwargs: of the same batch.
        known: the path that was recorded for it, if it was not this batch's own.
    """
    outputs = []
    for _ in range(2):
        own_args, own_kwargs = tree_map(copied, (tuple(args), dict(kwargs)))
        outputs.append(floating(model(*own_args, **own_kwargs)))
    if not same(*outputs):
        return (
            "for the forward draws random numbers, as by randn_like or a dropout left on, or "
            "depends on the calls before"
        )
    if known is not None and path(trace(model, args, kwargs).graph.nodes) != known:
        return "for a loop or a condition of the forward depends on the values of its inputs"
    return (
        "as where the forward computes with numbers it has read, switches autocast, or writes into "
        "memory past PyTorch"
    )


def floating(value: Any) -> list[Tensor]:
    leaves = tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def same(expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    """Whether these are the same tensors but for rounding."""
    return len(expected) == len(found) and all(
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * _size(a), equal_nan=True)
        for a, b in zip(expected, found, strict=True)
    )


def _size(tensor: Tensor) -> float:
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.double().square().mean().sqrt()) if finite.numel() else 0.0
