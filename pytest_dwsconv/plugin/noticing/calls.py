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
from pytest_dwsconv.plugin.isolation import Layout, Snapshot
from pytest_dwsconv.plugin.noticing.callers import (
    Arguments,
    Entry,
    entry_of,
    is_own_call,
    unwrapped,
)
from pytest_dwsconv.plugin.noticing.fingerprint import (
    SettingRow,
    changeable_settings,
    flat_layouts,
    shaped,
    summary,
)
from pytest_dwsconv.plugin.noticing.places import Place
from pytest_dwsconv.plugin.noticing.seen import Kind, SeenModel

_NOT_RECORDED = (
    "{model} was entered through {method}(), which is not recorded, so its MACs are unknown: call "
    "the model itself in a test, or give it to dws_report."
)
_MOST_KINDS = 200
"""Of calls in one test: more are a loop over some number that every call is given."""
_MOST_STATES = 8
"""Of one model in one test: more are a loop that changes something, most likely a counter."""


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
            if not isinstance(value, Layout):
                return value
            assert value.shape is not None  # ``shaped`` keeps no other
            return torch.empty(value.shape, dtype=value.dtype, device="meta")

        if self._arguments is None:
            return None
        args, kwargs = tree_map(
            on_meta, tuple(self._arguments), is_leaf=lambda value: isinstance(value, Layout)
        )
        return signature(lambda *args, **kwargs: None).bind(*args, **kwargs)


class Call(NamedTuple):
    """A call of a module that is being made, and of the model that it stands for.

    ``own`` are the layouts of the module's own arguments, the others are the model's.
    ``arguments`` have a ``Layout`` for each tensor, and are None if they are not known. ``layouts``
    are these where there are only tensors and plain values. ``before`` are settings before the
    call, if this test has not called the model as it is now.
    """

    module: nn.Module
    model: nn.Module
    own: tuple[Any, ...] | None
    arguments: Arguments | None
    layouts: tuple[Any, ...] | None
    before: frozenset[SettingRow] | None
    is_new: bool
    seen: SeenModel
    entry: Entry | None


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
        self.shortened: list[SeenModel] = []
        """Models that were changed and called again so often that not all of that is kept."""
        self._known = known
        self._targets = targets
        """What models of a class are to be measured on."""
        self._models: dict[int, SeenModel] = {}
        """Those called, by identity."""
        self._places: dict[tuple[int, int, int], Place] = {}
        """By module, code and instruction."""
        self._lock = threading.Lock()

    def begin(self, module: nn.Module, arguments: Arguments, caller: FrameType) -> Call | None:
        """What is to be known of a call before it is made; None for a loss or an activation."""
        try:
            return self._begun(module, arguments, caller)
        except Exception as error:  # reason: what this plugin cannot do is not the test's error
            self._fail(module, error)
            return None

    def end(self, call: Call, caller: FrameType) -> None:
        """Add a call that has returned."""
        try:
            self._ended(call, caller)
        except Exception as error:  # reason: as above
            self._fail(call.model, error)

    def is_repeated(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], caller: FrameType
    ) -> bool:
        """Whether a call tells nothing new; no mode that watches tensors may be on."""
        place = self._places.get((id(module), id(caller.f_code), caller.f_lasti))
        return place is not None and place.is_repeated(module, args, kwargs, caller)

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
        entry = entry_of(module, caller)
        model, kept = (module, arguments) if entry is None else (entry.network, entry.arguments)
        if is_own_call(model, caller):
            return None
        model = unwrapped(model)
        seen = self._seen(model)
        with torch._C.DisableTorchFunction():
            own = flat_layouts(*arguments)
            layouts = None if kept is None else flat_layouts(*kept)
        if entry is not None and seen.is_at_work(id(module)):
            if own is not None and (kept is None or layouts in seen.layouts):
                self._add_place(module, own, caller, seen, entry)
                return None
        elif seen.is_changed(model):
            self._renew(seen, model)
        before = changeable_settings(model) if seen.architecture is None else None
        is_new = layouts not in seen.layouts if kept is not None else before is not None
        if is_new and entry is not None and kept is None:
            seen.unrecorded = _NOT_RECORDED.format(model=seen.name, method=entry.method)
            self.notice(seen.unrecorded)
        if entry is not None and seen.first_layer is None:
            seen.first_layer = id(module)
        shapes = shaped(kept) if is_new else None
        return Call(module, model, own, shapes, layouts, before, is_new, seen, entry)

    def _ended(self, call: Call, caller: FrameType) -> None:
        seen = call.seen
        called = seen.learn(call.model, call.before)
        with self._lock:
            if call.own is not None:
                self._add_place(call.module, call.own, caller, seen, call.entry)
            if not call.is_new:
                return
            kind = Kind(called, summary(call.arguments), self._targets(seen.name))
            if call.layouts is not None:
                seen.layouts.add(call.layouts)
            seen.kinds[-1].add(kind)
            if call.arguments is not None and seen.unrecorded in self.notices:
                self.notices.remove(seen.unrecorded)  # its MACs are known after all
            if kind not in self.firsts:
                self._add(call, kind)

    def _add_place(
        self,
        module: nn.Module,
        layouts: tuple[Any, ...],
        caller: FrameType,
        seen: SeenModel,
        entry: Entry | None,
    ) -> None:
        """Keep a place until the module is freed."""
        key = id(module), id(caller.f_code), caller.f_lasti
        called = ref(module, partial(self._places.pop, key))
        self._places[key] = Place(called, layouts, caller, seen, entry)

    def _renew(self, seen: SeenModel, model: nn.Module) -> None:
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
            if seen not in self.shortened:
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

    def _seen(self, model: nn.Module) -> SeenModel:
        """What is kept of a model; nothing yet if this test has not called it."""
        key = id(model)
        found = self._models.get(key)
        if found is None or found.model() is not model:
            found = self._models[key] = SeenModel(model, partial(self._models.pop, key))
        return found

    def _fail(self, module: nn.Module, error: Exception) -> None:
        with self._lock:
            if (sentence := failure(type(module), error)) not in self.failures:
                self.failures.append(sentence)


def failure(kind: type, error: BaseException) -> str:
    """The sentence that says why a model is not known."""
    return f"{kind.__name__}: {first_line(error)}"
