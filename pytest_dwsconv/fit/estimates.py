"""What each possible replacement of each layer is predicted to cost at the network's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from pytest_dwsconv.core.conv import Cost, Order, cost, separable_cost
from pytest_dwsconv.core.findings import Finding
from pytest_dwsconv.core.plan import PlanEntry, equal_cost, full_multiplier
from pytest_dwsconv.fit.allocation import Option
from pytest_dwsconv.fit.calibration import Layer, Side, Space, layers_of, output_weight
from pytest_dwsconv.fit.half_steps import Problem, fit
from pytest_dwsconv.fit.replay import Data
from pytest_dwsconv.fit.sensitivity import sensitivities
from pytest_dwsconv.separable.factorize import decompose
from pytest_dwsconv.separable.modules import dense_kernel

ROUNDS = 4


@torch.no_grad()
def estimate(
    model: nn.Module, findings: Iterable[Finding], batches: Iterable[Any], order: Order | None
) -> dict[str, list[Option]]:
    """All that can be done with each candidate: keep it, or replace it at any multiplier that saves
    parameters.

    The predicted loss of a replacement is tr H E[e e^T]: e the error that its fit leaves on the
    original network's own activations, H the sensitivity of the outputs to the layer. Losses of
    different layers are in one unit, the squared change of the outputs, and are taken to add up.
    The model must be in evaluation mode.
    """
    by_name = {finding.name: finding for finding in findings}
    data = Data(model, batches)
    entries = {name: list(_entries(finding, order)) for name, finding in by_name.items()}
    layers = layers_of(model, entries, data)
    everything = range(len(data.batches))
    weights = sensitivities(data, everything, [call for layer in layers for call in layer.calls])
    side = Side(data, everything, layers)
    options = {}
    with tqdm(layers, disable=None, unit="layer") as bar:
        for layer in bar:
            bar.set_description(f"weighing {layer.name}")
            space = Space(layer, side.observe(layer, {}), output_weight(layer, weights))
            options[layer.name] = list(_options(layer, by_name[layer.name], space))
            side.done(layer)
    return options


def _entries(finding: Finding, order: Order | None) -> Iterator[PlanEntry]:
    """Replacements that save parameters; where the order is free, depthwise first and its equals at
    equal cost.
    """
    spec, before = finding.spec, cost(finding.spec)
    assert before is not None
    for multiplier in range(1, full_multiplier(spec, order or Order.DEPTHWISE_FIRST) + 1):
        choices = equal_cost(spec, multiplier) if order is None else {order: multiplier}
        for one, its in choices.items():
            after = separable_cost(spec, one, its)
            if after is not None and after.params < before.params:
                yield PlanEntry.of(finding.name, spec, one, its)


def _options(layer: Layer, finding: Finding, space: Space) -> Iterator[Option]:
    before = cost(finding.spec)
    assert before is not None
    yield Option(None, 0.0, Cost(before.params, finding.macs))
    own = Problem(space.gram, space.kernel @ space.gram, space.weight)
    offset = own.loss(space.kernel)
    decompositions = {
        order: decompose(layer.conv.weight, layer.conv.groups, order) for order in Order
    }
    for entry in dict.fromkeys(layer.entries):
        start = decompositions[entry.order].factors(entry.depth_multiplier)
        factors = fit(own, entry, start, ROUNDS)
        kernel = dense_kernel(
            factors.depthwise, factors.pointwise, entry.groups, entry.depth_multiplier, entry.order
        )
        loss = max(0.0, own.loss(kernel.reshape(space.kernel.shape)) - offset)
        yield Option(entry, loss, _cost(finding, entry, before))


def _cost(finding: Finding, entry: PlanEntry, before: Cost) -> Cost:
    """Parameters and MACs, the latter scaled from the first call to all of them."""
    after = separable_cost(finding.spec, entry.order, entry.depth_multiplier)
    assert after is not None
    if not (finding.macs and before.macs and after.macs):
        return Cost(after.params, None)
    return Cost(after.params, finding.macs * after.macs // before.macs)
