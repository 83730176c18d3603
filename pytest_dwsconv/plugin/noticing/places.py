"""Where a test calls models: at the same place, the same call again tells nothing new."""

from __future__ import annotations

from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any
from weakref import ref

from pytest_dwsconv.plugin.noticing.callers import call_sites
from pytest_dwsconv.plugin.noticing.fingerprint import flat_layouts

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.plugin.noticing.callers import Entry
    from pytest_dwsconv.plugin.noticing.seen import SeenModel

_CALLS_IN_FULL = 16
"""So many calls at one place look at the whole model before each looks at one module of it."""


class Place:
    """A call of a module: where it was made, with what arguments, and of which model."""

    def __init__(
        self,
        module: ref[nn.Module],
        layouts: tuple[Any, ...],
        caller: FrameType,
        seen: SeenModel,
        entry: Entry | None,
    ) -> None:
        self._module = module
        self._layouts = layouts
        self._sites: list[tuple[CodeType, int]] = call_sites(caller.f_back)
        self._entry = None if entry is None else (ref(entry.network), entry.depth, entry.name)
        self._seen = seen
        # the first layer that a method calls looks at the whole network for all of them
        is_later = entry is not None and seen.is_at_work(id(module()))
        self._calls_left = 0 if is_later else _CALLS_IN_FULL

    def is_repeated(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], caller: FrameType
    ) -> bool:
        """Whether a call here is known to tell nothing new, found out in a microsecond or two.

        That is one with the same callers and layouts, of a model that has not changed.
        """
        if self._module() is not module:
            return False
        frame = caller.f_back
        for code, position in self._sites:
            if frame is None or frame.f_code is not code or frame.f_lasti != position:
                return False
            frame = frame.f_back
        return (
            flat_layouts(args, kwargs) == self._layouts
            and self._is_entered(caller)
            and self._is_unchanged()
        )

    def _is_entered(self, caller: FrameType) -> bool:
        """Whether the network that is at work around the call is the one of this place."""
        if self._entry is None:
            return True
        network, depth, name = self._entry
        frame: FrameType | None = caller
        for _ in range(depth):
            frame = frame.f_back if frame is not None else None
        return frame is not None and frame.f_locals.get(name) is network()

    def _is_unchanged(self) -> bool:
        if self._calls_left > 0:
            self._calls_left -= 1
            return self._seen.state.is_same()
        return self._seen.state.is_next_same()
