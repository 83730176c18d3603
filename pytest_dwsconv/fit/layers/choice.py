"""The best of a layer's possible replacements, each fitted to what the layer sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit.layers.fitted import Fitted, relative_error, weighted_loss
from pytest_dwsconv.fit.layers.problem import LayerProblem, Targets, output_weight
from pytest_dwsconv.fit.least_squares.problem import solve
from pytest_dwsconv.fit.least_squares.solution import fit, inputs_of
from pytest_dwsconv.fit.observations import Layer, Observation
from pytest_dwsconv.separable.factorize import Factors, dense_kernel
from pytest_dwsconv.separable.modules import SeparableConvNd
from pytest_dwsconv.separable.replacement import initial, replacement

CONTIGUOUS = torch.contiguous_format
PROBE_ROUNDS, FIRST_ROUNDS, LATER_ROUNDS, RELAXATIONS = 2, 16, 6, 2
MOST_INPUTS = 12_288
"""Inputs of one output, C/G k, whose second moments are solved for: in float64 these take 1.2 GB,
and twice that while they are summed.
"""
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
    if is_too_wide(layer.entries[0]):
        fits = [last_part_fits(layer, entry, seen, weights) for entry in layer.entries]
        every = list(chain.from_iterable(fits))
        best = min(every, key=lambda fitted: weighted_loss(judged, fitted, weights))
        best.error = relative_error(seen, best)
        return best
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


def is_too_wide(entry: PlanEntry) -> bool:
    """Whether the second moments of all inputs of an output take too much memory to solve for."""
    return inputs_of(entry) > MOST_INPUTS


@torch.no_grad()
def last_part_fits(
    layer: Layer,
    entry: PlanEntry,
    seen: Sequence[Observation],
    weights: Mapping[int, Tensor],
) -> Iterator[Fitted]:
    """The replacement with the nearest kernel, and the same with its last part alone fitted.

    What the parts before it give has far fewer inputs per output than the layer, so that their
    moments fit; with these parts as they are the last one is found by linear least squares.
    """
    factors, error = initial(layer.conv.weight, entry, "svd")
    assert error is not None
    yield Fitted(layer, entry, replacement(layer.conv, entry, factors), None, error)
    module = replacement(layer.conv, entry, factors)
    last: Any = module.depthwise if entry.form is Form.POINTWISE_FIRST else module.pointwise
    own = replace(layer, conv=last)
    # reason: a transposed part would have to be fitted as the convolution that it equals
    if last.transposed or last.weight[0].numel() > MOST_INPUTS:
        return
    fit_of_last = _LayerFit(
        own, [one._replace(x=_before_last(module, one.x)) for one in seen], (), weights
    )
    fitted: Fitted | None = None
    clipped = any(call.clip is not None for call in layer.calls)
    for _ in range(1 + RELAXATIONS * clipped):
        targets = fit_of_last.targets(fitted)
        kernel = solve(targets.problem.gram, targets.problem.cross.mT).mT
        last.weight.copy_(kernel.reshape(last.weight.shape))
        fitted = Fitted(own, entry, last, _own_offset(fit_of_last.problem, kernel, targets), error)
    assert fitted is not None
    dense, original = module.weight.detach(), layer.conv.weight.detach()
    error = float((dense - original).norm() / original.norm())
    yield Fitted(layer, entry, module, fitted.offset, error)


def _before_last(module: SeparableConvNd, x: Tensor) -> Tensor:
    """What the parts of a replacement before its last one give."""
    if module.form == Form.POINTWISE_FIRST:
        return module.pointwise(x)  # type: ignore[no-any-return]  # torch leaves it open
    if module.pointwise_in is not None:
        x = module.pointwise_in(x)
    return module.depthwise(x)  # type: ignore[no-any-return]  # torch leaves it open


def _settled(of_layer: _LayerFit, start: Candidate, targets: Targets) -> Candidate:
    """One form fitted to the end."""
    found = of_layer.improved(start, targets, FIRST_ROUNDS)
    if any(call.clip is not None for call in of_layer.problem.layer.calls):
        for _ in range(RELAXATIONS):
            targets = of_layer.targets(found.fitted)
            found = of_layer.improved(found, targets, LATER_ROUNDS)
    return found


def _own_offset(problem: LayerProblem, kernel: Tensor, targets: Targets) -> Tensor | None:
    """What to add to the outputs of a kernel beside the bias that the layer has."""
    offset, bias = problem.offset(kernel, targets.mean), problem.layer.conv.bias
    return offset if offset is None or bias is None else offset - bias.detach().double()


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
    offset = _own_offset(problem, kernel, targets)
    size = float(problem.kernel.norm())
    error = float((kernel - problem.kernel).norm()) / size if size else 0.0
    return Fitted(problem.layer, entry, module, offset, error)
