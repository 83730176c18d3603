"""Leaving a model as it was found, whatever its forward does and however it ends."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_CONTAINERS = (list, dict, set, deque)


@contextmanager
def as_found(modules: Collection[nn.Module]) -> Iterator[None]:
    """Put all ``modules`` in evaluation mode for the block, then put everything back.

    Put back are the attributes of all modules (training flags, hooks, compiled calls, caches assigned by a
    forward, lists and dictionaries appended to), their parameter, buffer and child tables, and the random state
    of torch, ``random`` and NumPy. The values of tensors are the tracer's to protect: it hands the forward
    stand-ins. The flags are set directly, because a model's own ``train`` and ``eval`` may do more.
    """
    saved = [_shallow(module) for module in modules]
    state = _random_state()
    try:
        for module in modules:
            module.__dict__["training"] = False
            module.__dict__.pop("_compiled_call_impl", None)  # else the call leaves Python for the compiler
        yield
    finally:
        for module, (attributes, contents) in zip(modules, saved, strict=True):
            _restore(module, attributes, contents)
        _set_random_state(state)


def _shallow(module: nn.Module) -> tuple[dict[str, Any], list[tuple[Any, Any]]]:
    """A module's attributes, and copies of the containers among them beside the containers themselves."""
    attributes = dict(module.__dict__)
    contents: list[tuple[Any, Any]] = []
    _keep(attributes.values(), contents, set())
    return attributes, contents


def _keep(values: Iterable[Any], contents: list[tuple[Any, Any]], seen: set[int]) -> None:
    """Note the containers among the values, and those inside these, beside a copy of each."""
    for value in values:
        if isinstance(value, _CONTAINERS) and id(value) not in seen:
            seen.add(id(value))
            contents.append((value, value.copy() if value else ()))
            if value:
                _keep(value.values() if isinstance(value, dict) else value, contents, seen)
        elif isinstance(value, tuple):
            _keep(value, contents, seen)


def _restore(module: nn.Module, attributes: dict[str, Any], contents: list[tuple[Any, Any]]) -> None:
    current = module.__dict__
    for name in current.keys() - attributes.keys():
        del current[name]
    current.update(attributes)
    for container, copy in contents:
        if container or copy:
            _refill(container, copy)


def _refill(container: Any, copy: Any) -> None:
    container.clear()
    if isinstance(container, (list, deque)):
        container.extend(copy)
    else:
        container.update(copy)


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if "numpy" in sys.modules:
        state["numpy"] = sys.modules["numpy"].random.get_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
    if "numpy" in state:
        sys.modules["numpy"].random.set_state(state["numpy"])
