"""rewrite and apply_plan: exact at full multiplier, everything kept, nothing changed on failure."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch
from external_files import fashion_resnet
from torch import Tensor, nn

from pytest_dwsconv.core.conv import Form, Order
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.errors import DwsconvError, InputError
from pytest_dwsconv.rewriting.application import apply_plan
from pytest_dwsconv.rewriting.rewrite import rewrite
from pytest_dwsconv.separable.exchange import swap
from pytest_dwsconv.separable.modules import CONVS, SeparableConv2d, SeparableConvNd
from pytest_dwsconv.separable.replacement import initial, replacement

ORDERS = list(Order)
FULL = 10**6


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.again = self.body[0]
        self.tail = nn.Conv2d(16, 16, 3, 2, 1)
        self.head = nn.Conv2d(16, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.body(self.stem(x)))
        return self.head(self.tail(x)).mean((2, 3))  # type: ignore[no-any-return]


class Wrap(nn.Module):
    """One convolution inside a model."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


def separable(model: nn.Module) -> dict[str, SeparableConvNd]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, SeparableConvNd)
    }


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def replaced(conv: nn.Module, **options: Any) -> SeparableConvNd:
    found = rewrite(Wrap(conv), **options).model.get_submodule("conv")
    assert isinstance(found, SeparableConvNd)
    return found


# -- exact at full multiplier

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "stride": {"stride": 2},
    "padding": {"padding": 2},
    "padding and stride": {"padding": 1, "stride": 3},
    "same": {"padding": "same"},
    "same, even kernel": {"padding": "same", "kernel_size": 4},
    "same, dilated": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "more groups": {"groups": 4, "padding": 1, "stride": 2, "bias": False},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "replicate": {"padding": 2, "padding_mode": "replicate", "stride": 2},
    "circular": {"padding": 1, "padding_mode": "circular", "groups": 2},
    "reflect, same": {"padding": "same", "padding_mode": "reflect", "dilation": 2},
    "kernel 2": {"kernel_size": 2},
    "kernel 5": {"kernel_size": 5, "padding": 2},
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


# reason: PyTorch says so once per process, for the original as for the replacement
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("setting", SETTINGS)
def test_exact_at_full_multiplier(
    setting: str, rank: int, dtype: torch.dtype, order: Order
) -> None:
    make: Any = CONVS[rank]
    conv: nn.Module = make(16, 24, **{"kernel_size": 3, **SETTINGS[setting]}, dtype=dtype)
    new = replaced(conv, depth_multiplier=FULL, order=order)
    x = torch.randn(2, 16, *(11, 10, 9)[:rank], dtype=dtype)
    with torch.no_grad():
        expected, found = conv(x), new(x)
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "sides", [((3, 5), (2, 1), (0, 2), (2, 1)), ((1, 7), (1, 3), (0, 3), (1, 2))]
)
def test_exact_with_unequal_sides(sides: tuple[Any, ...], order: Order) -> None:
    conv = nn.Conv2d(16, 24, *sides).double()
    x = torch.randn(2, 16, 17, 19, dtype=torch.float64)
    torch.testing.assert_close(
        replaced(conv, depth_multiplier=FULL, order=order)(x), conv(x), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "changed", [{"_reversed_padding_repeated_twice": [2, 0, 2, 0]}, {"padding": (0, 0)}]
)
@pytest.mark.parametrize("mode", ["circular", "reflect", "zeros"])
def test_exact_with_padding_changed_afterwards(
    mode: Any, changed: dict[str, Any], order: Order
) -> None:
    """Modes other than zeros pad by an attribute beside ``padding``."""
    conv = nn.Conv2d(4, 16, 3, padding=1, padding_mode=mode)
    vars(conv).update(changed)
    x = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(
        replaced(conv, depth_multiplier=FULL, order=order)(x), conv(x), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("order", ["auto", *ORDERS])
def test_a_network_at_full_multiplier_is_the_same_function(order: str) -> None:
    model = Net().eval()
    x = torch.randn(2, 3, 16, 16)
    result = rewrite(model, (1, 3, 16, 16), depth_multiplier=FULL, order=order)
    assert set(separable(result.model)) == {"stem", "body.0", "tail"}
    assert max(result.errors.values()) == 0
    torch.testing.assert_close(result.model(x), model(x), rtol=1e-4, atol=1e-5)


class Rates(Wrap):
    """Runs its convolution at several rates, as switchable atrous convolutions do."""

    def forward(self, x: Tensor) -> Tensor:
        conv: Any = self.conv
        found = []
        for rate in (1, 2, 3):
            conv.dilation = conv.padding = (rate, rate)
            found.append(conv(x))
        conv.dilation, conv.padding, conv.stride = (1, 1), "same", (1, 1)
        found.append(conv(x))
        conv.padding, conv.stride = (1, 1), 2
        return torch.cat([*found, conv(x).repeat(1, 1, 2, 2)])


def pads_in_circles(conv: Any, args: Any) -> None:
    conv.padding_mode, conv.stride = "circular", (2, 1)


def hooked() -> nn.Module:
    model = Wrap(nn.Conv2d(8, 16, 3, padding=1))
    model.conv.register_forward_pre_hook(pads_in_circles)
    return model


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("make", [lambda: Rates(nn.Conv2d(8, 16, 3, padding=1)), hooked])
def test_attributes_set_by_a_forward_or_a_hook_are_obeyed(
    make: Callable[[], nn.Module], order: Order
) -> None:
    model = make()
    new = rewrite(model, (1, 8, 12, 12), depth_multiplier=FULL, order=order).model
    x = torch.randn(1, 8, 12, 12)
    torch.testing.assert_close(new(x), model(x), rtol=1e-4, atol=1e-5)


# -- what is kept


def test_the_original_is_left_as_found_unless_in_place() -> None:
    model = Net()
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    rewritten = rewrite(model, (1, 3, 16, 16)).model
    assert rewritten is not model
    assert not separable(model)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert rewrite(model, (1, 3, 16, 16), inplace=True).model is model
    assert separable(model)


def test_a_shared_convolution_stays_shared() -> None:
    model = rewrite(Net()).model
    assert isinstance(model, Net)
    assert isinstance(model.again, SeparableConv2d)
    assert model.again is model.body[0]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_dtype_mode_and_grad_flags_are_kept(dtype: torch.dtype, order: Order) -> None:
    conv = nn.Conv2d(16, 16, 3, dtype=dtype).eval()
    conv.weight.requires_grad_(False)
    new = replaced(conv, order=order)
    assert {parameter.dtype for parameter in new.parameters()} == {dtype}
    assert not any(module.training for module in new.modules())
    assert {name: p.requires_grad for name, p in new.named_parameters()} == {
        "depthwise.weight": False,
        "pointwise.weight": False,
        ("pointwise" if order is Order.DEPTHWISE_FIRST else "depthwise") + ".bias": True,
    }
    assert replaced(nn.Conv2d(16, 16, 3, dtype=dtype), order=order).depthwise.training


@pytest.mark.parametrize(
    ("rank", "layout"), [(2, torch.channels_last), (3, torch.channels_last_3d)]
)
def test_the_memory_format_is_kept(rank: int, layout: torch.memory_format) -> None:
    conv: Any = CONVS[rank](16, 32, 3, padding=1)
    new = replaced(conv.to(memory_format=layout), order="pointwise_first", depth_multiplier=2)
    assert new.depthwise.weight.is_contiguous(memory_format=layout)
    assert not new.depthwise.weight.is_contiguous()
    x = torch.randn(2, 16, *(4, 5, 6)[:rank]).to(memory_format=layout)
    assert new(x).is_contiguous(memory_format=layout)


def test_a_weight_of_both_memory_formats_gives_a_contiguous_one() -> None:
    conv = nn.Conv2d(1, 16, 3)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    entry_of_one = entry("conv", in_channels=1, size=4)
    factors, _ = initial(conv.weight, entry_of_one, "svd")
    assert replacement(conv, entry_of_one, factors).pointwise.weight.is_contiguous()
    assert replacement(conv, entry_of_one, factors).depthwise.weight.stride() == (9, 9, 3, 1)


def test_hooks_are_kept_and_their_handles_still_remove_them() -> None:
    model = Wrap(nn.Conv2d(16, 16, 3))
    seen: list[str] = []
    handles = [
        model.conv.register_forward_hook(lambda *args: seen.append("forward")),
        model.conv.register_forward_pre_hook(
            lambda *args, **kwargs: seen.append("before"), with_kwargs=True
        ),
        model.conv.register_full_backward_hook(lambda *args: seen.append("backward")),
    ]
    rewrite(model, inplace=True)
    x = torch.randn(1, 16, 5, 5, requires_grad=True)
    model(x).sum().backward()
    assert seen == ["before", "forward", "backward"]
    for handle in handles:
        handle.remove()
    model(x).sum().backward()
    assert len(seen) == 3


def test_attached_attributes_are_kept() -> None:
    conv: Any = nn.Conv2d(16, 16, 3)
    conv.f, conv.i, conv.type = -1, 4, "Conv"  # as YOLO does
    conv.observer = nn.Identity()
    conv.register_buffer("seen", torch.ones(1), persistent=False)
    new: Any = replaced(conv)
    assert (new.f, new.i, new.type) == (-1, 4, "Conv")
    assert isinstance(new.observer, nn.Identity)
    assert torch.equal(new.seen, torch.ones(1))
    assert "seen" not in new.state_dict()
    assert new.stride == (1, 1)


ATTACHED: dict[str, Callable[[nn.Module, str], None]] = {
    "attribute": lambda conv, name: setattr(conv, name, False),
    "buffer": lambda conv, name: conv.register_buffer(name, torch.ones(1)),
    "parameter": lambda conv, name: conv.register_parameter(name, nn.Parameter(torch.ones(1))),
    "submodule": lambda conv, name: conv.add_module(name, nn.Identity()),
}


@pytest.mark.parametrize("name", ["depthwise", "pointwise", "order", "depth_multiplier"])
@pytest.mark.parametrize("kind", ATTACHED)
def test_an_attribute_by_a_name_of_the_replacements_is_refused(kind: str, name: str) -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3))
    ATTACHED[kind](model[0], name)
    with pytest.raises(
        InputError,
        match=f"0: its attribute '{name}' has a name that .* leave the layer out with ignore",
    ):
        rewrite(model)
    assert list(separable(rewrite(model, ignore=["0"]).model)) == ["1"]


def test_the_bias_is_the_same_parameter() -> None:
    conv = nn.Conv2d(16, 16, 3)
    model = Wrap(conv)
    rewrite(model, inplace=True)
    assert model.conv.bias is conv.bias


class Parts(NamedTuple):
    conv: nn.Module
    word: str


def test_convolutions_in_plain_attributes_are_replaced_too() -> None:
    class Listed(Wrap):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(16, 16, 3))
            self.stages: list[Any] = [self.conv, {"deep": (1, [self.conv])}]
            self.pair = (self.conv, "name")
            self.parts = Parts(self.conv, "name")
            self.queue = deque([self.conv], maxlen=3)
            self.group, self.frozen = {self.conv, "name"}, frozenset({(self.conv, "name")})
            self.stages.append(self.stages)  # a cycle
            self.__dict__["direct"] = self.conv

    model: Any = rewrite(Listed()).model
    assert isinstance(model.conv, SeparableConv2d)
    found = [model.stages[0], model.stages[1]["deep"][1][0], model.pair[0], model.direct]
    found += [
        model.parts.conv,
        model.queue[0],
        *model.group - {"name"},
        *(conv for conv, _ in model.frozen),
    ]
    assert len(found) == 8
    assert all(conv is model.conv for conv in found)
    assert (type(model.parts), model.parts.word, model.queue.maxlen) == (Parts, "name", 3)


def test_convolutions_that_know_each_other_meet_their_replacements() -> None:
    model: Any = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3))
    model[0].followers, model[1].leaders = (model[1],), [model[0]]
    found = rewrite(model).model
    assert isinstance(found, nn.Sequential)
    assert found[0].followers == (found[1],)
    assert found[1].leaders == [found[0]]


def test_a_compiled_convolution_is_replaced_by_one_that_runs() -> None:
    model = Wrap(nn.Conv2d(16, 16, 3))
    model.conv.compile(backend="eager")
    x = torch.randn(1, 16, 5, 5)
    expected = model(x)
    rewrite(model, depth_multiplier=2, inplace=True)
    assert not torch.allclose(model(x), expected)
    torch.testing.assert_close(model(x), model.conv.forward(x))


class Scaled(nn.Conv2d):
    pass


def test_subclasses_only_when_asked() -> None:
    model = nn.Sequential(Scaled(16, 16, 3), nn.Conv2d(16, 16, 3))
    assert list(separable(rewrite(model).model)) == ["1"]
    assert list(separable(rewrite(model, subclasses=True).model)) == ["0", "1"]


class Dynamic(nn.Conv2d):
    """Keeps several kernels, as dynamic convolutions do."""

    def __init__(self) -> None:
        super().__init__(16, 16, 3)
        self.weight = nn.Parameter(torch.randn(4, 16, 16, 3, 3))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Conv2d's name
        out: Tensor = self._conv_forward(input, self.weight.mean(0), self.bias)
        return out


def test_a_subclass_with_another_kind_of_weight_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"the weight of conv is \(4, 16, 16, 3, 3\), not \(16, 16, 3, 3\)"
    ):
        rewrite(Wrap(Dynamic()), subclasses=True)


def circular(model: nn.Sequential) -> nn.Sequential:
    """Pads as a texture that repeats, without a subclass."""

    def conv_forward(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.conv2d(
            nn.functional.pad(x, (1, 1, 1, 1), mode="circular"), weight, bias
        )

    model[0]._conv_forward = conv_forward.__get__(model[0])
    return model


def test_a_convolution_that_pads_by_a_patch_is_left_alone() -> None:
    model = circular(nn.Sequential(nn.Conv2d(16, 16, 3)))
    x = torch.randn(1, 16, 6, 6)
    result = rewrite(model, (1, 16, 6, 6), depth_multiplier=FULL)
    assert [(row.code, row.output_shape) for row in result.report_before.findings] == [
        ("DWS106", (1, 16, 6, 6))
    ]
    torch.testing.assert_close(result.model(x), model(x), rtol=0, atol=0)


def test_select_and_ignore() -> None:
    assert set(separable(rewrite(Net(), select=["body.*", "tail"]).model)) == {"body.0", "tail"}
    assert set(separable(rewrite(Net(), ignore=["stem"]).model)) == {"body.0", "tail"}
    assert not separable(rewrite(Net(), ignore=["*"]).model)


def test_what_is_tied_or_computed_is_left_alone() -> None:
    model = nn.Sequential(*(nn.Conv2d(16, 16, 3) for _ in range(4)))
    model[1].weight = model[0].weight
    torch.nn.utils.parametrizations.weight_norm(model[2])
    assert list(separable(rewrite(model).model)) == ["3"]


def test_a_model_that_is_the_convolution() -> None:
    conv = nn.Conv2d(16, 16, 3)
    result = rewrite(conv, (1, 16, 8, 8))
    assert isinstance(result.model, SeparableConv2d)
    assert "the model itself" in str(result)
    fresh = apply_plan(nn.Conv2d(16, 16, 3), result.plan)
    fresh.load_state_dict(result.model.state_dict())
    with pytest.raises(InputError, match="pass inplace=False"):
        rewrite(conv, inplace=True)


def test_pytorch_works_on_the_result() -> None:
    model = rewrite(Net().eval(), (1, 3, 16, 16)).model
    x = torch.randn(2, 3, 16, 16)
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), expected)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)


def test_a_rewritten_network_is_not_rewritten_again() -> None:
    first = rewrite(Net(), (1, 3, 16, 16))
    second = rewrite(first.model, (1, 3, 16, 16))
    assert second.plan == Plan()
    assert second.model.state_dict().keys() == first.model.state_dict().keys()


# -- order, multiplier, init


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_auto_is_the_better_order_at_equal_cost(multiplier: int) -> None:
    conv = nn.Conv2d(32, 16, 3, padding=1)
    blueprint = torch.einsum("mc,mt->mct", torch.randn(16, 32), torch.randn(16, 9)).reshape(
        16, 32, 3, 3
    )
    with torch.no_grad():
        conv.weight.copy_(blueprint)
    result = rewrite(Wrap(conv), (1, 32, 8, 8), depth_multiplier=multiplier)
    assert result.plan.entries[0].order is Order.POINTWISE_FIRST
    assert result.errors["conv"] < 1e-6
    with torch.no_grad():
        conv.weight.copy_(
            torch.einsum("mc,ct->mct", torch.randn(16, 32), torch.randn(32, 9)).reshape(
                16, 32, 3, 3
            )
        )
    result = rewrite(Wrap(conv), (1, 32, 8, 8), depth_multiplier=multiplier)
    assert result.plan.entries[0].order is Order.DEPTHWISE_FIRST


def test_auto_takes_the_fewer_parameters_at_equal_errors() -> None:
    conv = nn.Conv2d(32, 16, 3)
    nn.init.zeros_(conv.weight)
    assert replaced(conv).order == "pointwise_first"


@pytest.mark.parametrize("multiplier", [1, 2, 4])
def test_auto_costs_no_more_and_errs_no_more_than_depthwise_first(multiplier: int) -> None:
    model = Net()
    auto = rewrite(model, (1, 3, 16, 16), depth_multiplier=multiplier)
    fixed = rewrite(model, (1, 3, 16, 16), depth_multiplier=multiplier, order="depthwise_first")
    assert all(error <= fixed.errors[name] for name, error in auto.errors.items())
    assert auto.plan.params_after <= fixed.plan.params_after
    assert auto.report_after.macs is not None
    assert fixed.report_after.macs is not None
    assert auto.report_after.macs <= fixed.report_after.macs


def test_errors_are_the_relative_errors_of_the_kernels() -> None:
    model = Net()
    result = rewrite(model, depth_multiplier=2)
    for name, error in result.errors.items():
        conv, new = model.get_submodule(name), result.model.get_submodule(name)
        assert isinstance(conv.weight, Tensor)
        assert isinstance(new.weight, Tensor)
        made = ((new.weight - conv.weight).norm() / conv.weight.norm()).item()
        assert error == pytest.approx(made, rel=1e-4)


def test_a_multiplier_beyond_break_even_is_still_carried_out() -> None:
    result = rewrite(Net(), depth_multiplier=9, order="depthwise_first")
    assert count(result.model) > count(Net())
    assert {name: conv.depth_multiplier for name, conv in separable(result.model).items()}[
        "body.0"
    ] == 9


def test_fresh_weights_are_new_and_reproducible() -> None:
    model = Net()
    torch.manual_seed(1)
    one = rewrite(model, init="fresh", few_channels=True)
    two = rewrite(model, init="fresh", few_channels=True)
    torch.manual_seed(1)
    three = rewrite(model, init="fresh", few_channels=True)
    assert one.errors == {}
    assert {entry.order for entry in one.plan.entries} == {Order.DEPTHWISE_FIRST}
    weights = [result.model.state_dict()["stem.depthwise.weight"] for result in (one, two, three)]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(
        one.model.state_dict()["stem.pointwise.bias"], model.state_dict()["stem.bias"]
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("init", ["svd", "fresh"])
def test_a_layer_of_zeros_stays_one_and_can_be_trained(init: str, order: Order) -> None:
    conv = nn.Conv2d(16, 16, 3)
    nn.init.zeros_(conv.weight)
    new = replaced(conv, init=init, order=order)
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(new(x), conv(x), rtol=0, atol=0)
    optimizer = torch.optim.SGD(new.parameters(), lr=0.1)
    new(x).square().sum().backward()
    optimizer.step()
    assert bool(new.weight.any())


# -- the result


def test_the_summary_says_what_changed() -> None:
    model = Net()
    result = rewrite(model, (1, 3, 16, 16))
    before, after = count(model), count(result.model)
    text = str(result)
    assert "Net: 3 of 4 convolutions replaced" in text
    assert f"parameters of the model: {before:,} -> {after:,} ({before / after:.2f}x)" in text
    assert (result.report_before.params, result.report_after.params) == (before, after)
    assert result.plan.params_before - result.plan.params_after == before - after
    assert f"{result.report_before.macs:,} -> {result.report_after.macs:,}" in text
    assert "relative weight error: median" in text
    assert f"MACs of the model (input 1 x 3 x 16 x 16): {result.report_before.macs:,} ->" in text
    assert "not replaced: 1 (DWS104: a 1 x 1 kernel has nothing to separate)" in text
    assert "MACs" not in str(rewrite(model))


def test_the_summary_counts_what_was_left_alone_by_reason() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    lines = str(rewrite(model, ignore=["0"])).splitlines()
    assert lines[0] == "Sequential: 0 of 3 convolutions replaced"
    assert [line.partition(":")[2][:12] for line in lines[1:3]] == [" 2 (DWS104: ", " 1 (DWS101: "]


def test_the_summary_says_that_a_budget_left_a_candidate_alone() -> None:
    result = replace(rewrite(Net()), plan=Plan())
    assert "not replaced: 3 (not in the plan)" in str(result)


def test_the_summary_is_of_plain_text() -> None:
    model = nn.ModuleDict({"\x1b[31m": nn.Conv2d(16, 16, 3)})
    assert "(\\x1b[31m)" in str(rewrite(model))


def test_the_summary_of_nothing() -> None:
    result = rewrite(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), (1, 4))
    assert "0 of 0 convolutions replaced" in str(result)
    assert "replaced layers" not in str(result)
    assert (
        str(rewrite(nn.Flatten()))
        == "Flatten: 0 of 0 convolutions replaced\nparameters of the model: 0 -> 0"
    )


# -- plans


@pytest.mark.parametrize("inplace", [True, False])
def test_a_plan_and_a_state_dict_make_the_rewritten_network(inplace: bool) -> None:
    result = rewrite(Net().eval(), (1, 3, 16, 16), depth_multiplier=2)
    plan = Plan.from_json(result.plan.to_json())
    model = Net().eval()
    network = apply_plan(model, plan, inplace=inplace)
    assert (network is model) == inplace
    network.load_state_dict(result.model.state_dict())
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network(x), result.model(x), rtol=0, atol=0)


def test_a_plan_on_the_meta_device() -> None:
    result = rewrite(Net().eval())
    with torch.device("meta"):
        model = Net().eval()
    random = torch.get_rng_state()
    for init in ("fresh", "svd"):
        network = apply_plan(model, result.plan, init=init)
        assert all(parameter.is_meta for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    network.load_state_dict(result.model.state_dict(), assign=True)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network(x), result.model(x), rtol=0, atol=0)


def test_a_plan_with_svd_gives_the_rewritten_network_by_itself() -> None:
    model = Net().eval()
    result = rewrite(model)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(apply_plan(model, result.plan, init="svd")(x), result.model(x))


def entry(name: str = "stem", **changes: Any) -> PlanEntry:
    fields = {
        "form": Form.DEPTHWISE_FIRST,
        "size": 1,
        "in_channels": 3,
        "out_channels": 16,
        "kernel_size": (3, 3),
        "groups": 1,
        "bias": True,
    }
    return PlanEntry(name, **{**fields, **changes})


BODY = {"in_channels": 16, "bias": False}
MISFITS: dict[str, tuple[tuple[PlanEntry, ...], str]] = {
    "missing": ((entry(), entry("stem.deeper")), "Net has no layer 'stem.deeper'"),
    "other channels": ((entry("tail"),), "tail has in_channels 16 here and 3 in the plan"),
    "not a convolution": ((entry("body.1"),), "body.1 is a BatchNorm2d, not a convolution"),
    "twice": ((entry("again", **BODY), entry("body.0", **BODY)), "under another name already"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_plan_for_another_model_changes_nothing(case: str) -> None:
    entries, message = MISFITS[case]
    model = Net()
    modules = dict(model.named_modules())
    with pytest.raises(InputError) as caught:
        apply_plan(model, Plan(entries), inplace=True)
    assert message in str(caught.value)
    assert dict(model.named_modules()) == modules


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_plan_for_a_parametrized_layer_is_refused(part: str) -> None:
    model = Net()
    torch.nn.utils.parametrize.register_parametrization(model.stem, part, nn.Identity())
    with pytest.raises(InputError, match=f"the {part} of stem is computed"):
        apply_plan(model, Plan((entry(),)))


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: "{}", r"text: pass Plan.from_json\(text\)"),
        (lambda: Path("plan.json"), r"a path: pass Plan.from_json\(path.read_text\(\)\)"),
        (lambda: {"layers": []}, r"a mapping: pass Plan.from_json\(json.dumps\(mapping\)\)"),
        (lambda: rewrite(Net()), "the result of a rewrite: pass its .plan"),
        (lambda: rewrite(Net()).report_before, "a report, which .*: pass the .plan of"),
        (lambda: None, "None: pass result.plan or"),
    ],
)
def test_what_is_not_a_plan_is_called_what_it_is(make: Callable[[], Any], advice: str) -> None:
    with pytest.raises(InputError, match=f"the plan must be a Plan, not {advice}"):
        apply_plan(Net(), make())


# -- failures leave the model as found


def poisoned() -> Net:
    model = Net()
    nn.init.constant_(model.tail.weight, float("inf"))
    return model


class Uncopyable(Net):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("holds a socket")


class ReadsWeight(Net):
    """Runs before the rewrite only: its forward insists on a leaf."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.tail, nn.Conv2d), "not my tail"
        return super().forward(x)


def patched() -> Net:
    model = Net()
    model.tail.forward = model.tail.forward  # type: ignore[method-assign]
    return model


def tiled() -> Net:
    model = Net()
    model.tail._conv_forward = model.tail._conv_forward  # type: ignore[method-assign]
    return model


def named_like_a_part() -> Net:
    model = Net()
    vars(model.tail)["depthwise"] = False
    return model


FAILURES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "infinite weight": (poisoned, {}, "tail: the kernel holds NaN or infinite values"),
    "cannot be copied": (
        Uncopyable,
        {"inplace": False},
        "cannot be copied (TypeError: holds a socket); pass inplace",
    ),
    "runs no more": (ReadsWeight, {}, "not my tail"),
    "bad shape": (Net, {"input_size": (1, 5, 16, 16)}, "rejected inputs"),
    "order": (
        Net,
        {"order": "sideways"},
        "order must be 'auto', 'depthwise_first' or 'pointwise_first'",
    ),
    "init": (Net, {"init": "magic"}, "init must be one of 'svd', 'fresh', 'fit', not 'magic'"),
    "multiplier": (Net, {"depth_multiplier": 0}, "depth_multiplier must be a whole number from 1"),
    "select": (Net, {"select": "stem"}, "a list of patterns, not one string: ['stem']"),
    "forward patched": (
        patched,
        {"subclasses": True},
        "tail: its forward was replaced on the instance",
    ),
    "padding patched": (
        tiled,
        {"subclasses": True},
        "tail: its forward was replaced on the instance",
    ),
    "name of a part": (
        named_like_a_part,
        {},
        "tail: its attribute 'depthwise' has a name that the replacement needs",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failing_rewrite_leaves_the_model_as_found(case: str) -> None:
    make, options, message = FAILURES[case]
    model = make()
    modules, state = dict(model.named_modules()), copy.deepcopy(model.state_dict())
    attributes = {name: dict(vars(module)) for name, module in modules.items()}
    with pytest.raises(DwsconvError) as caught:
        rewrite(model, **{"input_size": (1, 3, 16, 16), "inplace": True, **options})
    assert message in str(caught.value)
    assert dict(model.named_modules()) == modules
    assert all(vars(module) == attributes[name] for name, module in modules.items())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


def run_it(module: nn.Module, x: Tensor) -> Any:
    return module(x)


class Partial(nn.Module):
    """Reaches its convolution by a function that holds it, where no replacement can be put."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3)
        self.run = partial(run_it, self.conv)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.run(x)
        return out


def test_a_convolution_that_would_go_on_running_is_refused() -> None:
    model = Partial()
    with pytest.raises(
        InputError,
        match=r"conv: the forward or a hook reaches it other than as a module.*ignore=\['conv'\]",
    ):
        rewrite(model, (1, 8, 8, 8), inplace=True)
    assert type(model.conv) is nn.Conv2d


@pytest.mark.parametrize("argument", ["select", "ignore"])
def test_a_pattern_that_no_convolution_has_is_refused(argument: str) -> None:
    given: Any = {argument: ["stem", "nope"]}
    with pytest.raises(
        InputError, match=f"{argument}: no convolution of Net has a name like 'nope'"
    ):
        rewrite(Net(), **given)


@pytest.mark.parametrize("given", ["stem", [1], 5])
def test_what_is_no_list_of_patterns_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="select takes a list of patterns"):
        rewrite(Net(), select=given)


def test_a_budget_and_a_multiplier_are_one_too_many() -> None:
    with pytest.raises(InputError, match="pass budget or depth_multiplier, not both"):
        rewrite(
            Net(),
            init="fit",
            calibration=[torch.randn(2, 8, 8, 8)],
            budget="1k",
            depth_multiplier=2,
        )


def test_weights_made_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        result = rewrite(Net())
    assert not any(parameter.is_inference() for parameter in result.model.parameters())


def test_a_kernel_on_the_meta_device_has_no_svd() -> None:
    with torch.device("meta"):
        model = Net()
    with pytest.raises(InputError, match=r"meta device.*use init='fresh'"):
        rewrite(model, order="depthwise_first")
    assert all(parameter.is_meta for parameter in rewrite(model, init="fresh").model.parameters())


def test_a_complex_convolution_is_left_alone() -> None:
    result = rewrite(Wrap(nn.Conv2d(16, 16, 3, dtype=torch.complex64)))
    assert not result.plan.entries
    assert [row.code for row in result.report_before.findings] == ["DWS113"]


def prepared() -> nn.Module:
    from torch.ao.quantization import default_qconfig, fuse_modules, prepare

    model: Any = nn.Sequential(
        nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)
    ).eval()
    model.qconfig, model[3].qconfig = default_qconfig, None
    return prepare(fuse_modules(model, [["0", "1"]]))  # type: ignore[no-any-return]  # torch's own


DEPRECATED = pytest.mark.filterwarnings("ignore:.*quantiz")


@DEPRECATED
def test_what_is_prepared_for_quantization_is_left_alone() -> None:
    result = rewrite(prepared(), (1, 16, 10, 10))
    assert [(row.name, row.code) for row in result.report_before.findings] == [
        ("0.0", "DWS102"),
        ("2", "DWS102"),
        ("3", "DWS001"),
    ]
    assert all(row.macs for row in result.report_before.findings)


@DEPRECATED
def test_a_plan_for_what_is_prepared_for_quantization_is_refused() -> None:
    plan = rewrite(nn.Sequential(*(nn.Conv2d(16, 16, 3) for _ in range(3))), select=["2"]).plan
    with pytest.raises(
        InputError,
        match="2 is quantized or prepared for it; apply the plan to the float model first",
    ):
        apply_plan(prepared(), plan)


def test_a_convolution_without_channels_is_left_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reason: PyTorch says that there is nothing to initialise
        model = nn.Sequential(nn.Conv2d(0, 5, 3, bias=False), nn.Conv2d(5, 0, 3, bias=False))
    assert [row.code for row in rewrite(model).report_before.findings] == ["DWS111"] * 2


def test_a_convolution_without_a_weight_is_left_alone() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3))
    model[0].weight = None
    result = rewrite(model)
    assert [row.code for row in result.report_before.findings] == ["DWS112", "DWS001"]
    with pytest.raises(InputError, match="0 has no weight"):
        apply_plan(model, Plan((entry("0"),)))


def test_a_weight_that_cannot_be_read_does_not_matter_to_fresh() -> None:
    assert separable(rewrite(poisoned(), init="fresh").model)


def test_swapping_back_restores_everything() -> None:
    model = Net()
    modules = dict(model.named_modules())
    pairs: dict[nn.Module, nn.Module] = {model.stem: nn.Identity(), model.again: nn.Identity()}
    swap(model, pairs)
    assert dict(model.named_modules()) != modules
    swap(model, {new: old for old, new in pairs.items()})
    assert dict(model.named_modules()) == modules


# -- a trained network


def test_a_trained_network() -> None:
    trained = fashion_resnet()
    x = torch.randn(4, 1, 28, 28)
    small = rewrite(trained, (1, 1, 28, 28))
    assert small.model(x).shape == trained(x).shape
    assert (count(trained), count(small.model)) == (392_866, 57_274)
    full = rewrite(trained, (1, 1, 28, 28), depth_multiplier=FULL)
    with torch.no_grad():
        error = (full.model(x) - trained(x)).norm() / trained(x).norm()
    assert float(error) < 1e-5


class Rgb(nn.Module):
    """A network of images: its first convolution and its patches see three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 7, stride=2, padding=3)
        self.body = nn.Conv2d(16, 16, 3)
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.grey = nn.Conv2d(1, 16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.body(self.stem(x)), self.patches(x), self.grey(x[:, :1])


@pytest.mark.parametrize("init", ["svd", "fresh", "fit"])
@pytest.mark.parametrize("order", ["auto", *ORDERS])
def test_convolutions_of_few_channels_go_pointwise_first(init: str, order: Any) -> None:
    torch.manual_seed(0)
    model = Rgb().eval()
    calibration = [torch.rand(4, 3, 16, 16) for _ in range(4)] if init == "fit" else None
    result = rewrite(model, (1, 3, 16, 16), init=init, order=order, calibration=calibration)
    orders = {entry.name: entry.order for entry in result.plan.entries}
    assert orders.pop("body") in ((order,) if order != "auto" else ORDERS)
    assert orders == dict.fromkeys(["patches", "stem"], Order.POINTWISE_FIRST)
    fresh = apply_plan(Rgb(), result.plan)
    fresh.load_state_dict(result.model.state_dict())
    assert result.report_after.params == sum(p.numel() for p in fresh.parameters())


def test_convolutions_of_few_channels_are_replaced_by_request() -> None:
    plan = rewrite(Rgb(), few_channels=True, order="depthwise_first").plan
    assert [entry.name for entry in plan.entries] == ["body", "grey", "patches", "stem"]
    assert {entry.order for entry in plan.entries} == {Order.DEPTHWISE_FIRST}


def test_a_budget_leaves_few_channels_their_own_filters() -> None:
    torch.manual_seed(0)
    data = [torch.rand(4, 3, 16, 16) for _ in range(4)]
    plan = rewrite(Rgb().eval(), calibration=data, budget="3000").plan
    assert "grey" not in {entry.name for entry in plan.entries}
    few = [entry for entry in plan.entries if entry.in_channels == 3]
    assert few
    assert {entry.order for entry in few} == {Order.POINTWISE_FIRST}


def test_an_interrupt_in_the_last_lines_leaves_the_model_as_found() -> None:
    last_files = ("rewrite.py", "result.py", "comparison.py", "contextlib.py", "grad_mode.py")
    lines = 0

    def ends(model: nn.Module, stop: int = 0) -> bool:
        """Whether a rewrite ends well that Ctrl-C meets at this line that runs."""
        nonlocal lines
        lines = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if event == "line" and Path(frame.f_code.co_filename).name in last_files:
                lines += 1
                if lines == stop:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            rewrite(model, inplace=True, init="fresh")
        except KeyboardInterrupt:
            return False
        finally:
            sys.settrace(before)
        return True

    assert ends(nn.Sequential(nn.Conv2d(4, 8, 3)))
    total = lines
    for stop in range(total - 30, total + 1):
        model = nn.Sequential(nn.Conv2d(4, 8, 3))
        assert not ends(model, stop)
        assert type(model[0]) is nn.Conv2d
