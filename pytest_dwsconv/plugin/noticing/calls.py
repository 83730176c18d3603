"""The calls of models in one test: what is kept of them, and which of them tell nothing new."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from functools import partial
from inspect import BoundArguments, signature
from types import FrameType
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import nn
from torch.utils._pytree import tree_map

from pytest_dwsconv.errors import first_line
from pytest_dwsconv.plugin.isolation import Snapshot
from pytest_dwsconv.plugin.noticing.callers import (
    Arguments,
    call_sites,
    entry_of,
    is_own_call,
    unwrapped,
)
from pytest_dwsconv.plugin.noticing.fingerprint import (
    Architecture,
    Setting,
    SettingRow,
    Shaped,
    architecture,
    changeable_settings,
    flat_layouts,
    shaped,
    summary,
)
from pytest_dwsconv.plugin.noticing.state import ModelState

_NOT_RECORDED = (
    "{model} was entered through {method}(), which is not recorded, so its MACs are unknown: call "
    "the model itself in a test, or give it to dws_report."
)
_MOST_KINDS = 200
"""Of calls in one test: more are a loop over some number that every call is given."""
_MOST_STATES = 8
"""Of one model in one test: more are a loop that changes something, most likely a counter."""
_CALLS_IN_FULL = 16
"""So many calls at one place look at the whole model before each looks at one module of it."""


class Kind(NamedTuple):
    """What is analysed once: an architecture, arguments, and what its latency is measured on."""

    architecture: Architecture
    arguments: object
    targets: tuple[str, ...]


_Key = tuple[int, int, int]
"""A module and the code that calls it, both by identity, and the instruction in the code."""


class FirstCall:
    """The first call of its kind: a snapshot of the model, and its arguments.

    ``targets`` are what the model's latency is to be measured on.
    """

    def __init__(self, call: Call, targets: tuple[str, ...]) -> None:
        self.targets = targets
        self.type = type(call.model)
        self.model: Callable[[], nn.Module | None] = ref(call.model)
        self.snapshot = Snapshot(call.model)
        self.is_superseded = False
        """Whether the test has changed the model and called it again."""
        self._arguments = call.arguments

    def inputs(self) -> BoundArguments | None:
        """The arguments with tensors on the meta device; None if they are not known."""

        def on_meta(value: Any) -> Any:
            if not isinstance(value, Shaped):
                return value
            return torch.empty(value.shape, dtype=value.dtype, device="meta")

        if self._arguments is None:
            return None
        args, kwargs = tree_map(
            on_meta, tuple(self._arguments), is_leaf=lambda value: isinstance(value, Shaped)
        )
        return signature(lambda *args, **kwargs: None).bind(*args, **kwargs)


class Call(NamedTuple):
    """A call that is being made.

    ``arguments`` have a ``Shaped`` for each tensor, and are None if they are not known. ``layouts``
    are these where there are only tensors and plain values. ``before`` are settings before the
    call, if this test has not called the model as it is now.
    """

    model: nn.Module
    arguments: Arguments | None
    layouts: tuple[Any, ...] | None
    before: frozenset[SettingRow] | None
    is_new: bool
    seen: _Seen
    place: tuple[_Key, _Place] | None


class _Seen:
    """A model that a test calls: as it was after the last call that looked at it."""

    def __init__(self, model: nn.Module, freed: Callable[[object], object]) -> None:
        self.model = ref(model, freed)
        self.name = type(model).__name__
        self.architecture: Architecture | None = None
        """None until the model, as it is now, has been called."""
        self.state = ModelState(model)
        self.layouts: set[tuple[Any, ...]] = set()
        """Of calls with nothing but tensors and plain values."""
        self.kinds: list[set[Kind]] = [set()]
        """Kinds of calls, by the states that the model was in."""
        self._unsteady: set[Setting] = set()
        """Settings that the calls themselves change, such as counters."""

    def is_changed(self, model: nn.Module) -> bool:
        """Whether the model is another by now than the one that was called."""
        if self.architecture is None or self.state.is_same():
            return False
        self.state = ModelState(model, self._unsteady)
        return architecture(model).without(self._unsteady) != self.architecture

    def renew(self) -> None:
        """Forget what the model was before it was changed."""
        self.architecture = None
        self.layouts = set()
        self.kinds.append(set())

    def learn(self, model: nn.Module, before: frozenset[SettingRow] | None) -> Architecture:
        """Look at the model after a call, and return its architecture."""
        is_same = self.state.is_same()
        if before is None and self.architecture is not None and is_same:
            return self.architecture
        now = architecture(model)
        changed = set() if before is None else now.changed(before)
        if not is_same:
            changed |= self.state.changed_settings()
        self._unsteady |= changed
        if changed or not is_same:
            self.state = ModelState(model, self._unsteady)
        self.architecture = now.without(self._unsteady)
        return self.architecture


class _Place:
    """Where a model has been called, and with what: another such call tells nothing new."""

    def __init__(
        self, module: ref[nn.Module], layouts: tuple[Any, ...], caller: FrameType, seen: _Seen
    ) -> None:
        self.module = module
        self.layouts = layouts
        self.seen = seen
        self.calls = 0
        self.sites = call_sites(caller.f_back)


class CallLog:
    """The outermost calls of one test; any thread may add to them."""

    def __init__(
        self,
        known: Container[object] = (),
        targets: Callable[[str], tuple[str, ...]] = lambda model: (),
    ) -> None:
        self.firsts: dict[Kind, FirstCall | None] = {}
        """None for a kind that is known already."""
        self.failures: list[str] = []
        self.notices: list[str] = []
        self.shortened: list[_Seen] = []
        """Models that were changed and called again so often that not all of that is kept."""
        self._known = known
        self._targets = targets
        """What models of a class are to be measured on."""
        self._models: dict[int, _Seen] = {}
        """Those called, by identity."""
        self._places: dict[_Key, _Place] = {}
        self._lock = threading.Lock()

    def begin(self, module: nn.Module, arguments: Arguments, caller: FrameType) -> Call | None:
        """What is to be known of a call before it is made; None for a loss or an activation."""
        try:
            return self._begun(module, arguments, caller)
        except Exception as error:  # reason: what this plugin cannot do is not the test's error
            self._fail(module, error)
            return None

    def end(self, call: Call) -> None:
        """Add a call that has returned."""
        try:
            self._ended(call)
        except Exception as error:  # reason: as above
            self._fail(call.model, error)

    def is_repeated(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], caller: FrameType
    ) -> bool:
        """Whether a call is known to tell nothing new, found out in a microsecond or two.

        That is one at the same place and with the same layouts, of a model that has not changed.
        """
        place = self._places.get((id(module), id(caller.f_code), caller.f_lasti))
        if place is None or place.module() is not module:
            return False
        frame: FrameType | None = caller.f_back
        for code, position in place.sites:
            if frame is None or frame.f_code is not code or frame.f_lasti != position:
                return False
            frame = frame.f_back
        try:
            if flat_layouts(args, kwargs) != place.layouts:
                return False
            place.calls += 1
            state = place.seen.state
            return state.is_same() if place.calls <= _CALLS_IN_FULL else state.is_next_same()
        except Exception:  # reason: an object may refuse to be compared
            return False

    def notice(self, sentence: str) -> None:
        with self._lock:
            if sentence not in self.notices:
                self.notices.append(sentence)

    def add(self, other: CallLog) -> None:
        """Take over what another log has of the same test."""
        for kind, first in other.firsts.items():
            self.firsts.setdefault(kind, first)
        self.shortened += other.shortened
        self.failures += [each for each in other.failures if each not in self.failures]
        for sentence in other.notices:
            self.notice(sentence)

    def _begun(self, module: nn.Module, arguments: Arguments, caller: FrameType) -> Call | None:
        if next(module.parameters(), None) is None:
            return None
        model = module
        kept: Arguments | None = arguments
        entry = entry_of(module, caller)
        if entry is not None:
            model, kept = entry.network, entry.arguments
        if is_own_call(model, caller):
            return None
        model = unwrapped(model)
        seen = self._seen(model)
        if seen.is_changed(model):
            self._renew(seen, model)
        with torch._C.DisableTorchFunction():
            layouts = None if kept is None else flat_layouts(*kept)
        place = None
        if layouts is not None and entry is None:
            key = id(module), id(caller.f_code), caller.f_lasti
            called = ref(module, partial(self._places.pop, key))
            place = key, _Place(called, layouts, caller, seen)
        before = changeable_settings(model) if seen.architecture is None else None
        if kept is None:
            is_new = before is not None  # or most likely a later layer of the call that was seen
            if is_new:
                self.notice(_NOT_RECORDED.format(model=seen.name, method=entry and entry.method))
        else:
            is_new = layouts not in seen.layouts
        return Call(model, shaped(kept) if is_new else None, layouts, before, is_new, seen, place)

    def _ended(self, call: Call) -> None:
        seen = call.seen
        called = seen.learn(call.model, call.before)
        with self._lock:
            if call.place is not None:
                key, place = call.place
                self._places[key] = place
            if not call.is_new:
                return
            kind = Kind(called, summary(call.arguments), self._targets(seen.name))
            if call.layouts is not None:
                seen.layouts.add(call.layouts)
            seen.kinds[-1].add(kind)
            if kind not in self.firsts:
                self._add(call, kind)

    def _renew(self, seen: _Seen, model: nn.Module) -> None:
        """Keep what was called before the model was changed, as long as that is not too much."""
        seen.renew()
        with self._lock:
            for kinds in seen.kinds:
                for kind in kinds:
                    first = self.firsts.get(kind)
                    if first is not None and first.model() is model:
                        first.is_superseded = True
            if len(seen.kinds) <= _MOST_STATES:
                return
            self.shortened.append(seen)
            for kind in seen.kinds.pop(-2):
                first = self.firsts.get(kind)
                if first is not None and first.model() is model:
                    del self.firsts[kind]

    def _add(self, call: Call, kind: Kind) -> None:
        if len(self.firsts) >= _MOST_KINDS:
            raise OverflowError(
                f"a test called models in more than {_MOST_KINDS} ways, and this is one of the rest"
            )
        self.firsts[kind] = None if kind in self._known else FirstCall(call, kind.targets)

    def _seen(self, model: nn.Module) -> _Seen:
        """What is kept of a model; nothing yet if this test has not called it."""
        key = id(model)
        found = self._models.get(key)
        if found is None:
            found = self._models[key] = _Seen(model, partial(self._models.pop, key))
        return found

    def _fail(self, module: nn.Module, error: Exception) -> None:
        with self._lock:
            if (sentence := failure(type(module), error)) not in self.failures:
                self.failures.append(sentence)


def failure(kind: type, error: BaseException) -> str:
    """The sentence that says why a model is not known."""
    return f"{kind.__name__}: {first_line(error)}"
