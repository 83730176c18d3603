"""The recorded forward run again on data, node by node, so that one pass serves every layer on its
way.

Values are kept per batch only as long as a later node needs them: the memory used is that of the
activations alive at one point of the network, over all batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from pytest_dwsconv.errors import InputError, TracingError
from pytest_dwsconv.fit.moments import Variation
from pytest_dwsconv.tracing.trace import ADVICE, Trace, trace

Override = Callable[[Tensor], Tensor]
"""What a node computes instead, from its first argument."""


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def arguments(batch: Any) -> Arguments:
    """A batch as arguments of one forward, which may write into them: they are copies, without
    gradients.
    """
    copies: Arguments = tree_map(
        lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, given(batch)
    )
    return copies


def given(batch: Any) -> Arguments:
    """A batch as the forward's arguments: a tensor, several positional ones, or keyword arguments
    by name.
    """
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)), {}


def rejected(index: int, error: TracingError) -> TracingError:
    """The same of a batch, whose forward nobody chose inputs for."""
    said = str(error).removesuffix(ADVICE).rstrip()
    return TracingError(
        f"calibration batch {index}: {said} Batches hold inputs of the forward, without labels."
    )


class Replay:
    """One recorded forward with the means to run any stretch of it.

    Batches of another shape get a graph of their own; nodes are known by their place, which is the
    same in all.
    """

    def __init__(self, recorded: Trace) -> None:
        self.root = recorded.inventory.root
        self.constants = recorded.constants
        self.nodes: list[fx.Node] = list(recorded.graph.nodes)
        self.place = {node: index for index, node in enumerate(self.nodes)}
        self.last_use = [
            max((self.place[user] for user in node.users), default=-1) for node in self.nodes
        ]
        self.modules = {
            node.target: _get(self.root, str(node.target))
            for node in self.nodes
            if node.op == "call_module"
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


class CalibrationData:
    """Calibration batches with the graph of each; the model must stay in evaluation mode while they
    are run.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Any]) -> None:
        self.batches: list[Any] = _ordered(list(batches))
        if not self.batches:
            raise InputError(
                "calibration has no batches: give at least one, as tensors of the model's inputs"
            )
        _check_values(self.batches)
        if any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers())):
            raise InputError(
                f"{type(model).__name__} has weights on the meta device, which hold no values: "
                "load or initialise "
                "them before the fit"
            )
        graphs: dict[Any, Replay] = {}
        self.replays: list[Replay] = []
        for index, batch in enumerate(self.batches):
            kind = _kind(batch)
            if kind not in graphs:
                graphs[kind] = self._recorded(model, index)
            self.replays.append(graphs[kind])
        self.varying = Variation()
        """That of the outputs, under no name, over all processes."""
        self._check_reproduces(model)
        self.varying = self.varying.gather()

    @property
    def graph(self) -> Replay:
        return self.replays[0]

    def _recorded(self, model: nn.Module, index: int) -> Replay:
        args, kwargs = given(self.batches[index])
        try:
            found = Replay(trace(model, args, kwargs))
        except TracingError as error:
            raise rejected(index, error) from error
        if self.replays and found.signature != self.graph.signature:
            raise InputError(
                f"calibration batch {index} takes another path through the forward than batch 0; "
                "give batches of one "
                "kind"
            )
        return found

    def _check_reproduces(self, model: nn.Module) -> None:
        """A forward that decides by values, or computes with one it has read, gives something else
        when run again.
        """
        for index in range(len(self.batches)):
            if not self._reproduces(model, index):
                raise InputError(
                    f"{type(model).__name__} cannot be run again from its recorded forward, so it "
                    "cannot be fitted: "
                    f"calibration batch {index} gives something else then, as where the forward "
                    "takes another path, "
                    "computes with numbers it has read, or switches autocast; use init='svd'"
                )

    @torch.no_grad()
    def _reproduces(self, model: nn.Module, index: int) -> bool:
        args, kwargs = arguments(self.batches[index])
        expected = floating(model(*args, **kwargs))
        if not expected:
            raise InputError(
                f"{type(model).__name__} gives no output of floating point, by itself or in "
                "tuples, lists and "
                "dictionaries, which a fit could be judged by; fit the part that gives scores, or "
                "use init='svd'"
            )
        self.varying.add("", expected)
        try:
            found = self.outputs(index, {})
        except RuntimeError:  # other types or shapes on the way than the forward makes
            return False
        return len(expected) == len(found) and all(
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * _size(a), equal_nan=True)
            for a, b in zip(expected, found, strict=True)
        )

    def outputs(self, index: int, overrides: Mapping[int, Override]) -> list[Tensor]:
        """The floating-point outputs of one batch."""
        replay = self.replays[index]
        values = replay.start(self.batches[index])
        replay.run(values, len(replay.nodes), overrides)
        return floating(values[len(replay.nodes) - 1])


def _ordered(batches: list[Any]) -> list[Any]:
    """Mappings with the keys of the first in its order, for inputs of a record are known by their
    place.
    """
    first = batches[0] if batches else None
    return [
        {key: batch[key] for key in first}
        if isinstance(first, Mapping)
        and isinstance(batch, Mapping)
        and batch.keys() == first.keys()
        else batch
        for batch in batches
    ]


def _kind(batch: Any) -> tuple[Any, ...]:
    """What two batches have in common that are run by one record: all but the values of tensors."""
    leaves, form = tree_flatten(given(batch))
    return str(form), *(
        (tuple(leaf.shape), leaf.dtype, leaf.device)
        if isinstance(leaf, Tensor)
        else (type(leaf), repr(leaf))
        for leaf in leaves
    )


def floating(value: Any) -> list[Tensor]:
    return [
        item for item in tree_leaves(value) if isinstance(item, Tensor) and item.is_floating_point()
    ]


def _size(tensor: Tensor) -> float:
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.double().square().mean().sqrt()) if finite.numel() else 0.0


def _check_values(batches: Sequence[Any]) -> None:
    for index, batch in enumerate(batches):
        for tensor in floating(given(batch)):
            if not tensor.numel():
                raise InputError(
                    f"calibration batch {index} holds no sample: its shape is {tuple(tensor.shape)}"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"calibration batch {index} holds NaN or infinite values")


class BatchRun:
    """One network, original or partly converted, advanced over all batches together."""

    def __init__(
        self, data: CalibrationData, indices: Sequence[int], keep: Iterable[int] = ()
    ) -> None:
        self.data, self.indices = data, indices
        self.keep = frozenset(keep)
        self.at = 0
        self.values = [data.replays[i].start(data.batches[i]) for i in indices]

    def advance(self, stop: int, overrides: Mapping[int, Override]) -> None:
        """Run every batch up to and without the node at ``stop``."""
        if stop > self.at:
            for index, values in zip(self.indices, self.values, strict=True):
                self.data.replays[index].run(values, stop, overrides, self.keep, self.at)
            self.at = stop

    def ahead(self, number: int, place: int, overrides: Mapping[int, Override]) -> dict[int, Any]:
        """The values of one batch up to and with the node at ``place``, without moving on."""
        own = dict(self.values[number])
        self.data.replays[self.indices[number]].run(
            own, place + 1, overrides, start=self.at, release=False
        )
        return own

    def release(self, places: Iterable[int]) -> None:
        """Let values go that were kept beyond their last use and no longer have to be."""
        for index, values in zip(self.indices, self.values, strict=True):
            for place in places:
                if self.data.replays[index].last_use[place] < self.at and place not in self.keep:
                    values.pop(place, None)
