"""Modules that a model uses without registering them: in plain lists, dictionaries and objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from pytest_dwsconv.tracing.inventory import Inventory

_PLAIN = (bool, int, float, str, bytes, type(None), Tensor, type, ModuleType)
_DEEPEST = 3
"""Of containers and objects in one another: beyond, everything there is may be found."""


class UnregisteredModule(NamedTuple):
    """Where a module is held, ``layers.0`` for ``self.layers[0]``, and its class."""

    name: str
    type_name: str


def unregistered_modules(inventory: Inventory) -> dict[int, UnregisteredModule]:
    """The unregistered modules that registered ones hold, by the identity of their parameters.

    A module in a closure or a global variable is not found: nothing in the model leads to it.
    """
    found: dict[int, UnregisteredModule] = {}
    seen = set(inventory.names)
    for prefix, module in inventory.modules.items():
        for name, value in vars(module).items():
            path = f"{prefix}.{name}".lstrip(".")
            for holder, unregistered in _modules_in(value, path, seen, _DEEPEST):
                for inner, part in Inventory(unregistered).modules.items():
                    name_of_part = f"{holder}.{inner}".rstrip(".")
                    place = UnregisteredModule(name_of_part, type(part).__name__)
                    for parameter in part._parameters.values():
                        found.setdefault(id(parameter), place)
    return found


def _modules_in(
    value: Any, name: str, seen: set[int], depth: int
) -> Iterator[tuple[str, nn.Module]]:
    """The modules that an attribute holds, each with where; ``seen`` are not looked at again."""
    if not depth or id(value) in seen or isinstance(value, _PLAIN):
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield name, value
        return
    for key, item in _items(value):
        yield from _modules_in(item, f"{name}.{key}", seen, depth - 1)


def _items(value: Any) -> list[tuple[Any, Any]]:
    # reason: objects of other people, which may refuse to be looked at
    with suppress(Exception):
        if isinstance(value, Mapping):
            return list(value.items())
        if isinstance(value, (list, tuple, set)):
            return list(enumerate(value))
        return list(vars(value).items())
    return []
