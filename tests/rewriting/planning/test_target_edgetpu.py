"""Plans for the Edge TPU: nothing streams at the least loss, or time for its loss."""

from __future__ import annotations

import warnings
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.core.conv import Cost, Form
from pytest_dwsconv.core.latency.evidence import Effect
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.edgetpu import chip_memory, predicted_evidence
from pytest_dwsconv.errors import FitWarning, InputError
from pytest_dwsconv.fit.planning import Option
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.planning.edgetpu import plan_for_edgetpu
from pytest_dwsconv.rewriting.planning.goal import Goal, forms_on
from pytest_dwsconv.rewriting.result import RewriteResult
from pytest_dwsconv.rewriting.rewrite import rewrite

SHAPE = (1, 640, 2, 2)
LOSSES = {"0": (3.0, 1.0), "1": (5.0, 2.0), "2": (4.0, 3.0), "3": (9.0, 2.5)}
"""Of each layer at multipliers 1 and 6."""
UNLIMITED = Goal("edgetpu", None, {}, fastest=False)


def report(layers: int) -> Report:
    """Layers of 3.5 MiB, of which two fit on the chip."""
    with torch.device("meta"):
        convs = [nn.Conv2d(640, 640, 3, padding=1, bias=False) for _ in range(layers)]
    return analyze(nn.Sequential(*convs), SHAPE)


def options_of(found: Report) -> dict[str, list[Option]]:
    options = {}
    for finding in found.candidates:
        options[finding.name] = [Option(None, 0.0, Cost(finding.params or 0, finding.macs))]
        for multiplier, loss in zip((1, 6), LOSSES[finding.name], strict=True):
            entry = PlanEntry.of(finding.name, finding.spec, Form.DEPTHWISE_FIRST, multiplier)
            cost = Cost(entry.params_after, None)
            options[finding.name].append(Option(entry, loss, cost))
    return options


def loss_of(plan: Plan) -> float:
    return sum(LOSSES[entry.name][(1, 6).index(entry.size)] for entry in plan.entries)


def all_plans(found: Report) -> list[Plan]:
    plans = []
    for chosen in product(*options_of(found).values()):
        plans.append(Plan(tuple(one.entry for one in chosen if one.entry is not None)))
    return plans


@pytest.mark.parametrize("layers", [3, 4])
def test_the_plan_is_the_least_loss_with_which_nothing_streams(layers: int) -> None:
    found = report(layers)
    plan, evidence = plan_for_edgetpu(found, options_of(found), UNLIMITED)
    fitting = [one for one in all_plans(found) if not chip_memory(found, one).after.off_chip]
    assert plan in fitting
    assert loss_of(plan) == min(map(loss_of, fitting))
    assert evidence[""].streamed_after == 0


@pytest.mark.parametrize("limit_ms", [3.0, 6.0, 10.0])
def test_a_limit_is_kept_at_the_least_loss(limit_ms: float) -> None:
    found = report(4)
    goal = Goal("edgetpu", limit_ms, {}, fastest=False)
    plan, evidence = plan_for_edgetpu(found, options_of(found), goal)
    keeping = []
    for one in all_plans(found):
        if (predicted_evidence(found, one)[""].after_ms or 0) <= limit_ms:
            keeping.append(one)
    assert evidence[""].after_ms is not None
    assert evidence[""].after_ms <= limit_ms
    assert loss_of(plan) == min(map(loss_of, keeping))


def test_a_limit_below_all_plans_is_refused() -> None:
    found = report(3)
    said = r"budget of 100us cannot be kept: 6.*us are predicted with what is fastest, and 1.*ms wi"
    with pytest.raises(InputError, match=said):
        plan_for_edgetpu(found, options_of(found), Goal("edgetpu", 0.1, {}, fastest=False))


@pytest.mark.parametrize("layers", [1, 4])
def test_a_limit_that_the_original_keeps_replaces_nothing_and_that_is_said(layers: int) -> None:
    found = report(layers)
    goal = Goal("edgetpu", 8000.0, {}, fastest=False)
    plan, evidence = plan_for_edgetpu(found, options_of(found), goal)
    assert plan == Plan()
    assert evidence[""].reason == "the original keeps 8s as it is"


@pytest.mark.parametrize("target", ["cpu", "edgetpu"])
def test_a_limit_holds_for_a_network_without_candidates(target: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1)).eval()
    with pytest.raises(InputError, match=r"the budget of 1us (cannot|is not known to) be kept"):
        rewrite(model, (1, 3, 8, 8), target=target, budget={"latency": "1us"})
    result = rewrite(model, (1, 3, 8, 8), target=target, budget={"latency": "800s"})
    assert "the original keeps 800s as it is" in str(result)


def test_the_fastest_within_a_budget_has_fewer_parameters_and_streams_least() -> None:
    found = report(3)
    goal = Goal("edgetpu", None, {"params": 10_000_000}, fastest=True)
    plan, evidence = plan_for_edgetpu(found, options_of(found), goal)
    times = [predicted_evidence(found, one)[""].after_ms for one in all_plans(found)]
    assert evidence[""].after_ms == min(time for time in times if time is not None)
    assert plan.entries


def test_where_all_cannot_fit_what_saves_no_more_than_its_loss_is_left_out() -> None:
    with torch.device("meta"):
        linear = nn.Linear(4096, 4096)  # 16 MiB, which nothing replaces
        convs = [nn.Conv2d(640, 640, 3, padding=1, bias=False) for _ in range(2)]
        model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(640, 4096))
    found = analyze(nn.Sequential(model, linear), SHAPE)
    nothing = Cost(0, None)
    options = {}
    for finding, loss in zip(found.candidates, (1.0, 100.0), strict=True):
        entry = PlanEntry.of(finding.name, finding.spec, Form.DEPTHWISE_FIRST, 1)
        options[finding.name] = [Option(None, 0.0, nothing), Option(entry, loss, nothing)]
    plan, evidence = plan_for_edgetpu(found, options, UNLIMITED)
    assert [entry.name for entry in plan.entries] == ["0.0"]
    assert "still do" in str(evidence[""])


def network(layers: int) -> nn.Module:
    """Layers of 9 KiB each, which take twice that on the chip."""
    torch.manual_seed(0)
    convs: list[nn.Module] = []
    for _ in range(layers):
        convs += [nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.ReLU()]
    return nn.Sequential(*convs).eval()


SMALL = (1, 32, 4, 4)


@pytest.fixture
def _small_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chip that holds two such layers, so that the test is quick."""
    for module in ("edgetpu.loads", "rewriting.planning.edgetpu"):
        monkeypatch.setattr(f"pytest_dwsconv.{module}.CACHE_BYTES", 40 * 1024)


@pytest.mark.usefixtures("_small_chip")
def test_a_network_that_fits_comes_back_as_it_is_with_the_sentence() -> None:
    model = network(2)
    result = rewrite(model, SMALL, target="edgetpu")
    assert result.plan == Plan()
    assert result.report_before.evidence[0].effect is Effect.NONE
    line = "edgetpu: no gain (predicted, rpi4_usb3): all parameters fit on the chip already"
    assert line in str(result).splitlines()
    x = torch.randn(SMALL)
    assert torch.equal(result.model(x), model(x))


@pytest.mark.filterwarnings("ignore::pytest_dwsconv.errors.FitWarning")
@pytest.mark.usefixtures("_small_chip")
@pytest.mark.parametrize("init", ["svd", "fit"])
def test_a_network_is_rewritten_until_nothing_streams(init: str) -> None:
    data: dict[str, Any] = {}
    if init == "fit":
        data = {"calibration": [torch.randn(16, *SMALL[1:])], "refine": 0, "select": ["0"]}
    result = rewrite(network(3), SMALL, target="edgetpu", init=init, form="depthwise_first", **data)
    after = chip_memory(result.report_after, Plan()).before
    assert result.plan.entries
    assert after.off_chip == 0
    evidence = result.report_before.evidence[0]
    assert evidence.effect is Effect.FASTER
    assert str(evidence) in str(result)
    assert "edgetpu.compare_int8 measures it" in str(result)
    assert {f.name for f in result.report_before.findings if f.evidence} == {
        entry.name for entry in result.plan.entries
    }


@pytest.mark.filterwarnings("ignore::pytest_dwsconv.errors.FitWarning")
@pytest.mark.usefixtures("_small_chip")
def test_terms_that_a_gainless_plan_keeps_replace_nothing() -> None:
    batches = [torch.randn(16, *SMALL[1:]) for _ in range(2)]
    terms: dict[str, Any] = {"accept": lambda _: True, "calibration": batches, "refine": 0}
    result = rewrite(network(1), SMALL, target="edgetpu", form="depthwise_first", **terms)
    assert result.plan == Plan()
    assert result.report_before.evidence[0].effect is Effect.NONE


@pytest.mark.filterwarnings("ignore::pytest_dwsconv.errors.FitWarning")
@pytest.mark.usefixtures("_small_chip")
def test_the_fastest_network_that_keeps_the_terms_streams_least() -> None:
    data: dict[str, Any] = {"form": "depthwise_first", "select": ["0"], "refine": 0}
    batches = [torch.randn(16, *SMALL[1:]) for _ in range(2)]
    found = []
    for least in (0, 34_000):

        def accept(result: RewriteResult, least: int = least) -> bool:
            return result.report_after.params >= least

        arguments: dict[str, Any] = {"target": "edgetpu", "accept": accept, "calibration": batches}
        found.append(rewrite(network(4), SMALL, **arguments, **data))
    fastest, slowest = found
    before, after = (chip_memory(one.report_after, Plan()).before for one in (slowest, fastest))
    assert fastest.plan.entries[0].size == 1
    assert slowest.plan.entries[0].size > 1
    assert 0 < after.off_chip < before.off_chip
    assert fastest.report_before.evidence[0].effect is Effect.FASTER


@pytest.mark.filterwarnings("ignore::pytest_dwsconv.errors.FitWarning")
@pytest.mark.usefixtures("_small_chip")
@pytest.mark.parametrize("search", [False, True])
def test_a_plan_for_another_host_is_predicted_for_that_host(search: bool) -> None:
    terms: dict[str, Any] = {}
    if search:
        batches = [torch.randn(16, *SMALL[1:]) for _ in range(2)]
        terms = {"accept": bool, "calibration": batches, "refine": 0, "select": ["0"]}
    target, form = "edgetpu:dev_board_pcie", "depthwise_first"
    result = rewrite(network(4), SMALL, target=target, form=form, **terms)
    assert result.plan.entries
    (evidence,) = result.report_before.evidence
    expected = predicted_evidence(result.report_before, result.plan, "dev_board_pcie")[""]
    assert evidence == expected
    assert "dev_board_pcie" in str(result)


def test_a_limit_is_kept_by_what_is_predicted_for_the_host() -> None:
    found, entries = report(4), []
    for host in ("rpi4_usb3", "desktop_usb3"):
        goal = Goal("edgetpu", 15.0, {}, fastest=False, host=host)
        plan, evidence = plan_for_edgetpu(found, options_of(found), goal)
        assert (evidence[""].after_ms or 0) <= 15.0
        entries.append(len(plan.entries))
    assert entries[1] < entries[0]


@pytest.mark.filterwarnings("ignore::pytest_dwsconv.errors.FitWarning")
@pytest.mark.usefixtures("_small_chip")
@pytest.mark.parametrize(("form", "is_planned"), [("auto", False), ("grouped", True)])
def test_groups_are_planned_for_an_edge_tpu_only_if_they_are_asked_for(
    form: str, is_planned: bool
) -> None:
    # reason: a kernel of two groups is nearest to one of two groups
    conv = nn.Conv2d(32, 32, 3, bias=False)
    with torch.no_grad():
        conv.weight[:16, 16:] = conv.weight[16:, :16] = 0
    budget = {"params": 7_000}
    result = rewrite(nn.Sequential(conv), SMALL, target="edgetpu", form=form, budget=budget)
    assert (result.plan.entries[0].form is Form.GROUPED) == is_planned
    for goal in (None, Goal("cpu", None, {}, fastest=False)):
        assert forms_on(goal, tuple(Form)) == tuple(Form)


class WithHead(nn.Module):
    """A network with a convolution that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = network(3), nn.Conv2d(32, 32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.head(x) if self.training else x


@pytest.mark.usefixtures("_small_chip")
@pytest.mark.parametrize(("target", "select"), [("edgetpu", "*"), ("cpu", "head")])
def test_a_layer_that_does_not_run_is_left_as_it_is(target: str, select: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        result = rewrite(WithHead().eval(), SMALL, target=target, select=[select])
    assert "head" not in {entry.name for entry in result.plan.entries}
    assert bool(result.plan.entries) == (target == "edgetpu")


def test_a_batch_of_several_is_refused() -> None:
    with pytest.raises(InputError, match="the Edge TPU takes 1; analyse it with a batch of 1"):
        rewrite(network(1), (2, *SMALL[1:]), target="edgetpu")
