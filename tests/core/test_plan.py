"""Plans: numbers, checks, the JSON round trip and what is refused; multipliers at equal cost."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dwsconv.core.conv import ConvSpec, Form, cost, full_size, separable_cost
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.core.sizes import equal_cost
from pytest_dwsconv.errors import FormatError, InputError

ENTRY = PlanEntry("layer1.conv", Form.DEPTHWISE_FIRST, 2, 64, 128, (3, 3), 1, False)
OTHER = PlanEntry("head", Form.POINTWISE_FIRST, 1, 8, 8, (5,), 2, True)


def changed(**changes: Any) -> str:
    """A plan's JSON with the first layer's fields changed; None takes a field away."""
    data = json.loads(Plan((ENTRY,)).to_json())
    data["layers"][0].update(changes)
    data["layers"][0] = {k: v for k, v in data["layers"][0].items() if v is not None}
    return json.dumps(data)


def test_a_plan_survives_json_sorted_by_name() -> None:
    plan = Plan((ENTRY, OTHER))
    assert (
        plan
        == Plan((OTHER, ENTRY))
        == Plan.from_json(plan.to_json())
        == Plan.from_json(plan.to_json(None))
    )
    assert [entry.name for entry in plan.entries] == ["head", "layer1.conv"]
    assert json.loads(plan.to_json())["schema_version"] == 1
    assert plan.to_json() == Plan((OTHER, ENTRY)).to_json()
    assert Plan.from_json(Plan().to_json()) == Plan()


def test_it_counts_parameters() -> None:
    assert (ENTRY.params_before, ENTRY.params_after) == (64 * 128 * 9, 2 * 64 * 9 + 2 * 64 * 128)
    assert (OTHER.params_before, OTHER.params_after) == (8 * 4 * 5 + 8, 8 * 4 + 8 * 5 + 8)
    plan = Plan((ENTRY, OTHER))
    assert plan.params_before == ENTRY.params_before + OTHER.params_before
    assert plan.params_after == ENTRY.params_after + OTHER.params_after


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a plan in JSON"),
        ("{", "not a plan in JSON"),
        ("[]", "not a plan: [] is not an object"),
        ('{"layers": []}', "it has no schema_version"),
        (
            '{"schema_version": 2, "layers": []}',
            "schema version 2 cannot be read; this release reads version 1",
        ),
        ('{"schema_version": 1}', "not a plan: it lacks layers"),
        ('{"schema_version": 1, "layers": {}}', "not a plan: layers: {} is not a list"),
        ('{"schema_version": 1, "layers": [3]}', "layers[0]: 3 is not an object"),
        (
            '{"schema_version": 1, "layers": [], "budget": 1}',
            "not a plan: it has keys that this release does not know: 'budget'",
        ),
        (
            changed(order="sideways"),
            "layers[0].order: 'sideways' is not 'depthwise_first' or 'pointwise_first'",
        ),
        (changed(order=[1]), "layers[0].order: [1] is not"),
        (
            changed(depth_multiplier=0),
            "layers[0].depth_multiplier: 0 is not a whole number from 1",
        ),
        (
            changed(depth_multiplier=True),
            "depth_multiplier: True is not a whole number from 1",
        ),
        (changed(depth_multiplier=1.5), "depth_multiplier: 1.5 is not a whole number from 1"),
        (changed(depth_multiplier=10), "depth_multiplier 10 is above 9, which is exact already"),
        (changed(in_channels="64"), "in_channels: '64' is not a whole number from 1"),
        (changed(groups=3), "the channels must be divisible by groups (3)"),
        (changed(kernel_size=3), "kernel_size: 3 is not a list"),
        (changed(kernel_size=[]), "kernel_size must have 1 to 3 sides"),
        (
            changed(kernel_size=[3, "3"]),
            "layers[0].kernel_size[1]: '3' is not a whole number from 1",
        ),
        (changed(bias="no"), "layers[0].bias: 'no' is not true or false"),
        (changed(name=7), "layers[0].name: 7 is not text"),
        (changed(groups=None), "layers[0]: it lacks groups"),
        (changed(name=None), "layers[0]: it lacks name"),
        (changed(stride=2), "layers[0]: it has keys that this release does not know: 'stride'"),
        (
            json.dumps({"schema_version": 1, "layers": json.loads(changed())["layers"] * 2}),
            "layer1.conv occurs twice in the plan",
        ),
    ],
)
def test_an_unreadable_plan_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        Plan.from_json(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_no_plan() -> None:
    with pytest.raises(FormatError, match=r"not a plan in JSON: .* not NoneType"):
        Plan.from_json(None)  # type: ignore[arg-type]  # that is the test


def test_an_entry_is_lowered_to_the_exact_multiplier() -> None:
    spec = ConvSpec(2, 64, 4, (3, 3), bias=False)
    assert PlanEntry.of("a", spec, Form.DEPTHWISE_FIRST, 99).depth_multiplier == 4
    assert PlanEntry.of("a", spec, Form.POINTWISE_FIRST, 99).depth_multiplier == 9
    assert PlanEntry.of("a", spec, Form.POINTWISE_FIRST, 2).depth_multiplier == 2


def test_a_convolution_with_unknown_numbers_cannot_be_planned() -> None:
    with pytest.raises(InputError, match="not known"):
        PlanEntry.of("a", ConvSpec(2, None, 64, (3, 3)), Form.DEPTHWISE_FIRST, 1)
    with pytest.raises(InputError, match="not known"):
        equal_cost(ConvSpec(2, 64, 64, None), 1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            ConvSpec(2, 32, 128, (3, 3), bias=False),
            "layer1.conv has in_channels 32 here and 64 in the plan",
        ),
        (ConvSpec(2, 64, 64, (3, 3), bias=False), "out_channels 64 here and 128"),
        (ConvSpec(2, 64, 128, (5, 3), bias=False), r"kernel_size \(5, 3\) here and \(3, 3\)"),
        (ConvSpec(2, 64, 128, (3, 3), bias=False, groups=2), "groups 2 here and 1"),
        (ConvSpec(2, 64, 128, (3, 3)), "bias True here and False"),
        (
            ConvSpec(2, 64, 128, (3, 3), bias=False, transposed=True),
            "layer1.conv is a transposed convolution",
        ),
    ],
)
def test_an_entry_knows_its_convolution(spec: ConvSpec, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ENTRY.check(spec)


def test_an_entry_fits_its_convolution_whatever_the_stride() -> None:
    ENTRY.check(ConvSpec(2, 64, 128, (3, 3), stride=(2, 2), bias=False))


# -- equal cost


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


def test_params_before_is_the_cost_of_its_spec() -> None:
    found = cost(ENTRY.spec)
    assert found is not None
    assert found.params == ENTRY.params_before


def test_planning_needs_no_torch() -> None:
    code = "import sys, pytest_dwsconv.core.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
