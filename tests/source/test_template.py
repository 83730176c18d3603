"""The class that a rewrite inserts, run beside the convolution it replaces."""

from __future__ import annotations

import ast
import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.analysis.sites import module_spec
from pytest_dwsconv.core.conv import ConvSpec, Form, separable_cost
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.separable import SeparableConv2d
from pytest_dwsconv.source.sites import judge_inserted
from pytest_dwsconv.source.template import (
    PLAIN,
    Inserted,
    class_name,
    class_of_other_size,
    class_text,
)
from pytest_dwsconv.targets import build_from_file

CONVS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


FORMS = [
    Inserted(Form.DEPTHWISE_FIRST, 1),
    Inserted(Form.DEPTHWISE_FIRST, 3),
    Inserted(Form.POINTWISE_FIRST, 1),
    Inserted(Form.POINTWISE_FIRST, 3),
    Inserted(Form.BOTTLENECK, 6),
    Inserted(Form.GROUPED, 2),
]


def inserted(rank: int, guard: Policy | None = None, kind: Inserted = PLAIN) -> Any:
    name = class_name(rank, kind)
    namespace: dict[str, Any] = {"torch": torch, "nn": nn, "__name__": __name__}
    text = class_text(rank, name, "torch", "nn", kind, guard)
    exec(text, namespace)
    return namespace[name]


def pair(rank: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return inserted(rank)(*args, **kwargs), CONVS[rank](*args, **kwargs)


ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": "same"},
    {"padding": "same", "dilation": 2, "padding_mode": "reflect"},
    {"padding": "valid", "bias": False},
    {"padding": 2, "dilation": 2, "stride": 3, "groups": 2},
    {"padding": 1, "padding_mode": "circular", "groups": 4, "bias": False},
    {"dtype": torch.float64},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_it_stands_in_for_the_convolution(rank: int, arguments: dict[str, Any]) -> None:
    new, old = pair(rank, 4, 8, 3, **arguments)
    x = torch.randn(2, 4, *(9, 8, 7)[:rank], dtype=arguments.get("dtype"))
    assert new(x).shape == old(x).shape
    assert new(x[0]).shape == old(x[0]).shape
    assert new(input=x).dtype == old(x).dtype
    for name in (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
    ):
        assert getattr(new, name) == getattr(old, name), name
    for name in ("padding_mode", "transposed", "output_padding"):
        assert getattr(new, name) == getattr(old, name), name
    assert isinstance(new, CONVS[rank])
    assert (new.bias is None) == (old.bias is None)


def equal_convolution(new: Any, old: Any) -> Any:
    """``old`` with the kernel of the one convolution that equals the pair."""
    mix = new.weight.unflatten(0, (new.groups, -1)).flatten(2)[
        (..., *[None] * len(new.kernel_size))
    ]
    taps = new.depthwise.weight.view(new.groups, 1, -1, *new.kernel_size)
    old.weight = nn.Parameter((mix * taps).flatten(0, 1))
    old.bias = new.bias
    return old


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_convolution_of_the_product_of_both_weights_equals_it(
    rank: int, arguments: dict[str, Any]
) -> None:
    new, old = pair(rank, 4, 8, 3, **{**arguments, "dtype": torch.float64})
    x = torch.randn(2, 4, *(9, 8, 7)[:rank], dtype=torch.float64)
    torch.testing.assert_close(new(x), equal_convolution(new, old)(x), rtol=1e-10, atol=1e-10)
    new(x).sum().backward()
    assert all(parameter.grad is not None for parameter in new.parameters())


@pytest.mark.parametrize(
    "settings",
    [{"stride": (1, 1)}, {"dilation": (2, 2), "padding": (2, 2)}, {"bias": None}],
    ids=str,
)
def test_what_is_set_on_it_is_followed(settings: dict[str, Any]) -> None:
    new, old = pair(2, 4, 8, 3, 2, 1, dtype=torch.float64)
    for name, value in settings.items():
        setattr(new, name, value)
        setattr(old, name, value)
    x = torch.randn(1, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(new(x), equal_convolution(new, old)(x))


def scaled(conv: Any) -> None:
    nn.init.kaiming_normal_(conv.weight)
    conv.weight.data *= 0.1
    nn.init.zeros_(conv.bias)


def from_fan_out(conv: Any) -> None:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(conv.bias)


@pytest.mark.parametrize("init", [scaled, from_fan_out])
def test_an_initialisation_of_all_convolutions_scales_it_as_it_scales_them(init: Any) -> None:
    torch.manual_seed(0)
    new, old = pair(2, 64, 128, 3, padding=1)
    x = torch.randn(4, 64, 16, 16)
    for conv in (new, old):
        init(conv)
    assert new(x).std().item() == pytest.approx(old(x).std().item(), rel=0.15)


def test_a_normalisation_folds_into_it() -> None:
    conv, norm = inserted(2)(4, 8, 3, bias=False).double(), nn.BatchNorm2d(8).double()
    norm.running_mean, norm.running_var = torch.randn(8).double(), torch.rand(8).double() + 0.5
    conv.eval()
    norm.eval()
    x = torch.randn(1, 4, 9, 9, dtype=torch.float64)
    fused = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
    torch.testing.assert_close(fused(x), norm(conv(x)))


def test_zeroed_it_still_learns() -> None:
    new = inserted(2)(4, 8, 3)
    nn.init.zeros_(new.weight)
    nn.init.zeros_(new.bias)
    x = torch.randn(1, 4, 9, 9)
    assert not new(x).any()
    new(x).sum().backward()
    assert new.weight.grad.any()


def take_kernel(conv: Any) -> None:
    conv.weight.data.copy_(torch.ones(8, 4, 3, 3))


def assign_kernel(conv: Any) -> None:
    conv.weight = nn.Parameter(torch.ones(8, 4, 3, 3))


def use_kernel(conv: Any) -> None:
    nn.functional.conv2d(torch.ones(1, 4, 9, 9), conv.weight, conv.bias, conv.stride)


def load_kernel(conv: Any) -> None:
    conv.load_state_dict(nn.Conv2d(4, 8, 3).state_dict(), strict=False)


@pytest.mark.parametrize("use", [take_kernel, assign_kernel, use_kernel, load_kernel])
def test_foreign_code_that_takes_its_weight_for_a_kernel_fails(use: Any) -> None:
    def run() -> None:
        conv = inserted(2)(4, 8, 3)
        use(conv)
        conv(torch.ones(1, 4, 9, 9))

    with pytest.raises((RuntimeError, ValueError)):
        run()


def test_foreign_code_that_fills_its_weight_changes_its_output() -> None:
    conv, x = inserted(2)(4, 8, 3), torch.ones(1, 4, 9, 9)
    before = conv(x)
    conv.weight.data.fill_(1)
    assert not torch.equal(conv(x), before)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("groups", "bias"), [(1, True), (1, False), (2, True)])
def test_its_parameters_are_those_foretold(rank: int, groups: int, bias: bool) -> None:
    new, _ = pair(rank, 4, 8, 3, groups=groups, bias=bias)
    spec = ConvSpec(rank, 4, 8, (3,) * rank, groups=groups, bias=bias)
    foretold = separable_cost(spec)
    assert foretold is not None
    assert sum(parameter.numel() for parameter in new.parameters()) == foretold.params


def test_it_takes_the_arguments_in_the_same_order() -> None:
    values = (4, 8, (3, 5), (2, 1), (1, 2), (1, 2), 2, False, "reflect", "meta", torch.float64)
    new, old = pair(2, *values)
    for parameter in new.parameters():
        assert (parameter.device.type, parameter.dtype) == ("meta", torch.float64)
    assert (new.stride, new.padding, new.dilation) == (old.stride, old.padding, old.dilation)
    assert (new.groups, new.bias, new.padding_mode) == (2, None, "reflect")


@pytest.mark.parametrize(
    "arguments", [(4, 9, 3, 1, 0, 1, 2), (5, 8, 3, 1, 0, 1, 2), (4, 8, 3, 1, "wrong")]
)
def test_what_the_convolution_rejects_it_rejects(arguments: tuple[Any, ...]) -> None:
    for make in (inserted(2), nn.Conv2d):
        with pytest.raises(ValueError, match=r"must be divisible|padding"):
            make(*arguments)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(
    "kind", [PLAIN, Inserted(Form.BOTTLENECK, 64), Inserted(Form.GROUPED, 8)], ids=str
)
def test_its_output_varies_as_that_of_the_convolution(groups: int, kind: Inserted) -> None:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"groups": groups, "bias": False}
    new = inserted(2, kind=kind)(256, 512, 3, **arguments)
    old = nn.Conv2d(256, 512, 3, **arguments)
    x = torch.randn(4, 256, 12, 12)
    assert new(x).std().item() == pytest.approx(old(x).std().item(), rel=0.15)


def test_loops_that_look_for_convolutions_find_one() -> None:
    new = inserted(2)(4, 8, 3)
    assert [module for module in new.modules() if isinstance(module, nn.Conv2d)] == [new]


def weights_of_modules(net: nn.Module) -> list[nn.Parameter]:
    """As many training scripts collect them, for weight decay."""
    found: list[nn.Parameter] = []
    for module in net.modules():
        for name in ("weight", "bias"):
            value = getattr(module, name, None)
            if isinstance(value, nn.Parameter):
                found.append(value)
    return found


def test_loops_that_collect_weights_find_all_of_them() -> None:
    new = inserted(2)(4, 8, 3)
    assert set(weights_of_modules(new)) == set(new.parameters())
    assert list(new.state_dict()) == ["weight", "bias", "depthwise.weight"]


def test_its_parts_are_rows_of_a_report() -> None:
    net = nn.Sequential(inserted(2)(8, 64, 3), nn.Conv2d(64, 64, 3))
    report = analyze(net, (1, 8, 12, 12))
    rows = {finding.name: (finding.code, finding.params) for finding in report.findings}
    assert rows == {
        "0.depthwise.weight": ("DWS105", 72),
        "0.weight": ("DWS104", 576),
        "1": ("DWS001", 36928),
    }
    assert report.params == 72 + 576 + 36928


@pytest.mark.parametrize(
    ("rank", "arguments", "expected"),
    [
        (2, (64, 128, 3), True),
        (2, (64, 128, (1, 7)), True),
        (1, (64, 128, 3), True),
        (3, (8, 16, 3), True),
        (2, (64, 128, 1), False),
        (2, (64, 64, 3, 1, 1, 1, 64), False),
        (2, (64, 256, 3, 1, 1, 1, 64), False),
        (2, (64, 128, 3, 1, 1, 1, 2), True),
        (2, (64, 128, 3, 1, 1, 1, 16), False),
        (2, (128, 128, 3, 1, 1, 1, 32), True),
        (2, (128, 64, 3, 1, 1, 1, 64), False),
        (2, (128, 128, 2, 2, 0, 1, 16), True),
        (2, (3, 64, 7), False),
        (2, (16, 64, 4, 4), False),
        (2, (17, 64, 4, 4), True),
        (2, (64, 1, 3), False),
    ],
    ids=str,
)
def test_the_guard_decides_as_the_rules_do(
    rank: int, arguments: tuple[Any, ...], expected: bool
) -> None:
    old = CONVS[rank](*arguments, bias=False, dtype=torch.float64, device="meta")
    spec = module_spec(old)
    new = inserted(rank, Policy()).where_it_saves(old)
    assert new is old
    assert (type(new) is not CONVS[rank]) == expected
    assert (judge_inserted(spec, Policy()).verdict is Verdict.CANDIDATE) == expected
    for parameter in new.parameters():
        assert (parameter.dtype, parameter.device.type) == (torch.float64, "meta")


@pytest.mark.parametrize(
    ("policy", "arguments", "expected"),
    [
        (Policy(min_saving=9), (64, 128, 3), False),
        (Policy(min_saving=8), (64, 128, 3), True),
        (Policy(few_channels=True), (3, 64, 7), True),
        (Policy(few_channels=True), (1, 64, 7), True),
        (Policy(few_channels=True), (4, 64, 7, 1, 0, 1, 4), False),
        (Policy(few_channels=True), (64, 64, 1), False),
    ],
)
def test_the_guard_keeps_the_settings(
    policy: Policy, arguments: tuple[Any, ...], expected: bool
) -> None:
    new = inserted(2, policy).where_it_saves(nn.Conv2d(*arguments))
    assert (type(new) is not nn.Conv2d) == expected


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_kernel_without_taps_fails_no_sooner_than_the_original() -> None:
    conv = nn.Conv2d(16, 16, 0)
    assert type(inserted(2, Policy()).where_it_saves(conv)) is nn.Conv2d


@pytest.mark.parametrize("kind", FORMS, ids=str)
def test_biases_start_as_those_of_one_convolution(kind: Inserted) -> None:
    torch.manual_seed(0)
    new = inserted(2, kind=kind)(8, 512, 3, groups=2)
    bound = (8 / 2 * 9) ** -0.5
    assert 0.95 * bound < new.bias.abs().max().item() <= bound


@pytest.mark.parametrize("policy", [None, Policy()])
def test_old_pythons_and_type_checkers_can_read_it(policy: Policy | None) -> None:
    text = class_text(2, "Separable", "torch", "nn", guard=policy)
    tree = ast.parse(text, feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            written = [each.annotation for each in node.args.args[1:]] + [node.returns]
            assert all(isinstance(each, (ast.Attribute, ast.Constant)) for each in written)


def test_it_copies_pickles_and_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = inserted(2)
    monkeypatch.setattr(sys.modules[__name__], kind.__name__, kind, raising=False)
    new, x = kind(4, 8, 3, padding=1), torch.randn(1, 4, 6, 6)
    for other in (copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
        torch.testing.assert_close(other(x), new(x))
    exported = torch.export.export(new, (x,)).module()
    torch.testing.assert_close(exported(x), new(x))


@pytest.mark.parametrize("kind", FORMS, ids=str)
def test_it_scripts(kind: Inserted, tmp_path: Path) -> None:
    text = class_text(2, "Separable", "torch", "nn", kind)
    (tmp_path / "net.py").write_text(f"import torch\nfrom torch import nn\n\n\n{text}")
    new = build_from_file(tmp_path / "net.py", "Separable(4, 8, 3)")
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(torch.jit.script(new)(x), new(x))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("nn_name", ["nn", "torch.nn"])
def test_formatters_leave_it_as_it_is(rank: int, nn_name: str, tmp_path: Path) -> None:
    text = class_text(rank, f"DepthwiseSeparableConv{rank}d", "torch", nn_name)
    check_formatted(text, tmp_path)


def check_formatted(text: str, folder: Path) -> None:
    pytest.importorskip("ruff")
    file = folder / "inserted.py"
    file.write_text(f"import torch\nfrom torch import nn\n\n\n{text}")
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--diff", str(file)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""


@pytest.mark.parametrize("kind", FORMS, ids=str)
@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": 1, "stride": 2},
        {"groups": 2, "bias": False},
        {"padding": 1, "padding_mode": "circular"},
    ],
)
def test_each_form_computes_what_the_live_replacement_does(
    kind: Inserted, arguments: dict[str, Any]
) -> None:
    new = inserted(2, kind=kind)(8, 6, 3, **arguments)
    live = SeparableConv2d(8, 6, 3, form=kind.form, size=kind.size, **arguments)
    with torch.no_grad():
        live.depthwise.weight.copy_(new.depthwise.weight)
        live.pointwise.weight.copy_(new.weight[:, :, None, None])
        if live.pointwise_in is not None:
            live.pointwise_in.weight.copy_(new.pointwise_in.weight[:, :, None, None])
        if new.bias is not None and live.bias is not None:
            live.bias.copy_(new.bias)
    x = torch.randn(2, 8, 9, 9)
    torch.testing.assert_close(new(x), live(x))


@pytest.mark.parametrize("kind", FORMS, ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 4), (8, 32), (64, 12), (4, 64), (64, 64)])
@pytest.mark.parametrize("sides", [1, 3])
def test_each_form_is_taken_where_it_saves(
    kind: Inserted, inputs: int, outputs: int, sides: int, groups: int
) -> None:
    new, conv = inserted(2, Policy(), kind), nn.Conv2d(inputs, outputs, sides, groups=groups)
    expected = judge_inserted(module_spec(conv), Policy(), kind).verdict is Verdict.CANDIDATE
    assert isinstance(new.where_it_saves(conv), new) == expected


@pytest.mark.parametrize("kind", FORMS, ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_formatters_leave_every_form_as_it_is(kind: Inserted, rank: int, tmp_path: Path) -> None:
    name = class_name(rank, kind)
    text = class_text(rank, name, "torch", "nn", kind, Policy())
    check_formatted(f"{text}\n\n{class_of_other_size('Other', name, 5)}", tmp_path)
    assert max(map(len, text.splitlines())) <= 88
