"""Replacements put in place, and what became of the network by it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.errors import FitWarning
from pytest_dwsconv.fit.calibration import Calibration
from pytest_dwsconv.fit.held_out import Scores
from pytest_dwsconv.fit.quality import FitQuality, Refinement
from pytest_dwsconv.fit.training.recovery import reestimate_normalisation, refine
from pytest_dwsconv.interrupts import uninterrupted
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.application import replacements
from pytest_dwsconv.rewriting.result import RewriteResult
from pytest_dwsconv.separable.exchange import swap
from pytest_dwsconv.tracing.preserving import as_found

Swaps = Mapping[nn.Module, nn.Module]


class Placed(NamedTuple):
    """Replacements, and biases and normalisation as they are with them."""

    swaps: Swaps
    tensors: Sequence[tuple[Tensor, Tensor]]


class Placement:
    """Replacements in place of their convolutions in ``target``, until they are undone.

    ``model`` is the network as it now is: another than ``target`` where that is a convolution.
    """

    def __init__(self, target: nn.Module, inplace: bool) -> None:
        self.target = self.model = target
        self.inplace = inplace
        self._swaps: Swaps = {}
        self._saved: list[tuple[Tensor, Tensor]] = []

    def put(self, swaps: Swaps) -> None:
        """Put these in place, and note biases and normalisation as they are now.

        Other buffers are put back by whoever runs the forward, which may have written into them.
        """
        tensors: list[Tensor | None] = [conv.bias for conv in swaps]  # type: ignore[misc]  # all are convolutions
        for norm in normalisations(self.target):
            tensors += [*norm.parameters(), *norm.buffers()]
        self._saved = [
            (tensor, tensor.detach().clone()) for tensor in tensors if tensor is not None
        ]
        self._swaps = swaps
        self.model = swap(self.target, swaps)

    def placed(self) -> Placed:
        """What is in place now, for ``again`` after it was undone."""
        tensors = [(tensor, tensor.detach().clone()) for tensor, _ in self._saved]
        return Placed(self._swaps, tensors)

    @torch.no_grad()
    def again(self, placed: Placed) -> None:
        """Put in place what was there before, with all that was fitted beside it."""
        self.put(placed.swaps)
        for tensor, value in placed.tensors:
            tensor.copy_(value)

    def undo(self) -> None:
        with uninterrupted(), torch.inference_mode(False), torch.no_grad():
            swap(
                self._swaps.get(self.target, self.target),
                {new: old for old, new in self._swaps.items()},
            )
            for tensor, value in self._saved:
                tensor.copy_(value)
            self.model, self._swaps = self.target, {}


def normalisations(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@dataclass(frozen=True)
class Outcome:
    """What a result says beside the model and its reports: see ``RewriteResult``."""

    plan: Plan
    errors: Mapping[str, float]
    calibration_errors: Mapping[str, float] = field(default_factory=dict)
    held_out_errors: Mapping[str, float] = field(default_factory=dict)
    renormalised: bool = False
    quality: FitQuality | None = None

    def result(self, model: nn.Module, before: Report, after: Report) -> RewriteResult:
        return RewriteResult(
            model,
            self.plan,
            before,
            after,
            self.errors,
            self.calibration_errors,
            self.held_out_errors,
            self.renormalised,
            self.quality,
        )


def told(result: RewriteResult) -> RewriteResult:
    """The result, after its warnings were given to whoever called the function that calls this."""
    for warning in result.warnings:
        warnings.warn(warning, FitWarning, stacklevel=3)
    return result


def concluded(
    placement: Placement,
    outcome: Outcome,
    fit: Calibration | None,
    passes: int,
    original: nn.Module,
) -> Outcome:
    """Improve what a fit left, or give up the fit where the nearest kernels are better."""
    if fit is None:
        return outcome
    model, plan = placement.model, outcome.plan
    for fitted in fit.fitted.values():
        fitted.settle()
    renormalised = reestimate_normalisation(model, fit.reference)
    refinement = refine(model, original, fit.reference, passes)
    found = fit.reference.scores(model)
    if fit.nearest.better_than(found):
        placement.undo()
        plan = Plan(tuple(fit.nearest.entries.get(entry.name, entry) for entry in plan.entries))
        swaps, errors = replacements(placement.target, plan, "svd", placement.inplace)
        placement.put(swaps)
        return Outcome(plan, errors, quality=_quality(placement.model, fit, fit.nearest.scores))
    errors, held_out = {}, {}
    for name, one in fit.fitted.items():
        if one.error is not None:
            errors[name] = one.error
        if one.held_out_error is not None:
            held_out[name] = one.held_out_error
    found_quality = _quality(model, fit, found, refinement)
    return Outcome(plan, outcome.errors, errors, held_out, renormalised, found_quality)


def _quality(
    model: nn.Module, fit: Calibration, found: Scores | None, refinement: Refinement | None = None
) -> FitQuality | None:
    nearest = fit.nearest.scores
    if found is None or nearest is None:
        return None
    replacements = {name: model.get_submodule(name).forward for name in fit.fitted}
    with as_found(list(model.modules())):
        layer_errors = fit.layers.errors(replacements)
    names = fit.reference.output_names
    return FitQuality(
        dict(zip(names, map(sqrt, found.squares), strict=True)),
        # reason: of an output that is constant, rounding may leave less than nothing
        dict(zip(names, (sqrt(max(0.0, one)) for one in found.of_means), strict=True)),
        found.agreeing / found.samples if found.samples else None,
        found.samples,
        layer_errors,
        refinement,
        nearest.error,
        nearest=found is nearest,
        held_out=fit.reference.held_out_samples,
    )
