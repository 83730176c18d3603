"""The recorded forward run again on data, node by node, so that one pass serves every layer on its way.

Values are kept per batch only as long as a later node needs them: the memory used is that of the activations alive
at one point of the network, over all batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.tracing import Trace, trace

Override = Callable[[Tensor], Tensor]
"""What a node computes instead, from its first argument."""


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def arguments(batch: Any) -> Arguments:
    """A batch as arguments of one forward, which may write into them: they are copies, without gradients."""
    copies: Arguments = tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, given(batch))
    return copies


def given(batch: Any) -> Arguments:
    """A batch as the forward's arguments: a tensor, several positional ones, or keyword arguments by name."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)), {}


class Recording:
    """One recorded forward with the means to run any stretch of it.

    Batches of another shape get a graph of their own; nodes are known by their place, which is the same in all.
    """

    def __init__(self, recorded: Trace) -> None:
        self.root = recorded.inventory.root
        self.constants = recorded.constants
        self.nodes: list[fx.Node] = list(recorded.graph.nodes)
        self.place = {node: index for index, node in enumerate(self.nodes)}
        self.last_use = [max((self.place[user] for user in node.users), default=-1) for node in self.nodes]
        self.modules = {
            node.target: _get(self.root, str(node.target)) for node in self.nodes if node.op == "call_module"
        }

    @property
    def signature(self) -> list[tuple[str, str]]:
        return [(node.op, str(node.target)) for node in self.nodes]

    def start(self, batch: Any) -> dict[int, Any]:
        """The values of the placeholders."""
        tensors = [item for item in tree_leaves(given(batch)) if isinstance(item, Tensor)]
        places = (self.place[node] for node in self.nodes if node.op == "placeholder")
        return dict(zip(places, tensors, strict=True))

    def run(
        self,
        values: dict[int, Any],
        stop: int,
        overrides: Mapping[int, Override],
        keep: frozenset[int] = frozenset(),
        start: int = 0,
        release: bool = True,
    ) -> None:
        """Add to ``values`` those of the nodes from ``start`` up to and without ``stop``.

        With ``release`` a value goes once its last user ran, unless its place is in ``keep``.
        """
        for place in range(start, stop):
            node = self.nodes[place]
            if place not in values:
                values[place] = self._compute(node, values, overrides.get(place))
            if release:
                for used in node.all_input_nodes:
                    index = self.place[used]
                    if self.last_use[index] <= place and index not in keep:
                        values.pop(index, None)

    def _compute(self, node: fx.Node, values: Mapping[int, Any], override: Override | None) -> Any:
        def value_of(argument: fx.Node) -> Any:
            return values[self.place[argument]]

        if node.op == "get_attr":
            name = str(node.target)
            return self.constants[name] if name in self.constants else _get(self.root, name)
        args = fx.node.map_arg(node.args, value_of)
        if override is not None:
            return override(cast("Tensor", args[0]))
        if node.op == "output":
            return args[0]
        kwargs = fx.node.map_arg(node.kwargs, value_of)
        if _in_place(node, self.modules.get(node.target)) and isinstance(args[0], Tensor):
            args = (args[0].clone(), *args[1:])  # the value before is still somebody's
        if node.op == "call_module":
            return self.modules[node.target](*args, **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _get(module: Any, name: str) -> Any:
    for part in name.split(".") if name else ():
        module = getattr(module, part)
    return module


def _in_place(node: fx.Node, module: nn.Module | None) -> bool:
    name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
    trailing = name.endswith("_") and not name.endswith("__")
    return (
        trailing
        or (name.startswith("__i") and name != "__invert__")
        or bool(node.kwargs.get("inplace"))
        or bool(getattr(module, "inplace", False))
    )


class Data:
    """Calibration batches with the graph of each; the model must stay in evaluation mode while they are run."""

    def __init__(self, model: nn.Module, batches: Iterable[Any]) -> None:
        self.batches: list[Any] = list(batches)
        if not self.batches:
            raise InputError("calibration has no batches: give at least one, as tensors of the model's inputs")
        _check_values(self.batches)
        graphs: dict[Any, Recording] = {}
        self.recordings: list[Recording] = []
        for batch in self.batches:
            shapes = tuple((tuple(t.shape), t.dtype) for t in tree_leaves(given(batch)) if isinstance(t, Tensor))
            if shapes not in graphs:
                args, kwargs = given(batch)
                graphs[shapes] = Recording(trace(model, args, kwargs))
            self.recordings.append(graphs[shapes])
        first = self.recordings[0]
        if any(other.signature != first.signature for other in graphs.values()):
            raise InputError(
                "the calibration batches take different paths through the forward; give batches of one kind"
            )
        self._check_reproduces(model)

    @property
    def graph(self) -> Recording:
        return self.recordings[0]

    def _check_reproduces(self, model: nn.Module) -> None:
        """A forward that decides by values, or computes with one that it has read, gives something else when run again.

        The first batch may be the one that was recorded, so the last is looked at too.
        """
        if not all(self._reproduces(model, index) for index in {0, len(self.batches) - 1}):
            raise InputError(
                f"{type(model).__name__} cannot be run again from its recorded forward, so it cannot be fitted; "
                "use init='svd'"
            )

    @torch.no_grad()
    def _reproduces(self, model: nn.Module, index: int) -> bool:
        args, kwargs = arguments(self.batches[index])
        expected, found = floating(model(*args, **kwargs)), self.outputs(index, {})
        if not expected:
            raise InputError(
                f"{type(model).__name__} gives no output of floating point, which a fit could be judged by; fit the "
                "part that gives scores, or use init='svd'"
            )
        return len(expected) == len(found) and all(
            a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * _size(a), equal_nan=True)
            for a, b in zip(expected, found, strict=True)
        )

    def outputs(self, index: int, overrides: Mapping[int, Override]) -> list[Tensor]:
        """The floating-point outputs of one batch."""
        recording = self.recordings[index]
        values = recording.start(self.batches[index])
        recording.run(values, len(recording.nodes), overrides)
        return floating(values[len(recording.nodes) - 1])


def floating(value: Any) -> list[Tensor]:
    return [item for item in tree_leaves(value) if isinstance(item, Tensor) and item.is_floating_point()]


def _size(tensor: Tensor) -> float:
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.double().square().mean().sqrt()) if finite.numel() else 0.0


def _check_values(batches: Sequence[Any]) -> None:
    for index, batch in enumerate(batches):
        for tensor in floating(given(batch)):
            if not tensor.numel():
                raise InputError(f"calibration batch {index} holds no sample: its shape is {tuple(tensor.shape)}")
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"calibration batch {index} holds NaN or infinite values")


class Run:
    """One network, original or partly converted, advanced over all batches together."""

    def __init__(self, data: Data, indices: Sequence[int], keep: Iterable[int] = ()) -> None:
        self.data, self.indices = data, indices
        self.keep = frozenset(keep)
        self.at = 0
        self.values = [data.recordings[i].start(data.batches[i]) for i in indices]

    def advance(self, stop: int, overrides: Mapping[int, Override]) -> None:
        """Run every batch up to and without the node at ``stop``."""
        if stop > self.at:
            for index, values in zip(self.indices, self.values, strict=True):
                self.data.recordings[index].run(values, stop, overrides, self.keep, self.at)
            self.at = stop

    def ahead(self, number: int, place: int, overrides: Mapping[int, Override]) -> dict[int, Any]:
        """The values of one batch up to and with the node at ``place``, without moving on."""
        own = dict(self.values[number])
        self.data.recordings[self.indices[number]].run(own, place + 1, overrides, start=self.at, release=False)
        return own

    def release(self, places: Iterable[int]) -> None:
        """Let values go that were kept beyond their last use and no longer have to be."""
        for index, values in zip(self.indices, self.values, strict=True):
            for place in places:
                if self.data.recordings[index].last_use[place] < self.at and place not in self.keep:
                    values.pop(place, None)
