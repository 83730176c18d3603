"""Leaving a model as it was found, whatever its forward does and however it ends."""

from __future__ import annotations

import random
import sys
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial
from itertools import chain
from operator import is_
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from pytest_dwsconv.errors import InputError, first_line
from pytest_dwsconv.interrupts import interrupted, release_frames, uninterrupted
from pytest_dwsconv.tracing.process_state import Modes, RandomNumbers

_HOLDERS = (list, dict, set, deque, tuple)
_APART = (torch.Tensor, type, ModuleType)
"""Objects whose attributes are not looked into: everybody shares them."""
_COMMON = frozenset({dict, OrderedDict, set, tuple, list})
_PLAIN = frozenset({bool, int, float, str, type(None), torch.Tensor, nn.Parameter})


def copied(value: Any) -> Any:
    """A copy of one part of a forward's arguments, which the forward may write into.

    Raises:
        InputError: it is an object that cannot be copied.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, (nn.Module, MethodType)):
        return value  # reason: it may be the model's own, which a copy would leave
    try:
        return deepcopy(value)
    except Exception as error:  # whatever a part's own __deepcopy__, or one that has none, raises
        raise InputError(
            f"the inputs hold a {type(value).__name__}, which cannot be copied "
            f"({first_line(error)}), so that the forward would write into yours: pass its tensors "
            "in tuples, lists or dictionaries"
        ) from error


@contextmanager
def as_found(
    modules: Collection[nn.Module], drew: Callable[[], bool] | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Put all ``modules`` in evaluation mode for the block, then put everything back.

    The block is given the attributes of each module as they were.

    Put back are the attributes of all modules (training flags, hooks, compiled calls, caches
    assigned by a forward, lists and dictionaries appended to), their parameter, buffer and child
    tables, the attributes and slots of objects among them, the variables that their hooks use,
    PyTorch's modes, and the random numbers that the block drew from torch, ``random`` and NumPy.
    The values of tensors are the tracer's to protect: it hands the forward stand-ins.

    Args:
        modules: what to put back; their flags are set directly, because a model's own ``train`` and
            ``eval`` may do more.
        drew: asked at the end, if somebody watched, whether PyTorch's generators were drawn from.
    """
    with uninterrupted():
        saved, modes, numbers = _Snapshot(modules), Modes(), RandomNumbers()
    handled = sys.exc_info()[1]
    try:
        for current in saved.current:
            current["training"] = False
            if "_compiled_call_impl" in current:
                del current["_compiled_call_impl"]  # else the call leaves Python for the compiler
        yield saved.attributes
    except BaseException as error:
        if interrupted(error, handled):
            release_frames(error)
        raise
    finally:
        try:
            _put_back(saved, modes, numbers, drew)
        except KeyboardInterrupt:  # it came before it could be deferred, or once all was put back
            _put_back(saved, modes, numbers, drew)
            raise


def _put_back(
    saved: _Snapshot, modes: Modes, numbers: RandomNumbers, drew: Callable[[], bool] | None
) -> None:
    with uninterrupted():
        saved.restore()
        modes.put_back()
        numbers.put_back(None if drew is None else drew())


class _Snapshot:
    """The attributes of modules, and what is in the containers among them and inside these."""

    def __init__(self, modules: Collection[nn.Module]) -> None:
        self.current = [module.__dict__ for module in modules]
        self.attributes = list(map(dict.copy, self.current))
        self.empty: list[Any] = []
        self.filled: list[tuple[Any, Any]] = []
        self.others: list[tuple[Callable[[Any], object], Any]] = []
        """What is put back by a call, such as a slot: the call, and its argument."""
        self._seen: tuple[set[int], set[int]] = (set(), set())
        """Identities of what was kept outside of plain objects, and inside."""
        self._keep(chain.from_iterable(map(dict.values, self.attributes)))
        slotted = {kind for kind in set(map(type, modules)) if _slots(kind)}
        for module in modules if slotted else ():
            self._keep_variables(_in_slots(module))

    def _keep(self, values: Iterable[Any], within_object: bool = False) -> None:
        for value in values:  # thousands in a whole model, most of them plain or empty
            kind = type(value)
            if kind in _COMMON:
                if not value:
                    self.empty.append(value)
                elif kind is not tuple or not _PLAIN.issuperset(map(type, value)):
                    self._keep_filled(value, within_object)
            elif kind in _PLAIN or issubclass(kind, nn.Module):
                continue  # a module is put back by itself
            # by its type, because a proxy's __class__ may be of what is gone
            elif issubclass(kind, _HOLDERS):
                self._keep_filled(value, within_object)
            else:
                self._keep_other(value, within_object)

    def _keep_filled(self, container: Any, within_object: bool) -> None:
        if id(container) in self._seen[within_object]:
            return
        self._seen[within_object].add(id(container))
        kind, copy = type(container), _copy(container)
        if not issubclass(kind, tuple):
            self.filled.append((container, copy))
        self._keep(dict.values(container) if issubclass(kind, dict) else copy, within_object)
        if kind not in _COMMON and not within_object:
            self._keep_attributes(container)

    def _keep_other(self, value: Any, within_object: bool) -> None:
        """Keep what an object holds, but not what the objects in it hold.

        Those may lead to everything there is.
        """
        # reason: only the snapshot asks for a state, which some refuse (SystemRandom)
        with suppress(Exception):
            self.others += _own_state(value)
        if within_object or id(value) in self._seen[within_object]:
            return
        self._seen[within_object].add(id(value))
        kind = type(value)
        if kind is FunctionType:
            self._keep_variables(_variables(value))
        elif kind is MethodType:
            self._keep((value.__self__,), within_object)
        elif not issubclass(kind, _APART):
            self._keep_attributes(value)

    def _keep_attributes(self, value: Any) -> None:
        self._keep(_attributes(value), within_object=True)
        self._keep_variables(_in_slots(value))

    def _keep_variables(self, variables: Iterable[tuple[Callable[[Any], object], Any]]) -> None:
        kept = list(variables)
        self.others += kept
        self._keep((content for _, content in kept), within_object=True)

    def restore(self) -> None:
        for current, attributes in zip(self.current, self.attributes, strict=True):
            current.update(attributes)
            if len(current) != len(attributes):
                for name in current.keys() - attributes.keys():
                    del current[name]
        for container in filter(None, self.empty):
            container.clear()
        for container, copy in self.filled:
            _refill(container, copy)
        for put_back, state in self.others:
            put_back(state)


def _copy(container: Any) -> Any:
    """What is in a container; by the methods of its base class, because its own may do more."""
    kind = type(container)
    if kind is dict or kind is list:
        return container.copy()
    if issubclass(kind, OrderedDict):
        return list(OrderedDict.items(container))
    if issubclass(kind, dict):
        return dict(dict.items(container))
    return list(_base(kind).__iter__(container))


def _base(kind: type) -> Any:
    return next(holder for holder in _HOLDERS if issubclass(kind, holder))


def _refill(container: Any, copy: Any) -> None:
    kind = type(container)
    if issubclass(kind, OrderedDict):
        OrderedDict.clear(container)
        for key, value in copy:
            OrderedDict.__setitem__(container, key, value)
        return
    if issubclass(kind, dict) and _same(container, copy):
        return  # reason: it may be the attributes of an object that another thread is using
    base = _base(kind)
    base.clear(container)
    fill = base.extend if base in (list, deque) else base.update
    fill(container, copy)


def _same(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    if dict.__len__(one) != len(other):
        return False
    return all(map(is_, dict.keys(one), other)) and all(map(is_, dict.values(one), other.values()))


def _attributes(value: Any) -> Iterator[dict[str, Any]]:
    """The dictionary of an object's attributes, if it has one."""
    # reason: only the snapshot asks for it, and a proxy answers for what may be gone
    with suppress(Exception):
        if type(attributes := getattr(value, "__dict__", None)) is dict:
            yield attributes


def _variables(function: FunctionType) -> Iterator[tuple[Callable[[Any], object], Any]]:
    """How to set each variable from outside that a function uses, and the variable's value."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # reason: the cell of a name that is not bound yet is empty
            yield partial(setattr, cell, "cell_contents"), cell.cell_contents
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield partial(function.__globals__.__setitem__, name), function.__globals__[name]


def _slots(kind: type) -> list[MemberDescriptorType]:
    """What instances of a class hold outside of a dictionary."""
    slots: list[MemberDescriptorType] = []
    for base in kind.__mro__:
        if "__slots__" in vars(base):
            members = vars(base).values()
            slots += [member for member in members if isinstance(member, MemberDescriptorType)]
    return slots


def _in_slots(value: Any) -> Iterator[tuple[Callable[[Any], object], Any]]:
    """How to set each slot of an object, and what is in it.

    Past the object's own ``__setattr__``, which may forbid it.
    """
    for slot in _slots(type(value)):
        try:
            content = slot.__get__(value)
        except AttributeError:
            yield partial(_empty_slot, slot, value), None
        else:
            yield partial(slot.__set__, value), content


def _empty_slot(slot: MemberDescriptorType, value: Any, _: None) -> None:
    with suppress(AttributeError):  # reason: nobody may have filled it
        slot.__delete__(value)


def _own_state(value: Any) -> Iterator[tuple[Callable[[Any], object], Any]]:
    """How to put back what a generator of random numbers or an array holds past its attributes."""
    kind, numpy = type(value), sys.modules.get("numpy.random")
    if issubclass(kind, torch.Generator):
        yield value.set_state, value.get_state()
    elif issubclass(kind, random.Random):
        yield value.setstate, value.getstate()
    elif issubclass(kind, (bytearray, array)):
        base: Any = bytearray if issubclass(kind, bytearray) else array
        yield partial(_rewrite, base, value), base.__getitem__(value, slice(None))
    elif numpy and issubclass(kind, numpy.RandomState):
        yield value.set_state, value.get_state(legacy=False)
    elif numpy and issubclass(kind, numpy.Generator):
        yield partial(setattr, value.bit_generator, "state"), value.bit_generator.state


def _rewrite(kind: Any, value: Any, content: Any) -> None:
    with suppress(BufferError):  # reason: memory that a tensor has come to share keeps its length
        kind.__setitem__(value, slice(None), content)
