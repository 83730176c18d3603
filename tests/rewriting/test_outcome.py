"""What a fit's result says of the network that it returns."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv import FitWarning, RewriteResult, rewrite
from pytest_dwsconv.fit.held_out import Nearest
from pytest_dwsconv.fit.training import recovery


def images(count: int, seed: int = 1) -> list[Tensor]:
    torch.manual_seed(seed)
    return [F.avg_pool2d(torch.randn(16, 3, 20, 20), 3, 1) for _ in range(count)]


def backbone() -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (3, 12, 12, 12):
        norm = nn.BatchNorm2d(12)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        layers += [nn.Conv2d(channels, 12, 3, padding=1, bias=False), norm, nn.ReLU()]
    return nn.Sequential(*layers)


class Detector(nn.Module):
    """Boxes in pixels, and scores of six classes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone()
        self.boxes, self.scores = nn.Conv2d(12, 4, 1), nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.backbone(x)
        return {"boxes": 100 * self.boxes(x), "scores": self.scores(x).sigmoid()}


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """A network that has learned its targets, a random network's, for a second."""
    torch.manual_seed(0)
    network, goal = make(), make().eval()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for x in images(40, seed=5):
        found, wanted = network(x), goal(x)
        pairs = [(found[k], wanted[k].detach()) for k in wanted]
        loss = sum((F.mse_loss(a, b) / b.var() for a, b in pairs), start=torch.zeros(()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5)]
    network = nn.Sequential(*backbone(), *head)
    with torch.no_grad():
        for x in images(9, seed=5):
            network(x)
    return network.eval()


def fitted(model: nn.Module, data: list[Tensor], **options: Any) -> RewriteResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return rewrite(model, init="fit", calibration=data, few_channels=True, **options)


@torch.no_grad()
def error(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).square().sum() / (wanted - wanted.mean()).square().sum()).sqrt())


@pytest.mark.parametrize("inplace", [False, True])
def test_the_error_and_agreement_told_are_those_of_the_network_returned(inplace: bool) -> None:
    model, data = classifier(), images(6)
    with torch.no_grad():
        wanted = model(data[-1])
    result = fitted(model, data, inplace=inplace, refine=4)
    with torch.no_grad():
        found = result.model(data[-1])
    assert result.output_error == pytest.approx(error(found, wanted), rel=1e-3)
    assert result.agreement == float((found.argmax(1) == wanted.argmax(1)).float().mean())
    assert result.output_errors == {"output": result.output_error}


def test_every_output_has_an_error_by_its_name() -> None:
    model, data = trained(Detector), images(6)
    result = fitted(model, data, refine=8)
    with torch.no_grad():
        found, wanted = result.model(data[-1]), model(data[-1])
    assert result.output_errors == pytest.approx(
        {f"output['{name}']": error(found[name], wanted[name]) for name in wanted}, rel=1e-3
    )
    assert result.output_error == max(result.output_errors.values())
    assert result.agreement is None


def test_errors_of_layers_are_those_after_the_refinement() -> None:
    model, data = trained(Detector), images(6)
    result = fitted(model, data, refine=4)
    parts = [
        nn.Sequential(*net.get_submodule("backbone").children())[:8]
        for net in (result.model, model)
    ]
    with torch.no_grad():  # the last layer's error is measured before its rectifier
        found, wanted = (part(data[-1]) for part in parts)
        varying = wanted - wanted.mean((0, 2, 3), keepdim=True)
    assert result.refinement is not None
    assert result.refinement.kept
    assert result.refinement.error_after < result.refinement.error_before
    assert result.refined_errors.keys() == {"backbone.0", "backbone.3", "backbone.6", "backbone.9"}
    last = float(((found - wanted).square().sum() / varying.square().sum()).sqrt())
    # reason: relative to what the layer adds to the bias of its normalisation, in its own network
    assert result.refined_errors["backbone.6"] == pytest.approx(last, rel=0.1)
    assert result.refined_errors != result.held_out_errors


def test_without_refinement_the_errors_of_layers_stay() -> None:
    result = fitted(classifier(), images(6), refine=0)
    assert result.refined_errors == pytest.approx(dict(result.held_out_errors), rel=1e-3)
    assert result.refinement is None


def test_few_samples_are_refined_gently_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = trained(Detector), images(3)
    gently = fitted(model, data, refine=8).refinement
    monkeypatch.setattr(recovery, "FEW_SAMPLES", 0)
    roughly = fitted(model, data, refine=8).refinement
    assert gently is not None
    assert roughly is not None
    assert gently.error_before == roughly.error_before
    assert gently.error_after < 0.99 * roughly.error_after
    assert (gently.passes, roughly.passes) == (4 + 8, 8)


@pytest.mark.parametrize(
    ("pace", "stages"), [(1e9, [0.1, 1.0]), (1e-6, [pytest.approx(0, abs=1e-3)])]
)
def test_a_step_of_the_refinement_promises_no_more_than_a_share_of_the_loss(
    pace: float, stages: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []

    def improve(*given: Any) -> None:
        rates.append(given[-1])

    monkeypatch.setattr(recovery, "PACE", pace)
    monkeypatch.setattr(recovery, "_improve", improve)
    fitted(classifier(), images(3), refine=2)
    assert rates == stages
    assert all(rate > 0 for rate in rates)


def test_an_output_does_not_get_worse_for_another_in_the_refinement() -> None:
    model, data = trained(Detector), images(6)
    before = fitted(model, data, refine=0).output_errors
    after = fitted(model, data, refine=8).output_errors
    assert all(after[name] <= 1.05 * before[name] for name in before)
    assert min(after[name] / before[name] for name in before) < 0.95


class OneTensor(Detector):
    """The same outputs in one tensor, where the boxes are thousands of times as large."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        found = super().forward(x)
        return torch.cat([found["boxes"], found["scores"]], 1)


def test_boxes_and_scores_in_one_tensor_are_fitted_as_those_in_two() -> None:
    apart, data = trained(Detector), images(6)
    together = OneTensor().eval()
    together.load_state_dict(apart.state_dict())
    found = fitted(together, data, refine=4)
    wanted = fitted(apart, data, refine=4)
    assert list(found.output_errors) == ["output[:, 0:4]", "output[:, 4:10]"]
    pairs = zip(found.output_errors.values(), wanted.output_errors.values(), strict=True)
    assert all(own == pytest.approx(other, rel=0.05) for own, other in pairs)


def test_the_weights_of_the_best_passes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    weights: dict[bool, dict[int, Tensor]] = {}

    def descend(model: nn.Module, reference: Any, tensors: list[Tensor], *rest: Any) -> None:
        *_, passes, _rate, judge = rest
        with torch.no_grad():
            for number in range(1, passes + 1):
                for own in tensors:
                    own.copy_(weights[number > 8][id(own)])
                judge(number)

    def improve(model: nn.Module, reference: Any, best: Any, *rest: Any) -> None:
        good = {id(t): t.detach().clone() for t in best.tensors.values()}
        weights[False] = good
        weights[True] = {key: 2 * value for key, value in good.items()}
        best.scores = best.scores._replace(squares=(1e9,))
        real(model, reference, best, *rest)

    real = recovery._improve
    monkeypatch.setattr(recovery, "FEW_SAMPLES", 0)
    monkeypatch.setattr(recovery, "_descend", descend)
    monkeypatch.setattr(recovery, "_improve", improve)
    result = fitted(classifier(), images(6), refine=20)
    assert result.refinement is not None
    assert result.refinement.kept_passes == recovery.CHECKED
    assert result.refinement.error_after == pytest.approx(result.output_error)


def unlike_the_rest(model: nn.Module) -> list[Tensor]:
    """Batches of which those held out have nothing in common with the others."""
    torch.manual_seed(3)
    flat = [1e-2 * torch.randn(2, 3, 1, 1).expand(2, 3, 20, 20) + 1 for _ in range(3)]
    return [*flat, *images(1)]


@pytest.mark.parametrize("order", ["auto", "depthwise_first"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_fit_that_is_worse_than_the_nearest_kernels_is_given_up(
    inplace: bool, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(Detector)
    data = unlike_the_rest(model)
    nearest = rewrite(model, few_channels=True, order=order)
    monkeypatch.setattr(Nearest, "better_than", lambda self, found: True)
    result = fitted(model, data, order=order, inplace=inplace, refine=2)
    assert result.plan == nearest.plan
    states = nearest.model.state_dict()
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, states[name]), name
    assert result.quality is not None
    assert result.quality.nearest
    assert result.output_error == result.quality.nearest_error
    assert not result.held_out_errors
    assert "the nearest kernels did better" in str(result)


def test_the_error_is_never_above_that_of_the_nearest_kernels() -> None:
    model = trained(Detector)
    data = unlike_the_rest(model)
    found, nearest = (
        fitted(model, data, depth_multiplier=6),
        rewrite(model, depth_multiplier=6, few_channels=True),
    )
    with torch.no_grad():
        wanted, own, its = (net(data[-1]) for net in (model, found.model, nearest.model))
    worst = [max(error(out[name], wanted[name]) for name in wanted) for out in (own, its)]
    assert worst[0] <= worst[1] * 1.001
    assert found.quality is not None
    assert found.quality.nearest_error == pytest.approx(worst[1], rel=1e-3)


def test_a_worthless_output_is_warned_of_by_name_with_what_would_help() -> None:
    torch.manual_seed(0)
    first, second = (nn.Conv2d(channels, 24, 5, bias=False) for channels in (16, 24))
    model = nn.Sequential(first, nn.Tanh(), second).eval()
    noise = [torch.randn(8, 16, 12, 12) for _ in range(3)]
    with pytest.warns(
        FitWarning, match=r"^output has a relative error of .* on held-out data"
    ) as told:
        result = rewrite(model, init="fit", calibration=noise, refine=0)
    text = str(told[0].message)
    assert result.warnings == (text,)
    assert f"warning: {text}" in str(result)
    assert "pass more batches as calibration" in text
    larger = rewrite(model, depth_multiplier=2)
    assert f"depth_multiplier=2 or budget={larger.report_after.params}" in text
    worst = max(result.refined_errors, key=lambda name: result.refined_errors[name])
    assert f"ignore=['{worst}'" in text
    assert told[0].filename == __file__
    (fault,) = result.faults
    options = fault.remedies.for_command()
    assert f"--depth-multiplier 2 or --budget {larger.report_after.params}" in options
    assert worst in options
    assert "ignore=" not in options


@pytest.mark.parametrize(("samples", "told"), [(1, True), (7, True), (8, False)])
def test_figures_of_few_held_out_samples_are_warned_of_once(samples: int, told: bool) -> None:
    batches = [batch[:samples] for batch in images(2)]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = rewrite(classifier(), init="fit", calibration=batches, refine=0)
    sentences = [str(one.message) for one in found if one.category is FitWarning]
    few = [text for text in sentences if "held out, which may be chance (every eighth" in text]
    assert bool(few) == told == any(not fault.worthless for fault in result.faults)
    assert len(few) <= 1
    assert all("pass eight batches or more of eight samples" in text for text in few)


def test_calibration_samples_that_are_all_alike_are_warned_of() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))
    sample = torch.randn(1, 8, 6, 6)
    with pytest.warns(FitWarning, match=r"^output of the original is the same for every sample"):
        rewrite(model, init="fit", calibration=[sample.expand(4, -1, -1, -1)] * 3, refine=0)


def test_the_result_is_written_as_text_and_json() -> None:
    result = fitted(trained(Detector), images(6), refine=4)
    stored = json.loads(result.to_json())
    assert stored == json.loads(json.dumps(result.to_dict()))
    assert stored["quality"]["output_errors"] == result.output_errors
    assert stored["quality"]["refinement"]["passes"] == 2 + 4
    assert stored["plan"] == json.loads(result.plan.to_json())
    shown = str(result)
    assert f"relative error of the outputs, held-out data: {result.output_error:.3f}" in shown
    assert "by output: output['boxes'] " in shown
    assert result._repr_html_().startswith("<pre>Detector: ")


def test_nothing_is_told_of_a_network_that_nothing_was_held_out_for() -> None:
    result = fitted(classifier(), images(1))
    assert (result.output_error, result.agreement, result.quality) == (None, None, None)
    assert json.loads(rewrite(classifier()).to_json())["quality"] is None
