"""What a recorder sees beside the operators: calls of modules, and the few functions no mode sees.

A ``TorchFunctionMode`` sees whatever Python calls in PyTorch, but for these: they are replaced by
functions that tell the recorder, as long as a forward is recorded and in its thread alone.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pytest_dwsconv.interrupts import uninterrupted
from pytest_dwsconv.tracing.recorder import Recorder

_LOCK = threading.RLock()


@contextmanager
def seeing(recorder: Recorder) -> Iterator[AbstractContextManager[None]]:
    """Let the recorder see what no mode sees of this thread: calls of modules, and a few functions.

    Calls of modules are seen in what ``nn.Module.__call__`` calls. To replace ``__call__`` itself,
    as ``torch.fx.Tracer`` does, costs more: it is a slot, which Python then updates in every class
    of modules. Ctrl-C is held back, except in the context that the block is given.
    """
    # in this order: waiting for another thread can be interrupted
    with _LOCK, uninterrupted() as interruptible:
        found = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in _UNSEEN]
        limit = sys.getrecursionlimit()
        try:
            for owner, name, see in _UNSEEN:
                setattr(owner, name, see(recorder, getattr(owner, name)))
            sys.setrecursionlimit(2 * limit)  # a module takes twice as many frames here as alone
            yield interruptible
        finally:
            for owner, name, original in found:
                if original is None:  # it is inherited
                    delattr(owner, name)
                else:
                    setattr(owner, name, original)
            sys.setrecursionlimit(limit)


def _calls(record: Callable[..., Any]) -> Callable[[Recorder, Any], Any]:
    """Have calls recorded by this method of the recorder, in its thread."""

    def seen(recorder: Recorder, original: Any) -> Any:
        def call(called: Any, /, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == recorder.thread:
                return record(recorder, original, called, args, kwargs)
            if id(called) in recorder.inventory.names:
                recorder.elsewhere = recorder.inventory.names[id(called)][0]
            return original(called, *args, **kwargs)

        return call

    return seen


def _new_parameters(recorder: Recorder, original: Any) -> Any:
    def new(kind: Any, data: Any = None, *args: Any, **kwargs: Any) -> Any:
        parameter = original(kind, data, *args, **kwargs)
        if isinstance(data, Tensor) and threading.get_ident() == recorder.thread:
            recorder.hand_on(data, parameter)
        return parameter

    return staticmethod(new)


def _writes_of_part(name: str) -> Callable[[Recorder, Any], Any]:
    """For ``tensor.real = values`` and the same with ``imag``."""

    def seen(recorder: Recorder, original: Any) -> Any:
        def write(tensor: Tensor, value: Any) -> None:
            if threading.get_ident() == recorder.thread:
                getattr(tensor, name).copy_(value)
            else:
                original.__set__(tensor, value)

        part = _Part(original.__get__, write)
        part.__name__ = name
        return part

    return seen


class _Part(property):
    """A property with the name by which PyTorch's own go."""

    __name__: str


_UNSEEN: Sequence[tuple[Any, str, Callable[[Recorder, Any], Any]]] = (
    (nn.Module, "_call_impl", _calls(Recorder.call_module)),
    (torch.jit.ScriptFunction, "__call__", _calls(Recorder.call_scripted)),
    (nn.Parameter, "__new__", _new_parameters),
    (Tensor, "set_", _calls(Recorder.call_set)),
    (Tensor, "real", _writes_of_part("real")),
    (Tensor, "imag", _writes_of_part("imag")),
)
"""What is replaced while a forward is recorded: of which class, what, and by what."""
