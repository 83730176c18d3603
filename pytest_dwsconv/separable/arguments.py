"""The arguments of a separable convolution, checked."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_dwsconv.core.conv import ORDERS, Form, Order, parse_form, parse_order
from pytest_dwsconv.core.quantities import whole_number
from pytest_dwsconv.errors import InputError


def form_and_size(
    form: Form | str | None, size: int | None, order: Order | str, depth_multiplier: int
) -> tuple[str, int]:
    """The form's word and the size, from either kind of arguments."""
    multiplier = whole_number("depth_multiplier", depth_multiplier)
    word = parse_order(order).value
    if form is None:
        if size is not None:
            raise InputError("size goes with form: pass form, or depth_multiplier in place of size")
        return word, multiplier
    if multiplier != 1 or word != Order.DEPTHWISE_FIRST:
        raise InputError("pass form and size, or order and depth_multiplier, not both")
    chosen = parse_form(form)
    if size is None and chosen not in ORDERS:
        raise InputError(
            f"form={chosen.value!r} needs its size (see pytest_dwsconv.core.conv.parts)"
        )
    return chosen.value, whole_number("size", 1 if size is None else size)


def per_dimension(name: str, value: int | Sequence[int] | str, rank: int) -> tuple[int, ...]:
    """One number per dimension, from one number or from as many as there are dimensions."""
    least = 0 if name.endswith("padding") else 1
    sides = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(sides) != rank:
        raise InputError(f"{name} must be one number or {rank}, not {value!r}")
    return tuple(whole_number(name, side, least) for side in sides)
