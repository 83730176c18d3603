"""Models that nobody named: every outermost module that a test calls is noticed, and analysed after
the test.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import BoundArguments, signature
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import pytest

from pytest_dwsconv.errors import DwsconvError, first_line
from pytest_dwsconv.plugin.isolation import ENDS, aside
from pytest_dwsconv.plugin.noticing.import_hooks import Awaited, Compilations
from pytest_dwsconv.plugin.reports import (
    LATENCIES,
    MADE,
    Made,
    Subject,
    analyze_under_hooks,
    packed,
)

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.plugin.noticing.fingerprint import Architecture
    from pytest_dwsconv.plugin.reports import Packed


class Noticer:
    """Sees every call of an ``nn.Module``, from when somebody else has imported torch until the run
    ends.

    It takes the place of ``nn.Module.__call__``, as ``torch.fx.Tracer`` does. Torch's own global
    hooks would make ``torch.compile(module)`` warn, and would not see a module compiled in place
    with ``module.compile()``.

    Architecture and input shapes together are analysed once. During a test no tensor is made, and
    of a module that is the first of its kind the attributes are kept until the test has ended.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._known: dict[object, Packed | str] = {}
        self._test = _Test()
        self._threads = threading.local()
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
        self._test = (
            _Test() if latencies is None else _Test(partial(latencies.targets, test=item.nodeid))
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Analyse what the test called: after its teardown, whose time is taken by now."""
        if call.when == "teardown":
            test, self._test = self._test, _Test()
            outcomes = [self._outcome(item, key, noticed) for key, noticed in test.noticed.items()]
            for outcome in (*outcomes, *test.failures):
                self._add(item, outcome)
            if test.compiled:
                item.stash.setdefault(MADE, Made()).notices.append(_COMPILED)

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

    def _compiling(self) -> None:
        """Note a function that is compiled: the compiler runs models inside it without calling
        them.
        """
        if not self._inside():
            self._test.compiled = True

    def _install(self, home: Any) -> None:
        module_class = home.Module
        original = module_class.__call__
        torchs_own = original is module_class._wrapped_call_impl

        def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            """In the place of torch's own, and doing as it does: with a frame more, warnings would
            point to here.
            """
            run: Any
            if torchs_own:
                run = (
                    module._call_impl
                    if module._compiled_call_impl is None
                    else module._compiled_call_impl
                )
            else:
                run = original.__get__(module)
            if _at_work() or self._inside():
                return run(*args, **kwargs)
            with self.outermost():
                test = self._test
                begun = test.begin(module, args, kwargs)
                out = run(*args, **kwargs)
                if begun is not None:
                    test.end(module, begun, self._known)
            return out

        def uninstall() -> None:
            if module_class.__call__ is call:
                module_class.__call__ = original

        module_class.__call__ = call
        self._uninstall = uninstall

    # -- after a test

    def _outcome(self, item: pytest.Item, key: object, noticed: _Noticed | None) -> Packed | str:
        """What is known of a kind of call, or else found out and known from now on, unless the
        model has changed.
        """
        if noticed is None:
            return self._known[key]
        try:
            self._known[key] = self._analyzed(item, noticed)
        except _ChangedError as error:
            return _sentence(noticed.type, error)
        except pytest.exit.Exception:
            raise
        except (
            ENDS
        ) as error:  # reason: whatever else a stranger's module does, the run goes on and says so
            self._known[key] = _sentence(noticed.type, error)
        return self._known[key]

    def _analyzed(self, item: pytest.Item, noticed: _Noticed) -> Packed:
        with aside():
            module, inputs = noticed.module(), noticed.inputs()
            report = analyze_under_hooks(
                item.ihook, item.config, module, None, example_inputs=inputs
            )
        if noticed.targets:
            item.config.stash[LATENCIES].join(item, Subject(report, module))
        return packed(report)

    def _add(self, item: pytest.Item, outcome: Packed | str) -> None:
        made = item.stash.setdefault(MADE, Made())
        if isinstance(outcome, str):
            made.failures.append(outcome)
        else:
            made.noticed.append(outcome)


def _at_work() -> bool:
    """Whether the call is a compiler's or a tracer's, which must find nothing here to compile or
    trace.
    """
    import torch

    return (
        _fx_tracing() or torch._C._get_tracing_state() is not None or torch.compiler.is_compiling()
    )


def _fx_tracing() -> bool:
    # torch.fx keeps the call it finds when it is imported
    tracer = sys.modules.get("torch.fx._symbolic_trace")
    ask = getattr(tracer, "is_fx_symbolic_tracing", None)
    # before PyTorch 2.9
    return ask() if ask is not None else getattr(tracer, "_is_fx_tracing_flag", False)


# --------------------------------------------------------------------------- what is kept of a call


class _ChangedError(DwsconvError):
    """The model is not what the test called any more."""


class _Noticed:
    """The first call of its kind: the module, its architecture, and its arguments with a ``Shaped``
    for each tensor.

    Of a module that may go its attributes are kept: a test that waits for the module to be freed
    sees that. Where it is gone after the test, nothing refers to it, and another takes its
    attributes over.
    """

    def __init__(
        self, module: nn.Module, called: Architecture, begun: _Begun, targets: tuple[str, ...]
    ) -> None:
        self.type = type(module)
        self.targets = targets
        """What its latency is to be measured on."""
        self._called = called
        self._args, self._kwargs = begun.args, begun.kwargs
        self._module: Callable[[], nn.Module | None] = ref(module)
        self._attributes = vars(module)
        if hasattr(self.type, "__del__"):
            self._module = lambda: module

    def module(self) -> nn.Module:
        """The module as it was called.

        Raises:
            DwsconvError: it has been changed since.
        """
        from pytest_dwsconv.plugin.noticing.fingerprint import architecture

        module = self._module()
        if module is None:
            module = object.__new__(self.type)
            object.__setattr__(module, "__dict__", self._attributes)
        if not self._called.still(architecture(module)):
            raise _ChangedError(
                "it was changed after the test called it, so that what was called cannot be told "
                "any more"
            )
        return module

    def inputs(self) -> BoundArguments:
        """The arguments with tensors on the meta device."""
        import torch
        from torch.utils._pytree import tree_map

        from pytest_dwsconv.plugin.noticing.fingerprint import Shaped

        def on_meta(value: Any) -> Any:
            return (
                torch.empty(value.shape, dtype=value.dtype, device="meta")
                if isinstance(value, Shaped)
                else value
            )

        both = (self._args, self._kwargs)
        args, kwargs = tree_map(on_meta, both, is_leaf=lambda value: isinstance(value, Shaped))
        return signature(lambda *args, **kwargs: None).bind(*args, **kwargs)


class _Test:
    """The outermost calls of one test; any thread may add to them."""

    def __init__(self, targets: Callable[[str], tuple[str, ...]] = lambda model: ()) -> None:
        self.noticed: dict[object, _Noticed | None] = {}
        self.failures: list[str] = []
        self.compiled = False
        """Whether a function was."""
        self._targets = targets
        """What models of a class are to be measured on."""
        self._architectures: dict[int, tuple[ref[nn.Module], Architecture]] = {}
        self._lock = threading.Lock()

    def begin(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Begun | None:
        """What is to be known of a call before it is made; nothing of a loss, an activation and the
        like.
        """
        try:
            return self._begun(module, args, kwargs)
        except Exception as error:  # reason: what this plugin cannot do is not the test's error
            self._fail(module, error)
            return None

    def end(self, module: nn.Module, begun: _Begun, known: dict[Any, Any]) -> None:
        """Add a call that has returned."""
        try:
            self._ended(module, begun, known)
        except Exception as error:  # reason: as above
            self._fail(module, error)

    def _begun(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Begun | None:
        from pytest_dwsconv.plugin.noticing.fingerprint import architecture, shaped

        if next(module.parameters(), None) is None:
            return None
        kept_args, kept_kwargs = shaped((args, kwargs))
        return _Begun(kept_args, kept_kwargs, None if self._seen(module) else architecture(module))

    def _ended(self, module: nn.Module, begun: _Begun, known: dict[Any, Any]) -> None:
        from pytest_dwsconv.plugin.noticing.fingerprint import architecture, summary
        from pytest_dwsconv.tracing.inventory import without_compiler

        called = self._seen(module)
        if called is None:
            called = architecture(module)
            called = called.steady(begun.architecture) if begun.architecture is not None else called
            self._architectures[id(module)] = ref(module), called
        targets = self._targets(type(without_compiler(module)).__name__)
        key = (called, summary((begun.args, begun.kwargs)), targets)
        with self._lock:
            if key in self.noticed:
                return
            if len(self.noticed) >= _MOST_KINDS:
                raise OverflowError(
                    f"a test called models in more than {_MOST_KINDS} ways, and this is one of the "
                    "rest"
                )
            self.noticed[key] = None if key in known else _Noticed(module, called, begun, targets)

    def _seen(self, module: nn.Module) -> Architecture | None:
        """What makes the module the same as others, if it was worked out in this test."""
        found = self._architectures.get(id(module))
        return found[1] if found is not None and found[0]() is module else None

    def _fail(self, module: nn.Module, error: Exception) -> None:
        with self._lock:
            if (sentence := _sentence(type(module), error)) not in self.failures:
                self.failures.append(sentence)


class _Begun(NamedTuple):
    """A call that is being made: its arguments, and the architecture before it if that is not known
    yet.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    architecture: Architecture | None


_COMPILED = (
    "torch.compile has compiled a function, and a model that is called inside one is not seen: "
    "call the model itself "
    "in a test, or give it to dws_report."
)
_MOST_KINDS = 200
"""Of calls in one test: more are a loop over some number that every call is given."""


def _sentence(kind: type, error: BaseException) -> str:
    return f"{kind.__name__}: {first_line(error)}"
