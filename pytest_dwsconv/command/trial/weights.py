"""Checkpoints: the state dicts in a file, and what they are for the model of a rewritten file."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.plaintext import plain, quoted
from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.errors import InputError, first_line
from pytest_dwsconv.separable.factorize import decompose
from pytest_dwsconv.source.template import POINTWISE_FIRST

_SAFE = ".safetensors"
_DEPTH = 3
"""How many mappings deep a state dict may lie, as in ``{"ema": {"state_dict": ...}}``."""

_BEFORE = ("depthwise", "pointwise_in")
"""What an inserted class may have beside its own weight."""

_LONGEST = 300
_BATCH = 32


@dataclass(frozen=True)
class StateDict:
    """One state dict of a model in a checkpoint; its keys have ``prefix``, as ``module.``."""

    place: tuple[str, ...]
    prefix: str
    entries: dict[str, Any]

    @property
    def label(self) -> str:
        return ".".join(self.place) or "the state dict"

    def load_into(self, model: nn.Module, file: str) -> None:
        """Load it strictly.

        Raises:
            InputError: it does not fit the model.
        """
        own: OrderedDict[str, Any] = OrderedDict()
        for key, value in self.entries.items():
            # reason: others are not the model's, as the number of averages is not
            if key.startswith(self.prefix):
                own[key.removeprefix(self.prefix)] = value
        metadata = getattr(self.entries, "_metadata", None)
        if metadata is not None:
            parts = {f"{name}.".removeprefix(self.prefix)[:-1]: metadata[name] for name in metadata}
            own._metadata = parts  # type: ignore[attr-defined]  # as torch keeps it
        try:
            model.load_state_dict(own, strict=True)
        except RuntimeError as error:
            found = " ".join(line.strip() for line in str(error).splitlines()[1:])
            raise InputError(
                f"{file}: {plain(self.label)} does not fit {type(model).__name__}: "
                f"{plain(found or first_line(error))[:_LONGEST]}"
            ) from error

    def converted(self, model: nn.Module, rewritten: nn.Module, plan: Plan) -> Mapping[str, Any]:
        """The entries for a rewritten file: what ``rewritten`` has, and the rest as it is.

        ``model`` has this state dict loaded, and ``rewritten`` is what the plan makes of it.
        """
        old, new = model.state_dict(), _as_inserted(rewritten, plan)
        result = copy.copy(self.entries)
        for key, value in self.entries.items():
            name = key.removeprefix(self.prefix)
            if not key.startswith(self.prefix) or name not in new:
                continue
            for part in _BEFORE:
                its_weight = f"{name.removesuffix('weight')}{part}.weight"
                if its_weight in new and its_weight not in old:
                    result[f"{self.prefix}{its_weight}"] = new[its_weight].to(value.dtype)
            is_same = new[name].shape == old[name].shape and torch.equal(new[name], old[name])
            # reason: a value in double precision would come back rounded to the model's
            if not is_same:
                result[key] = new[name].to(value.dtype)
        return result

    def factorised(self, model: nn.Module, file: str) -> Mapping[str, Any]:
        """The same for the model of a file that was rewritten before: the nearest kernels.

        Raises:
            InputError: a kernel is missing, or the model has no inserted class.
        """
        result = copy.copy(self.entries)
        some = False
        for name, module in model.named_modules(remove_duplicate=False):
            filters = getattr(getattr(module, "depthwise", None), "weight", None)
            if filters is None or not isinstance(module, _ConvNd):
                continue
            start = f"{self.prefix}{name}." if name else self.prefix
            kernel = result.get(f"{start}weight")
            if not isinstance(kernel, Tensor) or kernel.ndim != filters.ndim:
                raise InputError(f"{file}: {start}weight is not the kernel of a convolution")
            form, size = _form_of(module, filters)
            factors = decompose(kernel, module.groups, form).factors(size)
            result |= _inserted(start, factors.by_part())
            some = True
        if not some:
            raise InputError("nothing of this model is rewritten, so its weights fit as they are")
        return result


def _form_of(inserted: _ConvNd, filters: Tensor) -> tuple[Form, int]:
    """The form and the size of an inserted class, by its weights."""
    if hasattr(inserted, "pointwise_in"):
        return Form.BOTTLENECK, filters.shape[0]
    if hasattr(inserted, POINTWISE_FIRST):
        return Form.POINTWISE_FIRST, filters.shape[1]
    if filters.shape[1] > 1:
        return Form.GROUPED, filters.shape[1]
    return Form.DEPTHWISE_FIRST, filters.shape[0] // inserted.in_channels


def _inserted(start: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an inserted class has for the weights of the parts: its own have two dimensions."""
    entries = {f"{start}weight": weights["pointwise"].flatten(1)}
    for part in _BEFORE:
        if part in weights:
            weight = weights[part]
            entries[f"{start}{part}.weight"] = weight if part == "depthwise" else weight.flatten(1)
    return entries


def _as_inserted(rewritten: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """The state dict of a rewritten model under the names, and in the shapes, of a rewritten file.

    There a convolution has a ``weight``, the bias, and the weights of the parts that run before.
    """
    state = rewritten.state_dict()
    replaced = {id(rewritten.get_submodule(entry.name)) for entry in plan.entries}
    for name, module in rewritten.named_modules(remove_duplicate=False):
        if id(module) not in replaced:
            continue
        start = f"{name}." if name else ""
        weights = {}
        for part in ("pointwise", *_BEFORE):
            if f"{start}{part}.weight" in state:
                weights[part] = state.pop(f"{start}{part}.weight")
            if f"{start}{part}.bias" in state:
                state[f"{start}bias"] = state.pop(f"{start}{part}.bias")
        state |= _inserted(start, weights)
    return dict(state)


def read_checkpoint(path: Path) -> Any:
    """What a checkpoint holds, on the CPU; only tensors and plain data are unpickled.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    name = quoted(str(path))
    try:
        if path.suffix == _SAFE:
            return _safetensors().load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"weights {name} cannot be read: {error.strerror or error}") from error
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes of the readers
        raise InputError(
            f"weights {name} cannot be read with weights_only=True: "
            f"{plain(first_line(error))[:_LONGEST]}; save model.state_dict() with torch.save"
        ) from error


def read_batches(path: Path) -> list[Any]:
    """The batches in a file of torch.save, mapped into memory: a list of them, or one tensor.

    A tensor of many samples is cut into batches of 32.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    name = quoted(str(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise InputError(f"--fit {name} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever a damaged file makes of the reader
        raise InputError(
            f"--fit {name} cannot be read with weights_only=True: "
            f"{plain(first_line(error))[:_LONGEST]}; save a list of batches with torch.save"
        ) from error
    if isinstance(content, Tensor) and content.ndim > 1:
        return list(content.split(_BATCH))
    if not isinstance(content, list) or not content:
        raise InputError(
            f"--fit {name} holds an object of type {type(content).__name__}: save a list of "
            "batches, each as the model takes it, or one tensor of samples"
        )
    return content


def write_checkpoint(content: Any, path: Path) -> None:
    """Write what a checkpoint holds, in the form that the name's ending says.

    Raises:
        InputError: the form is safetensors, and the content is more than one state dict.
    """
    if path.suffix != _SAFE:
        torch.save(content, path)
        return
    flat = isinstance(content, Mapping) and all(isinstance(v, Tensor) for v in content.values())
    if not flat:
        raise InputError(
            "safetensors holds a single state dict of tensors, and these weights are more: name "
            "--weights-out *.pt"
        )
    # reason: it refuses tensors that share memory
    tensors = {key: value.clone().contiguous() for key, value in content.items()}
    _safetensors().save_file(tensors, path, {"format": "pt"})


def _safetensors() -> Any:
    try:
        return import_module("safetensors.torch")
    except ImportError as error:
        raise InputError(
            "weights in safetensors need the package of that name: pip install safetensors"
        ) from error


def state_dicts(content: Any, model: nn.Module, file: str) -> list[StateDict]:
    """The state dicts of the model in a checkpoint: one, or two of raw and averaged weights.

    Raises:
        InputError: there is none.
    """
    names = list(model.state_dict())
    found = list(_found(content, names, ()))
    if not found:
        there = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise InputError(
            f"weights {quoted(file)} hold no state dict of {type(model).__name__}, whose keys "
            f"begin with {', '.join(names[:3])}; they hold {plain(str(there))[:_LONGEST]}"
        )
    return found


def _found(content: Any, names: list[str], place: tuple[str, ...]) -> Iterator[StateDict]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return
    # reason: one that lacks some names is refused when it is loaded, with what it lacks
    prefix, present = _prefix(content, names)
    if names and present > len(names) / 2:
        yield StateDict(place, prefix, content)
    elif len(place) < _DEPTH:
        for key, value in content.items():
            yield from _found(value, names, (*place, key))


def _prefix(entries: Mapping[str, Any], names: list[str]) -> tuple[str, int]:
    """What the keys have before the model's names, and how many of the names are there."""
    best, most = "", 0
    for key in entries:
        for name in names[:2]:  # reason: the first may be one that old checkpoints lack
            prefix = key.removesuffix(name)
            if key.endswith(name) and (not prefix or prefix.endswith(".")):
                present = sum(f"{prefix}{each}" in entries for each in names)
                if present > most:
                    best, most = prefix, present
    return best, most


def with_state_dict(content: Any, place: tuple[str, ...], entries: Mapping[str, Any]) -> Any:
    """The checkpoint with other entries at a place."""
    if not place:
        return entries
    changed = copy.copy(content)
    changed[place[0]] = with_state_dict(content[place[0]], place[1:], entries)
    return changed


def without_optimizers(content: Any) -> tuple[Any, list[str]]:
    """The checkpoint without the states of optimizers, which are those of the old weights."""
    if not isinstance(content, Mapping):
        return content, []
    left_out = []
    for key, value in content.items():
        if isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys():
            left_out.append(str(key))
    kept = copy.copy(content)
    for key in left_out:
        del kept[key]  # type: ignore[attr-defined]  # a dictionary, as pickles have no others
    return kept, left_out
