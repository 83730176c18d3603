"""Waiting for parts of torch: this plugin imports none of them before somebody else does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Awaited(MetaPathFinder):
    """Finds nothing itself; calls back once a module is imported, or at once if it is there."""

    def __init__(self, name: str, imported: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._imported = imported
        if name in sys.modules:
            imported(sys.modules[name])
        else:
            sys.meta_path.insert(0, self)

    def forget(self) -> None:
        """Call back no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        others = (
            finder.find_spec(fullname, path, target)
            for finder in sys.meta_path
            if finder is not self
        )
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._imported(module)

        loader.exec_module = exec_module


class Compilations:
    """Calls back whenever ``torch.compile`` begins, in the thread that has called it."""

    def __init__(self, begun: Callable[[], None]) -> None:
        self._begun = begun
        self._forget: Callable[[], None] = lambda: None
        self._awaited = Awaited("torch._dynamo.callback", self._listen)

    def _listen(self, home: ModuleType) -> None:
        """Listen, also after ``torch._dynamo.reset``, which clears the handler's callbacks."""
        handler: Any = getattr(home, "callback_handler", None)
        if handler is None:
            return
        clear = handler.clear

        def clear_others() -> None:
            try:
                clear()
            finally:
                handler.register_start_callback(self._start)

        def forget() -> None:
            handler.clear = clear
            if self._start in handler.start_callbacks:
                handler.remove_start_callback(self._start)

        handler.register_start_callback(self._start)
        handler.clear = clear_others
        self._forget = forget

    def forget(self) -> None:
        """Call back no more."""
        self._awaited.forget()
        self._forget()

    def _start(self, *arguments: Any) -> None:
        """Some releases of torch call back for backward passes too, and say which it is."""
        trigger = getattr(arguments[0], "callback_trigger", None) if arguments else None
        if trigger is None or trigger.name == "DYNAMO":
            self._begun()
