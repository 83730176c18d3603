"""Leaving a model as it was found, whatever its forward does and however it ends."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_CONTAINERS = (list, dict, set)


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Put every module of ``model`` in evaluation mode for the block, then put everything back.

    Put back are the attributes of all modules (training flags, hooks, compiled calls, caches assigned by a
    forward, lists and dictionaries appended to), their parameter, buffer and child tables, and the random state
    of torch, ``random`` and NumPy. The values of tensors are the tracer's to protect: it hands the forward
    stand-ins. The flags are set directly, because a model's own ``train`` and ``eval`` may do more.
    """
    modules = list(model.modules())
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
    contents = [(value, value.copy()) for value in attributes.values() if isinstance(value, _CONTAINERS)]
    return attributes, contents


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
    if isinstance(container, list):
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
