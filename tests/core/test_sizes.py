"""Which sizes of a form are tried: at equal cost, by name alone, and under a budget."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dwsconv.core.conv import ConvSpec, Form, cost, full_size, parts, separable_cost
from pytest_dwsconv.core.sizes import choices, equal_cost, forms_for, size_for
from pytest_dwsconv.errors import InputError

ALL = tuple(Form)


def params(spec: ConvSpec, form: Form, size: int) -> int:
    found = separable_cost(spec, form, size)
    assert found is not None
    return found.params


# -- equal cost


def test_a_convolution_with_unknown_numbers_has_no_sizes() -> None:
    with pytest.raises(InputError, match="not known"):
        equal_cost(ConvSpec(2, 64, 64, None), 1)


def test_pointwise_first_gets_what_the_reference_costs() -> None:
    spec = ConvSpec(2, 64, 64, (3, 3))
    assert equal_cost(spec, 1) == {Form.DEPTHWISE_FIRST: 1, Form.POINTWISE_FIRST: 1}
    # 256 filters: one blueprint multiplier costs 256 (64 + 9) > 64 (9 + 256), so nothing is within
    # multiplier 1
    assert equal_cost(ConvSpec(2, 64, 256, (3, 3)), 1) == {Form.DEPTHWISE_FIRST: 1}
    assert equal_cost(ConvSpec(2, 256, 64, (3, 3)), 3) == {
        Form.DEPTHWISE_FIRST: 3,
        Form.POINTWISE_FIRST: 3,
    }
    assert equal_cost(ConvSpec(2, 64, 4, (3, 3)), 99)[Form.DEPTHWISE_FIRST] == 4


def test_macs_count_where_shapes_are_known() -> None:
    strided = ConvSpec(2, 64, 64, (3, 3), input_shape=(1, 64, 8, 8), output_shape=(1, 64, 4, 4))
    # the pointwise part runs at four times the sites
    assert equal_cost(strided, 1) == {Form.DEPTHWISE_FIRST: 1}


@given(st.data())
def test_the_competitor_is_the_largest_within_the_cost(data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, 3))
    spec = ConvSpec(
        2,
        groups * data.draw(st.integers(1, 40)),
        groups * data.draw(st.integers(1, 40)),
        (3, 3),
        groups=groups,
    )
    multipliers = equal_cost(spec, data.draw(st.integers(1, 12)))
    limit = separable_cost(spec, Form.DEPTHWISE_FIRST, multipliers[Form.DEPTHWISE_FIRST])
    found = multipliers.get(Form.POINTWISE_FIRST, 0)
    full = full_size(spec, Form.POINTWISE_FIRST)
    assert limit is not None
    for multiplier in range(1, full + 1):
        rival = separable_cost(spec, Form.POINTWISE_FIRST, multiplier)
        assert rival is not None
        assert (rival.params <= limit.params) == (multiplier <= found)


@pytest.mark.parametrize(("multiplier", "bottleneck", "group"), [(1, 34, 1), (2, 68, 8)])
def test_every_form_gets_what_the_reference_costs(
    multiplier: int, bottleneck: int, group: int
) -> None:
    found = equal_cost(ConvSpec(2, 64, 64, (3, 3)), multiplier, ALL)
    assert found[Form.BOTTLENECK] == bottleneck  # 4,672 and 9,344 parameters over 137
    assert found[Form.GROUPED] == group


# -- by name alone


@pytest.mark.parametrize(
    ("spec", "multiplier", "sizes"),
    [
        (ConvSpec(2, 64, 64, (3, 3)), 1, (1, 1, 34, 8)),
        (ConvSpec(2, 64, 64, (3, 3)), 3, (3, 3, 102, 16)),
        (ConvSpec(2, 60, 60, (3, 3), groups=2), 1, (1, 1, 32, 6)),
        (ConvSpec(2, 64, 64, (3, 3), stride=(2, 2), input_shape=(1, 64, 8, 8),
                  output_shape=(1, 64, 4, 4)), 1, (1, 1, 34, 8)),
        (ConvSpec(2, 8, 8, (3, 3)), 1, (1, 1, 5, 4)),  # groups of 8 would save nothing
    ],
)  # fmt: skip
def test_the_size_of_a_form_that_is_asked_for_by_name(
    spec: ConvSpec, multiplier: int, sizes: tuple[int, ...]
) -> None:
    found = [size_for(spec, form, multiplier, Form.DEPTHWISE_FIRST) for form in Form]
    assert found == list(sizes)


def test_a_bottleneck_of_few_inputs_gets_what_pointwise_first_costs() -> None:
    stem = ConvSpec(2, 3, 64, (7, 7), bias=False)
    size = size_for(stem, Form.BOTTLENECK, 1, Form.POINTWISE_FIRST)
    assert size == params(stem, Form.POINTWISE_FIRST, 1) // (3 + 49 + 64)


@pytest.mark.parametrize(
    ("forms", "found"),
    [
        (ALL, (Form.POINTWISE_FIRST,)),
        ((Form.DEPTHWISE_FIRST,), (Form.POINTWISE_FIRST,)),
        ((Form.GROUPED,), (Form.POINTWISE_FIRST,)),
        ((Form.BOTTLENECK,), (Form.BOTTLENECK,)),
    ],
)
def test_few_inputs_leave_few_forms(forms: tuple[Form, ...], found: tuple[Form, ...]) -> None:
    stem = ConvSpec(2, 3, 64, (7, 7))
    assert forms_for(forms, stem, Form.POINTWISE_FIRST) == found
    assert forms_for(forms, stem, None) == forms


@pytest.mark.parametrize(
    ("forms", "found"),
    [
        (ALL, (Form.POINTWISE_FIRST, Form.BOTTLENECK)),
        ((Form.DEPTHWISE_FIRST,), (Form.POINTWISE_FIRST,)),
        ((Form.GROUPED,), (Form.POINTWISE_FIRST,)),
    ],
)
def test_what_enlarges_its_input_begins_with_a_pointwise_part(
    forms: tuple[Form, ...], found: tuple[Form, ...]
) -> None:
    up = ConvSpec(2, 64, 32, (4, 4), (2, 2), transposed=True)
    assert forms_for(forms, up, Form.POINTWISE_FIRST) == found


# -- under a budget


@given(st.data())
def test_all_choices_save_parameters_and_need_no_more_macs(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2, 5]))
    channels, filters = (groups * data.draw(st.integers(1, 200)) for _ in range(2))
    taps, stride = data.draw(st.integers(2, 64)), data.draw(st.integers(1, 2))
    spec = ConvSpec(1, channels, filters, (taps,), (stride,), groups=groups)
    spec = spec.shaped((1, channels, 16 * stride), (1, filters, 16))
    before = cost(spec)
    assert before is not None
    found = choices(spec, ALL)
    assert len(found) == len(set(found))
    for form, size in found:
        after = separable_cost(spec, form, size)
        assert after is not None
        assert after.params < before.params
        assert (after.macs or 0) <= (before.macs or 0)
        assert size <= full_size(spec, form)
        assert parts(channels, filters, groups, form, size)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("channels", [24, 96, 384])
def test_bottlenecks_come_in_about_ten_sizes_that_hardware_likes(
    channels: int, groups: int
) -> None:
    spec = ConvSpec(2, channels, channels, (3, 3), groups=groups, bias=False)
    sizes = [size for form, size in choices(spec, ALL) if form is Form.BOTTLENECK]
    assert 6 <= len(sizes) <= 11
    assert all(size % 8 == 0 for size in sizes[:-1] if size >= 16 * groups)
    assert all(size % groups == 0 for size in sizes)
    assert params(spec, Form.BOTTLENECK, sizes[0]) < params(spec, Form.DEPTHWISE_FIRST, 1)
    before = cost(spec)
    assert before is not None
    assert params(spec, Form.BOTTLENECK, sizes[-1] + groups) >= before.params


def test_multipliers_are_every_one_up_to_eight_and_then_a_quarter_apart() -> None:
    spec = ConvSpec(1, 512, 512, (64,))
    sizes = [size for form, size in choices(spec, (Form.DEPTHWISE_FIRST,))]
    assert sizes[:11] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14]
    assert all(later <= 1.25 * size for size, later in pairwise(sizes[7:]))


def test_groups_of_one_channel_are_there_only_without_depthwise_first() -> None:
    spec = ConvSpec(2, 64, 64, (3, 3))
    assert choices(spec, (Form.GROUPED,)) == [(Form.GROUPED, s) for s in (1, 2, 4, 8, 16, 32)]
    assert (Form.GROUPED, 1) not in choices(spec, ALL)
