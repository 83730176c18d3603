"""What the nearest kernels, those of ``init="svd"``, would do: no fit may end up behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit.held_out import Reference, Scores, scores
from pytest_dwsconv.fit.observations import Layer
from pytest_dwsconv.fit.replay import CalibrationData, Override
from pytest_dwsconv.separable.replacement import choose, initial, replacement

EVEN = 1e-4
"""Relative errors that differ by less do so by rounding, as where both are exact."""


class Nearest(NamedTuple):
    """By layer the choice whose kernel is nearest, and how all of them do on held-out batches."""

    entries: Mapping[str, PlanEntry]
    scores: Scores | None

    def better_than(self, fitted: Scores | None) -> bool:
        """Whether they err less at the output where the two err most."""
        if self.scores is None or fitted is None:
            return False
        return self.scores.error + EVEN < fitted.error


def nearest_kernels(
    data: CalibrationData, held: Sequence[int], layers: Sequence[Layer], reference: Reference
) -> Nearest:
    entries: dict[str, PlanEntry] = {}
    overrides: dict[int, Override] = {}
    for layer in layers:
        weight = layer.conv.weight
        entry = entries[layer.name] = choose(layer.name, weight, layer.entries, "svd")
        module = replacement(layer.conv, entry, initial(weight, entry, "svd")[0])
        for call in layer.calls:
            overrides.update(call.overrides(module.forward))
    wanted = [one.outputs for one in reference.held_wanted]
    pairs = [(data.outputs(index, overrides), w) for index, w in zip(held, wanted, strict=True)]
    return Nearest(entries, scores(pairs, reference.varying))
