"""What this plugin runs for itself, kept apart from the tests: somebody's forward or backend."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import pytest

from pytest_dwsconv.errors import DwsconvError

if TYPE_CHECKING:
    from torch import Tensor, dtype, nn

TEST_ENDINGS = (Exception, SystemExit, pytest.skip.Exception, pytest.fail.Exception)
"""How foreign code may end without ending the run. ``pytest.exit``, the user's wish to stop, is an
``Exception`` and has to be caught before.
"""


@contextmanager
def isolated() -> Iterator[None]:
    """A block that belongs to no test: its warnings and prints are dropped, its lines not covered.

    A test has had its own warnings and prints, and its filters may turn more of them into errors.
    """
    with (
        warnings.catch_warnings(),
        redirect_stdout(StringIO()),
        redirect_stderr(StringIO()),
        uncovered(),
    ):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def uncovered() -> Iterator[None]:
    """A block whose lines coverage.py does not count, if it runs: no test has run them."""
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage is not None else None
    if current is None:
        yield
        return
    current.stop()
    try:
        yield
    finally:
        current.start()


# --------------------------------------------------------------------------- calls


class _Thread(threading.local):
    """What is true of one thread."""

    inner = False
    """Whether calls of modules are part of what opened ``inner_calls``."""


THREAD = _Thread()


@contextmanager
def inner_calls() -> Iterator[None]:
    """A block in which this thread's calls of modules are part of what opened it.

    That is the forward of a model, or this plugin's own work: nobody notices them.
    """
    before = THREAD.inner
    THREAD.inner = True
    try:
        yield
    finally:
        THREAD.inner = before


# --------------------------------------------------------------------------- models


class ChangedError(DwsconvError):
    """A model is not what the test called any more, and cannot be put back for a while."""


class Snapshot:
    """A model as it is now, to be looked at after the test, whatever the test does to it by then.

    Kept are the classes and attributes of all its modules, and torch's tables among these:
    parameters, buffers, children and hooks. Lists, objects and tensors are not copied. The model
    itself is held by a weak reference, so that a test which waits for it to be freed sees that;
    then another object takes its attributes over.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: Callable[[], nn.Module | None] = ref(model)
        if hasattr(type(model), "__del__"):
            # reason: the object that takes over would be finalised as well, like the model before
            self._model = lambda: model
        first, *others = model.modules()
        self._state = _state(first)
        self._others = [(module, _state(module)) for module in others]
        tensors = [*model.parameters(), *model.buffers()]
        self._layouts = [(tensor, layout(tensor)) for tensor in tensors]

    @contextmanager
    def restored(self) -> Iterator[nn.Module]:
        """The model as it was, for the block.

        A tensor that got another precision in place, as by ``half()``, has its dtype back, with the
        values that it has now.

        Raises:
            ChangedError: a parameter or a buffer has got another shape in place, or a dtype that
                its values cannot be brought back from.
        """
        converted = self._converted()
        model = self._model()
        if model is None:
            model = object.__new__(self._state[0])
        restored = [(model, self._state), *self._others]
        current = [(module, (type(module), vars(module))) for module, _ in restored]
        data = [(tensor, tensor.data) for tensor, _ in converted]
        try:
            _set_states(restored)
            for tensor, dtype in converted:
                tensor.data = tensor.data.to(dtype)
            yield model
        finally:
            _set_states(current)
            for tensor, own in data:
                tensor.data = own

    def _converted(self) -> list[tuple[Tensor, dtype]]:
        """The tensors that have another precision by now, and the dtype of each before."""
        found = []
        for tensor, before in self._layouts:
            now = layout(tensor)
            if now == before:
                continue
            both_float = before.dtype.is_floating_point and now.dtype.is_floating_point
            if now.shape != before.shape or not both_float:
                raise ChangedError(
                    "a tensor of it got another shape or dtype in place after the test called it, "
                    "so that what was called cannot be told any more"
                )
            found.append((tensor, before.dtype))
        return found


_State = tuple[type, dict[str, Any]]
"""The class and the attributes of a module."""


def _state(module: nn.Module) -> _State:
    attributes = dict(vars(module))
    for name in _tables():
        table = attributes.get(name)  # a module from a file of an older torch lacks some
        if isinstance(table, (dict, set)):  # those of a ScriptModule are not in Python
            attributes[name] = table.copy()
    return type(module), attributes


@lru_cache(maxsize=1)
def _tables() -> frozenset[str]:
    """The names of the dictionaries and sets that torch keeps in every module."""
    from torch import nn

    attributes = vars(nn.Module())
    return frozenset(name for name, value in attributes.items() if isinstance(value, (dict, set)))


def _set_states(states: list[tuple[nn.Module, _State]]) -> None:
    for module, (kind, attributes) in states:
        # reason: a module's own __setattr__ may do more
        object.__setattr__(module, "__class__", kind)
        object.__setattr__(module, "__dict__", attributes)


class Layout(NamedTuple):
    """The shape and the dtype of a tensor; ``shape`` is None if it has none, or not yet."""

    shape: tuple[int, ...] | None
    dtype: dtype


def layout(tensor: Tensor) -> Layout:
    from torch.nn.parameter import is_lazy

    has_shape = not (is_lazy(tensor) or tensor.is_nested)
    return Layout(tuple(tensor.shape) if has_shape else None, tensor.dtype)
