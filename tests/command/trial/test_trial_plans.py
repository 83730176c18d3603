"""Plans that a file carries out: which of its calls are replaced, and by what."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from trained_file import FILE, WEIGHTS, Output, check_alike, loaded, trained

from pytest_dwsconv import Plan, apply_plan, rewrite
from pytest_dwsconv.analysis.sites import module_spec
from pytest_dwsconv.command.cli import main
from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.source.edit import rewrite_text
from pytest_dwsconv.targets import build_from_file


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_process: None) -> nn.Module:
    monkeypatch.chdir(tmp_path)
    return trained()


# A line for each call: Python 3.10 does not record which call of a line built what.
PLAN_FILE = FILE.replace("Block(16, 32)", "\nnn.Conv2d(16, 32, 3, 1, 1),\nBlock(32, 32)").replace(
    "Block(8, 16),", "nn.Conv2d(8, 16, 3, 1, 1), nn.BatchNorm2d(16),"
)


def plan_for(network: nn.Module, *names: str, multiplier: int = 2) -> Plan:
    return rewrite(network, order="depthwise_first", depth_multiplier=multiplier, select=names).plan


def test_a_plan_says_which_layers_and_is_written_as_carried_out(
    model: nn.Module, capsys: Output
) -> None:
    Path("net.py").write_text(PLAN_FILE)
    network = build_from_file(Path("net.py"), "Net").eval()
    torch.save(network.state_dict(), "in.pt")
    plan = plan_for(network, "3")
    Path("plan.json").write_text(plan.to_json())
    command = ["net.py", "--model", "Net", *WEIGHTS]
    assert main([*command, "--plan", "plan.json", "--plan-out", "done.json"]) == 0
    assert Plan.from_json(Path("done.json").read_text()) == plan
    assert Path("net.py").read_text().count("DepthwiseSeparableConv2dX2(16") == 1
    network = apply_plan(network, plan, init="svd")
    check_alike(loaded(torch.load("out.pt", weights_only=True)), network)


def test_each_call_gets_the_order_and_the_multiplier_of_its_layers(
    model: nn.Module, capsys: Output
) -> None:
    Path("net.py").write_text(PLAN_FILE)
    network = build_from_file(Path("net.py"), "Net").eval()
    torch.save(network.state_dict(), "in.pt")
    first = rewrite(network, order="pointwise_first", select=["0"]).plan
    plan = Plan(first.entries + plan_for(network, "3", multiplier=3).entries)
    Path("plan.json").write_text(plan.to_json())
    command = ["net.py", "--model", "Net", "--input-size", "2,8,12,12", *WEIGHTS]
    assert main([*command, "--plan", "plan.json", "--plan-out", "done.json"]) == 0
    assert Plan.from_json(Path("done.json").read_text()) == plan
    text = Path("net.py").read_text()
    assert text.count("(PointwiseDepthwiseConv2d(8") == 1
    assert text.count("\nDepthwiseSeparableConv2dX3(16") == 1
    network = apply_plan(network, plan, init="svd")
    check_alike(loaded(torch.load("out.pt", weights_only=True)), network)


@pytest.mark.parametrize(
    ("multipliers", "reason"),
    [
        ({"0.0": 1}, "its call also builds 2.0, which the plan leaves as it is"),
        ({"0.0": 1, "2.0": 2}, "its call builds layers that the plan gives different forms"),
    ],
)
def test_layers_of_a_call_that_the_plan_treats_differently_are_refused_with_the_reason(
    model: nn.Module, capsys: Output, multipliers: dict[str, int], reason: str
) -> None:
    entries = [plan_for(model, name, multiplier=r).entries for name, r in multipliers.items()]
    Path("plan.json").write_text(Plan(sum(entries, ())).to_json())
    assert main(["net.py", "--model", "Net", "--plan", "plan.json"]) == 2
    out, err = capsys.readouterr()
    assert f"the plan's 0.0 is left as it is: {reason}" in out
    assert "rewrite(model, plan=plan)" in err
    assert Path("net.py").read_text() == FILE


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("{", [], "--plan plan.json: not a plan"),
        (Plan().to_json(), [], "replaces nothing"),
        (None, ["--order", "pointwise_first"], "--plan has the order"),
        (None, [], "the plan is for another model: this has no layer 'other'"),
    ],
)
def test_a_plan_that_cannot_be_used_is_a_sentence(
    model: nn.Module, capsys: Output, text: str | None, arguments: list[str], message: str
) -> None:
    entry = PlanEntry("other", Form.DEPTHWISE_FIRST, 1, 8, 8, (3, 3), 1, True)
    Path("plan.json").write_text(Plan((entry,)).to_json() if text is None else text)
    assert main(["net.py", "--model", "Net", "--plan", "plan.json", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert Path("net.py").read_text() == FILE


def fit_within(network: nn.Module, budget: str, *more: str) -> int:
    torch.save(network.state_dict(), "in.pt")
    torch.save([torch.randn(32, 8, 12, 12) for _ in range(4)], "data.pt")
    command = ["net.py", "--model", "Net", *WEIGHTS, "--fit", "data.pt", "--budget", budget]
    return main([*command, *more])


def test_a_budget_is_kept_by_the_multipliers_of_least_loss(
    model: nn.Module, capsys: Output
) -> None:
    text = FILE.replace("Block(8, 16)", "\nnn.Conv2d(8, 16, 3, 1, 1),\nBlock(16, 16)")
    Path("net.py").write_text(text)
    network = build_from_file(Path("net.py"), "Net").eval()
    order = ["--order", "depthwise_first"]
    assert fit_within(network, "3.4k", "--plan-out", "plan.json", *order) == 0
    plan = Plan.from_json(Path("plan.json").read_text())
    multipliers = {entry.name: entry.depth_multiplier for entry in plan.entries}
    assert multipliers.get("1.0") == multipliers.get("3.0"), "one call builds both"
    assert len(set(multipliers.values())) > 1, "and another call gets another multiplier"
    rewritten = loaded(torch.load("out.pt", weights_only=True))
    assert 3_000 < sum(each.numel() for each in rewritten.parameters()) <= 3_400


@pytest.mark.parametrize(
    ("budget", "more", "message"),
    [
        ("500", [], "replacing every candidate at its cheapest leaves "),
        ("1M", [], "parameters, which --budget 1M allows: there is nothing to replace"),
        ("5x", [], "is not a quantity: write"),
        ("3k", ["--depth-multiplier", "2"], "leave out --plan and --depth-multiplier"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_a_sentence_and_nothing_is_written(
    model: nn.Module, capsys: Output, budget: str, more: list[str], message: str
) -> None:
    assert fit_within(model, budget, *more) == 2
    assert message in capsys.readouterr().err
    assert Path("net.py").read_text() == FILE
    assert not Path("out.pt").exists()


SETTINGS = """\
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.Conv2d(16, 32, 3, padding="same", dilation=2, groups=2, bias=False),
            nn.Conv2d(32, 32, 3, 1, 2, padding_mode="circular",),
            nn.Conv2d(32, 32, (3,) * 2),
        )
"""


def check_carried_out(plan: Plan, x: torch.Tensor) -> str:
    """Rewrite net.py by the plan; its model computes what the live replacements do."""
    network = build_from_file(Path("net.py"), "Net").eval()
    torch.save(network.state_dict(), "in.pt")
    Path("plan.json").write_text(plan.to_json())
    assert main(["net.py", "--model", "Net", *WEIGHTS, "--plan", "plan.json"]) == 0
    found = loaded(torch.load("out.pt", weights_only=True))
    expected = apply_plan(network, plan, init="svd")
    torch.testing.assert_close(found(x), expected(x), rtol=1e-5, atol=1e-5)
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    assert all(isinstance(each, kinds) for each in found.children()), (
        "each is one convolution still"
    )
    return Path("net.py").read_text()


@pytest.mark.parametrize(
    ("form", "rank"),
    [*((form, 2) for form in Form), (Form.BOTTLENECK, 1), (Form.BOTTLENECK, 3), (Form.GROUPED, 3)],
)
def test_the_inserted_class_computes_what_the_live_replacement_does(
    model: nn.Module, form: Form, rank: int
) -> None:
    Path("net.py").write_text(SETTINGS.replace("2d", f"{rank}d").replace("* 2", f"* {rank}"))
    network = build_from_file(Path("net.py"), "Net").eval()
    plan = rewrite(network, form=form, depth_multiplier=2).plan
    assert len(plan.entries) >= 3
    check_carried_out(plan, torch.randn(2, 8, *(12,) * rank))


def test_a_class_is_written_once_for_a_form_and_is_inherited_for_its_other_sizes(
    model: nn.Module,
) -> None:
    Path("net.py").write_text(SETTINGS)
    network = build_from_file(Path("net.py"), "Net")
    choices = [
        (Form.BOTTLENECK, 8),
        (Form.BOTTLENECK, 24),
        (Form.GROUPED, 4),
        (Form.POINTWISE_FIRST, 2),
    ]
    convs = [module_spec(each) for each in network.children()]
    entries = [
        PlanEntry.of(str(number), spec, *choice)
        for number, (spec, choice) in enumerate(zip(convs, choices, strict=True))
    ]
    text = check_carried_out(Plan(tuple(entries)), torch.randn(2, 8, 12, 12))
    assert "class BottleneckConv2dQ8(nn.Conv2d):" in text
    assert "class BottleneckConv2dQ24(BottleneckConv2dQ8):" in text
    assert text.count("def forward") == 3
    assert "BottleneckConv2dQ24(16, 32, 3, padding=" in text
    assert rewrite_text(text).text == text


def test_a_budget_is_kept_by_any_form(model: nn.Module, capsys: Output) -> None:
    assert fit_within(model, "1k", "--plan-out", "plan.json") == 0
    plan = Plan.from_json(Path("plan.json").read_text())
    assert {each.form for each in plan.entries} == {Form.BOTTLENECK}, "no order has so few"
    assert "class BottleneckConv2dQ" in Path("net.py").read_text()
