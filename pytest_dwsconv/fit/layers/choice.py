"""The best of a layer's possible replacements, each fitted to what the layer sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit.layers.fitted import Fitted, relative_error, weighted_loss
from pytest_dwsconv.fit.layers.problem import LayerProblem, Targets, output_weight
from pytest_dwsconv.fit.least_squares.solution import fit
from pytest_dwsconv.fit.observations import Layer, Observation
from pytest_dwsconv.separable.factorize import Factors, dense_kernel
from pytest_dwsconv.separable.replacement import replacement

CONTIGUOUS = torch.contiguous_format
PROBE_ROUNDS, FIRST_ROUNDS, LATER_ROUNDS, RELAXATIONS = 2, 16, 6, 2
HOPELESS = 1.25
"""Forms whose loss is so many times the least after ``PROBE_ROUNDS`` are not fitted further."""


class Candidate(NamedTuple):
    """One replacement: its weights in float64, ready to run, and its loss on the data judged by."""

    factors: Factors
    fitted: Fitted
    loss: float


class _LayerFit:
    """A layer's problem with the observations it is fitted to and those it is judged by."""

    def __init__(
        self,
        layer: Layer,
        seen: Sequence[Observation],
        judged: Sequence[Observation],
        weights: Mapping[int, Tensor],
    ) -> None:
        self.problem = LayerProblem(layer, seen, output_weight(layer, weights))
        self.seen, self.judged, self.weights = seen, judged, weights

    def targets(self, fitted: Fitted | None = None) -> Targets:
        """The original's values; relaxed to what is reached where a rectifier hides the rest."""

        def wanted(one: Observation) -> Tensor:
            if fitted is None or one.call.clip is None:
                return one.wanted(one.target)
            return one.wanted(one.relaxed(one.reached(fitted(one.x))))

        return self.problem.targets(self.seen, wanted)

    def candidate(self, entry: PlanEntry, factors: Factors, targets: Targets) -> Candidate:
        fitted = _fitted(self.problem, entry, factors, targets)
        return Candidate(factors, fitted, weighted_loss(self.judged, fitted, self.weights))

    def improved(self, candidate: Candidate, targets: Targets, rounds: int) -> Candidate:
        entry = candidate.fitted.entry
        factors = fit(targets.problem, entry, candidate.factors, rounds)
        return self.candidate(entry, factors, targets)


def fit_layer(
    layer: Layer,
    seen: Sequence[Observation],
    judged: Sequence[Observation],
    weights: Mapping[int, Tensor],
) -> Fitted:
    """The layer's replacement that is fitted to what is ``seen`` and best on what is ``judged``.

    That may be one with the nearest kernel, where what was fitted does not hold on other data.
    """
    of_layer = _LayerFit(layer, seen, judged, weights)
    targets = of_layer.targets()
    nearest = [
        of_layer.candidate(entry, layer.nearest(entry.form).factors(entry.size), targets)
        for entry in layer.entries
    ]
    found = [of_layer.improved(candidate, targets, PROBE_ROUNDS) for candidate in nearest]
    least = min(candidate.loss for candidate in found)
    promising = [candidate for candidate in found if candidate.loss <= HOPELESS * least]
    settled = [_settled(of_layer, candidate, targets) for candidate in promising]
    best = min([*settled, *nearest], key=lambda candidate: candidate.loss).fitted
    best.error = relative_error(seen, best)
    return best


def _settled(of_layer: _LayerFit, start: Candidate, targets: Targets) -> Candidate:
    """One form fitted to the end."""
    found = of_layer.improved(start, targets, FIRST_ROUNDS)
    if any(call.clip is not None for call in of_layer.problem.layer.calls):
        for _ in range(RELAXATIONS):
            targets = of_layer.targets(found.fitted)
            found = of_layer.improved(found, targets, LATER_ROUNDS)
    return found


def _fitted(problem: LayerProblem, entry: PlanEntry, factors: Factors, targets: Targets) -> Fitted:
    conv = problem.layer.conv
    kernel = dense_kernel(factors, entry.form, entry.size, entry.groups)
    kernel = kernel.reshape(problem.kernel.shape).double()
    # reason: a 1 x 1 kernel passes for contiguous with any strides, by which a convolution chooses
    # the layout of its outputs; a forward may use ``view`` on them
    own = {
        name: part.to(conv.weight.dtype).clone(memory_format=CONTIGUOUS)
        for name, part in factors.by_part().items()
    }
    module = replacement(conv, entry, problem.layer.own_taps(Factors(**own)))
    offset = problem.offset(kernel, targets.mean)
    if offset is not None and conv.bias is not None:
        offset = offset - conv.bias.detach().double()
    size = float(problem.kernel.norm())
    error = float((kernel - problem.kernel).norm()) / size if size else 0.0
    return Fitted(problem.layer, entry, module, offset, error)
