"""Networks made ready to be timed with PyTorch, under stated conditions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pytest_dwsconv.core.latency.comparison import Conditions, MemoryFormat, Runtime
from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.errors import InputError, first_line
from pytest_dwsconv.tracing.preserving import as_found

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def current_conditions() -> Conditions:
    """PyTorch as it is, without a compiler, on as many threads as it uses now."""
    return Conditions(torch.get_num_threads())


def conditions_of(network: nn.Module, runtime: Runtime = Runtime.EAGER) -> Conditions:
    """Those of this process, in the memory format and the type that the network's kernels have."""
    conditions = Conditions(
        torch.get_num_threads(), runtime=runtime_of(network, runtime), dtype=dtype_of(network)
    )
    for parameter in network.parameters():
        laid_out = parameter.ndim == 4 and parameter.is_contiguous(
            memory_format=torch.channels_last
        )
        if laid_out and not parameter.is_contiguous():
            return replace(conditions, memory_format=MemoryFormat.CHANNELS_LAST)
    return conditions


def runtime_of(network: nn.Module, runtime: Runtime) -> Runtime:
    """What runs a network: the compiler, not PyTorch as it is, where the network is compiled."""
    is_compiled = hasattr(network, "_orig_mod") or network._compiled_call_impl is not None
    return Runtime.COMPILED if is_compiled and runtime is Runtime.EAGER else runtime


def dtype_of(network: nn.Module) -> str:
    """The type of a network's numbers, as PyTorch calls it."""
    types = (each.dtype for each in network.parameters() if each.is_floating_point())
    return str(next(types, torch.float32)).removeprefix("torch.")


def torch_dtype(conditions: Conditions) -> torch.dtype:
    """The type that conditions name.

    Raises:
        InputError: PyTorch has no such type of real numbers.
    """
    found = getattr(torch, conditions.dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(
            f"PyTorch has no type {quoted(conditions.dtype)} of real numbers: give "
            "dtype='bfloat16', say"
        )
    return found


class Run(NamedTuple):
    """A network, and the tensors that its forward takes."""

    network: nn.Module
    inputs: Sequence[Tensor]


@contextmanager
def ready(runs: Sequence[Run], conditions: Conditions) -> Iterator[list[Callable[[], object]]]:
    """The forwards of networks in evaluation mode, as functions; all is put back after the block.

    For another memory format than they have networks are copied.

    Raises:
        InputError: a network is on another device than the CPU, it has no parameters yet, it is
            scripted and in training mode, it cannot be compiled or copied, or its forward fails on
            the inputs.
    """
    assert not conditions.is_litert  # or PyTorch's times would be called LiteRT's
    laid_out = []
    for network, inputs in runs:
        _check_network(network)
        given = [_tensor_laid_out(tensor, conditions) for tensor in inputs]
        laid_out.append(Run(_laid_out(network, conditions), given))
    modules = dict.fromkeys(module for run in laid_out for module in run.network.modules())
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # reason: the compiler has many, of its own imports
        if conditions.runtime is Runtime.COMPILED:
            stack.enter_context(_unlimited_compiler())
        stack.enter_context(_threads(conditions.threads))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(as_found(list(modules)))
        yield [_call(run, conditions) for run in laid_out]


def _check_network(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule) and module.training:
            raise InputError(
                f"{type(network).__name__} has a scripted part in training mode, which a forward "
                "would change for good: call its eval() before"
            )
    for parameter in network.parameters():
        if is_lazy(parameter):
            raise InputError(
                f"{type(network).__name__} has parameters that are made in its first forward: run "
                "it once"
            )
        if parameter.device.type != "cpu":
            raise InputError(
                f"{type(network).__name__} is on {parameter.device}, and what is measured is this "
                "CPU: move it with .cpu()"
            )


def _call(run: Run, conditions: Conditions) -> Callable[[], object]:
    network, inputs = run
    forward: Callable[..., object] = network
    if conditions.runtime is Runtime.COMPILED:
        forward = torch.compile(network, dynamic=False)

    def call() -> object:
        try:
            return forward(*inputs)
        except Exception as error:  # whatever a forward or the compiler raises
            raise InputError(
                f"{type(network).__name__} cannot be timed with {conditions.runtime.value} "
                f"({first_line(error)}): give inputs that its forward takes, and for torch.compile "
                "a C++ compiler"
            ) from error

    return call


def _unlimited_compiler() -> AbstractContextManager[None]:
    """Have the forwards of all modules compiled.

    Modules of one class share their forward's code. It is compiled for eight of them, and then runs
    as Python, without a word.
    """
    patched: AbstractContextManager[None] = torch._dynamo.config.patch(cache_size_limit=10_000)
    return patched


def _laid_out(network: nn.Module, conditions: Conditions) -> nn.Module:
    """The network in a memory format: itself where it has it, else a copy."""
    wanted = [_tensor_laid_out(parameter, conditions) for parameter in network.parameters()]
    if all(map(_are_same, network.parameters(), wanted)):
        return network
    try:
        copy = deepcopy(network)
    except Exception as error:  # whatever a part's own __deepcopy__ raises
        raise InputError(
            f"{type(network).__name__} cannot be copied ({first_line(error)}): give it in the "
            f"format {conditions.memory_format.value}"
        ) from error
    with torch.no_grad():
        for parameter, tensor in zip(copy.parameters(), wanted, strict=True):
            parameter.data = tensor
    return copy


def _are_same(parameter: Tensor, wanted: Tensor) -> bool:
    return parameter.data_ptr() == wanted.data_ptr()


def _tensor_laid_out(tensor: Tensor, conditions: Conditions) -> Tensor:
    layout = torch.contiguous_format
    if conditions.memory_format is MemoryFormat.CHANNELS_LAST:
        layout = _LAYOUTS.get(tensor.ndim, layout)
    return tensor.detach().contiguous(memory_format=layout)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
