"""Putting replacements where the convolutions were, in whatever the model holds them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from pytest_dwsconv.interrupts import uninterrupted

_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
Exchange = Callable[[Any], Any]
"""What takes the place of an object: another one, or the object itself."""


def swap(model: nn.Module, swaps: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put the values of ``swaps`` wherever its keys are in ``model``, and return the model.

    If the model itself is a key, its replacement is returned. A module is replaced under every name
    of every parent, and in plain attributes: direct ones, and lists, deques, tuples, named ones
    included, sets and dictionaries of any depth.
    """
    new_of = {id(old): new for old, new in swaps.items()}

    def exchange(value: Any) -> Any:
        return new_of.get(id(value), value)

    with uninterrupted():  # a model is never left with half of its replacements
        for holder in [*model.modules(), *swaps.values()]:
            for name, child in holder._modules.items():
                holder._modules[name] = exchange(child)
            for name in vars(holder).keys() - _MODULE_ATTRIBUTES:
                vars(holder)[name] = exchanged(vars(holder)[name], exchange)
    swapped: nn.Module = exchange(model)
    return swapped


def exchanged(value: Any, exchange: Exchange, seen: set[int] | None = None) -> Any:
    """``value`` with what is in it exchanged, through containers of any depth.

    Lists, deques, sets and dictionaries are changed in place; a tuple becomes another one. Those
    in ``seen``, by identity, have had their turn.
    """
    seen = set() if seen is None else seen
    if isinstance(value, (list, deque, dict, set)):
        if id(value) not in seen:  # a container may hold itself
            seen.add(id(value))
            _exchange_within(value, exchange, seen)
        return value
    if type(value) in (tuple, frozenset) or _is_named_tuple(value):
        items = [exchanged(item, exchange, seen) for item in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return value._make(items) if _is_named_tuple(value) else type(value)(items)
    return exchange(value)


def _exchange_within(container: Any, exchange: Exchange, seen: set[int]) -> None:
    pairs = container.items() if isinstance(container, dict) else enumerate(container)
    for key, item in list(pairs):
        new = exchanged(item, exchange, seen)
        if new is item:
            continue
        if isinstance(container, set):
            container.remove(item)
            container.add(new)
        else:
            container[key] = new


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_make")


def held_by_functions(model: nn.Module) -> set[int]:
    """The identities of what functions hold, where ``swap`` cannot put anything else.

    Those are the functions among the attributes of all modules, hooks included: their closures and
    defaults, what a method is bound to, the arguments of a partial.
    """
    held: set[int] = set()

    def look(value: Any) -> Any:
        for content in _held(value):
            exchanged(content, hold)
        return value

    def hold(value: Any) -> Any:
        if id(value) not in held:
            held.add(id(value))
            look(value)
        return value

    for module in model.modules():
        for name, value in vars(module).items():
            if name != "_compiled_call_impl":  # of the module itself; no replacement takes it over
                exchanged(value, look)
    return held


def _held(value: Any) -> Iterator[Any]:
    if isinstance(value, MethodType):
        yield value.__self__
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # the variable is not set yet
                yield cell.cell_contents
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
