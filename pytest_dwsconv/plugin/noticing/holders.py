"""Models that a test holds: its arguments, and what is inside of them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_MOST_VALUES = 1_000
_FOREIGN = ("builtins", "pytest", "_pytest", "torch", "numpy")
"""Where objects are defined that hold no models, or more than a test means."""


def held_models(values: Sequence[object]) -> list[nn.Module]:
    """The models among some values, in their lists and dicts, and in attributes of objects.

    A model inside another one is left out unless it is itself among the values, and so is one
    without parameters, such as a loss, if there are others.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    found: list[nn.Module] = []
    seen: set[int] = set()
    waiting: deque[tuple[Any, bool]] = deque((value, True) for value in values)
    while waiting and len(seen) < _MOST_VALUES:
        value, is_own = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if issubclass(type(value), torch.nn.Module):
            found.append(value)
        else:
            inside = islice(_contents(value, is_own), _MOST_VALUES)
            waiting.extend((each, False) for each in inside)
    own = {id(value) for value in values}
    parts = {id(part) for model in found for part in islice(model.modules(), 1, None)}
    models = [model for model in found if id(model) in own or id(model) not in parts]
    return [model for model in models if next(model.parameters(), None) is not None] or models


def _contents(value: Any, is_own: bool) -> Iterable[Any]:
    """What a container holds, and the attributes of an object that is itself an argument."""
    kind = type(value)  # a proxy may claim another one, and refuse to say which
    if issubclass(kind, dict):
        return dict.values(value)
    for container in (list, tuple, set, frozenset):
        if issubclass(kind, container):
            return container.__iter__(value)
    home = kind.__module__.partition(".")[0]
    if not is_own or home in _FOREIGN or issubclass(kind, (type, ModuleType)):
        return ()
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return ()
    return list(attributes.values())
