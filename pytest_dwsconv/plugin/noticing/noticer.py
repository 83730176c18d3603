"""Models that nobody named: each outermost module that a test calls, analysed after the test."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Container
from functools import partial
from inspect import BoundArguments, signature
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import pytest

from pytest_dwsconv.errors import first_line
from pytest_dwsconv.plugin.backends import LATENCIES
from pytest_dwsconv.plugin.isolation import (
    TEST_ENDINGS,
    ChangedError,
    Snapshot,
    calls_are_inner,
    inner_calls,
    isolated,
)
from pytest_dwsconv.plugin.noticing.callers import Arguments, entry_of, is_own_call
from pytest_dwsconv.plugin.noticing.import_hooks import Awaited, Compilations
from pytest_dwsconv.plugin.record import Subject, record_of, with_digest
from pytest_dwsconv.plugin.reports import analyze_under_hooks

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.plugin.noticing.fingerprint import Architecture, Shaped
    from pytest_dwsconv.plugin.record import WithDigest


class Noticer:
    """Sees every call of an ``nn.Module``, from the import of torch until the run ends.

    It takes the place of ``nn.Module.__call__``, as ``torch.fx.Tracer`` does. Torch's own global
    hooks would make ``torch.compile(module)`` warn, and would not see a module compiled in place
    with ``module.compile()``.

    Architecture and input shapes together are analysed once. During a test no tensor is made, and
    of a module that is the first of its kind the attributes are kept until the test has ended.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._known: dict[object, WithDigest | str] = {}
        self._calls = _TestCalls()
        self._uninstall: Callable[[], None] = lambda: None
        self._awaited = Awaited("torch.nn.modules.module", self._install)
        self._compilations = Compilations(self._compiling)

    def pytest_unconfigure(self) -> None:
        self._awaited.forget()
        self._compilations.forget()
        self._uninstall()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        latencies = item.config.stash.get(LATENCIES, None)
        if latencies is None:
            self._calls = _TestCalls()
        else:
            self._calls = _TestCalls(partial(latencies.targets, test=item.nodeid))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Analyse what the test called: after its teardown, whose time has been taken by now."""
        if call.when != "teardown":
            return
        calls, self._calls = self._calls, _TestCalls()
        outcomes = [self._outcome(item, key, first) for key, first in calls.firsts.items()]
        for outcome in (*outcomes, *calls.failures):
            self._add(item, outcome)
        if calls.notices:
            record_of(item).unsent.notices += calls.notices

    # -- during a test

    def _compiling(self) -> None:
        """Note a compiled function: the compiler runs the models inside it without calling them."""
        if not calls_are_inner():
            self._calls.notice(_COMPILED)

    def _install(self, home: Any) -> None:
        module_class = home.Module
        original = module_class.__call__
        torchs_own = original is module_class._wrapped_call_impl

        def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            """In the place of torch's own, and doing what it does.

            Calling torch's own from here would be a frame more, and warnings would point to here.
            """
            run: Any
            if not torchs_own:
                run = original.__get__(module)
            elif module._compiled_call_impl is None:
                run = module._call_impl
            else:
                run = module._compiled_call_impl
            if _at_work() or calls_are_inner():
                return run(*args, **kwargs)
            with inner_calls():
                calls = self._calls
                begun = calls.begin(module, Arguments(args, kwargs), sys._getframe(1))
                out = run(*args, **kwargs)
                if begun is not None:
                    calls.end(begun, self._known)
            return out

        def uninstall() -> None:
            if module_class.__call__ is call:
                module_class.__call__ = original

        module_class.__call__ = call
        self._uninstall = uninstall

    # -- after a test

    def _outcome(
        self, item: pytest.Item, key: object, first: _FirstCall | None
    ) -> WithDigest | str:
        """What is known of a kind of call, or is found out now and known from now on."""
        if first is None:
            return self._known[key]
        try:
            self._known[key] = self._analyzed(item, first)
        except ChangedError as error:
            return _sentence(first.type, error)  # another test may leave such a model as it was
        except pytest.exit.Exception:
            raise
        except TEST_ENDINGS as error:
            # reason: whatever else a foreign module does, the run goes on and says so
            self._known[key] = _sentence(first.type, error)
        return self._known[key]

    def _analyzed(self, item: pytest.Item, first: _FirstCall) -> WithDigest:
        with first.snapshot.restored() as module:
            with isolated():
                report = analyze_under_hooks(
                    item.ihook, item.config, module, None, example_inputs=first.inputs()
                )
            if first.targets:
                item.config.stash[LATENCIES].join(item, Subject(report, module))
        return with_digest(report)

    def _add(self, item: pytest.Item, outcome: WithDigest | str) -> None:
        unsent = record_of(item).unsent
        if isinstance(outcome, str):
            unsent.failures.append(outcome)
        else:
            unsent.noticed.append(outcome)


def _at_work() -> bool:
    """Whether a compiler or a tracer calls, which must find nothing here to compile or trace."""
    import torch

    return (
        _fx_tracing() or torch._C._get_tracing_state() is not None or torch.compiler.is_compiling()
    )


def _fx_tracing() -> bool:
    # torch.fx keeps the call it finds when it is imported
    tracer = sys.modules.get("torch.fx._symbolic_trace")
    ask = getattr(tracer, "is_fx_symbolic_tracing", None)
    if ask is not None:
        return bool(ask())
    return getattr(tracer, "_is_fx_tracing_flag", False)  # before PyTorch 2.9


# --------------------------------------------------------------------------- what is kept of a call


class _FirstCall:
    """The first call of its kind: a snapshot of the module, and its arguments.

    ``targets`` are what the module's latency is to be measured on.
    """

    def __init__(self, begun: _Begun, targets: tuple[str, ...]) -> None:
        self.type = type(begun.module)
        self.snapshot = Snapshot(begun.module)
        self.targets = targets
        self._arguments = begun.arguments

    def inputs(self) -> BoundArguments | None:
        """The arguments with tensors on the meta device; None if they are not known."""
        import torch
        from torch.utils._pytree import tree_map

        from pytest_dwsconv.plugin.noticing.fingerprint import Shaped

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


class _TestCalls:
    """The outermost calls of one test; any thread may add to them."""

    def __init__(self, targets: Callable[[str], tuple[str, ...]] = lambda model: ()) -> None:
        self.firsts: dict[object, _FirstCall | None] = {}
        """By kind of call; None for a kind that an earlier test has called."""
        self.failures: list[str] = []
        self.notices: list[str] = []
        self._targets = targets
        """What models of a class are to be measured on."""
        self._modules: dict[int, _Seen] = {}
        """Those called, by identity."""
        self._lock = threading.Lock()

    def begin(self, module: nn.Module, arguments: Arguments, caller: FrameType) -> _Begun | None:
        """What is to be known of a call before it is made; None for a loss or an activation."""
        try:
            return self._begun(module, arguments, caller)
        except Exception as error:  # reason: what this plugin cannot do is not the test's error
            self._fail(module, error)
            return None

    def end(self, begun: _Begun, known: Container[object]) -> None:
        """Add a call that has returned; ``known`` are the kinds of earlier tests."""
        try:
            self._ended(begun, known)
        except Exception as error:  # reason: as above
            self._fail(begun.module, error)

    def notice(self, sentence: str) -> None:
        with self._lock:
            if sentence not in self.notices:
                self.notices.append(sentence)

    def _begun(self, module: nn.Module, arguments: Arguments, caller: FrameType) -> _Begun | None:
        from pytest_dwsconv.plugin.noticing.fingerprint import (
            architecture,
            plain_layouts,
            shaped,
        )

        if next(module.parameters(), None) is None:
            return None
        kept: Arguments | None = arguments
        entry = entry_of(module, caller)
        if entry is not None:
            module, kept = entry.network, entry.arguments
        if is_own_call(module, caller):
            return None
        seen, layouts = self._seen(module), plain_layouts(kept)
        if seen is not None and layouts in seen.layouts:
            return None
        if entry is not None and kept is None:
            if seen is not None:
                return None  # most likely a later layer of the call that has been seen
            self.notice(_NOT_RECORDED.format(model=type(module).__name__, method=entry.method))
        return _Begun(module, shaped(kept), layouts, None if seen else architecture(module))

    def _ended(self, begun: _Begun, known: Container[object]) -> None:
        from pytest_dwsconv.plugin.noticing.fingerprint import architecture, summary
        from pytest_dwsconv.tracing.inventory import without_compiler

        module = begun.module
        seen = self._seen(module)
        if seen is None:
            called = architecture(module)
            if begun.architecture is not None:
                called = called.steady(begun.architecture)
            seen = self._modules[id(module)] = _Seen(ref(module), called, set())
        targets = self._targets(type(without_compiler(module)).__name__)
        key = (seen.architecture, summary(begun.arguments), targets)
        with self._lock:
            if begun.layouts is not None:
                seen.layouts.add(begun.layouts)
            if key in self.firsts:
                return
            if len(self.firsts) >= _MOST_KINDS:
                raise OverflowError(
                    f"a test called models in more than {_MOST_KINDS} ways, and this is one of the "
                    "rest"
                )
            self.firsts[key] = None if key in known else _FirstCall(begun, targets)

    def _seen(self, module: nn.Module) -> _Seen | None:
        """What is kept of a module that this test has called before."""
        found = self._modules.get(id(module))
        return found if found is not None and found.module() is module else None

    def _fail(self, module: nn.Module, error: Exception) -> None:
        with self._lock:
            if (sentence := _sentence(type(module), error)) not in self.failures:
                self.failures.append(sentence)


class _Seen(NamedTuple):
    """A module that a test has called.

    ``layouts`` are of its calls with nothing but tensors, of which a further one tells nothing new.
    """

    module: ref[nn.Module]
    architecture: Architecture
    layouts: set[tuple[Shaped, ...]]


class _Begun(NamedTuple):
    """A call that is being made.

    ``arguments`` have a ``Shaped`` for each tensor, and are None if they are not known. ``layouts``
    are these where there is nothing but positional tensors.
    ``architecture`` is the module's before the call, if this test has not called it yet.
    """

    module: nn.Module
    arguments: Arguments | None
    layouts: tuple[Shaped, ...] | None
    architecture: Architecture | None


_COMPILED = (
    "torch.compile has compiled a function, and a model that is called inside one is not seen: "
    "call the model itself in a test, or give it to dws_report."
)
_NOT_RECORDED = (
    "{model} was entered through {method}(), which is not recorded, so its MACs are unknown: call "
    "the model itself in a test, or give it to dws_report."
)
_MOST_KINDS = 200
"""Of calls in one test: more are a loop over some number that every call is given."""


def _sentence(kind: type, error: BaseException) -> str:
    return f"{kind.__name__}: {first_line(error)}"
