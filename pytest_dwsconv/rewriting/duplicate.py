"""A copy of a model to work on, which nothing ties to the original.

``copy.deepcopy`` leaves three ties: functions among the attributes, hooks above all, go on using
the variables they were made with; weak references go on referring to the original; and a part may
give itself when it is asked for a copy.
"""

from __future__ import annotations

import dis
import weakref
from collections.abc import Iterable, Iterator
from copy import deepcopy
from functools import partial
from operator import is_
from types import BuiltinMethodType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.separable.exchange import exchanged


def duplicate(model: nn.Module, advice: str = "pass inplace=True") -> nn.Module:
    """A deep copy of the model, whose functions and weak references are of the copy too.

    Tensors that were computed from parameters, such as the weight of an old-style weight_norm, are
    copied without their graph, which ``deepcopy`` refuses to copy.

    Raises:
        InputError: the model cannot be copied; ``advice`` is the next step.
    """
    memo: dict[int, Any] = {}
    originals = list(model.modules())

    def without_graph(value: Any) -> Any:
        if isinstance(value, Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
        return value

    for module in originals:
        exchanged(vars(module), without_graph)
    try:
        copied = deepcopy(model, memo)
    except Exception as error:  # whatever a part's own __deepcopy__, or one that has none, raises
        raise InputError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); {advice}"
        ) from error
    if not isinstance(copied, nn.Module):
        raise InputError(
            f"{type(model).__name__} cannot be copied (its copy is a {type(copied).__name__}, not "
            f"a module); {advice}"
        )
    shared = set(map(id, originals))
    rebinding = _Rebinding(memo, shared, advice)
    for name, module in copied.named_modules():
        if id(module) not in shared:
            rebinding.name = name or "the model itself"
            exchanged(vars(module), rebinding)
    return copied


def check_own(copied: nn.Module, original: nn.Module, names: Iterable[str]) -> None:
    """Check that these modules are in a copy, and are not the original's.

    Raises:
        InputError: one is not there, or is the original's, by a ``__deepcopy__`` of its own.
    """
    originals = set(map(id, original.modules()))
    for name in names:
        if _type_at(copied, name) is not _type_at(original, name):
            raise InputError(
                f"{name or 'the model itself'}: a copy of the model does not have this layer (by a "
                "__deepcopy__ of its own); pass inplace=True, or leave it out with "
                f"ignore=[{name!r}]"
            )
        if id(copied.get_submodule(name)) in originals:
            holder = name
            while holder and id(copied.get_submodule(holder.rpartition(".")[0])) in originals:
                holder = holder.rpartition(".")[0]
            kind = type(copied.get_submodule(holder)).__name__
            raise InputError(
                f"{name or 'the model itself'}: a copy of the model still holds the original's "
                f"{kind} (its __deepcopy__ returns itself), so replacing it would change the "
                f"original; pass inplace=True, or leave it out with ignore=[{name!r}]"
            )


def _type_at(model: nn.Module, name: str) -> type[nn.Module] | None:
    try:
        return type(model.get_submodule(name))
    except AttributeError:
        return None


def check_own_tensors(copied: nn.Module, original: nn.Module) -> None:
    """Check that a copy shares no parameter or buffer with the original, for a fit writes to them.

    Raises:
        InputError: it does.
    """
    originals = {id(tensor) for tensor in (*original.parameters(), *original.buffers())}
    for name, tensor in (*copied.named_parameters(), *copied.named_buffers()):
        if id(tensor) in originals:
            raise InputError(
                f"{name}: a copy of the model still holds the original's tensor (by a __deepcopy__ "
                "of its own), so a fit would change the original; pass inplace=True"
            )


class _Rebinding:
    """Makes a function, or a weak reference, of the original one of the copy."""

    def __init__(self, memo: dict[int, Any], originals: set[int], advice: str) -> None:
        self.memo = memo
        """The copy of each object of the original, by its identity."""
        self.originals, self.advice = originals, advice
        """The identities of the original's modules."""
        self.name = ""
        """The module whose attributes are being looked at."""
        self.cells: dict[int, CellType] = {}
        """New cells by the identity of the old: functions may share a variable."""
        self.functions: dict[int, FunctionType] = {}

    def __call__(self, value: Any) -> Any:
        if type(value) is FunctionType:
            return self._function(value)
        if type(value) is partial:
            return partial(
                self(value.func),
                *map(self._content, value.args),
                **{name: self._content(item) for name, item in value.keywords.items()},
            )
        if type(value) is BuiltinMethodType and id(value.__self__) in self.memo:
            return getattr(self.memo[id(value.__self__)], value.__name__)
        if type(value) is weakref.ref and id(value()) in self.memo:
            return weakref.ref(self.memo[id(value())])
        return value

    def _function(self, function: FunctionType) -> FunctionType:
        if id(function) in self.functions:
            return self.functions[id(function)]
        self.functions[id(function)] = function  # it may be among its own variables
        self._check_globals(function)
        closure, defaults = function.__closure__ or (), function.__defaults__ or ()
        keywords = function.__kwdefaults__ or {}
        cells = tuple(map(self._cell, closure))
        values = tuple(map(self._content, defaults))
        named = {name: self._content(value) for name, value in keywords.items()}
        old, new = (*closure, *defaults, *keywords.values()), (*cells, *values, *named.values())
        if all(map(is_, old, new)):
            return function
        rebound = FunctionType(
            function.__code__, function.__globals__, function.__name__, values or None, cells
        )
        rebound.__kwdefaults__ = named or None
        rebound.__qualname__ = function.__qualname__
        rebound.__annotations__ = function.__annotations__
        vars(rebound).update(vars(function))
        self.functions[id(function)] = rebound
        return rebound

    def _cell(self, cell: CellType) -> CellType:
        """The cell itself if its content is, so that a function still counts where it did."""
        if id(cell) in self.cells:
            return self.cells[id(cell)]
        try:
            old = cell.cell_contents
        except ValueError:  # the variable is not set yet
            return cell
        new = self._content(old)
        self.cells[id(cell)] = cell if new is old else CellType(new)
        return self.cells[id(cell)]

    def _content(self, value: Any) -> Any:
        """What a variable of the copy's function holds.

        That is the copy of what belongs to the model. What only holds parts of the model, a list or
        an object of the user's, is copied with them, as ``deepcopy`` does it for a bound method.
        """
        if id(value) in self.memo:
            return self.memo[id(value)]
        if not _holds(value, self.originals):
            return self(value)
        try:
            return deepcopy(value, self.memo)
        except Exception as error:  # as for the model
            raise InputError(
                f"{self.name}: a function among its attributes or hooks uses a "
                f"{type(value).__name__} that holds parts of the model and cannot be copied "
                f"({type(error).__name__}: {error}); {self.advice}"
            ) from error

    def _check_globals(self, function: FunctionType) -> None:
        for name in _globals_read(function.__code__):
            if id(function.__globals__.get(name)) in self.originals:
                raise InputError(
                    f"{self.name}: the function {function.__name__} among its attributes or hooks "
                    f"uses the global variable {name!r}, which is the model or a part of it, so "
                    f"that of a copy would still use the original; {self.advice}, or make the "
                    "function inside a class or another function"
                )


def _holds(value: Any, identities: set[int]) -> bool:
    """Whether any of these is in a container, of any depth, or among an object's attributes."""
    found = False

    def note(item: Any) -> Any:
        nonlocal found
        found = found or id(item) in identities
        return item

    if isinstance(value, (FunctionType, type, ModuleType)):
        return False
    attributes = getattr(value, "__dict__", None)
    exchanged(attributes if type(attributes) is dict else value, note)
    return found


def _globals_read(code: CodeType) -> Iterator[str]:
    """The names of the global variables that a function reads, and those defined inside it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_read(constant)
