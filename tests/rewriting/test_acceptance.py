"""rewrite(max_error=, min_agreement=, accept=, evaluate=): the smallest plan that keeps it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv import InputError, Plan, RewriteResult, rewrite
from pytest_dwsconv.fit import calibration, planning
from pytest_dwsconv.fit.replay import CalibrationData
from pytest_dwsconv.rewriting.planning import planner


def images() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(24, 6, 12, 12).cumsum(2).cumsum(3) / 6 for _ in range(4)]


def network(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (6, 12, 12):
        layers += [nn.Conv2d(channels, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    head = nn.Linear(12, classes)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    with torch.no_grad():
        for x in images():
            model(x)
        # what differs from sample to sample is what counts
        head.bias.sub_(model.eval()(images()[0]).mean(0))
    return model


def search(model: nn.Module, **options: Any) -> RewriteResult:
    return rewrite(model, calibration=images(), refine=0, **options)


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def error(model: nn.Module, original: nn.Module) -> float:
    found, wanted = model(images()[-1]), original(images()[-1])
    return float(((found - wanted).square().sum() / (wanted - wanted.mean()).square().sum()).sqrt())


def trials_agree(result: RewriteResult) -> bool:
    """Whether the result is the smallest of the trials that were kept, and all smaller were not."""
    assert result.acceptance is not None
    trials = result.acceptance.trials
    smallest = min(trial.params for trial in trials if trial.kept)
    above = all(trial.kept for trial in trials if trial.params >= smallest)
    return smallest == params(result.model) and above and len(trials) <= 7


@pytest.mark.parametrize("limit", [0.3, 0.1])
def test_the_smallest_plan_within_an_error_is_found(limit: float) -> None:
    model = network()
    result = search(model, max_error=limit)
    assert error(result.model, model) <= limit * 1.001
    assert trials_agree(result)
    assert result.acceptance is not None
    assert result.acceptance.kept
    assert any(not trial.kept for trial in result.acceptance.trials)
    assert f"the smallest plan that keeps an output error of at most {limit}" in str(result)


def test_more_is_kept_by_larger_plans() -> None:
    sizes = [params(search(network(), max_error=limit).model) for limit in ("30%", "5%")]
    assert sizes[0] < sizes[1] < params(network())


def test_an_agreement_is_kept() -> None:
    result = search(network(), min_agreement=0.9)
    assert result.agreement is not None
    assert result.agreement >= 0.9
    assert trials_agree(result)


def test_a_metric_of_the_users_decides_by_how_much_it_falls() -> None:
    model, original, judged = network(), network(), []

    def evaluate(found: nn.Module) -> Tensor:
        assert not found.training
        judged.append(found)
        return 10 - 20 * torch.tensor(error(found, original))

    result = search(model.train(), evaluate=evaluate, max_error=3)
    assert model.training
    assert judged[0] is model
    assert error(result.model.eval(), original) <= 3 / 20 * 1.001
    assert trials_agree(result)
    assert result.acceptance is not None
    assert result.acceptance.evaluation_before == 10
    assert all(
        trial.kept == (trial.evaluation is not None and trial.evaluation >= 7)
        for trial in result.acceptance.trials
    )


def test_a_function_of_the_result_decides() -> None:
    result = search(network(), accept=lambda found: found.report_after.params > 2000)
    assert params(result.model) > 2000
    assert trials_agree(result)


def test_all_that_is_asked_for_is_kept() -> None:
    result = search(network(), max_error=0.3, accept=lambda found: found.report_after.params > 3000)
    assert params(result.model) > 3000
    assert result.acceptance is not None
    assert result.acceptance.condition == "an output error of at most 0.3 and accept"


@pytest.mark.parametrize("inplace", [False, True])
def test_the_original_is_returned_where_no_plan_will_do(inplace: bool) -> None:
    model = network()
    state = copy.deepcopy(model.state_dict())
    result = search(model, max_error=1e-6, inplace=inplace)
    assert result.plan == Plan()
    assert (result.model is model) is inplace
    assert all(torch.equal(value, state[name]) for name, value in result.model.state_dict().items())
    assert result.acceptance is not None
    assert not result.acceptance.kept
    assert "no plan keeps an output error of at most 1e-06" in str(result)
    assert result.to_dict()["acceptance"]["kept"] is False


def test_in_place_the_same_is_found() -> None:
    model = network()
    wanted = search(model, max_error=0.2)
    result = search(model, max_error=0.2, inplace=True)
    assert result.model is model
    assert (result.plan, result.acceptance) == (wanted.plan, wanted.acceptance)
    states = wanted.model.state_dict()
    assert all(torch.equal(value, states[name]) for name, value in model.state_dict().items())


def test_what_each_choice_costs_is_weighed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed, estimate = [], planning.estimate

    def counted(*args: Any) -> Any:
        weighed.append(args)
        return estimate(*args)

    monkeypatch.setattr(planner, "estimate", counted)
    search(network(), max_error=0.2)
    assert len(weighed) == 1


def test_the_forward_is_recorded_once_for_all_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[CalibrationData] = []

    def recorded(*args: Any) -> CalibrationData:
        records.append(CalibrationData(*args))
        return records[-1]

    monkeypatch.setattr(calibration, "CalibrationData", recorded)
    result = search(network(), max_error=0.2)
    assert result.acceptance is not None
    assert len(result.acceptance.trials) > 1
    assert len(records) == 1


def test_a_search_gives_what_the_plan_gives_by_itself() -> None:
    found = search(network(), max_error=0.2)
    again = rewrite(network(), calibration=images(), refine=0, init="fit", plan=found.plan)
    x = images()[0]
    assert torch.allclose(found.model(x), again.model(x), atol=1e-5)
    assert found.output_error == pytest.approx(again.output_error)


def test_the_model_that_a_function_of_the_result_keeps_stays_as_it_was() -> None:
    x, kept = images()[0], []

    def accept(result: RewriteResult) -> bool:
        kept.append((result.model, result.model(x).detach()))
        return len(kept) == 1

    search(network(), accept=accept)
    assert len(kept) > 1
    assert all(torch.equal(model(x), gave) for model, gave in kept)


class Counting(nn.Sequential):
    """Counts how often it runs."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("runs").add_(1)
        found: Tensor = super().forward(x)  # type: ignore[no-untyped-call]  # torch's own
        return found


@pytest.mark.parametrize("inplace", [False, True])
def test_a_buffer_that_the_forward_writes_is_as_found(inplace: bool) -> None:
    model = Counting(*network().children()).eval()
    result = search(model, max_error=0.1, inplace=inplace)
    assert result.acceptance is not None
    assert len(result.acceptance.trials) > 1
    assert result.model.get_buffer("runs") == model.get_buffer("runs") == 0


def test_a_buffer_is_as_found_where_a_rewrite_in_place_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_dwsconv.rewriting.outcome.refine", interrupted)
    model = Counting(*network().children()).eval()
    with pytest.raises(KeyboardInterrupt):
        rewrite(model, init="fit", calibration=images(), inplace=True)
    assert model.get_buffer("runs") == 0


def test_select_is_respected_and_reported() -> None:
    result = search(network(), max_error=0.3, select=["3"])
    assert [entry.name for entry in result.plan.entries] == ["3"]
    assert "not replaced: 2" in str(result)


def nothing(model: nn.Module) -> None:
    return None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_error": 0.1, "budget": "1k"}, r"^to keep an output error of at most 0.1, the small"),
        ({"max_error": 0.1, "depth_multiplier": 2}, "leave out plan, budget and depth"),
        ({"max_error": 0.1, "plan": Plan()}, "leave out plan, budget and depth"),
        ({"max_error": 0.1, "init": "svd"}, "leave init='svd' out, or pass init='fit'"),
        ({"max_error": "much"}, r"^max_error 'much' is not a share: .* \"5%\" or 0.05$"),
        ({"min_agreement": 98}, r"^min_agreement 98 is not a share: .* \"98%\" or 0.98$"),
        ({"accept": 0.9}, r"^accept must be a function, not 0.9"),
        ({"evaluate": 0.9}, r"^evaluate must be a function"),
        ({"evaluate": nothing}, r"^evaluate needs max_error: by how much its value may fall"),
        ({"evaluate": nothing, "max_error": -1}, r"^max_error must be a number from 0, not -1"),
        ({"evaluate": nothing, "max_error": 1}, r"^evaluate must give a number, .* not None"),
        ({"evaluate": lambda _: float("nan"), "max_error": 1}, r"^evaluate gives nan for the orig"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    model = network()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=sentence):
        search(model, **options)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (network, {"calibration": None}, "to keep .*, plans are fitted, which needs calibration="),
        (network, {"calibration": [torch.randn(16, 6, 12, 12)]}, "has a single one: split it"),
    ],
)
def test_an_error_needs_batches_to_be_measured_on(
    make: Callable[[], nn.Module], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        rewrite(make(), max_error=0.1, **options)


def test_an_agreement_needs_classes() -> None:
    with pytest.raises(InputError, match=r"^min_agreement is for networks that give one tensor of"):
        search(network(classes=1), min_agreement=0.9)
