"""Plans for this CPU: from a table of times, and measured once in earnest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv.core.conv import ConvSpec
from pytest_dwsconv.core.latency.comparison import RUNTIMES, Comparison, Conditions, MemoryFormat
from pytest_dwsconv.core.latency.evidence import Effect, Evidence, Provenance
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.rewriting.planning import cpu
from pytest_dwsconv.rewriting.result import RewriteResult
from pytest_dwsconv.rewriting.rewrite import rewrite
from pytest_dwsconv.separable import SeparableConv2d

SHAPE = (1, 16, 8, 8)
LAYER_MS = {8: 2.0, 16: 4.0, 32: 1.0}
"""Of a convolution, by its output channels."""
PAIR_MS = {8: 1.0, 16: 1.0, 32: 1.5}
"""Of its replacement, and 0.1 more for each further multiplier: that of 32 channels is slower."""
OTHER_MS = 3.0


def network() -> nn.Sequential:
    torch.manual_seed(0)
    convs = [
        nn.Conv2d(16, 8, 3, padding=1),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.Conv2d(16, 32, 3, padding=1),
    ]
    return nn.Sequential(*convs).eval()


def comparison(first: float, second: float, conditions: Conditions) -> Comparison:
    ratio = first / second
    return Comparison(first, second, ratio, 0.99 * ratio, 1.01 * ratio, 0.02, 8, conditions, 1)


def milliseconds(layer: nn.Module) -> float:
    if isinstance(layer, SeparableConv2d):
        return PAIR_MS[layer.out_channels] + 0.1 * (layer.size - 1)
    assert isinstance(layer, nn.Conv2d)
    return LAYER_MS[layer.out_channels]


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[Comparison]:
    """Times from the table. What is listed here comes before, one per network that is timed."""
    answers: list[Comparison] = []

    def time_layers(
        candidates: Sequence[tuple[ConvSpec, PlanEntry]], conditions: Conditions
    ) -> list[Comparison]:
        found = []
        for spec, entry in candidates:
            second = PAIR_MS[entry.out_channels] + 0.1 * (entry.size - 1)
            found.append(comparison(LAYER_MS[spec.out_channels or 0], second, conditions))
        return found

    def compare_networks(
        first: nn.Sequential, second: nn.Sequential, inputs: Sequence[Tensor], conditions: Any
    ) -> Comparison:
        assert first(*inputs).shape == second(*inputs).shape
        if answers:
            return answers.pop(0)
        times = [OTHER_MS + sum(map(milliseconds, one)) for one in (first, second)]
        return comparison(times[0], times[1], conditions)

    monkeypatch.setattr(cpu, "time_layers", time_layers)
    monkeypatch.setattr(cpu, "compare_networks", compare_networks)
    return answers


def planned(**arguments: Any) -> RewriteResult:
    return rewrite(network(), SHAPE, target="cpu", order="depthwise_first", **arguments)


def sizes(plan: Plan) -> dict[str, int]:
    return {entry.name: entry.size for entry in plan.entries}


def of_network(result: RewriteResult) -> Evidence:
    [evidence] = result.report_before.evidence
    return evidence


@pytest.mark.usefixtures("whole")
def test_what_is_not_faster_is_not_replaced() -> None:
    result = planned()
    assert sizes(result.plan) == {"0": 1, "1": 1}
    claims = [finding.evidence[0].claim for finding in result.report_before.findings]
    assert claims == ["2x faster", "4x faster", "1.5x slower"]
    threads = torch.get_num_threads()
    where = f"PyTorch, {threads} thread{'s' if threads > 1 else ''}, contiguous, batch 1"
    assert str(of_network(result)) == f"cpu: 1.67x faster (measured, {where})"
    assert str(of_network(result)) in str(result).splitlines()


@pytest.mark.parametrize(
    ("ratio", "low", "high", "effect"),
    [
        (0.8, 0.78, 0.82, Effect.SLOWER),
        (1.0, 0.98, 1.02, Effect.NONE),
        (1.0, 0.5, 2.0, Effect.UNKNOWN),
    ],
)
def test_a_network_that_is_not_faster_comes_back_as_it_is_and_that_is_said(
    whole: list[Comparison], ratio: float, low: float, high: float, effect: Effect
) -> None:
    whole.append(Comparison(8.0, 8.0 / ratio, ratio, low, high, 0.1, 8, Conditions(1), 1))
    result = planned()
    assert result.plan == Plan()
    assert of_network(result).effect is effect
    assert of_network(result).reason.endswith("nothing is replaced")
    x = torch.randn(SHAPE)
    assert torch.equal(result.model(x), network()(x))


@pytest.mark.usefixtures("whole")
def test_without_a_faster_layer_no_network_is_timed() -> None:
    result = planned(select=["2"])
    assert result.plan == Plan()
    assert of_network(result).effect is Effect.NONE
    assert "no replacement of a single layer was measured faster" in str(result)


@pytest.mark.usefixtures("whole")
def test_of_layers_whose_times_are_too_noisy_nobody_says_that_nothing_is_gained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def time_layers(candidates: Sequence[Any], conditions: Conditions) -> list[Comparison]:
        noisy = Comparison(2.0, 1.0, 2.0, 0.9, 3.0, 0.9, 8, conditions, 1)
        return [comparison(1.0, 2.0, conditions), *[noisy] * (len(candidates) - 1)]

    monkeypatch.setattr(cpu, "time_layers", time_layers)
    result = planned()
    assert result.plan == Plan()
    assert of_network(result).source is Provenance.UNKNOWN
    assert of_network(result).reason.startswith("times of 2 of 3 replacements were too noisy")


def test_what_does_not_run_here_or_cannot_be_replaced_is_not_called_measured_faster() -> None:
    depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, groups=16))
    line = "cpu: no gain (measured): no layer that runs can be replaced"
    assert str(of_network(rewrite(depthwise, SHAPE, target="cpu"))) == line


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("limit_ms", [9.0, 7.5, 6.3])
def test_a_limit_on_the_latency_is_kept_with_no_more_loss_than_it_takes(limit_ms: float) -> None:
    result = planned(budget={"latency": f"{limit_ms}ms"})
    after = of_network(result).after_ms
    assert after is not None
    assert after <= limit_ms
    fastest = planned(budget={"latency": "6ms"})
    assert sum(result.errors.values()) < sum(fastest.errors.values())
    assert "2" not in result.errors


def test_a_plan_that_saves_less_than_its_layers_is_planned_again(whole: list[Comparison]) -> None:
    one = Conditions(1)
    whole += [comparison(10, 6, one), comparison(10, 8.4, one)]  # then as the table has it
    result = planned(budget={"latency": "8ms"})
    assert not whole
    after = of_network(result).after_ms
    assert after is not None
    assert after <= 8


@pytest.mark.usefixtures("whole")
def test_a_limit_that_the_original_keeps_replaces_nothing() -> None:
    result = planned(budget={"latency": "10.5ms"})
    assert result.plan == Plan()
    assert of_network(result).reason == "the original keeps 10.5ms as it is"
    assert of_network(result).effect is Effect.NONE


@pytest.mark.usefixtures("whole")
def test_a_limit_that_nothing_keeps_is_refused_with_what_was_measured() -> None:
    with pytest.raises(InputError, match="5ms cannot be kept: 6ms are measured with all that is"):
        planned(budget={"latency": "5ms"})


def test_a_network_whose_times_are_too_noisy_keeps_no_limit(whole: list[Comparison]) -> None:
    whole.append(Comparison(8.0, 7.0, 1.1, 0.5, 2.0, 0.9, 8, Conditions(1), 1))
    with pytest.raises(InputError, match=r"7.5ms is not known to be kept: .* on an idle machine"):
        planned(budget={"latency": "7.5ms"})


def test_a_claim_from_a_busy_machine_says_that_it_was_busy(whole: list[Comparison]) -> None:
    whole.append(Comparison(8.0, 4.0, 2.0, 1.5, 2.5, 0.9, 8, Conditions(1), 1))
    line = str(of_network(planned()))
    assert line.startswith("cpu: 2x faster (measured, ")
    assert line.endswith("): the machine was busy, times spread by 90%")


@pytest.mark.usefixtures("whole")
def test_a_limit_is_kept_or_refused_where_no_layer_is_faster() -> None:
    with pytest.raises(InputError, match="5ms cannot be kept: 10ms are measured"):
        planned(budget={"latency": "5ms"}, select=["2"])
    result = planned(budget={"latency": "11s", "params": "1M"}, select=["2"])
    assert of_network(result).reason == "the original keeps 11s as it is"


def test_a_budget_that_only_a_slower_network_keeps_is_refused(whole: list[Comparison]) -> None:
    whole += [comparison(8, 9, Conditions(1))] * 2
    with pytest.raises(InputError, match=r"keeps the budget is not .* as fast .*: 1.12x slower"):
        planned(budget={"params": "6k"})
    assert planned(budget={"params": "1M"}, objective="latency").plan == Plan()


@pytest.mark.usefixtures("whole")
def test_the_fastest_within_a_budget_takes_the_quickest_of_each_layer() -> None:
    result = planned(objective="latency", budget={"params": "7k"})
    assert sizes(result.plan) == {"0": 1, "1": 1}


@pytest.mark.usefixtures("whole")
def test_a_budget_is_kept_by_what_is_faster_alone() -> None:
    result = planned(budget={"params": "6k"})
    assert result.report_after.params <= 6000
    assert "2" not in sizes(result.plan)
    with pytest.raises(InputError, match="cannot be kept: replacing every candidate at its cheape"):
        planned(budget={"params": "1k"})


DATA = [torch.randn(16, *SHAPE[1:], generator=torch.Generator().manual_seed(i)) for i in (0, 1)]


@pytest.mark.filterwarnings("ignore::pytest_dwsconv.errors.FitWarning")
@pytest.mark.parametrize("slower", [False, True])
def test_the_fastest_network_that_keeps_the_terms_is_searched(
    whole: list[Comparison], slower: bool
) -> None:
    if slower:
        whole.append(comparison(8, 9, Conditions(1)))
    result = planned(accept=lambda _: True, calibration=DATA, refine=0)
    assert sizes(result.plan) == ({} if slower else {"0": 1, "1": 1})
    assert of_network(result).effect is (Effect.SLOWER if slower else Effect.FASTER)
    assert result.acceptance is not None
    assert len(result.acceptance.trials) <= 5


@pytest.mark.usefixtures("whole")
def test_where_no_network_keeps_the_terms_the_original_is_returned_and_that_is_said() -> None:
    result = planned(accept=lambda _: False, calibration=DATA, refine=0)
    assert result.plan == Plan()
    assert str(of_network(result)) == (
        "cpu: no gain (measured): no network that is faster keeps what is asked of it"
    )


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("target", RUNTIMES)
def test_every_runtime_is_a_target_that_the_evidence_names(target: str) -> None:
    result = rewrite(network(), SHAPE, target=target, order="depthwise_first")
    assert sizes(result.plan) == {"0": 1, "1": 1}
    known = [of_network(result), *(one.evidence[0] for one in result.report_before.findings)]
    assert {one.target for one in known} == {target}
    assert RUNTIMES[target].value in of_network(result).conditions
    if RUNTIMES[target].is_litert:
        assert MemoryFormat.CHANNELS_LAST.value in of_network(result).conditions


@pytest.mark.parametrize("inputs", [(2, *SHAPE[1:]), (SHAPE, SHAPE)])
def test_networks_that_are_exported_take_one_input_of_batch_size_1(inputs: Any) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, *images: Tensor) -> Any:
            return self.network(sum(images))

    with pytest.raises(InputError, match="takes one input of batch size 1: give its shape"):
        rewrite(Sum(), inputs, target="litert")


def test_beyond_a_multiplier_that_is_not_faster_no_larger_one_is_measured(
    whole: list[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    time_layers: Any = vars(cpu)["time_layers"]

    def watched(candidates: Sequence[tuple[ConvSpec, PlanEntry]], conditions: Any) -> Any:
        asked.extend((entry.name, entry.size) for _, entry in candidates)
        return time_layers(candidates, conditions)

    monkeypatch.setattr(cpu, "time_layers", watched)
    monkeypatch.setitem(PAIR_MS, 8, 1.75)
    planned(budget={"params": "1M"})
    assert {size for name, size in asked if name == "1"} == {1, 2, 3, 4, 5}
    assert {size for name, size in asked if name == "0"} == {1, 2, 3, 4}
    assert {size for name, size in asked if name == "2"} == {1}
    asked.clear()
    planned(budget={"params": "1M"}, objective="latency")
    assert {size for _, size in asked} == {1}


@pytest.mark.usefixtures("whole")
def test_the_memory_format_is_that_of_the_network() -> None:
    model: Any = network()
    result = rewrite(model.to(memory_format=torch.channels_last), SHAPE, target="cpu")
    assert MemoryFormat.CHANNELS_LAST.value in of_network(result).conditions


@pytest.mark.usefixtures("own_cache")
def test_a_network_is_measured_in_earnest_and_never_returned_slower() -> None:
    model = nn.Sequential(nn.Conv2d(96, 96, 3, padding=1), nn.ReLU()).eval()
    result = rewrite(model, (1, 96, 24, 24), target="cpu", order="depthwise_first")
    evidence = of_network(result)
    if result.plan.entries:
        assert (evidence.source, evidence.effect) == (Provenance.MEASURED, Effect.FASTER)
    else:
        assert evidence.effect is not Effect.FASTER or evidence.reason
    assert result.report_before.findings[0].evidence
