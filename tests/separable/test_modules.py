"""SeparableConv1d/2d/3d as modules: shapes, attributes, errors, what PyTorch does with modules."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.prune import l1_unstructured
from torch.utils.flop_counter import FlopCounterMode

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.core.conv import ConvSpec, Form, Order, full_size, separable_cost
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.separable.factorize import decompose
from pytest_dwsconv.separable.modules import CONVS, SEPARABLE_CONVS, SeparableConv2d

ORDERS = list(Order)
FORMS = [
    (Form.DEPTHWISE_FIRST, 1),
    (Form.DEPTHWISE_FIRST, 3),
    (Form.POINTWISE_FIRST, 1),
    (Form.POINTWISE_FIRST, 3),
    (Form.BOTTLENECK, 6),
    (Form.GROUPED, 2),
]
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("form", "size"), FORMS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_its_weight_is_the_kernel_of_the_standard_convolution_it_equals(
    rank: int, groups: int, form: Form, size: int
) -> None:
    conv = SEPARABLE_CONVS[rank](
        4, 6, 3, 2, 1, 2, groups, form=form, size=size, dtype=torch.float64
    )
    x = torch.randn(2, 4, *(9, 8, 7)[:rank], dtype=torch.float64)
    dense = CONVOLVE[rank](x, conv.weight, conv.bias, 2, 1, 2, groups)
    torch.testing.assert_close(conv(x), dense, rtol=1e-12, atol=1e-12)
    assert conv.weight.shape == CONVS[rank](4, 6, 3, groups=groups).weight.shape


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_costs_what_the_formulas_say_and_pytorch_counts(data: st.DataObject) -> None:
    form, groups = data.draw(st.sampled_from(list(Form))), data.draw(st.integers(1, 3))
    rank, stride = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    channels, filters = (groups * data.draw(st.integers(1, 6)) for _ in range(2))
    kernel_size = tuple(data.draw(st.integers(1, 4)) for _ in range(rank))
    bias = data.draw(st.booleans())
    x = torch.zeros(2, channels, *(7, 6, 5)[:rank])
    spec = ConvSpec(rank, channels, filters, kernel_size, groups=groups, bias=bias)
    size = data.draw(st.integers(1, full_size(spec, form)))
    if form is Form.BOTTLENECK:
        size = -(-size // groups) * groups
    if form is Form.GROUPED:
        size = data.draw(st.sampled_from([s for s in range(1, 7) if channels // groups % s == 0]))
    conv = SEPARABLE_CONVS[rank](
        channels, filters, kernel_size, stride, groups=groups, bias=bias, form=form, size=size
    )
    with FlopCounterMode(display=False) as counter:
        out = conv(x)
    cost = separable_cost(spec.shaped(tuple(x.shape), tuple(out.shape)), form, size)
    assert cost is not None
    assert cost.params == sum(p.numel() for p in conv.parameters())
    assert cost.macs == counter.get_total_flops() // 2


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


def test_the_weight_is_differentiable() -> None:
    conv = SeparableConv2d(4, 6, 3)
    conv.weight.square().sum().backward()
    assert all(
        p.grad is not None for name, p in conv.named_parameters() if name != "pointwise.bias"
    )


# -- what is set later, as on the convolution that it replaces


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize(
    "changes",
    [
        {"stride": (1, 1), "dilation": (2, 2), "padding": (2, 2)},
        {"stride": 2, "padding": 0},
        {"padding": "same", "stride": 1},
        {"padding_mode": "circular", "_reversed_padding_repeated_twice": [1, 1, 2, 2]},
        {"padding_mode": "reflect"},
    ],
)
def test_what_is_set_on_it_works_as_on_the_standard_convolution(
    changes: dict[str, Any], form: Form
) -> None:
    plain = nn.Conv2d(8, 6, 3, stride=2, padding=1)
    size = full_size(ConvSpec(2, 8, 6, (3, 3)), form)
    conv = SeparableConv2d(8, 6, 3, stride=2, padding=1, form=form, size=size)
    conv.weight, conv.bias = plain.weight, plain.bias  # type: ignore[assignment]  # as nn.Conv2d
    for copied in (conv, copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        for name, value in changes.items():
            setattr(plain, name, value)
            setattr(copied, name, value)
            assert getattr(copied, name) == value
        x = torch.randn(1, 8, 9, 8)
        torch.testing.assert_close(copied(x), plain(x), rtol=1e-4, atol=1e-5)


def _doubled(module: nn.Module) -> None:
    """As surgery on the output stride does: it goes by names of classes."""
    if "Conv" in type(module).__name__ and module.kernel_size != (1, 1):
        any_conv: Any = module
        any_conv.dilation = tuple(2 * side for side in any_conv.dilation)
        any_conv.padding = any_conv.dilation


@pytest.mark.parametrize(("form", "size"), FORMS)
def test_a_walk_over_parts_and_whole_changes_a_setting_once(form: Form, size: int) -> None:
    conv = SeparableConv2d(4, 6, 3, padding=1, form=form, size=size)
    for dilation in ((2, 2), (4, 4)):
        conv.apply(_doubled)
        assert conv.dilation == conv.depthwise.dilation == conv.padding == dilation
        assert conv(torch.zeros(1, 4, 9, 9)).shape == (1, 6, 9, 9)


def _scripted(conv: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reason: newer PyTorch deprecates scripting
        scripted: nn.Module = torch.jit.script(conv)
    return scripted


@pytest.mark.parametrize("through", [nn.Sequential, copy.deepcopy, _scripted])
def test_a_walk_from_the_whole_to_its_parts_cannot_change_a_setting_twice(
    through: Callable[[nn.Module], nn.Module],
) -> None:
    conv = SeparableConv2d(4, 6, 3, padding=1)
    for module in conv.modules():
        _doubled(module)
    with pytest.raises(InputError, match=r"was set .* \(\(2, 2\) and \(4, 4\)\)"):
        through(conv)(torch.zeros(1, 4, 9, 9))
    conv.dilation = conv.padding = (2, 2)
    assert conv(torch.zeros(1, 4, 9, 9)).shape == (1, 6, 9, 9)


def test_a_setting_of_the_depthwise_part_alone_counts() -> None:
    conv = SeparableConv2d(4, 6, 3, stride=2)
    conv.stride = (3, 3)
    conv(torch.zeros(1, 4, 9, 9))
    conv.depthwise.stride = (1, 1)
    assert conv(torch.zeros(1, 4, 9, 9)).shape == (1, 6, 7, 7)
    assert conv.stride == (1, 1)


def test_its_depthwise_part_may_be_wrapped() -> None:
    conv, x = SeparableConv2d(4, 6, 3, stride=2), torch.randn(1, 4, 9, 9)
    before = conv(x)
    conv.depthwise = nn.Sequential(conv.depthwise)  # type: ignore[assignment]  # as a quantizer does
    assert torch.equal(conv(x), before)
    assert conv.stride == (2, 2)


@pytest.mark.parametrize(("form", "size"), [FORMS[0], FORMS[4]])
def test_what_is_set_is_compiled_and_exported(form: Form, size: int) -> None:
    conv, x = (
        SeparableConv2d(4, 6, 3, stride=2, form=form, size=size).eval(),
        torch.randn(1, 4, 9, 9),
    )
    conv.stride = (1, 1)
    compiled = torch.compile(copy.deepcopy(conv), backend="aot_eager", fullgraph=True)
    exported = torch.export.export(copy.deepcopy(conv), (x,)).module()
    conv.depthwise.dilation = (2, 2)
    both = torch.compile(copy.deepcopy(conv), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(both(x), conv(x))
    conv.dilation = (1, 1)
    torch.testing.assert_close(compiled(x), conv(x))
    torch.testing.assert_close(exported(x), conv(x))


def test_its_groups_cannot_change() -> None:
    conv = SeparableConv2d(4, 6, 3, groups=2)
    conv.groups = 2
    with pytest.raises(InputError, match="cannot change from 2 to 1: make a new one"):
        conv.groups = 1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_weight_that_is_assigned_is_approximated_by_the_nearest(
    groups: int, order: Order
) -> None:
    conv = SeparableConv2d(8, 12, 3, groups=groups, depth_multiplier=2, order=order).double()
    parts = list(conv.parameters())
    kernel = torch.randn(12, 8 // groups, 3, 3, dtype=torch.float64)
    conv.weight = nn.Parameter(kernel, requires_grad=False)
    decomposition = decompose(kernel, groups, order)
    found = float((conv.weight - kernel).norm() / kernel.norm())
    assert found == pytest.approx(decomposition.error(2))
    assert all(new is old for new, old in zip(conv.parameters(), parts, strict=True))
    assert [name for name, p in conv.named_parameters() if p.requires_grad] == [
        ("pointwise" if order is Order.DEPTHWISE_FIRST else "depthwise") + ".bias"
    ]


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (torch.zeros(1), r"must be a tensor of shape \(6, 4, 3, 3\), not \(1,\)"),
        (None, r"must be a tensor of shape \(6, 4, 3, 3\), not None"),
        (torch.full((6, 4, 3, 3), torch.nan), "holds NaN or infinite values"),
    ],
)
def test_what_is_not_a_kernel_cannot_be_assigned(kernel: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SeparableConv2d(4, 6, 3).weight = kernel


def test_no_kernel_can_be_assigned_where_it_would_not_arrive() -> None:
    with pytest.raises(InputError, match="the meta device"):
        SeparableConv2d(4, 6, 3, device="meta").weight = torch.ones(6, 4, 3, 3)
    conv = SeparableConv2d(4, 6, 3)
    nn.utils.parametrizations.weight_norm(conv.pointwise)
    with pytest.raises(InputError, match="the weight of the pointwise part is computed"):
        conv.weight = torch.ones(6, 4, 3, 3)


@pytest.mark.parametrize("order", ORDERS)
def test_its_bias_can_be_taken_and_given(order: Order) -> None:
    conv = SeparableConv2d(4, 6, 3, order=order)
    conv.bias = None
    assert not [name for name, _ in conv.named_parameters() if name.endswith("bias")]
    x = torch.zeros(1, 4, 3, 3)
    assert not conv(x).any()
    conv.bias = nn.Parameter(torch.arange(6.0))
    torch.testing.assert_close(conv(x).flatten(), torch.arange(6.0))
    conv.register_parameter("bias", None)
    assert conv.bias is None
    with pytest.raises(TypeError, match="cannot assign"):
        conv.bias = torch.zeros(6)  # type: ignore[assignment]  # as nn.Conv2d has it


def test_a_bias_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"bias must be of shape \(6,\), not \(7,\)"):
        SeparableConv2d(4, 6, 3).bias = nn.Parameter(torch.ones(7))


def test_its_parts_are_pruned_and_not_the_whole() -> None:
    with pytest.raises(InputError, match=r"weight_orig cannot be the weight .* prune"):
        l1_unstructured(SeparableConv2d(4, 6, 3), "weight", 0.5)


def test_its_parameters_are_reset_as_those_of_a_new_one() -> None:
    conv = SeparableConv2d(4, 6, 3)
    torch.manual_seed(1)
    conv.reset_parameters()
    torch.manual_seed(1)
    new = SeparableConv2d(4, 6, 3)
    assert all(map(torch.equal, conv.parameters(), new.parameters()))


WRITES: dict[str, Callable[[Tensor], object]] = {
    "fill_": lambda weight: weight.fill_(1.0),
    "copy_": lambda weight: weight.copy_(torch.ones(6, 4, 3, 3)),
    "data.fill_": lambda weight: weight.data.fill_(1.0),
    "data": lambda weight: setattr(weight, "data", torch.ones(6, 4, 3, 3)),
    "item": lambda weight: weight.__setitem__(0, 1.0),
    "a view": lambda weight: weight[0].mT.mul_(2.0),
    "one of several views": lambda weight: weight.unbind()[1].zero_(),
    "augmented": lambda weight: weight.__imul__(2.0),
    "out": lambda weight: torch.mul(weight, 2.0, out=weight),
    "inplace": lambda weight: F.relu(weight, inplace=True),
    "requires_grad_": lambda weight: weight.requires_grad_(False),
    "grad": lambda weight: setattr(weight, "grad", None),
    "hook": lambda weight: weight.register_hook(torch.neg),
    "foreach": lambda weight: torch._foreach_mul_([weight], 2.0),
    "set_": lambda weight: weight.set_(torch.ones(216).untyped_storage()),
    "swap_tensors": lambda weight: torch.utils.swap_tensors(weight, torch.ones(6, 4, 3, 3)),
    "swapped with": lambda weight: torch.utils.swap_tensors(torch.ones(6, 4, 3, 3), weight),
    "kaiming_normal_": nn.init.kaiming_normal_,
    "normal_": nn.init.normal_,
    "constant_": lambda weight: nn.init.constant_(weight, 0.0),
    "trunc_normal_": nn.init.trunc_normal_,
    "dirac_": nn.init.dirac_,
    "orthogonal_": nn.init.orthogonal_,
}


@pytest.mark.parametrize(
    ("how", "device"),
    [*((how, "cpu") for how in WRITES), ("fill_", "meta"), ("one of several views", "meta")],
)
def test_writing_to_the_weight_is_refused(how: str, device: str) -> None:
    conv = SeparableConv2d(4, 6, 3, device=device)
    with (
        torch.no_grad(),
        pytest.raises(InputError, match=r"would change nothing.* Assign a kernel"),
    ):
        WRITES[how](conv.weight)


READS: dict[str, Callable[[Tensor], object]] = {
    "shape": lambda weight: list(weight.shape),
    "sum": lambda weight: weight.sum(),
    "views": lambda weight: weight[0].flatten(),
    "several": lambda weight: weight.aminmax(),
    "copied from": lambda weight: torch.zeros(6, 4, 3, 3).copy_(weight),
    "added from": lambda weight: torch.zeros(6, 4, 3, 3).add_(weight),
    "numbers": lambda weight: weight.flatten()[0].item(),
    "in a list": lambda weight: torch.stack([weight, weight]),
    "device": lambda weight: str(weight.to("cpu").device),
    "a parameter": lambda weight: nn.Parameter(weight.detach()),
    "changed after detach": lambda weight: weight.detach().mul_(2.0),
    "changed after clone": lambda weight: weight.clone().mul_(2.0),
    "pickled": lambda weight: pickle.loads(pickle.dumps(weight.detach())),
    "vmap": torch.vmap(torch.sum),
}


def test_what_was_tried_on_the_weight_is_named() -> None:
    conv = SeparableConv2d(4, 6, 3)
    with pytest.raises(InputError, match=r"^setting data on the weight of"):
        conv.weight.data = torch.ones(6, 4, 3, 3)
    with pytest.raises(InputError, match=r"^uniform_ on the weight of"):
        nn.init.xavier_uniform_(conv.weight)


@pytest.mark.parametrize("how", READS)
def test_reading_the_weight_is_reading_a_tensor(how: str) -> None:
    conv = SeparableConv2d(4, 6, 3)
    plain = conv.weight.detach().clone()
    found, wanted = READS[how](conv.weight), READS[how](plain.clone())
    if isinstance(found, str):
        assert found == wanted
    else:
        torch.testing.assert_close(found, wanted)
    assert torch.equal(conv.weight, plain)


def test_a_weight_of_one_number_is_read_as_a_number() -> None:
    conv = SEPARABLE_CONVS[1](1, 1, 1).requires_grad_(False)
    conv.weight = torch.full((1, 1, 1), 3.0)
    assert round(float(conv.weight)) == int(conv.weight + 0.5) == 3
    assert int(conv.weight) in (2, 3)  # as near as the root of 3 is to being a number of 32 bits


def test_a_model_that_reads_the_weight_can_be_analysed_and_compiled() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = SeparableConv2d(4, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x.to(self.conv.weight.dtype), self.conv.weight[:2])

    model, x = Reads(), torch.randn(1, 4, 5, 5)
    assert analyze(model, (1, 4, 5, 5)).macs
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), model(x))


def test_what_an_older_release_pickled_still_loads() -> None:
    """It kept the settings as attributes of its own, beside those of the depthwise part."""
    conv = SeparableConv2d(4, 6, 3, stride=2)
    vars(conv).update(stride=(2, 2), padding=(0, 0), dilation=(1, 1), groups=1)
    vars(conv)["padding_mode"] = "zeros"
    del vars(conv)["_own"], vars(conv)["_written"]
    loaded = pickle.loads(pickle.dumps(conv))
    loaded.stride = (1, 1)
    assert loaded(torch.zeros(1, 4, 5, 5)).shape == (1, 6, 3, 3)


@pytest.mark.parametrize("order", ORDERS)
def test_what_the_release_before_pickled_still_loads(order: Order) -> None:
    """It kept an order and a depth multiplier."""
    conv = SeparableConv2d(4, 6, 3, depth_multiplier=2, order=order)
    x = torch.randn(1, 4, 5, 5)
    wanted = conv(x)
    vars(conv).update(order=order.value, depth_multiplier=2)
    for name in ("form", "size", "pointwise_in"):
        del vars(conv)[name]
    loaded = pickle.loads(pickle.dumps(conv))
    assert (loaded.form, loaded.size) == (loaded.order, loaded.depth_multiplier) == (order, 2)
    assert torch.equal(loaded(x), wanted)
    assert "order" not in vars(loaded)


@pytest.mark.parametrize(("form", "size"), FORMS)
def test_the_order_and_its_multiplier_are_old_words_for_form_and_size(
    form: Form, size: int
) -> None:
    conv = SeparableConv2d(4, 6, 3, form=form, size=size)
    two_parts = form.value in list(Order)
    assert (conv.order, conv.depth_multiplier) == ((form, size) if two_parts else (None, None))
    shown = f"depth_multiplier={size}, order={form.value}" if two_parts else f"size={size}"
    assert shown in repr(conv)


@pytest.mark.parametrize(("form", "size"), FORMS)
def test_every_form_takes_a_kernel_and_starts_anew(form: Form, size: int) -> None:
    conv = SeparableConv2d(4, 6, 3, form=form, size=size)
    kernel = conv.weight.detach().clone()
    conv.reset_parameters()
    assert not torch.equal(conv.weight, kernel)
    conv.weight = nn.Parameter(kernel, requires_grad=False)
    rest = float((conv.weight - kernel).norm() / kernel.norm())
    assert rest < (0.2 if form is Form.BOTTLENECK else 1e-5)  # the others are nearest exactly
    assert [name for name, p in conv.named_parameters() if p.requires_grad] == [
        name for name, _ in conv.named_parameters() if name.endswith("bias")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"form": "sideways"},
            "form must be 'depthwise_first', 'pointwise_first', 'bottleneck' or",
        ),
        ({"size": 2}, "size goes with form"),
        ({"form": "grouped"}, "form='grouped' needs its size"),
        ({"form": "grouped", "size": 3}, r"the size of form 'grouped' \(3\) must divide"),
        ({"form": "bottleneck", "size": 3}, r"inner channels \(3\), must be divisible by groups"),
        ({"form": "bottleneck", "size": 0}, "size must be a whole number from 1, not 0"),
        (
            {"form": "grouped", "size": 2, "order": "pointwise_first"},
            "pass form and size, or order",
        ),
        ({"form": "grouped", "size": 2, "depth_multiplier": 2}, "pass form and size, or order"),
    ],
)
def test_forms_and_sizes_that_there_are_not(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SeparableConv2d(4, 6, 3, groups=2, **arguments)


@pytest.mark.parametrize(("form", "size"), FORMS)
def test_its_parts_are_not_candidates_again(form: Form, size: int) -> None:
    conv = SeparableConv2d(64, 64, 3, form=form, size=8 * size)
    report = analyze(nn.Sequential(conv), (1, 64, 8, 8))
    assert not report.candidates
    reasons = {found.name: found.code for found in report.findings}
    assert reasons["0.depthwise"] == ("DWS116" if form is Form.GROUPED else reasons["0.depthwise"])


# -- what PyTorch does with modules


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


@pytest.mark.parametrize(("form", "size"), FORMS)
def test_it_is_scripted(form: Form, size: int) -> None:
    conv, x = SeparableConv2d(4, 6, 3, form=form, size=size), torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(_scripted(conv)(x), conv(x))


def test_a_scripted_network_reads_its_settings() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = SeparableConv2d(4, 6, 3, stride=2, padding="valid")
            self.conv.stride = (1, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x) * self.conv.stride[1] * self.conv.groups
            return out if self.conv.padding == "valid" and self.conv.padding_mode else x

    model, x = Reads(), torch.randn(2, 4, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reason: newer PyTorch deprecates scripting
        scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), model(x))


@pytest.mark.parametrize("order", ORDERS)
def test_a_batch_normalisation_can_be_fused_into_it(order: Order) -> None:
    """Exactly: scaling a filter keeps it separable."""
    conv, norm = SeparableConv2d(8, 16, 3, order=order).eval(), nn.BatchNorm2d(16).eval()
    for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        assert value is not None
        nn.init.uniform_(value, 0.5, 2.0)
    x = torch.randn(2, 8, 6, 6)
    fused: nn.Module = fuse_conv_bn_eval(conv, norm)  # type: ignore[type-var]  # nn.Conv2d's stubs
    torch.testing.assert_close(fused(x), norm(conv(x)), rtol=1e-4, atol=1e-5)


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
