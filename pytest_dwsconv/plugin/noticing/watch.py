"""Seeing every call of an ``nn.Module``, be it a test's or a tracer's."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from pytest_dwsconv.plugin.isolation import THREAD
from pytest_dwsconv.plugin.noticing.callers import Arguments
from pytest_dwsconv.plugin.noticing.import_hooks import Awaited, Compilations

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.plugin.noticing.calls import Call, CallLog

_COMPILED = (
    "torch.compile has compiled a function, and a model that is called inside one is not seen: "
    "call the model itself in a test, or give it to dws_report."
)
_TRACED = (
    "torch.export or make_fx has traced a model on tensors without values, which is not recorded: "
    "call the model itself in a test, or give it to dws_report."
)


class Watch:
    """Sees every outermost call of an ``nn.Module``, from the import of torch until it stops.

    It takes the place of ``nn.Module.__call__``, as ``torch.fx.Tracer`` does. Torch's own global
    hooks would make ``torch.compile(module)`` warn, and would not see a module compiled in place
    with ``module.compile()``.
    """

    def __init__(self) -> None:
        self._new_log: Callable[[], CallLog] | None = None
        self._log: CallLog | None = None
        self._lock = threading.RLock()
        self._uninstall: Callable[[], None] = lambda: None
        self._awaited = Awaited("torch.nn.modules.module", self._install)
        self._compilations = Compilations(self._compiling)

    def stop(self) -> None:
        self._awaited.forget()
        self._compilations.forget()
        self._uninstall()

    def begin(self, new_log: Callable[[], CallLog] | None) -> None:
        """Put calls into a log from now on, made when there is one; into none if that is None."""
        self._new_log, self._log = new_log, None

    def end(self) -> CallLog | None:
        """Watch no more, and return the log if anything was called."""
        log = self._log
        self.begin(None)
        return log

    @contextmanager
    def apart(self, new_log: Callable[[], CallLog]) -> Iterator[list[CallLog]]:
        """A block whose calls also go into a log of their own, which the list holds afterwards."""
        before = self._new_log, self._log
        self.begin(new_log)
        logs: list[CallLog] = []
        try:
            yield logs
        finally:
            log = self.end()
            self._new_log, self._log = before
            if log is not None:
                logs.append(log)
                if (around := self.log()) is not None:
                    around.add(log)

    def log(self) -> CallLog | None:
        """The log of what is running, if calls are of interest now."""
        with self._lock:  # several threads may make the first calls
            if self._log is None and self._new_log is not None:
                self._log = self._new_log()
            return self._log

    def _compiling(self) -> None:
        """Note a compiled function: the compiler runs the models inside it without calling them."""
        if not THREAD.inner and (log := self.log()) is not None:
            log.notice(_COMPILED)

    def _install(self, home: Any) -> None:  # noqa: C901  # a function more is a frame more
        torch, module_class, thread = home.torch, home.Module, THREAD
        function_modes, modes = (
            torch._C._len_torch_function_stack,
            torch._C._len_torch_dispatch_stack,
        )
        tracing = torch._C._get_tracing_state
        original = module_class.__call__
        is_torchs = original is module_class._wrapped_call_impl

        def run_of(module: nn.Module) -> Any:
            if not is_torchs:
                return original.__get__(module)
            return module._compiled_call_impl or module._call_impl

        def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            """In the place of torch's own, and doing what it does.

            Calling torch's own from here would be a frame more, and warnings would point to here.
            A compiler that traces this finds nothing but that.
            """
            if torch.compiler.is_dynamo_compiling() or thread.inner:
                if is_torchs and module._compiled_call_impl is None:
                    return module._call_impl(*args, **kwargs)  # as a layer does in most calls
                return run_of(module)(*args, **kwargs)
            run = run_of(module)
            log = self._log or self.log()
            if log is None:
                return run(*args, **kwargs)
            thread.inner = True
            try:
                caller = sys._getframe(1)
                # whoever watches tensors would see them looked at
                watched = function_modes() or modes() or tracing() is not None
                if not watched and log.is_repeated(module, args, kwargs, caller):
                    return run(*args, **kwargs)
                begun = _begin(log, module, Arguments(args, kwargs), caller)
                out = run(*args, **kwargs)
                if begun is not None:
                    with _untraced():
                        log.end(begun, caller)
                return out
            finally:
                thread.inner = False

        def replace(old: Any, new: Any) -> None:
            # torch.fx keeps the call that it finds when it is imported
            fx = sys.modules.get("torch.fx._symbolic_trace")
            for holder, name in ((module_class, "__call__"), (fx, "_orig_module_call")):
                if getattr(holder, name, None) is old:
                    setattr(holder, name, new)

        replace(original, call)
        self._uninstall = lambda: replace(call, original)


def _begin(log: CallLog, module: nn.Module, arguments: Arguments, caller: FrameType) -> Call | None:
    """Begin a call, unless a tracer makes it without the values that would tell its shapes."""
    attributes = vars(module)
    if not (attributes.get("_parameters", True) or attributes.get("_modules", True)):
        return None  # an activation or a loss; those of a ScriptModule are not in Python
    import torch
    from torch.utils._pytree import tree_leaves

    if torch.compiler.is_compiling():
        if hasattr(module, "_export_root"):  # as torch.export wraps a model
            log.notice(_TRACED)
        return None
    if _is_fx_tracing():
        leaves = tree_leaves(tuple(arguments))
        tensors = {type(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)}
        if not tensors:
            return None  # what symbolic_trace puts in the place of tensors
        if tensors - {torch.Tensor, torch.nn.Parameter}:
            log.notice(_TRACED)
            return None
    with _untraced():
        return log.begin(module, arguments, caller)


@contextmanager
def _untraced() -> Iterator[None]:
    """A block that ``torch.jit.trace`` does not see: it records even that a shape is read."""
    import torch

    tracing: Any = torch._C
    state = tracing._get_tracing_state()
    if state is None:
        yield
        return
    tracing._set_tracing_state(None)
    try:
        yield
    finally:
        tracing._set_tracing_state(state)


def _is_fx_tracing() -> bool:
    tracer = sys.modules.get("torch.fx._symbolic_trace")
    ask = getattr(tracer, "is_fx_symbolic_tracing", None)
    if ask is not None:
        return bool(ask())
    return getattr(tracer, "_is_fx_tracing_flag", False)  # before PyTorch 2.9
