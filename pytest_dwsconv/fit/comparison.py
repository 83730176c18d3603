"""Comparing a converted network with its original: outputs, and activations in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from itertools import chain
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pytest_dwsconv.fit.error_points import NORMS
from pytest_dwsconv.fit.moments import all_reduce, wide
from pytest_dwsconv.fit.refusals import floating
from pytest_dwsconv.fit.replay import arguments
from pytest_dwsconv.fit.variation import Variation
from pytest_dwsconv.tracing.preserving import as_found
from pytest_dwsconv.tracing.process_state import modes_as_found

PAIR = 2
"""Replacements from one comparison of activations to the next."""


class Seen(NamedTuple):
    """What one batch gave: outputs, and those of some modules by name, call after call."""

    outputs: list[Tensor]
    inner: dict[str, list[Tensor]]


@contextmanager
def watching(model: nn.Module, names: Sequence[str]) -> Iterator[Callable[[nn.Module, Any], Seen]]:
    """A function that runs ``model`` on a batch and gives what these modules gave.

    It can run a wrapper around ``model``, too.
    """
    inner: dict[str, list[Tensor]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, out: inner.setdefault(name, []).extend(floating(out))

    def see(runner: nn.Module, batch: Any) -> Seen:
        inner.clear()
        args, kwargs = arguments(batch)
        outputs = floating(runner(*args, **kwargs))
        return Seen(outputs, dict(inner))

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        yield see
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def buffers_as_found(model: nn.Module, besides: Sequence[Tensor] = ()) -> Iterator[None]:
    """Put back what the forward writes in place into buffers, and tensors that are no buffers.

    Those of inference mode cannot be written here.
    """
    left = set(map(id, besides))
    buffers = {
        name: b for name, b in model.named_buffers() if not b.is_inference() and id(b) not in left
    }
    attributes = {str(index): tensor for index, tensor in enumerate(_plain_attributes(model))}
    saved, kept = snapshot(buffers), snapshot(attributes)
    try:
        yield
    finally:
        restore(buffers, saved)
        # reason: one that was computed may have a graph, which a write would spoil
        changed = {i: one for i, one in attributes.items() if not torch.equal(one, kept[i])}
        restore(changed, kept)


def _plain_attributes(model: nn.Module) -> list[Tensor]:
    """The tensors among the modules' attributes, in lists and dictionaries too.

    Left out are those in the memory of a parameter or buffer, which may be meant to change.
    """
    registered = ("_parameters", "_buffers", "_modules")
    waiting = [
        value
        for module in model.modules()
        for name, value in vars(module).items()
        if name not in registered
    ]
    found: dict[int, Tensor] = {}
    entered: set[int] = set()
    while waiting:
        value = waiting.pop()
        if type(value) is Tensor:
            found[id(value)] = value
        elif isinstance(value, (list, tuple, dict)) and id(value) not in entered:
            entered.add(id(value))  # reason: a list may hold itself
            waiting.extend(dict.values(value) if isinstance(value, dict) else value)
    usable = [
        one
        for one in found.values()
        if one.layout is torch.strided and not one.is_meta and not one.is_inference()
    ]
    if not usable:
        return []
    owned = {_memory(tensor) for tensor in chain(model.parameters(), model.buffers())} - {0}
    return [tensor for tensor in usable if _memory(tensor) not in owned]


def _memory(tensor: Tensor) -> int:
    """The address of a tensor's memory; 0 where it has none, as an empty one."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    return int(tensor.untyped_storage().data_ptr()) if plain else 0


@contextmanager
def autocast_off(model: nn.Module) -> Iterator[None]:
    """The precision of the weights, whatever the caller has switched to: sums of errors need it."""
    # reason: torch.autocast, interrupted while it is left, stays nested
    with modes_as_found(), ExitStack() as stack:
        for kind in {"cpu"} | {tensor.device.type for tensor in model.parameters()} - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@torch.no_grad()
def seen(model: nn.Module, names: Sequence[str], batches: Sequence[Any]) -> list[Seen]:
    """What the model gives for each batch in evaluation mode."""
    with buffers_as_found(model), as_found(list(model.modules())), watching(model, names) as see:
        return [see(model, batch) for batch in batches]


@torch.no_grad()
def outputs_of(model: nn.Module, batches: Sequence[Any]) -> list[list[Tensor]]:
    """The model's outputs for each batch in evaluation mode."""
    with buffers_as_found(model), as_found(list(model.modules())):
        return [_outputs(model, batch) for batch in batches]


@torch.no_grad()
def fast_layout(model: nn.Module, batch: Any) -> Callable[[Any], Any]:
    """What to do to batches like this one so that convolutions run fast.

    A CPU is faster at channels that lie last.

    Batches are left as they are where the model fails on others (``view`` may) or gives something
    else.
    """
    changed = tree_map(_channels_last, batch)
    try:
        with buffers_as_found(model):
            same = alike(_outputs(model, batch), _outputs(model, changed))
    except RuntimeError:
        return lambda batch: batch
    return (lambda batch: tree_map(_channels_last, batch)) if same else (lambda batch: batch)


def alike(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Whether these are as many tensors, finite, and the same but for rounding."""
    return len(found) == len(wanted) and all(map(_close, found, wanted))


def _close(found: Tensor, wanted: Tensor) -> bool:
    size = float(wanted.abs().max()) if wanted.numel() else 0.0
    return (
        found.shape == wanted.shape
        and isfinite(size)
        and torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * size)
    )


def _outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    args, kwargs = arguments(batch)
    return floating(model(*args, **kwargs))


def _channels_last(leaf: Any) -> Any:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if not isinstance(leaf, Tensor) or leaf.device.type != "cpu" or leaf.dim() not in formats:
        return leaf
    return leaf.contiguous(memory_format=formats[leaf.dim()])


def compared(model: nn.Module, replaced: Sequence[str]) -> list[str]:
    """The modules to compare beside the outputs: what holds every second replacement.

    They are counted from the last. Where that holds more than two, or runs nothing itself, it is
    the replacement, with the batch normalisation after it, which takes off a constant that the
    replacement may add. Two at a time are freer to make up for each other than one, and long
    stretches without a target overfit.
    """
    crowd = Counter(name.rpartition(".")[0] for name in replaced)

    def place(name: str) -> str | None:
        if not name:  # the model is the replacement, its outputs are compared as such
            return None
        holder = name.rpartition(".")[0]
        lists = isinstance(model.get_submodule(holder), (nn.ModuleList, nn.ModuleDict))
        return _with_norm(model, name) if not holder or lists or crowd[holder] > PAIR else holder

    places = dict.fromkeys(place(name) for name in replaced[::-1][::PAIR])
    return [found for found in places if found is not None][::-1]


def _with_norm(model: nn.Module, name: str) -> str | None:
    """The batch normalisation registered right after this module, which then reads it.

    Otherwise the module itself.

    None where the constant may be taken off elsewhere: no bias holds it, and a normalisation stands
    farther away.
    """
    holder, _, own = name.rpartition(".")
    # reason: named_children has a module under one name only
    siblings: Any = model.get_submodule(holder)._modules
    after = list(siblings)[list(siblings).index(own) + 1 :][:1]
    if after and isinstance(siblings[after[0]], NORMS):
        return f"{holder}.{after[0]}" if holder else after[0]
    elsewhere = any(isinstance(sibling, NORMS) for sibling in siblings.values())
    return None if elsewhere and siblings[own].bias is None else name


def variation(wanted: Iterable[Seen]) -> Variation:
    """How much the outputs and the modules' outputs vary over these batches, of all processes."""
    found = Variation()
    for one in wanted:
        for name, tensors in {**one.inner, "": one.outputs}.items():
            found.add(name, tensors)
    return found.gather()


def mismatch(found: Seen, wanted: Seen, varying: Variation, inner: float = 1.0) -> Tensor:
    """Squared error over squared variation: of the outputs, and of the modules ``inner`` times.

    Over the modules the mean is taken, and over the outputs' parts, each in its own unit.
    """
    outputs = []
    for index, (one, other) in enumerate(zip(found.outputs, wanted.outputs, strict=True)):
        for part in varying.parts(index):
            outputs.append(_distance(part.of(one), part.of(other), part.least))
    total = torch.stack(outputs).mean()
    if not inner or not found.inner:
        return total
    modules = []
    for name, tensors in found.inner.items():
        pairs = zip(tensors, wanted.inner[name], strict=True)
        distances = [_distance(*pair, varying.least(name, i)) for i, pair in enumerate(pairs)]
        modules.append(torch.stack(distances).mean())
    return total + inner * torch.stack(modules).mean()


def _distance(found: Tensor, wanted: Tensor, least: float) -> Tensor:
    found, wanted = wide(found), wide(wanted)
    return (found - wanted).square().mean() / (wanted - wanted.mean()).square().mean().clamp(
        min=least
    )


@torch.no_grad()
def mean_mismatch(
    model: nn.Module,
    names: Sequence[str],
    batches: Sequence[Any],
    wanted: Sequence[Seen],
    varying: Variation,
    inner: float = 1.0,
) -> float | None:
    """The mean over batches, of all processes, in evaluation mode; None without any."""
    sums = torch.zeros(2, dtype=torch.float64, device="cpu")
    with buffers_as_found(model), as_found(list(model.modules())), watching(model, names) as see:
        for batch, target in zip(batches, wanted, strict=True):
            error = mismatch(see(model, batch), target, varying, inner)
            sums += torch.tensor([float(error), 1.0], dtype=torch.float64, device="cpu")
    all_reduce(sums)
    return float(sums[0] / sums[1]) if float(sums[1]) else None


def snapshot(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of tensors, or of a state_dict, which can hold a module's extra state beside them."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else deepcopy(value)
        for name, value in state.items()
    }


@torch.no_grad()
def restore(tensors: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.shape != saved[name].shape:  # an operator with ``out=`` may resize it
            tensor.resize_(saved[name].shape)
        tensor.copy_(saved[name])
