"""Whether a model is still what it was: compared by identity, without looking into anything."""

from __future__ import annotations

from collections.abc import Collection
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pytest_dwsconv.plugin.noticing.fingerprint import PLAIN, Setting, torchs_own

_TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")

_COMPARED = PLAIN | {tuple, list, dict, set, frozenset, torch.Size, Tensor}
"""Settings of these types are compared: other objects may hold the model, which would not be freed
while this does.
"""


class ModelState:
    """What the modules of a model hold at one moment.

    These are their settings, parameters, buffers, children and hooks, each by identity, and the
    shapes and dtypes of the tensors. Settings to ``ignore`` are left out, and so is what objects
    and lists hold.
    """

    def __init__(self, model: nn.Module, ignore: Collection[Setting] = ()) -> None:
        self._parts = []
        for name, module in model.named_modules():
            ignored = {attribute for owner, attribute in ignore if owner == name}
            self._parts.append(_Part(name, module, ignored))
        self._next = 0

    def is_same(self) -> bool:
        """Whether nothing has changed since."""
        return all(part.is_same() for part in self._parts)

    def is_next_same(self) -> bool:
        """Whether one module has not changed, each time the next: all that a fast call can afford.

        Objects that are others by now are asked whether they are equal, so no mode that watches
        operators may be on.
        """
        parts = self._parts
        self._next = (self._next + 1) % len(parts)
        part = parts[self._next]
        try:
            return part.objects == part.read()
        except Exception:  # reason: another tensor or object may refuse to be compared
            return False

    def changed_settings(self) -> set[Setting]:
        """The settings that have been set or deleted since."""
        return {(part.name, attribute) for part in self._parts for attribute in part.changed()}


class _Part:
    """One module. It holds the module's attributes and not the module, which may be freed."""

    __slots__ = ("_attributes", "_layouts", "_settings", "_tables", "name", "objects")

    def __init__(self, name: str, module: nn.Module, ignored: Collection[str]) -> None:
        self.name = name
        self._attributes = attributes = vars(module)
        others = torchs_own().union(ignored) if ignored else torchs_own()
        self._settings = [
            key
            for key, value in attributes.items()
            if key not in others and type(value) in _COMPARED
        ]
        # reason: those of a ScriptModule are not in Python
        self._tables = [attributes.get(table, {}) for table in _TABLES]
        self.objects = self.read()
        tensors: list[Any] = [*module._parameters.values(), *module._buffers.values()]
        self._layouts = [(each, each.shape, each.dtype) for each in tensors if _has_shape(each)]

    def read(self) -> tuple[Any, ...]:
        """All that the module holds now; None stands for a setting that it has lost."""
        attributes = self._attributes
        parameters, buffers, modules, hooks, earlier_hooks = self._tables
        # reason: this is asked in every call of a model, and unpacking is what is fastest
        return (
            len(attributes),
            *map(attributes.get, self._settings),
            *parameters.values(),
            *buffers.values(),
            *modules.values(),
            *hooks,
            *earlier_hooks,
        )

    def is_same(self) -> bool:
        now = self.read()
        if len(now) != len(self.objects) or not all(map(is_, now, self.objects)):
            return False
        return all(
            tensor.shape == shape and tensor.dtype is dtype
            for tensor, shape, dtype in self._layouts
        )

    def changed(self) -> set[str]:
        rows = zip(self._settings, self.objects[1:], strict=False)
        return {name for name, value in rows if self._attributes.get(name) is not value}


def _has_shape(tensor: Tensor | None) -> bool:
    return tensor is not None and not is_lazy(tensor) and not tensor.is_nested
