"""The closed form: exact at full multiplier, optimal below it, quick; and fresh weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv.core.conv import ConvSpec, Form, full_size
from pytest_dwsconv.core.sizes import equal_cost
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.separable.factorize import Factors, decompose, dense_kernel, fresh

ORDERS = [Form.DEPTHWISE_FIRST, Form.POINTWISE_FIRST]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def slices_of(weight: Tensor, groups: int, order: Form) -> Tensor:
    """The matrices whose rank counts, cut out one by one."""
    filters, channels = weight.shape[:2]
    flat = weight.reshape(filters, channels, -1)
    if order is Form.POINTWISE_FIRST:
        return torch.stack([flat[m] for m in range(filters)])
    size = filters // groups
    return torch.stack(
        [flat[g * size : (g + 1) * size, c] for g in range(groups) for c in range(channels)]
    )


def rebuilt(weight: Tensor, groups: int, order: Form, multiplier: int) -> Tensor:
    factors = decompose(weight, groups, order).factors(multiplier)
    return product(factors, groups, order, multiplier)


def product(factors: Factors, groups: int, form: Form, size: int) -> Tensor:
    return dense_kernel(factors, form, size, groups)


def full(weight: Tensor, groups: int, order: Form) -> int:
    return min(slices_of(weight, groups, order).shape[1:])


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative error, computed without the squares of tiny or huge numbers."""
    found, expected = found.double(), expected.double()
    peak = float(expected.abs().max()) or 1.0
    return float(
        (found / peak - expected / peak).norm() / (expected / peak).norm().clamp(min=1e-300)
    )


def random_kernel(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def low_rank(dtype: torch.dtype) -> Tensor:
    left, right = random_kernel(12, 8, 1, 2, seed=1), random_kernel(1, 1, 2, 9, seed=2)
    return (left @ right).reshape(12, 8, 3, 3).to(dtype)


def one_tap_per_filter(dtype: torch.dtype) -> Tensor:
    weight = torch.zeros(12, 8, 3, 3, dtype=dtype)
    weight[:, :, 1, 1] = random_kernel(12, 8, dtype=dtype)
    return weight


def dead_channels(dtype: torch.dtype) -> Tensor:
    weight = random_kernel(12, 8, 3, 3, dtype=dtype)
    weight[:, 2], weight[5] = 0, 0
    return weight


def wild_scales(dtype: torch.dtype) -> Tensor:
    scale = torch.logspace(-12, 0, 8, dtype=torch.float64).reshape(1, 8, 1, 1)
    return (random_kernel(12, 8, 3, 3) * scale).to(dtype)


KERNELS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "random": lambda dtype: random_kernel(12, 8, 3, 3, dtype=dtype),
    "fewer filters than taps": lambda dtype: random_kernel(4, 6, 3, 3, dtype=dtype),
    "one input channel": lambda dtype: random_kernel(12, 1, 3, 3, dtype=dtype),
    "one filter": lambda dtype: random_kernel(1, 8, 3, 3, dtype=dtype),
    "1-d": lambda dtype: random_kernel(12, 8, 5, dtype=dtype),
    "3-d": lambda dtype: random_kernel(32, 30, 3, 3, 3, dtype=dtype),
    "low rank": low_rank,
    "one tap": one_tap_per_filter,
    "dead channels": dead_channels,
    "wild scales": wild_scales,
    "tiny": (random_kernel(12, 8, 3, 3) * 1e-20).to,
    "huge": (random_kernel(12, 8, 3, 3) * 1e20).to,
    "zero": lambda dtype: torch.zeros(12, 8, 3, 3, dtype=dtype),
    "constant": lambda dtype: torch.ones(12, 8, 3, 3, dtype=dtype),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_exact_at_full_multiplier(name: str, dtype: torch.dtype, order: Form) -> None:
    weight = KERNELS[name](dtype)
    multiplier = full(weight, 1, order)
    found = rebuilt(weight, 1, order, multiplier)
    assert found.dtype == dtype
    assert relative(found, weight) <= TOLERANCE[dtype]
    assert decompose(weight, 1, order).error(multiplier) == 0.0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_no_over_or_underflow_in_float64(scale: float, order: Form) -> None:
    weight = random_kernel(12, 8, 3, 3) * scale
    assert relative(rebuilt(weight, 1, order, full(weight, 1, order)), weight) <= 1e-10
    assert 0.5 < decompose(weight, 1, order).error(1) < 1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("shape", [(24, 8, 3, 3), (8, 3, 3, 3), (8, 4, 7), (8, 4, 2, 3, 2)])
def test_below_it_is_the_truncated_svd_of_each_slice(
    shape: tuple[int, ...], multiplier: int, groups: int, order: Form
) -> None:
    weight = random_kernel(*shape)
    found = slices_of(rebuilt(weight, groups, order, multiplier), groups, order)
    u, s, v = torch.linalg.svd(slices_of(weight, groups, order), full_matrices=False)
    best = (u[:, :, :multiplier] * s[:, None, :multiplier]) @ v[:, :multiplier]
    torch.testing.assert_close(found, best, rtol=1e-9, atol=1e-9)
    left_out = float(s[:, multiplier:].square().sum() / s.square().sum())
    assert decompose(weight, groups, order).error(multiplier) == pytest.approx(
        math.sqrt(left_out), rel=1e-9
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_error_told_is_the_error_made(data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, 3))
    order = data.draw(st.sampled_from(ORDERS))
    sides = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    shape = (groups * data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6)), *sides)
    weight = random_kernel(*shape, seed=data.draw(st.integers(0, 1000)))
    multiplier = data.draw(st.integers(1, full(weight, groups, order)))
    decomposition = decompose(weight, groups, order)
    error = relative(rebuilt(weight, groups, order, multiplier), weight)
    assert decomposition.error(multiplier) == pytest.approx(error, abs=1e-9)


@pytest.mark.parametrize("order", ORDERS)
def test_both_parts_carry_the_same_energy(order: Form) -> None:
    factors = decompose(random_kernel(16, 8, 3, 3), 1, order).factors(1)
    assert float(factors.depthwise.norm()) == pytest.approx(
        float(factors.pointwise.norm()), rel=1e-9
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_double_and_cast_back(
    dtype: torch.dtype, order: Form
) -> None:
    weight = (random_kernel(16, 8, 3, 3) * 1e-3).to(dtype)
    found = rebuilt(weight.double(), 1, order, 2)
    factors = decompose(weight, 1, order).factors(2)
    assert factors.depthwise.dtype == factors.pointwise.dtype == dtype
    doubled = Factors(factors.depthwise.double(), factors.pointwise.double())
    cast = product(doubled, 1, order, 2)
    assert relative(cast, found) < 3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_reach_a_factorised_zero_kernel(order: Form) -> None:
    factors = decompose(torch.zeros(12, 8, 3, 3), 1, order).factors(2)
    parts = [part.requires_grad_() for part in factors.by_part().values()]
    product(factors, 1, order, 2).sum().backward()
    assert any(bool(part.grad.abs().sum() > 0) for part in parts if part.grad is not None)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.full((4, 4, 3, 3), math.nan), "NaN or infinite"),
        (torch.full((4, 4, 3, 3), math.inf), "NaN or infinite"),
        (torch.zeros(4, 4, 3, 3, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(4, 4, 3, 3, device="meta"), "meta device"),
    ],
)
def test_kernels_that_cannot_be_factorised(weight: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decompose(weight, 1, Form.DEPTHWISE_FIRST)


@pytest.mark.parametrize("multiplier", [0, 10])
def test_a_multiplier_out_of_range_is_refused(multiplier: int) -> None:
    decomposition = decompose(random_kernel(12, 8, 3, 3), 1, Form.DEPTHWISE_FIRST)
    with pytest.raises(InputError, match="from 1 to 9"):
        decomposition.factors(multiplier)


def test_the_weight_is_neither_changed_nor_kept_in_a_graph() -> None:
    weight = nn.Parameter(random_kernel(12, 8, 3, 3))
    before = weight.detach().clone()
    factors = decompose(weight, 1, Form.DEPTHWISE_FIRST).factors(1)
    assert torch.equal(weight, before)
    assert not factors.depthwise.requires_grad
    assert weight.grad is None


# -- groups and bottlenecks


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("shape", [(12, 8, 3, 3), (2, 4, 5), (8, 4, 2, 1, 3)])
def test_groups_are_the_truncated_svd_of_each_block(
    shape: tuple[int, ...], size: int, groups: int
) -> None:
    weight = random_kernel(*shape)
    found = rebuilt(weight, groups, Form.GROUPED, size)
    filters, channels = shape[0] // groups, shape[1]
    for group in range(groups):
        rows = slice(group * filters, (group + 1) * filters)
        for first in range(0, channels, size):
            block = weight[rows, first : first + size].flatten(1)
            u, s, v = torch.linalg.svd(block, full_matrices=False)
            best = (u[:, :size] * s[:size]) @ v[:size]
            own = found[rows, first : first + size].flatten(1)
            torch.testing.assert_close(own, best, rtol=1e-9, atol=1e-9)
    error = decompose(weight, groups, Form.GROUPED).error(size)
    assert error == pytest.approx(relative(found, weight), abs=1e-9)


def test_a_group_of_one_channel_is_depthwise_first() -> None:
    weight = random_kernel(12, 8, 3, 3)
    one = decompose(weight, 1, Form.GROUPED).factors(1)
    torch.testing.assert_close(one, decompose(weight, 1, Form.DEPTHWISE_FIRST).factors(1))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [(12, 6, 3, 3), (4, 6, 5), (8, 4, 2, 1, 3), (2, 3, 3, 3)])
def test_the_largest_bottleneck_is_exact(shape: tuple[int, ...], groups: int) -> None:
    weight = random_kernel(*shape)
    spec = ConvSpec(len(shape) - 2, shape[1] * groups, shape[0], shape[2:], groups=groups)
    size = full_size(spec, Form.BOTTLENECK)
    assert relative(rebuilt(weight, groups, Form.BOTTLENECK, size), weight) < 1e-6
    assert decompose(weight, groups, Form.BOTTLENECK).error(size) < 1e-6


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", ["dead channels", "wild scales", "random"])
def test_a_bottleneck_is_nearer_than_depthwise_first_of_as_many_parameters(
    name: str, groups: int, scale: float
) -> None:
    weight = KERNELS[name](torch.float64) * scale
    spec = ConvSpec(2, 8 * groups, 12, (3, 3), groups=groups)
    sizes = equal_cost(spec, 2, tuple(Form))
    errors = {}
    for form, size in sizes.items():
        errors[form] = relative(rebuilt(weight, groups, form, size), weight)
        told = decompose(weight, groups, form).error(size)
        assert told == pytest.approx(errors[form], rel=1e-6, abs=1e-6)
    assert errors[Form.BOTTLENECK] <= errors[Form.DEPTHWISE_FIRST] + 1e-6


def test_the_three_parts_of_a_bottleneck_carry_the_same_energy() -> None:
    factors = decompose(random_kernel(12, 8, 3, 3), 1, Form.BOTTLENECK).factors(10)
    inner, taps, outer = factors.pointwise_in, factors.depthwise, factors.pointwise
    assert inner is not None
    torch.testing.assert_close(inner.flatten(1).norm(dim=1), taps.flatten(1).norm(dim=1))
    torch.testing.assert_close(inner.flatten(1).norm(dim=1), outer.flatten(1).norm(dim=0))


@pytest.mark.parametrize(("form", "size"), [(Form.BOTTLENECK, 16), (Form.GROUPED, 4)])
@pytest.mark.parametrize("weight", [torch.zeros(12, 8, 3, 3), torch.zeros(3, 8, 3, 3)], ids=str)
def test_gradients_reach_a_zero_kernel_of_the_other_forms(
    weight: Tensor, form: Form, size: int
) -> None:
    for factors in (decompose(weight, 1, form).factors(size), fresh(weight, 1, form, size)):
        every = [part.requires_grad_() for part in factors.by_part().values()]
        kernel = product(factors, 1, form, size)
        assert not kernel.any()
        (kernel * random_kernel(*weight.shape, dtype=torch.float32)).sum().backward()
        assert any(bool(part.grad.any()) for part in every if part.grad is not None)


@pytest.mark.parametrize(("form", "size"), [(Form.BOTTLENECK, 12), (Form.GROUPED, 4)])
@pytest.mark.parametrize("groups", [1, 2])
def test_fresh_kernels_of_the_other_forms_vary_as_much_as_the_original(
    groups: int, form: Form, size: int
) -> None:
    torch.manual_seed(0)
    weight = nn.Conv2d(32, 48, 3, groups=groups).weight.detach() * 5
    drawn = [product(fresh(weight, groups, form, size), groups, form, size) for _ in range(40)]
    assert drawn[0].shape == weight.shape
    found = float(torch.stack(drawn).var())
    assert found == pytest.approx(float(weight.var()), rel=0.1)


# -- fresh weights


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64], ids=str
)
def test_fresh_weights_have_the_kernels_dtype(dtype: torch.dtype) -> None:
    weight = random_kernel(16, 8, 3, 3).to(dtype)
    drawn = fresh(weight, 1, Form.DEPTHWISE_FIRST, 1)
    assert {part.dtype for part in drawn.by_part().values()} == {dtype}


def test_fresh_weights_for_a_complex_kernel_are_refused() -> None:
    with pytest.raises(InputError, match="complex64"):
        fresh(torch.zeros(4, 4, 3, 3, dtype=torch.complex64), 1, Form.DEPTHWISE_FIRST, 1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 3])
def test_fresh_outputs_vary_as_much_as_the_originals(
    multiplier: int, groups: int, order: Form
) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 16, 12, 12)
    ratios = []
    for _ in range(100):
        weight = nn.Conv2d(16, 24, 3, groups=groups).weight.detach() * 5
        kernel = product(fresh(weight, groups, order, multiplier), groups, order, multiplier)
        assert kernel.shape == weight.shape
        ratios.append(
            float(
                F.conv2d(x, kernel, groups=groups).var() / F.conv2d(x, weight, groups=groups).var()
            )
        )
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("order", ORDERS)
def test_a_deep_stack_neither_explodes_nor_vanishes(order: Form) -> None:
    torch.manual_seed(0)
    gains = []
    for _ in range(8):
        x = y = torch.randn(2, 32, 12, 12)
        for _ in range(20):
            weight = torch.empty(32, 32, 3, 3)
            nn.init.kaiming_normal_(weight)
            kernel = product(fresh(weight, 1, order, 1), 1, order, 1)
            x = F.relu(F.conv2d(x, weight, padding=1))
            y = F.relu(F.conv2d(y, kernel, padding=1))
        gains.append(math.log(float(y.std() / x.std())))
    assert abs(sum(gains) / len(gains)) < math.log(4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weight", [torch.ones(64, 32, 3, 3), torch.full((64, 32, 3, 3), math.nan)])
def test_without_a_variance_of_its_own_it_is_pytorchs_default(weight: Tensor, order: Form) -> None:
    torch.manual_seed(0)
    kernel = product(fresh(weight, 1, order, 1), 1, order, 1)
    assert float(kernel.var()) == pytest.approx(1 / (3 * 32 * 9), rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn, torch.float64], ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_zeros_stay_zeros_that_gradients_can_move(order: Form, dtype: torch.dtype) -> None:
    factors = fresh(torch.zeros(12, 4, 3, 3, dtype=dtype), 2, order, 2)
    assert bool(factors.depthwise.double().any())
    assert not bool(factors.pointwise.double().any())


@pytest.mark.parametrize("order", ORDERS)
def test_on_the_meta_device_fresh_only_shapes(order: Form) -> None:
    state = torch.get_rng_state()
    empty = torch.empty(12, 4, 3, 3, device="meta", dtype=torch.float16)
    meta = fresh(empty, 2, order, 3).by_part()
    real = fresh(torch.ones(12, 4, 3, 3), 2, order, 3)
    assert [part.shape for part in meta.values()] == [p.shape for p in real.by_part().values()]
    assert all(part.is_meta and part.dtype == torch.float16 for part in meta.values())
    torch.set_rng_state(state)
    again = fresh(torch.ones(12, 4, 3, 3), 2, order, 3)
    assert torch.equal(again.depthwise, real.depthwise)  # meta tensors drew no numbers


def test_fresh_weights_stay_within_the_variance_of_the_kernel_itself() -> None:
    """Not of the distribution that it may be drawn from, which is estimated larger."""
    kernel = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    drawn = [fresh(kernel, 1, Form.DEPTHWISE_FIRST, 1).pointwise for _ in range(100)]
    assert float(torch.stack(drawn).abs().max()) <= 3**0.5
