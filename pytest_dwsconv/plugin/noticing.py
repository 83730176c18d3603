"""Models that nobody named: every outermost module that a test calls is noticed, and analysed after the test."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from inspect import BoundArguments, signature
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import pytest

from pytest_dwsconv.errors import DwsconvError
from pytest_dwsconv.plugin.reports import MADE, Made, analyze_under_hooks, packed

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.plugin.reports import Packed

HOME = "torch.nn.modules.module"
"""Where ``nn.Module`` is defined."""


class Noticer:
    """Sees every call of an ``nn.Module``, from when somebody else has imported torch until the run ends.

    It takes the place of ``nn.Module.__call__``, as ``torch.fx.Tracer`` does. Torch's own global hooks would make
    ``torch.compile(module)`` warn, and would not see a module compiled in place with ``module.compile()``.

    Architecture and input shapes together are analysed once. During a test no tensor is made or kept, and a module
    is kept only if it is the first of its architecture.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._known: dict[object, Packed | str] = {}
        self._test = _Test()
        self._threads = threading.local()
        self._uninstall: Callable[[], None] = lambda: None
        self._watch = _Watch(self._install)
        if HOME in sys.modules:
            self._install(sys.modules[HOME])
        else:
            sys.meta_path.insert(0, self._watch)

    def pytest_unconfigure(self) -> None:
        if self._watch in sys.meta_path:
            sys.meta_path.remove(self._watch)
        self._uninstall()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self._test = _Test()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Analyse what the test called: after its teardown, whose time is taken by now."""
        if call.when == "teardown":
            test, self._test = self._test, _Test()
            for key, noticed in test.noticed.items():
                if noticed is not None:
                    self._known[key] = self._analyzed(item, noticed)
                self._add(item, self._known[key])

    @contextmanager
    def outermost(self) -> Iterator[None]:
        """A block in which this thread's calls belong to whatever opened it."""
        before = self._inside()
        self._threads.inside = True
        try:
            yield
        finally:
            self._threads.inside = before

    def _inside(self) -> bool:
        return getattr(self._threads, "inside", False)

    # -- during a test

    def _install(self, home: Any) -> None:
        module_class = home.Module
        original = module_class.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if _at_work() or self._inside():
                return original(module, *args, **kwargs)
            with self.outermost():
                out = original(module, *args, **kwargs)
                if _has_parameters(module):
                    self._test.note(module, args, kwargs, self._known)
            return out

        def uninstall() -> None:
            if module_class.__call__ is call:
                module_class.__call__ = original

        module_class.__call__ = call
        self._uninstall = uninstall

    # -- after a test

    def _analyzed(self, item: pytest.Item, noticed: _Noticed) -> Packed | str:
        try:
            with _uncovered():
                inputs = noticed.inputs()
                return packed(analyze_under_hooks(item.ihook, item.config, noticed.module, None, example_inputs=inputs))
        except Exception as error:  # reason: whatever a stranger's module does, the run goes on and says so
            lines = str(error).splitlines() or ["no message"]
            kind = "" if isinstance(error, DwsconvError) else f"{type(error).__name__}: "
            return f"{type(noticed.module).__name__}: {kind}{lines[0]}"

    def _add(self, item: pytest.Item, outcome: Packed | str) -> None:
        made = item.stash.setdefault(MADE, Made())
        if isinstance(outcome, str):
            made.failures.append(outcome)
        else:
            made.noticed.append(outcome)


@contextmanager
def _uncovered() -> Iterator[None]:
    """A block whose lines coverage.py, if somebody runs it, does not count: no test has run them."""
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


def _at_work() -> bool:
    """Whether the call is a compiler's or a tracer's, which must find nothing here to compile or trace."""
    import torch

    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def _has_parameters(module: nn.Module) -> bool:
    """Losses, activations and the like are no models."""
    return next(module.parameters(), None) is not None


# --------------------------------------------------------------------------- what is kept of a call


class _Shaped(NamedTuple):
    """What is kept of a tensor."""

    shape: tuple[int, ...]
    dtype: Any


@dataclass
class _Noticed:
    """The first call of its kind: the module, and its arguments with a ``_Shaped`` in each tensor's place."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def inputs(self) -> BoundArguments:
        """The arguments with tensors on the meta device."""
        import torch
        from torch.utils._pytree import tree_map

        def on_meta(value: Any) -> Any:
            return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, _Shaped) else value

        args, kwargs = tree_map(on_meta, (self.args, self.kwargs), is_leaf=lambda value: isinstance(value, _Shaped))
        return signature(lambda *args, **kwargs: None).bind(*args, **kwargs)


class _Test:
    """The outermost calls of one test; any thread may add to them."""

    def __init__(self) -> None:
        self.noticed: dict[object, _Noticed | None] = {}
        self._architectures: dict[int, tuple[ref[nn.Module], object]] = {}
        self._lock = threading.Lock()

    def note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], known: dict[Any, Any]) -> None:
        shaped_args, shaped_kwargs = _shaped((args, kwargs))
        with self._lock:
            key = (self._architecture(module), _summary((shaped_args, shaped_kwargs)))
            if key not in self.noticed:
                self.noticed[key] = None if key in known else _Noticed(module, shaped_args, shaped_kwargs)

    def _architecture(self, module: nn.Module) -> object:
        """What makes two modules the same model, worked out once in a test for each module."""
        found = self._architectures.get(id(module))
        if found is None or found[0]() is not module:
            found = self._architectures[id(module)] = ref(module), architecture(module)
        return found[1]


def architecture(model: nn.Module) -> object:
    """The types, plain settings and parameter shapes of all modules in ``model``, comparable and hashable."""
    return tuple(
        (name, type(module), _settings(vars(module)), _parameter_shapes(module))
        for name, module in model.named_modules()
    )


def _settings(attributes: dict[str, Any]) -> tuple[object, ...]:
    names = (name for name in attributes if name != "training" and not name.startswith("_"))
    return tuple((name, attributes[name]) for name in names if _is_plain(attributes[name]))


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (int, float, str))


def _parameter_shapes(module: nn.Module) -> tuple[object, ...]:
    parameters = module._parameters.items()
    return tuple((name, tuple(value.shape), value.dtype) for name, value in parameters if value is not None)


def _shaped(value: Any) -> Any:
    """``value`` with a ``_Shaped`` in the place of each tensor, out of sight of whatever watches operators."""
    import torch
    from torch.utils._pytree import tree_map

    def shaped(leaf: Any) -> Any:
        whole = isinstance(leaf, torch.Tensor) and not leaf.is_nested
        return _Shaped(tuple(leaf.shape), leaf.dtype) if whole else leaf

    with torch._C.DisableTorchFunction():
        return tree_map(shaped, value)


def _summary(value: Any) -> object:
    """Arguments as something comparable: shapes, plain values, and of other objects their types."""
    if isinstance(value, dict):
        return tuple((str(key), _summary(item)) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, _Shaped)):
        return type(value), tuple(map(_summary, value))
    return value if isinstance(value, _Shaped) or _is_plain(value) else type(value)


# --------------------------------------------------------------------------- waiting for torch


class _Watch(MetaPathFinder):
    """Finds nothing itself; calls back once the home of ``nn.Module`` has been imported."""

    def __init__(self, imported: Callable[[ModuleType], None]) -> None:
        self._imported = imported

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != HOME:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
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
