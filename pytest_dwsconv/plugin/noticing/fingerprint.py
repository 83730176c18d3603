"""What makes two calls those of the same model: its architecture and its arguments, as values that
can be compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum
from functools import lru_cache, partial
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

_VALUES = frozenset(
    {type(None), bool, int, float, complex, str, bytes, CodeType, torch.dtype, torch.device}
)
_ITSELF = (BuiltinFunctionType, ModuleType, torch.memory_format, torch.layout)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_MOST_ITEMS = 256
_MOST_PARTS = 5_000
_SMALL = 1_024


class Shaped(NamedTuple):
    """What is kept of a tensor."""

    shape: tuple[int, ...]
    dtype: Any


def shaped(value: Any) -> Any:
    """``value`` with a ``Shaped`` in the place of each tensor, out of sight of whatever watches
    operators.
    """

    def kept(leaf: Any) -> Any:
        whole = isinstance(leaf, Tensor) and not leaf.is_nested and not is_lazy(leaf)
        return Shaped(tuple(leaf.shape), leaf.dtype) if whole else leaf

    with torch._C.DisableTorchFunction():
        return tree_map(kept, value)


def summary(arguments: Any) -> object:
    """Arguments that ``shaped`` returned as something comparable and hashable."""
    with torch._C.DisableTorchFunction():
        return _Describer({}).described(arguments)


class Architecture(NamedTuple):
    """The modules of a model with the shapes they keep, and their settings by module and name."""

    structure: tuple[object, ...]
    settings: frozenset[tuple[tuple[str, str], object]]

    def steady(self, before: Architecture) -> Architecture:
        """This architecture without the settings that a call has changed: counters, caches and the
        like.
        """
        names = {name for name, _ in before.settings}
        return self._replace(
            settings=frozenset(
                row for row in self.settings if row in before.settings or row[0] not in names
            )
        )

    def still(self, now: Architecture) -> bool:
        """Whether a model that is ``now`` so has this architecture; hooks come and go."""
        settings = {row for row in self.settings if row[0][1] not in _HOOKS}
        return self.structure == now.structure and settings <= now.settings


def architecture(model: nn.Module) -> Architecture:
    """What tells this model from others, whatever its weights: types, shapes, settings and hooks of
    all its modules.
    """
    modules = dict(model.named_modules())
    with torch._C.DisableTorchFunction():
        describer = _Describer({id(module): name for name, module in modules.items()})
        return describer.architecture(modules)


@lru_cache(maxsize=1)
def _not_settings() -> frozenset[str]:
    """The attributes that torch itself gives to every module."""
    return frozenset(vars(nn.Module())) - set(_HOOKS) | {"_compiled_call_impl"}


class _Describer:
    """Turns values into comparable ones, down to what objects hold, as far as that is little.

    Classes are kept by weak references: one that a test defines may hold the test's variables.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        """Modules that stand for themselves, by identity."""
        self._left = _MOST_PARTS
        self._within: set[int] = set()

    def architecture(self, modules: dict[str, nn.Module]) -> Architecture:
        names = {id(module): name for name, module in modules.items()}
        numbers: dict[int, int] = {}
        structure = tuple(
            (
                name,
                ref(type(module)),
                _layouts(module._parameters, numbers),
                _layouts(module._buffers, numbers),
                _children(module, names),
            )
            for name, module in modules.items()
        )
        settings = (
            ((name, attribute), self.described(value))
            for name, module in modules.items()
            for attribute, value in vars(module).items()
            if attribute not in _not_settings() and not (attribute in _HOOKS and not value)
        )
        return Architecture(structure, frozenset(settings))

    def described(self, value: Any) -> object:
        kind = type(value)
        if kind in _VALUES:
            return kind, value
        if isinstance(value, type):
            return ref(value)
        if isinstance(value, (Shaped, *_ITSELF)):
            return value
        self._left -= 1
        if self._left < 0:
            return _Same(value)
        if id(value) in self._within:
            return ref(kind)
        self._within.add(id(value))
        try:
            return ref(kind), self._parts(value)
        finally:
            self._within.discard(id(value))

    def _parts(self, value: Any) -> object:
        if isinstance(value, (dict, list, tuple, deque, set, frozenset)):
            return self._items(value)
        if isinstance(value, Tensor):
            return _layout(value)
        if isinstance(value, nn.Module):
            return (
                self._names[id(value)]
                if id(value) in self._names
                else self.architecture(dict(value.named_modules()))
            )
        if isinstance(value, Enum):
            return value.name
        if type(value).__module__ == "numpy" and hasattr(value, "nbytes"):
            return (
                value.shape,
                str(value.dtype),
                value.tobytes() if value.nbytes <= _SMALL else None,
            )
        made_of = list(_made_of(value))
        return tuple(map(self.described, made_of)) if made_of else _Same(value)

    def _items(self, container: Any) -> object:
        """The first items, without order where they have none; of very many also which container it
        is.
        """
        items = container.items() if isinstance(container, dict) else container
        few = map(self.described, islice(items, _MOST_ITEMS))
        kept = frozenset(few) if isinstance(container, (set, frozenset)) else tuple(few)
        return kept if len(container) <= _MOST_ITEMS else (kept, len(container), id(container))


def _made_of(value: Any) -> Iterator[Any]:
    """What tells a function or an object from others of its type; nothing where that is not known."""
    if isinstance(value, FunctionType):
        yield from (value.__code__, value.__defaults__, list(_contents(value)))
    elif isinstance(value, MethodType):
        yield value.__func__
        yield value.__self__
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(state := getattr(value, "__dict__", None), dict):
        yield state
    if slots := _slots(type(value)):
        yield {name: getattr(value, name) for name in slots if hasattr(value, name)}


def _contents(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # reason: a name that is not bound yet has an empty cell
            yield cell.cell_contents


def _slots(kind: type) -> list[str]:
    found = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    return [
        name
        for slots in found
        for name in ((slots,) if isinstance(slots, str) else slots)
        if name != "__weakref__"
    ]


class _Same:
    """An object that nothing is known of: equal to itself only, and not kept alive where that can
    be helped.
    """

    def __init__(self, value: Any) -> None:
        self._hash = id(value)
        try:
            self._object: Any = ref(value)
        except TypeError:
            self._object = lambda: value

    def __eq__(self, other: object) -> bool:
        mine = self._object()
        return isinstance(other, _Same) and mine is not None and mine is other._object()

    def __hash__(self) -> int:
        return self._hash


def _layouts(tensors: Mapping[str, Tensor | None], numbers: dict[int, int]) -> tuple[object, ...]:
    """Each with its number among those of the model: a tensor under two names has the same."""
    return tuple(
        (name, numbers.setdefault(id(tensor), len(numbers)), _layout(tensor))
        for name, tensor in tensors.items()
        if tensor is not None
    )


def _children(module: nn.Module, names: Mapping[int, str]) -> tuple[object, ...]:
    """By the first name of each: a module may be there more than once."""
    return tuple(
        (name, names.get(id(child))) for name, child in module._modules.items() if child is not None
    )


def _layout(tensor: Tensor) -> object:
    """Shape and dtype; a tensor that has no shape, or not yet, is only told to be one."""
    return (
        tensor.dtype if is_lazy(tensor) or tensor.is_nested else (tuple(tensor.shape), tensor.dtype)
    )
