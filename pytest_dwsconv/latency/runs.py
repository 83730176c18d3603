"""Networks made ready to be timed with PyTorch, under stated conditions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy

import torch
from torch import Tensor, nn

from pytest_dwsconv.core.latency.comparison import Conditions, MemoryFormat, Runtime
from pytest_dwsconv.errors import InputError, first_line
from pytest_dwsconv.latency.turns import Times, time_in_turns
from pytest_dwsconv.tracing.preserving import as_found

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def current_conditions() -> Conditions:
    """PyTorch as it is, without a compiler, on as many threads as it uses now."""
    return Conditions(torch.get_num_threads())


def time_networks(
    networks: Sequence[nn.Module],
    inputs: Sequence[Tensor],
    conditions: Conditions,
    seconds: float,
) -> Times:
    """Seconds of the networks' forwards in evaluation mode, in turns; they are left as found.

    Raises:
        InputError: a network is on another device than the CPU, it cannot be compiled or copied,
            or its forward fails on the inputs.
    """
    for network in networks:
        _check_device(network)
    ready = [_laid_out(network, conditions) for network in networks]
    given = [_tensor_laid_out(tensor, conditions) for tensor in inputs]
    modules = dict.fromkeys(module for network in ready for module in network.modules())
    with _threads(conditions.threads), torch.inference_mode(), as_found(list(modules)):
        calls = [_call(network, given, conditions) for network in ready]
        return time_in_turns(calls, seconds)


def _check_device(network: nn.Module) -> None:
    for parameter in network.parameters():
        if parameter.device.type != "cpu":
            raise InputError(
                f"{type(network).__name__} is on {parameter.device}, and what is measured is this "
                "CPU: move it with .cpu()"
            )


def _call(
    network: nn.Module, inputs: Sequence[Tensor], conditions: Conditions
) -> Callable[[], object]:
    """One forward, which has been seen to work."""
    run: Callable[..., object] = network
    compiler: AbstractContextManager[None] = nullcontext()
    if conditions.runtime is Runtime.COMPILED:
        run, compiler = torch.compile(network, dynamic=False), _unlimited_compiler()
    try:
        with warnings.catch_warnings(), compiler:
            warnings.simplefilter("ignore")  # reason: they are the compiler's, of its own imports
            run(*inputs)
    except Exception as error:  # whatever a forward or the compiler raises
        raise InputError(
            f"{type(network).__name__} cannot be timed with {conditions.runtime.value} "
            f"({first_line(error)}): give inputs that its forward takes, and for torch.compile a "
            "C++ compiler"
        ) from error
    return lambda: run(*inputs)


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
