"""Plans: numbers, checks, the JSON round trip and what is refused; multipliers at equal cost."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from pytest_dwsconv.core.conv import ConvSpec, Form, Order, cost
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.errors import FormatError, InputError

ENTRY = PlanEntry("layer1.conv", Form.DEPTHWISE_FIRST, 2, 64, 128, (3, 3), 1, False)
BOTTLENECK = PlanEntry("b", Form.BOTTLENECK, 24, 64, 128, (3, 3), 8, True)
GROUPED = PlanEntry("g", Form.GROUPED, 8, 64, 128, (3, 3), 1, False)
OTHER = PlanEntry("head", Form.POINTWISE_FIRST, 1, 8, 8, (5,), 2, True)


def changed(**changes: Any) -> str:
    """A plan's JSON with the first layer's fields changed; None takes a field away."""
    data = json.loads(Plan((ENTRY,)).to_json())
    data["layers"][0].update(changes)
    data["layers"][0] = {k: v for k, v in data["layers"][0].items() if v is not None}
    return json.dumps(data)


def formed(**changes: Any) -> str:
    """The JSON of a plan with a bottleneck, with these fields changed."""
    data = json.loads(Plan((BOTTLENECK,)).to_json())
    data["layers"][0].update(changes)
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


def test_orders_are_stored_by_their_old_words_and_the_other_forms_by_form_and_size() -> None:
    plan = Plan((ENTRY, BOTTLENECK, GROUPED))
    assert Plan.from_json(plan.to_json()) == plan
    bottleneck, grouped, ordered = json.loads(plan.to_json())["layers"]
    assert ordered["order"], ordered["depth_multiplier"] == ("depthwise_first", 2)
    assert list(ordered)[:4] == ["name", "order", "depth_multiplier", "in_channels"]
    assert (bottleneck["form"], bottleneck["size"]) == ("bottleneck", 24)
    assert (grouped["form"], grouped["size"]) == ("grouped", 8)


def test_order_and_multiplier_are_those_of_the_two_orders_alone() -> None:
    assert (ENTRY.order, ENTRY.depth_multiplier) == (Order.DEPTHWISE_FIRST, 2)
    assert (BOTTLENECK.order, BOTTLENECK.depth_multiplier) == (None, None)
    entry = PlanEntry.of("a", ENTRY.spec, Order.POINTWISE_FIRST, 1)
    assert entry.form is Form.POINTWISE_FIRST


def test_it_counts_parameters() -> None:
    assert BOTTLENECK.params_after == 24 * (64 // 8 + 9 + 128 // 8) + 128
    assert GROUPED.params_after == 64 * 8 * 9 + 64 * 128
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
        (formed(form="sideways"), "layers[0].form: 'sideways' is not 'depthwise_first' or"),
        (formed(size=0), "layers[0].size: 0 is not a whole number from 1"),
        (formed(size=5), "layers[0]: b: the size of a bottleneck"),
        (formed(size=8 * 64 * 9 + 8), "layers[0]: b: size 4616 is above 576, which is exact"),
        (formed(form="grouped", size=3), "layers[0]: b: the size of form 'grouped' (3) must"),
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


def test_params_before_is_the_cost_of_its_spec() -> None:
    found = cost(ENTRY.spec)
    assert found is not None
    assert found.params == ENTRY.params_before


def test_planning_needs_no_torch() -> None:
    code = "import sys, pytest_dwsconv.core.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
