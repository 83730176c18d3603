"""A model that a test calls, as the calls found it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import ref

from torch import nn

from pytest_dwsconv.plugin.noticing.fingerprint import (
    Architecture,
    Setting,
    SettingRow,
    architecture,
)
from pytest_dwsconv.plugin.noticing.state import ModelState


class Kind(NamedTuple):
    """What is analysed once: an architecture, arguments, and what its latency is measured on."""

    architecture: Architecture
    arguments: object
    targets: tuple[str, ...]


class SeenModel:
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
        self.first_layer: int | None = None
        """The identity of the layer by which a method of the model was first seen at work."""
        self.unrecorded = ""
        """What is said of it if a test enters it by a method alone."""
        self._unsteady: set[Setting] = set()
        """Settings that the calls themselves change, such as counters."""

    def is_changed(self, model: nn.Module) -> bool:
        """Whether the model is another by now than the one that was called."""
        if self.architecture is None or self.state.is_same():
            return False
        self.state = ModelState(model, self._unsteady)
        return architecture(model).without(self._unsteady) != self.architecture

    def is_at_work(self, layer: int) -> bool:
        """Whether a method of the model calls this layer, most likely after the first one."""
        return self.architecture is not None and self.first_layer not in (None, layer)

    def renew(self) -> None:
        """Forget what the model was before it was changed."""
        self.architecture = None
        self.first_layer = None
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
