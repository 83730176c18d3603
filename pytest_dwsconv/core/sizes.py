"""The sizes that a form can have for one convolution, and which of them are worth a try."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from math import lcm

from pytest_dwsconv.core.conv import (
    ORDERS,
    ConvSpec,
    Cost,
    Form,
    Order,
    cost,
    full_size,
    separable_cost,
)


def forms_for(
    forms: Sequence[Form], spec: ConvSpec, needed: Form | Order | None
) -> tuple[Form, ...]:
    """The forms for one convolution: those given, or what is left where it needs an order.

    With few input channels it needs ``pointwise_first``: forms that begin with a filter for each
    channel would make all its outputs mixtures of the same few maps. A bottleneck would not, so it
    stays where it is asked for by name. A transposed convolution that enlarges its input needs a
    pointwise part before, which a bottleneck has, too.
    """
    if needed is None or tuple(forms) == (Form.BOTTLENECK,):
        return tuple(forms)
    if spec.has_few_inputs:
        return (Form(needed),)
    return tuple(form for form in forms if form in (needed, Form.BOTTLENECK)) or (Form(needed),)


LARGEST_GROUP = 8
"""Channels of a group of the form ``grouped`` that is asked for by name, at multiplier 1."""


def size_for(spec: ConvSpec, form: Form, depth_multiplier: int, than: Form) -> int:
    """The size of a form that is asked for by its name alone, with a depth multiplier.

    That of the two orders is the multiplier. A bottleneck gets as many parameters as ``than``, the
    order that the report reckons with, has at that multiplier. Groups get 8 channels times the
    multiplier, or the largest divisor of the channels below that with which parameters are saved.
    """
    if form in ORDERS:
        return depth_multiplier
    spec = replace(spec, input_shape=None, output_shape=None)  # reason: MACs are not looked at
    limit = separable_cost(spec, than, min(depth_multiplier, full_size(spec, than)))
    if form is Form.BOTTLENECK:
        return largest_within(spec, form, limit) or _sizes(spec, form)[0]
    before = cost(spec)
    assert before is not None
    saving = before._replace(params=before.params - 1)
    few = [size for size in _sizes(spec, form) if size <= LARGEST_GROUP * depth_multiplier]
    return max(
        (size for size in few if _within(separable_cost(spec, form, size), saving)), default=1
    )


def equal_cost(
    spec: ConvSpec,
    depth_multiplier: int,
    forms: Iterable[Form] = ORDERS,
    than: Form = Form.DEPTHWISE_FIRST,
) -> dict[Form, int]:
    """The sizes of the forms at the cost of the order ``than`` at ``depth_multiplier``.

    Each form gets the largest size whose parameters, and MACs where shapes are known, do not exceed
    that cost; it is left out where none does.
    """
    limit = separable_cost(spec, than, min(depth_multiplier, full_size(spec, than)))
    found = {form: largest_within(spec, form, limit) for form in forms}
    return {form: size for form, size in found.items() if size is not None}


def largest_within(spec: ConvSpec, form: Form, limit: Cost | None) -> int | None:
    """The largest size of a form that costs no more; None where the smallest costs more."""
    sizes = _sizes(spec, form)
    fitting = bisect_left(
        sizes, True, key=lambda size: not _within(separable_cost(spec, form, size), limit)
    )
    return sizes[fitting - 1] if fitting else None


def _sizes(spec: ConvSpec, form: Form) -> Sequence[int]:
    """All sizes that a form can have, rising."""
    full, groups = full_size(spec, form), spec.groups or 1
    if form is Form.BOTTLENECK:
        return range(groups, full + 1, groups)
    if form is Form.GROUPED:
        return [size for size in range(1, full + 1) if full % size == 0]
    return range(1, full + 1)


def choices(spec: ConvSpec, forms: Collection[Form]) -> list[tuple[Form, int]]:
    """The forms and sizes to choose from under a budget, for one convolution.

    They save parameters and, where shapes are known, need no more MACs than the convolution.
    Multipliers are every one up to 8, then a quarter apart; bottlenecks about ten sizes, from half
    the parameters of multiplier 1 on; groups have 2, 4, 8, 16 or 32 channels (and 1 where
    ``depthwise_first``, which is the same, may not be chosen).
    """
    before = cost(spec)
    assert before is not None
    saving = before._replace(params=before.params - 1)
    found: list[tuple[Form, int]] = []
    for form in forms:
        largest = largest_within(spec, form, saving)
        if largest is None:
            continue
        if form is Form.BOTTLENECK:
            sizes: Iterable[int] = _bottlenecks(spec, largest)
        elif form is Form.GROUPED:
            least = 2 if Form.DEPTHWISE_FIRST in forms else 1
            possible = _sizes(spec, form)
            sizes = [size for size in (1, 2, 4, 8, 16, 32) if size in possible and size >= least]
        else:
            sizes = _multipliers(largest)
        found += [(form, size) for size in sizes if size <= largest]
    return found


def _multipliers(largest: int) -> Iterator[int]:
    size = 1
    while size <= largest:
        yield size
        size += max(1, size // 8 * 2)


BOTTLENECKS = 10
"""How many sizes of a bottleneck the planner is given."""
ALIGNED = 8
"""Numbers of channels that are multiples of this are what most hardware computes best."""


def _bottlenecks(spec: ConvSpec, largest: int) -> list[int]:
    """Sizes in a geometric scale up to the largest, multiples of 8 from 16 on."""
    groups = spec.groups or 1
    least = max(groups, size_for(spec, Form.BOTTLENECK, 1, Form.DEPTHWISE_FIRST) // 2)
    sizes = []
    for step in range(BOTTLENECKS):
        exact = least * (largest / least) ** (step / (BOTTLENECKS - 1))
        unit = groups if exact < 2 * ALIGNED else lcm(groups, ALIGNED)
        sizes.append(max(groups, int(exact) // unit * unit))
    return sorted({*sizes, largest})


def _within(candidate: Cost | None, limit: Cost | None) -> bool:
    assert candidate is not None
    assert limit is not None
    fits = candidate.params <= limit.params
    return fits and (candidate.macs is None or limit.macs is None or candidate.macs <= limit.macs)
