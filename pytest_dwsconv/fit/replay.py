"""The recorded forward run again on data, node by node, so that one pass serves every layer.

Values are kept per batch only as long as a later node needs them: the memory used is that of the
activations alive at one point of the network, over all batches.

A value, once computed, is never changed: where a node writes into its arguments, these are copied
first, with whatever lies in the same memory. So batches, weights and buffers stay as they are, and
any stretch can be run again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from pytest_dwsconv.errors import DwsconvError, InputError, TracingError
from pytest_dwsconv.fit.refusals import floating, path, rejected, same, why_not_repeated
from pytest_dwsconv.fit.variation import Variation
from pytest_dwsconv.tracing.preserving import copied
from pytest_dwsconv.tracing.trace import Trace, trace

Override = Callable[[Tensor], Tensor]
"""What a node computes instead, from its first argument."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def arguments(batch: Any) -> Arguments:
    """A batch as arguments of one forward, which may write into them: they are copies.

    Raises:
        InputError: it holds an object that cannot be copied.
    """
    copies: Arguments = tree_map(copied, given(batch))
    return copies


def given(batch: Any) -> Arguments:
    """A batch as the forward's arguments: a tensor, several in order, or several by name."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)), {}


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
        self.inputs = [[self.place[used] for used in node.all_input_nodes] for node in self.nodes]
        self.last_use = [
            max((self.place[user] for user in node.users), default=-1) for node in self.nodes
        ]
        self.modules = {
            node.target: self.root.get_submodule(str(node.target))
            for node in self.nodes
            if node.op == "call_module"
        }
        self.written: dict[int, list[int]] = {}
        """By the place of a node, the places of the values that it writes into."""

    def start(self, batch: Any) -> dict[int, Any]:
        """The values of the placeholders."""
        places = [place for place, node in enumerate(self.nodes) if node.op == "placeholder"]
        return dict(zip(places, _tensors(given(batch)), strict=True))

    def run(
        self,
        values: dict[int, Any],
        stop: int,
        overrides: Mapping[int, Override],
        start: int = 0,
        keep: Container[int] = (),
        kept: dict[int, Any] | None = None,
    ) -> None:
        """Add to ``values`` those of the nodes from ``start`` up to and without ``stop``.

        A value goes once its last user ran. Those of the places in ``keep`` are noted in ``kept``.
        """
        for place in range(start, stop):
            if place not in values:
                if place in self.written:
                    values.update(self._copies(place, values))
                values[place] = self._compute(place, values, overrides.get(place))
            if kept is not None and place in keep:
                kept[place] = values[place]
            self._release(place, values)

    def _release(self, place: int, values: dict[int, Any]) -> None:
        for used in self.inputs[place]:
            if self.last_use[used] <= place:
                values.pop(used, None)

    def _compute(self, place: int, values: Mapping[int, Any], override: Override | None) -> Any:
        node = self.nodes[place]
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        args, kwargs = fx.node.map_arg(
            (node.args, node.kwargs), lambda argument: values[self.place[argument]]
        )
        if override is not None:
            return override(cast("Tensor", args[0]))
        if node.op == "output":
            return args[0]
        if node.op == "call_module":
            return self.modules[node.target](*args, **kwargs)
        assert callable(node.target)
        out = kwargs.get("out")
        if not isinstance(out, Tensor):
            return node.target(*args, **kwargs)
        # reason: PyTorch has no gradients of a function that is given ``out``
        result = node.target(*args, **{**kwargs, "out": None})
        return out.copy_(result) if out.shape == result.shape else result.to(out.dtype)

    def _attribute(self, name: str) -> Any:
        if name in self.constants:
            return self.constants[name]
        value: Any = self.root
        for part in name.split("."):
            value = getattr(value, part)
        return value

    @torch.no_grad()
    def find_writes(self, batch: Any) -> None:
        """Run the forward once, on copies and writing as it does, and note what each node writes.

        No operator is known by name. What is written has another version, or, where an operator
        does not count its writes (``F.batch_norm`` into its statistics), other content.
        """
        values = self.start(arguments(batch))
        for place, node in enumerate(self.nodes):
            if node.op == "get_attr":
                value = self._attribute(str(node.target))
                values[place] = value.detach().clone() if isinstance(value, Tensor) else value
            elif node.op != "placeholder":
                before = {used: _states(values[used]) for used in self.inputs[place]}
                values[place] = self._compute(place, values, None)
                if changed := [used for used, states in before.items() if _changed(states)]:
                    self.written[place] = changed
            self._release(place, values)

    def _copies(self, place: int, values: Mapping[int, Any]) -> dict[int, Any]:
        """The values that a node is to write into and those in the same memory, all copied.

        The copies share memory as the values did: what is written to one is seen in the others.
        """
        groups: dict[int, list[Tensor]] = {}
        for used in self.written[place]:
            groups.update((_memory(tensor), []) for tensor in _tensors(values[used]))
        for value in values.values():
            for tensor in _tensors(value):
                if (memory := _memory(tensor)) in groups:
                    groups[memory].append(tensor)
        copies: dict[int, Tensor] = {}
        for tensors in groups.values():
            copies.update(_copied_together(tensors))

        def copy_of(leaf: Any) -> Any:
            return copies.get(id(leaf), leaf)

        return {used: tree_map(copy_of, value) for used, value in values.items()}


_State = tuple[Tensor, int, Tensor]
"""A tensor, its version and a copy."""


def _states(value: Any) -> list[_State]:
    return [(tensor, tensor._version, tensor.clone()) for tensor in _tensors(value)]


def _changed(states: Iterable[_State]) -> bool:
    # reason: NaN differs from itself, which costs a copy too many and does no harm
    return any(
        tensor._version != version
        or (tensor.layout is torch.strided and not torch.equal(tensor, content))
        for tensor, version, content in states
    )


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    """What tensors in the same memory have in common; a sparse one or an empty one has its own."""
    address = tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
    return address or id(tensor)


def _copied_together(tensors: Sequence[Tensor]) -> dict[int, Tensor]:
    """A copy of each tensor by its identity; the copies share memory as the tensors do.

    Raises:
        InputError: the tensors see the same memory as numbers of several types.
    """
    several = {id(tensor): tensor for tensor in tensors}
    if len(several) == 1:
        return {key: tensor.clone() for key, tensor in several.items()}
    if len({(tensor.dtype, tensor.is_conj(), tensor.is_neg()) for tensor in tensors}) > 1:
        raise InputError(
            "the forward writes into memory that it also sees as numbers of another type, as by "
            "view_as_real, so it cannot be fitted; use init='svd'"
        )
    first = min(tensor.storage_offset() for tensor in tensors)
    memory = tensors[0].new_zeros(max(map(_end, tensors)) - first)

    def place_of(tensor: Tensor) -> Tensor:
        return memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - first)

    # reason: where tensors overlap the last one counts, and only some may carry gradients
    for tensor in sorted(tensors, key=lambda tensor: tensor.requires_grad):
        place_of(tensor).copy_(tensor)
    return {key: place_of(tensor) for key, tensor in several.items()}


def _end(tensor: Tensor) -> int:
    """The place in memory after a tensor's last number."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return int(tensor.storage_offset()) + 1 + sum((size - 1) * step for size, step in sides)


class CalibrationData:
    """Calibration batches with the graph of each, for a model that stays in evaluation mode."""

    def __init__(self, model: nn.Module, batches: Sequence[Any]) -> None:
        self.batches = _ordered(batches)
        graphs: dict[Any, Replay] = {}
        self.replays: list[Replay] = []
        self.numbers: list[int] = []
        """How many there are in the outputs for each batch of this process."""
        self.varying = Variation()
        """That of the outputs, under no name, over all processes."""
        for index, batch in enumerate(self.batches):
            kind = _kind(batch)
            if kind not in graphs:
                graphs[kind] = self._recorded(model, index)
            self.replays.append(graphs[kind])
        for index in range(len(self.batches)):
            self._check_reproduces(model, index)
        self.varying = self.varying.gather()

    @property
    def graph(self) -> Replay:
        return self.replays[0]

    def _recorded(self, model: nn.Module, index: int) -> Replay:
        args, kwargs = arguments(self.batches[index])
        try:
            found = Replay(trace(model, args, kwargs))
        except TracingError as error:
            raise rejected(self.batches[index], index, error) from error
        if self.replays and path(found.nodes) != path(self.graph.nodes):
            raise InputError(
                f"calibration batch {index} takes another path through the forward than batch 0; "
                "give batches of one kind"
            )
        with self._repeated(model, index):
            found.find_writes(self.batches[index])
        return found

    @torch.no_grad()
    def _check_reproduces(self, model: nn.Module, index: int) -> None:
        args, kwargs = arguments(self.batches[index])
        expected = floating(model(*args, **kwargs))
        if not expected:
            raise InputError(
                f"{type(model).__name__} gives no output of floating point, by itself or in "
                "tuples, lists and dictionaries, which a fit could be judged by; fit the part that "
                "gives scores, or use init='svd'"
            )
        self.varying.add("", expected)
        self.numbers.append(sum(output.numel() for output in expected))
        with self._repeated(model, index):
            if not same(expected, self.outputs(index, {})):
                raise RuntimeError("other outputs than the forward gives")

    @contextmanager
    def _repeated(self, model: nn.Module, index: int) -> Iterator[None]:
        """Refuse a forward that its record does not repeat: one that decides or computes by values.

        Types and shapes on the way may then not fit, which fails.
        """
        try:
            yield
        except DwsconvError:
            raise
        except Exception as error:
            known = path(self.graph.nodes) if self.replays else None
            args, kwargs = arguments(self.batches[index])
            why = why_not_repeated(model, args, kwargs, known)
            raise InputError(
                f"{type(model).__name__} cannot be run again from its recorded forward, so it "
                f"cannot be fitted: calibration batch {index} gives something else then, {why}; "
                "use init='svd'"
            ) from error

    def outputs(self, index: int, overrides: Mapping[int, Override]) -> list[Tensor]:
        """The floating-point outputs of one batch."""
        replay = self.replays[index]
        values = replay.start(self.batches[index])
        replay.run(values, len(replay.nodes), overrides)
        return floating(values[len(replay.nodes) - 1])


def _ordered(batches: Sequence[Any]) -> Sequence[Any]:
    """Mappings in the order of the first one's keys: a record knows its inputs by their place."""
    first = batches[0]
    if not isinstance(first, Mapping):
        return batches
    return [
        {key: batch[key] for key in first}
        if isinstance(batch, Mapping) and batch.keys() == first.keys()
        else batch
        for batch in batches
    ]


def _kind(batch: Any) -> tuple[Any, ...]:
    """What batches that are run by one record have in common: all but the values of tensors."""
    leaves, form = tree_flatten(given(batch))
    kinds: list[Any] = [str(form)]
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            kinds.append((tuple(leaf.shape), leaf.dtype, leaf.device))
        else:
            kinds.append((type(leaf), repr(leaf)))
    return tuple(kinds)


class BatchRun:
    """One network, original or partly converted, advanced over all batches together."""

    def __init__(
        self, data: CalibrationData, indices: Sequence[int], keep: Iterable[int] = ()
    ) -> None:
        self.data, self.indices = data, indices
        self.keep = frozenset(keep)
        self.at = 0
        self.values = [data.replays[i].start(data.batches[i]) for i in indices]
        self.kept: list[dict[int, Any]] = [{} for _ in indices]
        """Per batch the values of the places in ``keep``, as they were computed."""

    def advance(self, stop: int, overrides: Mapping[int, Override]) -> None:
        """Run every batch up to and without the node at ``stop``."""
        if stop <= self.at:
            return
        for index, values, kept in zip(self.indices, self.values, self.kept, strict=True):
            self.data.replays[index].run(values, stop, overrides, self.at, self.keep, kept)
        self.at = stop

    def ahead(self, number: int, place: int, overrides: Mapping[int, Override]) -> Any:
        """The value of the node at ``place`` for one batch, without moving on."""
        values = dict(self.values[number])
        self.data.replays[self.indices[number]].run(values, place + 1, overrides, self.at)
        return values[place]

    def release(self, keep: Iterable[int]) -> None:
        """Let go of the values kept for other places than these."""
        self.keep = frozenset(keep)
        for kept in self.kept:
            for place in kept.keys() - self.keep:
                del kept[place]
