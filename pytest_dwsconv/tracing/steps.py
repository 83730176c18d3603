"""Steps, of which a recorded forward is made: operators, their arguments, the result's layout.

A step is what ``torch.fx`` calls a node, and much lighter: the graph is built from the steps when
somebody asks for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.passes.shape_prop import TensorMetadata
from torch.utils._pytree import tree_map_only

from pytest_dwsconv.tracing.counting import CONVOLUTIONS, MACS, UNCOUNTED, Counted

OWNER = "owner"
"""Key in ``node.meta``: qualified name of the innermost module that called a function."""


class Layout(NamedTuple):
    """A tensor without its values."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        return cls(tensor.shape, tensor.stride(), tensor.dtype)

    def tensor(self) -> Tensor:
        """A meta tensor of this layout."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class Step:
    """One operator of a recorded forward; its first four attributes are as in ``fx.Node``."""

    __slots__ = ("args", "counted", "kwargs", "layout", "op", "owner", "reads", "target", "users")

    def __init__(
        self,
        op: str,
        target: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = MappingProxyType({}),
        reads: Sequence[Step] = (),
        layout: Layout | None = None,
        owner: str | None = None,
        counted: Counted | None = None,
    ) -> None:
        self.op = op
        self.target = target
        self.args = args
        self.kwargs = kwargs
        self.reads = reads
        """The steps among the arguments, in their order."""
        self.layout = layout
        """Of the result; ``None`` where that is not one tensor."""
        self.owner = owner
        """Qualified name of the innermost module that was running."""
        self.counted = counted
        self.users: list[Step] = []
        """The steps that read the result, each once, in their order."""
        for read in reads:
            if not read.users or read.users[-1] is not self:
                read.users.append(self)

    def __reduce__(self) -> tuple[type[OrderedDict[str, int]], tuple[tuple[tuple[str, int]]]]:
        """Pickle the identity alone: as the mark of a tensor, to find the step again by it.

        It is in an ``OrderedDict``, one of the few things that ``torch.load`` lets through.
        """
        return OrderedDict, ((("step", id(self)),),)


def as_graph(steps: Iterable[Step]) -> fx.Graph:
    """The steps as a ``torch.fx`` graph, their layout, owner and counts in ``node.meta``."""
    graph = fx.Graph()
    nodes: dict[Step, fx.Node] = {}
    for step in steps:
        arguments = (step.args, dict(step.kwargs))
        args, kwargs = tree_map_only(Step, nodes.__getitem__, arguments)
        node = nodes[step] = graph.create_node(step.op, step.target, args, kwargs)
        node.meta.update(_meta(step))
    return graph


def _meta(step: Step) -> dict[str, Any]:
    meta: dict[str, Any] = {} if step.owner is None else {OWNER: step.owner}
    if step.layout is not None:
        shape, stride, dtype = step.layout
        meta["tensor_meta"] = TensorMetadata(shape, dtype, False, stride, None, False, {})
    if step.counted is not None:
        found = {
            MACS: step.counted.macs,
            UNCOUNTED: step.counted.uncounted,
            CONVOLUTIONS: step.counted.convolutions,
        }
        meta.update({key: value for key, value in found.items() if value or key == MACS})
    return meta
