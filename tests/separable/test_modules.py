"""SeparableConv1d/2d/3d as modules: shapes, attributes, errors, what PyTorch does with modules."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pytest_dwsconv.core.conv import ConvSpec, Order, separable_cost
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.separable.modules import CONVS, SEPARABLE_CONVS, SeparableConv2d

ORDERS = list(Order)
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_its_weight_is_the_kernel_of_the_standard_convolution_it_equals(
    rank: int, multiplier: int, groups: int, order: Order
) -> None:
    conv = SEPARABLE_CONVS[rank](
        4, 6, 3, 2, 1, 2, groups, depth_multiplier=multiplier, order=order, dtype=torch.float64
    )
    x = torch.randn(2, 4, *(9, 8, 7)[:rank], dtype=torch.float64)
    dense = CONVOLVE[rank](x, conv.weight, conv.bias, 2, 1, 2, groups)
    torch.testing.assert_close(conv(x), dense, rtol=1e-12, atol=1e-12)
    assert conv.weight.shape == CONVS[rank](4, 6, 3, groups=groups).weight.shape


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_it_has_the_parameters_that_the_cost_formula_says(
    groups: int, bias: bool, order: Order
) -> None:
    conv = SeparableConv2d(4, 6, (3, 5), groups=groups, bias=bias, depth_multiplier=2, order=order)
    cost = separable_cost(ConvSpec(2, 4, 6, (3, 5), groups=groups, bias=bias), order, 2)
    assert cost is not None
    assert sum(p.numel() for p in conv.parameters()) == cost.params


@pytest.mark.parametrize("order", ORDERS)
def test_it_keeps_the_attributes_that_people_read(order: Order) -> None:
    arguments = (8, 12, (3, 5), (2, 1), (1, 2), (1, 2), 2, True, "reflect")
    conv, plain = SeparableConv2d(*arguments, order=order), nn.Conv2d(*arguments)  # type: ignore[arg-type]
    for name in (
        "in_channels out_channels kernel_size stride padding dilation groups padding_mode "
        "transposed output_padding"
    ).split():
        assert getattr(conv, name) == getattr(plain, name), name
    assert conv.weight.shape == plain.weight.shape
    assert conv.weight.dtype == plain.weight.dtype
    assert conv.bias is (conv.pointwise if order == "depthwise_first" else conv.depthwise).bias


def test_pointwise_first_has_no_bias_before_the_padded_part() -> None:
    conv = SeparableConv2d(4, 6, 3, order="pointwise_first")
    assert conv.pointwise.bias is None
    assert conv.depthwise.bias is not None
    assert [name for name, _ in conv.named_children()] == ["pointwise", "depthwise"]


def test_the_weight_is_read_only_and_differentiable() -> None:
    conv = SeparableConv2d(4, 6, 3)
    conv.weight.square().sum().backward()
    assert all(
        p.grad is not None for name, p in conv.named_parameters() if name != "pointwise.bias"
    )
    with pytest.raises(AttributeError):
        conv.weight = torch.zeros(1)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 0}, "in_channels must be a whole number from 1, not 0"),
        ({"out_channels": "8"}, "out_channels must be a whole number from 1, not '8'"),
        ({"groups": 3}, "in_channels (4) must be divisible by groups (3)"),
        ({"groups": 4}, "out_channels (6) must be divisible by groups (4)"),
        ({"groups": 0}, "groups must be a whole number from 1"),
        ({"depth_multiplier": 0}, "depth_multiplier must be a whole number from 1, not 0"),
        ({"depth_multiplier": 1.5}, "depth_multiplier must be a whole number from 1, not 1.5"),
        (
            {"order": "sideways"},
            "order must be 'depthwise_first' or 'pointwise_first', not 'sideways'",
        ),
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be one number or 2, not (3, 3, 3)"),
        ({"stride": 0}, "stride must be a whole number from 1"),
        ({"padding": -1}, "padding must be a whole number from 0"),
        ({"padding": "some"}, "Invalid padding string 'some'"),
        (
            {"padding": "same", "stride": 2},
            "padding='same' is not supported for strided convolutions",
        ),
        ({"padding_mode": "mirror"}, "padding_mode must be one of"),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_bad_arguments_are_told_apart(order: Order, changes: dict[str, Any], message: str) -> None:
    arguments = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "order": order, **changes}
    with pytest.raises(InputError) as caught:
        SeparableConv2d(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("order", ORDERS)
def test_what_pytorch_does_with_modules_works(order: Order) -> None:
    conv = SeparableConv2d(4, 6, 3, padding=1, depth_multiplier=2, order=order).eval()
    x = torch.randn(2, 4, 8, 8)
    expected = conv(x)
    copies = [copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))]
    loaded = SeparableConv2d(4, 6, 3, padding=1, depth_multiplier=2, order=order)
    loaded.load_state_dict(conv.state_dict())
    for other in [*copies, loaded]:
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(conv(x[0]), expected[0])  # unbatched
    torch.testing.assert_close(conv(input=x), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_it_compiles_and_exports(order: Order) -> None:
    conv = SeparableConv2d(4, 6, 3, padding=1, order=order).eval()
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(torch.compile(conv, backend="aot_eager", fullgraph=True)(x), conv(x))
    torch.testing.assert_close(torch.export.export(conv, (x,)).module()(x), conv(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reason: newer PyTorch deprecates scripting
        scripted = torch.jit.script(conv)
    torch.testing.assert_close(scripted(x), conv(x))


@pytest.mark.parametrize("order", ORDERS)
def test_layouts_devices_and_autocast(order: Order) -> None:
    conv = SeparableConv2d(8, 16, 3, padding=1, order=order)
    x = torch.randn(2, 8, 8, 8)
    laid_out = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs
    out = laid_out(x.to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    meta = SeparableConv2d(8, 16, 3, padding=1, order=order, device="meta", dtype=torch.float16)
    assert meta(torch.empty(2, 8, 8, 8, device="meta", dtype=torch.float16)).shape == (2, 16, 8, 8)
    assert meta.weight.is_meta
    assert meta.weight.dtype == torch.float16


def test_its_representation_tells_order_and_multiplier() -> None:
    assert "depth_multiplier=2, order=pointwise_first" in repr(
        SeparableConv2d(4, 6, 3, depth_multiplier=2, order="pointwise_first")
    )
