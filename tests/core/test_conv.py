"""Costs of single convolutions against PyTorch's own counts and the tutorial's figures."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
import torch
from torch import nn

from pytest_dwsconv.core.conv import (
    ConvSpec,
    Cost,
    Form,
    Kind,
    Order,
    Trait,
    cost,
    full_size,
    separable_cost,
    separable_traffic,
    traffic,
)
from pytest_dwsconv.errors import InputError

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def worked_example(kernel: int) -> ConvSpec:
    """The tutorial's layer: 100 channels in, 1000 out, no bias, 17 x 17 input."""
    out = 17 - kernel + 1
    return ConvSpec(
        rank=2,
        in_channels=100,
        out_channels=1000,
        kernel_size=(kernel, kernel),
        bias=False,
        input_shape=(1, 100, 17, 17),
        output_shape=(1, 1000, out, out),
    )


@pytest.mark.parametrize(
    ("kernel", "standard", "separable", "output"),
    [(3, 900_000, 100_900, 15), (7, 4_900_000, 104_900, 11)],
)
def test_the_worked_example(kernel: int, standard: int, separable: int, output: int) -> None:
    spec = worked_example(kernel)
    assert cost(spec) == Cost(standard, standard * output**2)
    assert separable_cost(spec) == Cost(separable, separable * output**2)


def test_the_depthwise_layer_of_the_worked_example() -> None:
    depthwise = ConvSpec(2, 100, 100, (3, 3), groups=100, bias=False)
    pointwise = ConvSpec(2, 100, 1000, (1, 1), bias=False)
    assert (cost(depthwise), cost(pointwise)) == (Cost(900, None), Cost(100_000, None))
    assert cost(ConvSpec(2, 100, 1000, (3, 3), groups=100, bias=False)) == Cost(9_000, None)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("order", list(Order))
def test_parameters_are_those_of_real_layers(
    rank: int, groups: int, bias: bool, multiplier: int, order: Order
) -> None:
    conv, (c, m, k) = CONVS[rank], (4, 6, 3)
    spec = ConvSpec(rank, c, m, (k,) * rank, groups=groups, bias=bias)
    r = multiplier
    if order is Order.DEPTHWISE_FIRST:
        parts = [
            conv(c, r * c, k, groups=c, bias=False),
            conv(r * c, m, 1, groups=groups, bias=bias),
        ]
    else:
        parts = [
            conv(c, r * m, 1, groups=groups, bias=False),
            conv(r * m, m, k, groups=m, bias=bias),
        ]
    assert cost(spec) == Cost(_params(conv(c, m, k, groups=groups, bias=bias)), None)
    assert separable_cost(spec, order, multiplier) == Cost(sum(map(_params, parts)), None)


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("order", list(Order))
def test_separable_macs_follow_from_the_shapes_of_its_parts(order: Order) -> None:
    """With stride 2 the pointwise part of pointwise_first runs at the input's resolution."""
    spec = ConvSpec(
        2, 8, 16, (3, 3), bias=False, input_shape=(2, 8, 20, 20), output_shape=(2, 16, 9, 9)
    )
    parts = {
        Order.DEPTHWISE_FIRST: (2 * 81 * 8 * 9, 2 * 81 * 8 * 16),
        Order.POINTWISE_FIRST: (2 * 400 * 8 * 16, 2 * 81 * 16 * 9),
    }
    separable = separable_cost(spec, order)
    assert separable is not None
    assert separable.macs == sum(parts[order])


def test_a_transposed_convolution_is_counted_at_its_input() -> None:
    conv = nn.ConvTranspose2d(4, 6, 3, stride=2)
    out = conv(torch.empty(2, 4, 5, 7))
    spec = ConvSpec(
        2,
        4,
        6,
        (3, 3),
        transposed=True,
        input_shape=(2, 4, 5, 7),
        output_shape=tuple(out.shape),
        bias=True,
    )
    assert cost(spec) == Cost(_params(conv), 2 * 35 * prod(conv.weight.shape))


def test_an_unbatched_shape_counts_one_sample() -> None:
    batched = worked_example(3)
    alone = ConvSpec(
        2, 100, 1000, (3, 3), bias=False, input_shape=(100, 17, 17), output_shape=(1000, 15, 15)
    )
    assert cost(alone) == cost(batched)
    assert separable_cost(alone) == separable_cost(batched)


@pytest.mark.parametrize(
    "missing", ["in_channels", "out_channels", "kernel_size", "groups", "bias"]
)
def test_what_is_not_known_has_no_cost(missing: str) -> None:
    known: dict[str, object] = {
        "in_channels": 8, "out_channels": 8, "kernel_size": (3, 3), "groups": 1, "bias": True,
        missing: None,
    }  # fmt: skip
    spec = ConvSpec(rank=2, **known)  # type: ignore[arg-type]  # one of each is None
    assert (cost(spec), separable_cost(spec)) == (None, None)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (ConvSpec(2, 8, 8, (3, 3)), Kind.STANDARD),
        (ConvSpec(1, 8, 8, (3,)), Kind.STANDARD),
        (ConvSpec(2, 8, 8, (1, 3)), Kind.STANDARD),
        (ConvSpec(2, 8, 8, (3, 3), groups=2), Kind.GROUPED),
        (ConvSpec(2, 8, 16, (3, 3), groups=8), Kind.DEPTHWISE),
        (ConvSpec(2, 1, 8, (3, 3), groups=1), Kind.STANDARD),
        (ConvSpec(2, 8, 8, (1, 1)), Kind.POINTWISE),
        (ConvSpec(2, 8, 8, (1, 1), groups=2), Kind.POINTWISE),
        (ConvSpec(2, 8, 8, (3, 3), transposed=True), Kind.TRANSPOSED),
        (ConvSpec(2, None, None, (3, 3)), Kind.STANDARD),
        (ConvSpec(2, None, None, (3, 3), groups=2), Kind.UNKNOWN),
        (ConvSpec(2, 8, 8, (3, 3), groups=None), Kind.UNKNOWN),
        (ConvSpec(2, 8, 8, None), Kind.UNKNOWN),
    ],
)
def test_kinds(spec: ConvSpec, kind: Kind) -> None:
    assert spec.kind is kind


def test_the_full_size_is_the_rank_of_a_slice() -> None:
    spec = ConvSpec(2, 6, 16, (3, 3), groups=2)
    sizes = {form: full_size(spec, form) for form in Form}
    assert sizes == {
        Form.DEPTHWISE_FIRST: 8,
        Form.POINTWISE_FIRST: 3,
        Form.BOTTLENECK: 8 * 6,
        Form.GROUPED: 3,
    }
    with pytest.raises(InputError, match="not known"):
        full_size(ConvSpec(2, None, 16, (3, 3)), Form.DEPTHWISE_FIRST)


def test_traffic_moves_everything_once_and_what_lies_between_twice() -> None:
    """C = 4, M = 6, K = 3, stride 2 on 9 x 9, no bias, r = 2: 4 x 81 elements in, 6 x 16 out."""
    spec = ConvSpec(
        2,
        4,
        6,
        (3, 3),
        stride=(2, 2),
        bias=False,
        input_shape=(1, 4, 9, 9),
        output_shape=(1, 6, 4, 4),
    )
    ends = 4 * 81 + 6 * 16
    assert traffic(spec, 7) == ends + 7
    between = 2 * (2 * 4 * 16)  # r C channels, at the output's resolution
    assert separable_traffic(spec, 7, Order.DEPTHWISE_FIRST, 2) == ends + 7 + between
    between = 2 * (2 * 6 * 81)  # r M channels, at the input's
    assert separable_traffic(spec, 7, Order.POINTWISE_FIRST, 2) == ends + 7 + between
    unknown = replace(spec, input_shape=None)
    assert traffic(unknown, 7) is separable_traffic(unknown, 7, Order.DEPTHWISE_FIRST, 1) is None


def test_a_shaped_one_is_what_replace_gives() -> None:
    spec = ConvSpec(2, 4, 6, (3, 3), traits=(Trait.TIED,))
    shaped = spec.shaped((1, 4, 9, 9), (1, 6, 7, 7))
    assert shaped == replace(spec, input_shape=(1, 4, 9, 9), output_shape=(1, 6, 7, 7))
    assert hash(shaped) != hash(spec)
    assert spec.input_shape is None
