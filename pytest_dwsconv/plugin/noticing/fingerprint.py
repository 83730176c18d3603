"""What makes two calls those of one model: its architecture and the arguments, by value."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

from pytest_dwsconv.plugin.isolation import Layout, layout

Setting = tuple[str, str]
"""A module by its name, and an attribute of it."""
SettingRow = tuple[Setting, object]
"""A setting and its value as it is compared."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_MOST_ITEMS = 256
_MOST_LEVELS = 8
_MOST_PARTS = 1_000
"""Of one setting: a few attributes lead to everything there is, like that of a trainer."""


_PYTHONS = {type(None), bool, int, float, complex, str, bytes}
_TORCHS = {Layout, torch.dtype, torch.device, torch.memory_format, torch.layout}
PLAIN = _PYTHONS | _TORCHS | {CodeType, BuiltinFunctionType, ModuleType}
"""Types whose values are compared as they are."""


def shaped(value: Any) -> Any:
    """``value`` with a ``Layout`` in the place of each tensor.

    Whoever watches operators does not see this.
    """

    def kept(leaf: Any) -> Any:
        whole = isinstance(leaf, Tensor) and not leaf.is_nested and not is_lazy(leaf)
        return layout(leaf) if whole else leaf

    with torch._C.DisableTorchFunction():
        return tree_map(kept, value)


def flat_layouts(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Shapes and dtypes of arguments where a call has only tensors and plain values.

    No mode that watches tensors may be on.
    """
    found: list[Any] = []
    if kwargs:
        found, args = list(kwargs), (*args, *kwargs.values())
    for value in args:
        kind = type(value)
        if kind is Tensor and not value.is_nested:
            found += (value.shape, value.dtype)
        elif kind in _PYTHONS:
            found += (kind, value)
        else:
            return None
    return tuple(found)


def summary(arguments: Any) -> object:
    """Arguments that ``shaped`` returned as something comparable and hashable."""
    with torch._C.DisableTorchFunction():
        return _Describer({}).described(arguments)


class Architecture(NamedTuple):
    """The modules of a model with the shapes they keep, and their settings by module and name."""

    structure: tuple[object, ...]
    settings: frozenset[SettingRow]

    def changed(self, before: Set[SettingRow]) -> set[Setting]:
        """The settings that have another value than in these rows."""
        names = {name for name, _ in before - self.settings}
        return {name for name, _ in self.settings if name in names}

    def without(self, names: Set[Setting]) -> Architecture:
        """This architecture without some settings."""
        if not names:
            return self
        left = frozenset(row for row in self.settings if row[0] not in names)
        return self._replace(settings=left)


def architecture(model: nn.Module) -> Architecture:
    """What tells this model from others, whatever its weights are.

    That is its structure (the type of each module, its children, the shapes of its parameters and
    buffers, and which of these are shared) and the modules' settings: attributes and hooks.
    """
    modules = dict(model.named_modules())
    with torch._C.DisableTorchFunction():
        rows = _described(modules, _is_setting)
        return Architecture(_structure(modules), frozenset(rows))


def changeable_settings(model: nn.Module) -> frozenset[SettingRow]:
    """Those settings whose values may become others while they stay the same objects."""
    with torch._C.DisableTorchFunction():
        return frozenset(_described(dict(model.named_modules()), _is_changeable))


def _described(
    modules: Mapping[str, nn.Module], is_wanted: Callable[[str, Any], bool]
) -> Iterator[SettingRow]:
    describer = _Describer(_names(modules))
    for name, module in modules.items():
        for attribute, value in vars(module).items():
            if is_wanted(attribute, value):
                yield (name, attribute), describer.described(value)


def _is_setting(attribute: str, value: Any) -> bool:
    return bool(value) if attribute in _HOOKS else attribute not in torchs_own()


def _is_changeable(attribute: str, value: Any) -> bool:
    kind = type(value)
    if kind in PLAIN or attribute in torchs_own():
        return False
    return kind is not tuple or any(type(item) not in PLAIN for item in value)


@lru_cache(maxsize=1)
def torchs_own() -> frozenset[str]:
    """The attributes that torch itself gives to every module."""
    return frozenset(vars(nn.Module())) | {"_compiled_call_impl"}


def _names(modules: Mapping[str, nn.Module]) -> dict[int, str]:
    return {id(module): name for name, module in modules.items()}


def _structure(modules: Mapping[str, nn.Module]) -> tuple[object, ...]:
    """Types, children and tensors of modules.

    Classes are kept by weak references: one that a test defines may hold the test's variables.
    """
    names, numbers = _names(modules), dict[int, int]()
    return tuple(
        (
            name,
            ref(type(module)),
            _layouts(module._parameters, numbers),
            _layouts(module._buffers, numbers),
            tuple((key, names.get(id(child))) for key, child in module._modules.items()),
        )
        for name, module in modules.items()
    )


def _layouts(tensors: Mapping[str, Tensor | None], numbers: dict[int, int]) -> tuple[object, ...]:
    """Each with its number among those of the model: a tensor under two names has the same."""
    return tuple(
        (name, numbers.setdefault(id(tensor), len(numbers)), layout(tensor))
        for name, tensor in tensors.items()
        if tensor is not None
    )


class _Describer:
    """Turns settings and arguments into comparable values.

    Plain values are compared, also in containers, functions and objects, a few levels deep. All
    else stands as its type: what cannot be compared is not compared.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        """Modules that stand for themselves, by identity."""
        self._left = 0

    def described(self, value: Any) -> object:
        self._left = _MOST_PARTS
        return self._described(value, _MOST_LEVELS)

    def _described(self, value: Any, levels: int) -> object:
        kind = type(value)
        if kind in PLAIN:
            return kind, value
        if isinstance(value, type):
            return ref(value)
        self._left -= 1
        if self._left < 0 or levels == 0:
            return ref(kind)
        try:
            return ref(kind), self._parts(value, levels - 1)
        except Exception:  # reason: an object may refuse to be looked at
            return ref(kind)

    def _parts(self, value: Any, levels: int) -> object:
        if isinstance(value, Tensor):
            return layout(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        items = _items(value)
        described = (self._described(item, levels) for item in islice(items, _MOST_ITEMS))
        if isinstance(value, (set, frozenset)):
            return len(items), frozenset(described)
        return len(items), tuple(described)

    def _module(self, module: nn.Module) -> object:
        """Another module is compared by its structure."""
        if id(module) in self._names:
            return self._names[id(module)]
        return _structure(dict(module.named_modules()))


def _items(value: Any) -> Any:
    """What an object is made of, as far as that is known."""
    if isinstance(value, (list, tuple, deque, set, frozenset)):
        return value
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, FunctionType):
        return value.__code__, value.__defaults__, list(_closure(value))
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        few = value.tolist() if value.size <= _MOST_ITEMS else None
        return value.dtype.name, value.shape, few
    return list(_attributes(value))


def _closure(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # reason: a name that is not bound yet has an empty cell
            yield cell.cell_contents


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    for base in type(value).__mro__:
        for name, member in vars(base).items():
            if isinstance(member, MemberDescriptorType) and hasattr(value, name):  # a slot
                yield name, getattr(value, name)
    yield from getattr(value, "__dict__", {}).items()
