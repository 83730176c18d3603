"""The choice among a layer's replacements, and how closely few samples tie them to the kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv import rewrite
from pytest_dwsconv.core.conv import ConvSpec, Form
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit.error_points import Call
from pytest_dwsconv.fit.layers import choice
from pytest_dwsconv.fit.layers.choice import fit_layer
from pytest_dwsconv.fit.layers.problem import RIDGE, STRONGEST, LayerProblem
from pytest_dwsconv.fit.least_squares.problem import Problem
from pytest_dwsconv.fit.observations import Layer, Observation
from pytest_dwsconv.separable.factorize import Factors, decompose, dense_kernel


def layer_of(*entries: tuple[Form, int]) -> Layer:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, 3, padding=1)
    call = Call(0, 2, 0, torch.ones(12, dtype=torch.float64), None, None)
    spec = ConvSpec(2, 8, 12, (3, 3))
    return Layer("conv", conv, [PlanEntry.of("conv", spec, *entry) for entry in entries], (call,))


@torch.no_grad()
def seen_by(layer: Layer, samples: int) -> list[Observation]:
    x = torch.randn(samples, 8, 10, 10).cumsum(2)
    target = layer.conv(x)
    return [Observation(layer.calls[0], x, target, torch.zeros_like(target))]


WEIGHTS = {0: torch.eye(12, dtype=torch.float64)}


def test_a_layer_whose_fit_does_not_hold_gets_the_nearest_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def useless(problem: Problem, entry: PlanEntry, start: Factors, rounds: int) -> Factors:
        return Factors(**{name: -part.double() for name, part in start.by_part().items()})

    layer = layer_of((Form.BOTTLENECK, 9))
    monkeypatch.setattr(choice, "fit", useless)
    with torch.no_grad():
        fitted = fit_layer(layer, seen_by(layer, 8), seen_by(layer, 4), WEIGHTS)
    entry = layer.entries[0]
    wanted = dense_kernel(
        decompose(layer.conv.weight, 1, entry.form).factors(9), entry.form, entry.size, entry.groups
    )
    torch.testing.assert_close(fitted.module.weight.detach(), wanted.detach())


def test_the_form_is_chosen_by_what_is_judged_and_not_by_what_was_seen() -> None:
    layer = layer_of((Form.DEPTHWISE_FIRST, 1), (Form.BOTTLENECK, 40))
    seen = seen_by(layer, 8)
    with torch.no_grad():
        assert fit_layer(layer, seen, seen, WEIGHTS).entry.form is Form.BOTTLENECK
        alone = {
            entry.form: fit_layer(replace(layer, entries=[entry]), seen, seen, WEIGHTS)
            for entry in layer.entries
        }
        # what the worse of the two gives is taken for the original's values
        judged = [
            one._replace(target=alone[Form.DEPTHWISE_FIRST](one.x)) for one in seen_by(layer, 8)
        ]
        assert fit_layer(layer, seen, judged, WEIGHTS).entry.form is Form.DEPTHWISE_FIRST


def test_a_form_that_is_hopeless_after_few_rounds_is_fitted_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds: dict[Form, int] = dict.fromkeys(Form, 0)
    solve = choice.__dict__["fit"]

    def counted(problem: Problem, entry: PlanEntry, start: Factors, number: int) -> Factors:
        rounds[entry.form] += number
        found: Factors = solve(problem, entry, start, number)
        return found

    monkeypatch.setattr(choice, "fit", counted)
    layer = layer_of((Form.POINTWISE_FIRST, 1), (Form.BOTTLENECK, 40))
    seen = seen_by(layer, 8)
    with torch.no_grad():
        fit_layer(layer, seen, seen, WEIGHTS)
    assert rounds[Form.POINTWISE_FIRST] == choice.PROBE_ROUNDS < rounds[Form.BOTTLENECK]


@pytest.mark.parametrize(("samples", "share"), [(4, STRONGEST), (64, RIDGE / 64)])
def test_few_samples_tie_a_fit_more_closely_to_the_kernel(samples: int, share: float) -> None:
    layer = layer_of()
    seen = seen_by(layer, samples)
    problem = LayerProblem(layer, seen, WEIGHTS[0][None])
    taps = nn.functional.unfold(seen[0].x.double(), 3, padding=1).transpose(0, 1).flatten(1)
    assert float(problem.ridge) == pytest.approx(share * float(taps.var(1, correction=0).mean()))


Padding = Literal["zeros", "circular"]


def wide_network(padding_mode: Padding = "zeros", groups: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    second = nn.Conv2d(12, 12, 3, padding=1, padding_mode=padding_mode, groups=groups)
    return nn.Sequential(nn.Conv2d(12, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), second)


def smooth(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = 8, 12, 12, 12
    images = [torch.randn(shape, generator=generator) for _ in range(count)]
    return [image.cumsum(2).cumsum(3) / 6 for image in images]


@pytest.mark.filterwarnings("ignore::pytest_dwsconv.errors.FitWarning")
@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize(("padding_mode", "groups"), [("zeros", 1), ("circular", 2)])
def test_of_a_layer_of_very_many_inputs_the_last_part_is_fitted(
    form: Form, padding_mode: Padding, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MOST_INPUTS", 53)  # less than the two layers have
    model = wide_network(padding_mode, groups).eval()
    found = rewrite(model, init="fit", form=form, calibration=smooth(9), refine=0)
    assert found.quality is not None
    assert found.quality.nearest_error is not None
    assert found.output_error is not None
    assert found.output_error < 0.9 * found.quality.nearest_error
    assert found.last_part_only == tuple(entry.name for entry in found.plan.entries)
    assert "only the last part was fitted" in str(found)


def test_a_layer_of_very_many_inputs_is_planned_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "MOST_INPUTS", 53)
    model = wide_network().eval()
    params = sum(parameter.numel() for parameter in model.parameters())
    found = rewrite(model, init="fit", budget=params // 2, calibration=smooth(9), refine=0)
    assert found.report_after.params <= params // 2
    assert found.last_part_only
