"""Rewriting by form: each by its name, all of them at equal cost, and as plans."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from pytest_dwsconv.core.conv import ORDERS, Form
from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.core.sizes import equal_cost
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.rewriting.application import apply_plan
from pytest_dwsconv.rewriting.fx_pass import DepthwiseSeparablePass
from pytest_dwsconv.rewriting.rewrite import rewrite

SIZE = (2, 3, 12, 12)
NEW = [Form.BOTTLENECK, Form.GROUPED]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 5, padding=2)
        self.body = nn.Conv2d(32, 48, 3, stride=2, padding=1, padding_mode="reflect", bias=False)
        self.twins = nn.Conv2d(48, 48, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.twins(self.body(self.stem(x).relu()).relu())
        return out


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize("init", ["svd", "fresh"])
@pytest.mark.parametrize("form", NEW)
def test_a_form_is_taken_by_its_name(net: Net, form: Form, init: str) -> None:
    result = rewrite(net, SIZE, form=form.value, init=init, verify="exact")
    found = {entry.name: (entry.form, entry.size) for entry in result.plan.entries}
    sizes = {Form.BOTTLENECK: (20, 26), Form.GROUPED: (8, 8)}[form]
    # three input channels are too few for groups; a bottleneck has filters of its own for each
    stem = (Form.POINTWISE_FIRST, 1)
    if form is Form.BOTTLENECK:
        stem = (Form.BOTTLENECK, 14)
    assert found == {"stem": stem, "body": (form, sizes[0]), "twins": (form, sizes[1])}
    assert result.report_after.params == sum(p.numel() for p in result.model.parameters())
    assert result.plan.params_after < result.plan.params_before
    assert result.model(torch.randn(SIZE)).shape == (2, 48, 6, 6)
    assert not {f.name for f in result.report_after.candidates if "." in f.name}
    assert f"{2 + (form is Form.BOTTLENECK)} {form.value}" in str(result)
    assert set(result.errors) == (set(found) if init == "svd" else set())


@pytest.mark.parametrize("form", NEW)
def test_the_replacement_computes_with_its_kernel(net: Net, form: Form) -> None:
    model = rewrite(net, SIZE, form=form).model
    kernels: dict[str, Any] = {name: module.weight for name, module in model.named_children()}
    x = torch.randn(SIZE)
    wanted = net
    with torch.no_grad():
        for name, kernel in kernels.items():
            conv: Any = wanted.get_submodule(name)
            conv.weight.copy_(kernel)
    torch.testing.assert_close(model(x), wanted(x), rtol=1e-4, atol=1e-5)


def test_all_forms_compete_at_equal_cost_where_that_is_asked_for(net: Net) -> None:
    given, chosen = rewrite(net, SIZE), rewrite(net, SIZE, form="auto")
    assert {entry.form for entry in given.plan.entries} <= set(ORDERS)
    assert any(entry.form in NEW for entry in chosen.plan.entries)
    for entry in chosen.plan.entries:
        assert chosen.errors[entry.name] <= given.errors[entry.name]
        if entry.name != "stem":
            spec = next(f.spec for f in given.report_before.findings if f.name == entry.name)
            assert equal_cost(spec, 1, tuple(Form))[entry.form] == entry.size


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_is_the_old_word_for_a_form(net: Net, order: Form) -> None:
    assert rewrite(net, form=order).plan == rewrite(net, order=order.value).plan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "sideways"}, "form must be 'auto', 'depthwise_first', .* not 'sideways'"),
        ({"form": "auto", "order": "pointwise_first"}, "order is the old word for form"),
        ({"form": "bottleneck", "plan": Plan()}, "depth_multiplier, order, form, budget"),
    ],
)
def test_words_for_a_form_that_are_refused(
    net: Net, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rewrite(net, SIZE, **arguments)
    if "plan" not in arguments:
        with pytest.raises(InputError, match=message):
            DepthwiseSeparablePass(**arguments)


@pytest.mark.parametrize("form", NEW)
def test_a_plan_of_any_form_is_carried_out_on_a_new_model(net: Net, form: Form) -> None:
    result = rewrite(net, SIZE, form=form)
    again = apply_plan(Net().eval(), Plan.from_json(result.plan.to_json()))
    again.load_state_dict(result.model.state_dict())
    x = torch.randn(SIZE)
    assert torch.equal(again(x), result.model(x))


@pytest.mark.parametrize("form", NEW)
def test_the_pass_takes_forms_too(net: Net, form: Form) -> None:
    net.body.padding_mode = "zeros"  # reason: symbolic tracing
    wanted = rewrite(net, form=form).model
    found, _ = DepthwiseSeparablePass(form=form)(fx.symbolic_trace(net))  # type: ignore[misc]  # torch says that it may be None
    x = torch.randn(SIZE)
    torch.testing.assert_close(found(x), wanted(x))


@pytest.mark.parametrize("name", ["form", "size", "pointwise_in"])
def test_a_name_that_the_replacement_needs_is_named(net: Net, name: str) -> None:
    setattr(net.body, name, "of the user")
    with pytest.raises(InputError, match=f"body: its attribute '{name}' has a name"):
        rewrite(net, form="bottleneck")
