"""Whose a call is, by the frames that lead to it: a test's, a network's or this package's."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from functools import lru_cache
from inspect import CO_VARARGS, CO_VARKEYWORDS, unwrap
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn

_RUNNERS = ("_pytest.", "pluggy.", "unittest.", "asyncio.", "hypothesis.", "pytest_dwsconv.plugin.")
"""What calls tests."""


class Arguments(NamedTuple):
    """What a method was called with, without its module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Entry(NamedTuple):
    """A method of a network by which a test has entered it, in place of calling the network.

    ``depth`` counts the frames between the call and the method, whose first argument is ``name``.
    ``arguments`` are those of ``forward``, as far as they are still known.
    """

    network: nn.Module
    method: str
    depth: int
    name: str
    arguments: Arguments | None


_MOST_SITES = 8


def call_sites(frame: FrameType | None) -> list[tuple[CodeType, int]]:
    """Where a call comes from, from this frame outwards: the code and instruction of each."""
    sites: list[tuple[CodeType, int]] = []
    while frame is not None and len(sites) < _MOST_SITES and not _home(frame).startswith(_RUNNERS):
        sites.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return sites


_WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.jit._trace.ONNXTracedModule": "inner",
    "torchprofile.utils.flatten.Flatten": "model",
}
"""Modules that call another one with their own arguments, and the attribute that holds it.

They are known by name: importing some of them takes seconds.
"""


def unwrapped(module: nn.Module) -> nn.Module:
    """The model inside wrappers that a test or a counter has put around it."""
    from torch import nn

    kind = type(module)
    attribute = _WRAPPERS.get(f"{kind.__module__}.{kind.__qualname__}")
    inner = getattr(module, attribute, None) if attribute else None
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


def entry_of(module: nn.Module, caller: FrameType) -> Entry | None:
    """How the outermost network that is at work and holds this module was entered.

    None where the module is the network: no other is at work, or the other only trains it, as a
    method that is not ``forward`` does with a module that has all of its parameters.
    """
    found = None
    for depth, frame in enumerate(_frames(caller)):
        network = _running_module(frame)
        if network is not None and network is not module and _holds(network, module):
            found = network, frame, depth
    if found is None:
        return None
    network, frame, depth = found
    code = frame.f_code
    method, name = code.co_name, code.co_varnames[0]
    if method == "forward":
        return Entry(network, method, depth, name, _arguments(frame))
    if len(list(network.parameters())) == len(list(module.parameters())):
        return None
    return Entry(network, method, depth, name, None)


def is_own_call(module: nn.Module, caller: FrameType) -> bool:
    """Whether this package calls a module that no test gave to it: a layer of a fit, or a copy."""
    if not _is_ours(caller):
        return False
    ours = [frame for frame in _frames(caller) if _is_ours(frame)] or [caller]
    called = ours[-1]  # the function of this package that the test has called
    values = called.f_locals
    return not any(values.get(name) is module for name in _argument_names(called.f_code))


def _frames(caller: FrameType) -> Iterator[FrameType]:
    """From the caller outwards, without the test itself.

    Before Python 3.13 variables of a frame that are read here live until the frame ends, and a test
    may wait for its model to be freed.
    """
    frame = caller
    while frame.f_back is not None and not _home(frame.f_back).startswith(_RUNNERS):
        yield frame
        frame = frame.f_back


def _home(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_ours(frame: FrameType) -> bool:
    home = _home(frame)
    return home.startswith("pytest_dwsconv.") and not home.startswith("pytest_dwsconv.plugin")


def _running_module(frame: FrameType) -> nn.Module | None:
    """The module whose method a frame runs; None for functions that are only given one."""
    from torch import nn

    code = frame.f_code
    if not code.co_argcount:
        return None
    module = frame.f_locals.get(code.co_varnames[0])
    if not isinstance(module, nn.Module):
        return None
    for base in type(module).__mro__:
        method = vars(base).get(code.co_name)
        if callable(method) and getattr(unwrap(method), "__code__", None) is code:
            return module
    return None


def _holds(network: nn.Module, module: nn.Module) -> bool:
    return any(part is module for part in network.modules())


def _argument_names(code: CodeType) -> tuple[str, ...]:
    """All in the order of the code's variables: ``*args`` and ``**kwargs`` come last."""
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & CO_VARARGS) + bool(code.co_flags & CO_VARKEYWORDS)
    return code.co_varnames[:count]


def _arguments(frame: FrameType) -> Arguments | None:
    """What the method was called with; None if the frame may not have it any more."""
    code, values = frame.f_code, frame.f_locals
    if _may_be_rebound(code, frame.f_lasti):
        return None
    names = list(_argument_names(code))
    args = [values[names.pop(0)] for _ in range(code.co_argcount)][1:]
    kwargs = {name: values[name] for name in names[: code.co_kwonlyargcount]}
    rest = names[code.co_kwonlyargcount :]
    if code.co_flags & CO_VARARGS:
        args += values[rest.pop(0)]
    if code.co_flags & CO_VARKEYWORDS:
        kwargs |= values[rest.pop(0)]
    return Arguments(tuple(args), kwargs)


@lru_cache(maxsize=256)
def _may_be_rebound(code: CodeType, position: int) -> bool:
    """Whether a name of an argument may have got another value before this instruction."""
    instructions = list(dis.get_instructions(code))
    reached = position
    for jump in instructions:
        is_loop = jump.opcode in dis.hasjabs + dis.hasjrel and jump.argval < jump.offset
        if is_loop and jump.argval <= position <= jump.offset:
            reached = max(reached, jump.offset)  # all of a loop may have run before
    names = set(_argument_names(code))
    return any(one.offset < reached and not names.isdisjoint(_rebound(one)) for one in instructions)


def _rebound(instruction: dis.Instruction) -> tuple[str, ...]:
    """The variables that an instruction sets or deletes."""
    name, operand = instruction.opname, instruction.argval
    if name == "STORE_FAST_STORE_FAST":  # since Python 3.13 two instructions may be one
        return tuple(operand)
    if name == "STORE_FAST_LOAD_FAST":
        return tuple(operand[:1])
    if name.startswith(("STORE_FAST", "DELETE_FAST", "STORE_DEREF", "DELETE_DEREF")):
        return (str(operand),)
    return ()
