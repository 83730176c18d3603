"""One convolution's replacement, and putting replacements where the convolutions were."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pytest_dwsconv.core.conv import ConvSpec, Order, parse_order
from pytest_dwsconv.core.plan import PlanEntry, equal_cost
from pytest_dwsconv.core.rules import checked_patterns
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.separable.factorize import Factors, decompose, fresh
from pytest_dwsconv.separable.modules import SEPARABLE_CONVS, SeparableConvNd
from pytest_dwsconv.tracing.operators import own_forward

AUTO = "auto"
FIT = "fit"
INITS = ("svd", "fresh")
"""Those that need no data."""


def order_or_auto(order: Order | str) -> Order | None:
    """The order asked for; None for "auto"."""
    return None if order == AUTO else parse_order(order, AUTO)


def check_init(init: str, known: Sequence[str] = INITS) -> None:
    if init not in known:
        raise InputError(f"init must be one of {', '.join(map(repr, known))}, not {init!r}")


def patterns(given: Sequence[str] | None, asked_by: str) -> tuple[str, ...]:
    """Shell-style patterns as a Policy takes them; None is none."""
    return () if given is None else checked_patterns(given, asked_by)


def choose(
    name: str, weight: Tensor, spec: ConvSpec, depth_multiplier: int, order: Order | None, init: str
) -> PlanEntry:
    """The plan of one convolution; without an order the smaller weight error at equal cost decides.

    Raises:
        InputError: the weight has no values to start from, or cannot be factorised; the message
            names the layer.
    """
    if init == "svd" and weight.is_meta:
        raise InputError(
            f"{name}: the kernel is on the meta device and has no values; use init='fresh'"
        )
    if order is not None:
        return PlanEntry.of(name, spec, order, depth_multiplier)
    entries = [
        PlanEntry.of(name, spec, *choice) for choice in equal_cost(spec, depth_multiplier).items()
    ]
    if init == "fresh" or len(entries) == 1:
        return entries[0]
    return min(entries, key=lambda entry: (_factorised(weight, entry)[1], entry.params_after))


def initial(weight: Tensor, entry: PlanEntry, init: str) -> tuple[Factors, float | None]:
    """The weights that a replacement starts with, and their relative weight error where they
    approximate any.

    On the meta device there is nothing to approximate.

    Raises:
        InputError: the weight cannot be factorised or is not floating point; the message names the
            layer.
    """
    if init == "svd" and not weight.is_meta:
        return _factorised(weight, entry)
    with _naming(entry.name):
        return fresh(weight, entry.groups, entry.order, entry.depth_multiplier), None


def _factorised(weight: Tensor, entry: PlanEntry) -> tuple[Factors, float]:
    with _naming(entry.name):
        decomposition = decompose(weight, entry.groups, entry.order)
    multiplier = entry.depth_multiplier
    return decomposition.factors(multiplier), decomposition.error(multiplier)


@contextmanager
def _naming(layer: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(
            f"{layer or 'the model itself'}: {error}; leave it out with ignore"
        ) from error


def replacement(conv: nn.Module, entry: PlanEntry, factors: Factors) -> SeparableConvNd:
    """A separable convolution with these weights and with everything else that ``conv`` has.

    The bias is the same parameter, and the tables of hooks are the same objects, so that handles
    held by the user still remove their hooks.

    Raises:
        InputError: the forward of ``conv`` was replaced on the instance, so it is no plain
            convolution, or something of the replacement's own name is attached to it.
    """
    if own_forward(conv):
        raise InputError(
            f"{entry.name}: its forward was replaced on the instance; leave it out with ignore"
        )
    _check_names(entry.name, conv)
    source: Any = conv
    new = SEPARABLE_CONVS[len(entry.kernel_size)](
        source.in_channels,
        source.out_channels,
        source.kernel_size,
        stride=source.stride,
        padding=source.padding,
        dilation=source.dilation,
        groups=source.groups,
        bias=source.bias is not None,
        padding_mode=source.padding_mode,
        depth_multiplier=entry.depth_multiplier,
        order=entry.order,
        device="meta",  # neither memory nor random numbers for weights that are set below
    )
    _set_parameters(new, factors, source.weight, source.bias)
    # reason: modes other than zeros pad by this, whatever ``padding`` says
    new.depthwise._reversed_padding_repeated_twice = source._reversed_padding_repeated_twice
    _take_over(new, conv)
    return new


def _check_names(layer: str, conv: nn.Module) -> None:
    attached = {*vars(conv), *(name for table in _TABLES for name in vars(conv)[table])}
    if taken := sorted(_NEEDED & attached):
        raise InputError(
            f"{layer or 'the model itself'}: its attribute {taken[0]!r} has a name that the "
            "replacement needs; "
            "rename it, or leave the layer out with ignore"
        )


def _set_parameters(
    new: SeparableConvNd, factors: Factors, weight: Tensor, bias: nn.Parameter | None
) -> None:
    layout = _memory_format(weight)
    for part, value in ((new.depthwise, factors.depthwise), (new.pointwise, factors.pointwise)):
        laid_out = value.contiguous(memory_format=layout)
        part.weight = nn.Parameter(laid_out, requires_grad=weight.requires_grad)
    last = new.pointwise if new.order == Order.DEPTHWISE_FIRST else new.depthwise
    last.bias = bias


def _memory_format(weight: Tensor) -> torch.memory_format:
    """channels_last, of 2-d or 3-d, where the weight is in that format and no other."""
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(weight.ndim)
    if layout is None or weight.is_contiguous() or not weight.is_contiguous(memory_format=layout):
        return torch.contiguous_format
    return layout


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)
_TABLES = ("_parameters", "_buffers", "_modules")
_NEEDED = frozenset({"depthwise", "pointwise", "order", "depth_multiplier"})
_PARAMETERS = frozenset({"weight", "bias"})
# reason: a compiled call is of the old forward; PyTorch drops it from copies, too
_OWN = frozenset({*vars(nn.Conv2d(1, 1, 1, device="meta")), "_compiled_call_impl"})
"""Attributes that a convolution has by itself; all others were put there by the user."""


def _take_over(new: SeparableConvNd, conv: nn.Module) -> None:
    """Mode, hooks, and whatever was attached to the convolution."""
    new.train(conv.training)
    vars(new).update({name: vars(conv)[name] for name in _HOOKS})
    own = _OWN | vars(new).keys()
    vars(new).update({name: value for name, value in vars(conv).items() if name not in own})
    for table in _TABLES:
        attached = {k: v for k, v in vars(conv)[table].items() if k not in _PARAMETERS}
        vars(new)[table].update(attached)
    new._non_persistent_buffers_set |= conv._non_persistent_buffers_set


def swap(model: nn.Module, swaps: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put the values of ``swaps`` wherever its keys are in ``model``, and return the model, or its
    replacement.

    That is under every name of every parent, and in plain attributes: direct ones, and lists,
    deques, tuples, named ones included, sets and dictionaries of any depth.
    """
    new_of = {id(old): new for old, new in swaps.items()}
    for holder in [*model.modules(), *swaps.values()]:
        for name, child in holder._modules.items():
            if id(child) in new_of:
                holder._modules[name] = new_of[id(child)]
        for name in vars(holder).keys() - _MODULE_ATTRIBUTES:
            vars(holder)[name] = _swapped(vars(holder)[name], new_of, set())
    return new_of.get(id(model), model)


_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


def _swapped(value: Any, new_of: Mapping[int, nn.Module], seen: set[int]) -> Any:
    """``value`` with the modules in it exchanged; what can be changed is changed in place."""
    if isinstance(value, nn.Module):
        return new_of.get(id(value), value)
    if isinstance(value, (list, deque, dict, set)) and id(value) not in seen:
        seen.add(id(value))
        _swap_within(value, new_of, seen)
    elif type(value) in (tuple, frozenset) or _is_named_tuple(value):
        items = [_swapped(item, new_of, seen) for item in value]
        if any(a is not b for a, b in zip(items, value, strict=True)):
            return value._make(items) if _is_named_tuple(value) else type(value)(items)
    return value


def _swap_within(container: Any, new_of: Mapping[int, nn.Module], seen: set[int]) -> None:
    for key, item in list(
        container.items() if isinstance(container, dict) else enumerate(container)
    ):
        exchanged = _swapped(item, new_of, seen)
        if exchanged is item:
            continue
        if isinstance(container, set):
            container.remove(item)
            container.add(exchanged)
        else:
            container[key] = exchanged


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_make")
