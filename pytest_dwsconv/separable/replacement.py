"""One convolution's replacement: which one, with which weights, and what it takes over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pytest_dwsconv.core.conv import ORDERS, ConvSpec, Form, Order, parse_form, parse_order
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.core.policy import checked_patterns
from pytest_dwsconv.core.sizes import equal_cost, forms_for, size_for
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.separable.factorize import Factors, decompose, fresh, swapped
from pytest_dwsconv.separable.modules import SeparableConvNd
from pytest_dwsconv.separable.transposed import separable_class
from pytest_dwsconv.tracing.operators import own_forward

AUTO = "auto"
FIT = "fit"
INITS = ("svd", "fresh")
"""Those that need no data."""


def allowed_forms(
    order: Order | str, form: Form | str | None, all_forms: bool = False
) -> tuple[Form, ...]:
    """The forms to choose from, from the arguments ``order`` and ``form``.

    Without either these are the two orders, or with ``all_forms`` every form; ``form="auto"`` is
    every form.

    Raises:
        InputError: one of them is not known, or both are given.
    """
    if form is None:
        if order != AUTO:
            return (Form(parse_order(order, AUTO)),)
        return tuple(Form) if all_forms else ORDERS
    if order != AUTO:
        raise InputError("order is the old word for form: pass one of them, not both")
    return tuple(Form) if form == AUTO else (parse_form(form, AUTO),)


def check_init(init: str, known: Sequence[str] = INITS) -> None:
    if init not in known:
        raise InputError(f"init must be one of {', '.join(map(repr, known))}, not {init!r}")


def patterns(given: Sequence[str] | None, asked_by: str) -> tuple[str, ...]:
    """Shell-style patterns as a Policy takes them; None means that there are none."""
    return () if given is None else checked_patterns(given, asked_by)


def possible(
    name: str,
    spec: ConvSpec,
    forms: Sequence[Form],
    depth_multiplier: int,
    needed: Form | Order | None = None,
) -> list[PlanEntry]:
    """The replacements that one convolution may get, one of each form.

    A single form has the size that ``size_for`` says, several are taken at equal cost. ``needed``
    is the order that it needs because it has few input channels: then the forms that would make all
    outputs mixtures of these are left out.
    """
    forms, than = forms_for(forms, spec, needed), Form(needed or Form.DEPTHWISE_FIRST)
    if len(forms) == 1:
        size = size_for(spec, forms[0], depth_multiplier, than)
        return [PlanEntry.of(name, spec, forms[0], size)]
    found = equal_cost(spec, depth_multiplier, forms, than).items()
    return [PlanEntry.of(name, spec, form, size) for form, size in found]


def _standard(weight: Tensor, entry: PlanEntry) -> Tensor:
    """The weight of an entry's convolution in the layout of standard kernels."""
    return swapped(weight, entry.groups) if entry.transposed else weight


def choose(name: str, weight: Tensor, entries: Sequence[PlanEntry], init: str) -> PlanEntry:
    """The one with the least weight error, then with the fewest parameters; the first if fresh.

    Raises:
        InputError: the weight has no values to start from, or cannot be factorised; the message
            names the layer.
    """
    if init == "svd" and weight.is_meta:
        raise InputError(
            f"{name}: the kernel is on the meta device and has no values; use init='fresh'"
        )
    if init == "fresh" or len(entries) == 1:
        return entries[0]
    return min(entries, key=lambda entry: (_factorised(weight, entry)[1], entry.params_after))


def initial(weight: Tensor, entry: PlanEntry, init: str) -> tuple[Factors, float | None]:
    """The weights that a replacement starts with, and the relative error of its kernel.

    The error is None where the weights approximate nothing: fresh ones, and on the meta device.

    Raises:
        InputError: the weight cannot be factorised or is not floating point; the message names the
            layer.
    """
    if init == "svd" and not weight.is_meta:
        return _factorised(weight, entry)
    with naming(entry.name):
        return fresh(_standard(weight, entry), entry.groups, entry.form, entry.size), None


def _factorised(weight: Tensor, entry: PlanEntry) -> tuple[Factors, float]:
    with naming(entry.name):
        decomposition = decompose(_standard(weight, entry), entry.groups, entry.form)
    return decomposition.factors(entry.size), decomposition.error(entry.size)


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Name the layer in an InputError of the block, and how to leave it out."""
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
        InputError: the forward of ``conv`` was replaced on the instance, so it is not a
            plain convolution, or something of the replacement's own name is attached to it.
    """
    if own_forward(conv):
        raise InputError(
            f"{entry.name}: its forward was replaced on the instance; leave it out with ignore"
        )
    _check_names(entry.name, conv)
    source: Any = conv
    settings: dict[str, Any] = {"output_padding": source.output_padding} if entry.transposed else {}
    new = separable_class(len(entry.kernel_size), entry.transposed)(
        source.in_channels,
        source.out_channels,
        source.kernel_size,
        stride=source.stride,
        padding=source.padding,
        dilation=source.dilation,
        groups=source.groups,
        bias=source.bias is not None,
        padding_mode=source.padding_mode,
        form=entry.form,
        size=entry.size,
        **settings,
        device="meta",  # neither memory nor random numbers for weights that are set below
    )
    _set_parameters(new, factors, source.weight, source.bias)
    # reason: modes other than zeros pad by this, whatever ``padding`` says
    new._reversed_padding_repeated_twice = source._reversed_padding_repeated_twice
    new._agree()
    _take_over(new, conv)
    return new


def _check_names(layer: str, conv: nn.Module) -> None:
    attached = set(vars(conv))
    for table in _TABLES:
        attached.update(vars(conv)[table])
    if taken := sorted(_NEEDED & attached):
        raise InputError(
            f"{layer or 'the model itself'}: its attribute {taken[0]!r} has a name that the "
            "replacement needs; rename it, or leave the layer out with ignore"
        )


def _set_parameters(
    new: SeparableConvNd, factors: Factors, weight: Tensor, bias: nn.Parameter | None
) -> None:
    layout = _memory_format(weight)
    for name, value in new._in_own_layout(factors).items():
        laid_out = value.contiguous(memory_format=layout)
        part: Any = new.get_submodule(name)
        part.weight = nn.Parameter(laid_out, requires_grad=weight.requires_grad)
    new.bias = bias


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
_NEEDED = frozenset(
    {"depthwise", "pointwise", "pointwise_in", "form", "size", "order", "depth_multiplier"}
)
_PARAMETERS = frozenset({"weight", "bias"})
# reason: a compiled call is of the old forward; PyTorch drops it from copies, too
_OWN = frozenset({*vars(nn.Conv2d(1, 1, 1, device="meta")), "_compiled_call_impl"})
"""Attributes that a convolution has by itself; all others were put there by the user."""


def _take_over(new: SeparableConvNd, conv: nn.Module) -> None:
    """Mode, hooks, and whatever was attached to the convolution."""
    new.train(conv.training)
    vars(new).update({name: vars(conv)[name] for name in _HOOKS})
    vars(new).update({name: value for name, value in vars(conv).items() if name not in _OWN})
    for table in _TABLES:
        attached = {k: v for k, v in vars(conv)[table].items() if k not in _PARAMETERS}
        vars(new)[table].update(attached)
    new._non_persistent_buffers_set |= conv._non_persistent_buffers_set
