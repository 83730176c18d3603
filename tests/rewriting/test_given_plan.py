"""A rewrite by a plan that somebody else made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.rewriting.application import apply_plan
from pytest_dwsconv.rewriting.rewrite import rewrite

INPUT = (2, 8, 9, 9)


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Conv2d(8, 8, 3) for _ in range(3)))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_given_plan_is_carried_out_as_apply_plan_does(net: nn.Sequential, inplace: bool) -> None:
    plan = rewrite(net, depth_multiplier=2, select=["1"]).plan
    wanted = apply_plan(net, plan, init="svd").state_dict()
    result = rewrite(net, INPUT, plan=Plan.from_json(plan.to_json()), inplace=inplace)
    assert result.plan == plan
    assert (result.model is net) is inplace
    found = result.model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert "not replaced: 2 (not in the plan)" in str(result)


def test_a_given_plan_is_fitted(net: nn.Sequential) -> None:
    plan = rewrite(net, select=["2"]).plan
    batches = [torch.randn(INPUT) for _ in range(3)]
    result = rewrite(net, plan=plan, init="fit", calibration=batches, refine=0)
    assert result.plan == plan
    assert list(result.calibration_errors) == ["2"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"depth_multiplier": 2}, "a plan says what is replaced by what: pass plan, or depth_"),
        ({"order": "pointwise_first"}, "a plan says what is replaced by what: "),
        ({"select": ["1"]}, "a plan says what is replaced by what: "),
        ({"ignore": ["1"]}, "a plan says what is replaced by what: "),
        (
            {"budget": "1k", "calibration": [torch.ones(INPUT)]},
            "a plan says what is replaced by what: ",
        ),
        ({"plan": "{}"}, "the plan must be a Plan, not text: pass Plan.from_json(text)"),
        ({"plan": rewrite(nn.Sequential(nn.Conv2d(8, 4, 3))).plan}, "the plan is for another "),
    ],
)
def test_what_does_not_go_with_a_plan_changes_nothing(
    net: nn.Sequential, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as error:
        rewrite(net, **{"plan": rewrite(net).plan, "inplace": True, **arguments})
    assert str(error.value).startswith(sentence)
    assert all(type(layer) is nn.Conv2d for layer in net)
