"""A network in which convolutions are replaced, by one plan or by several in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.fit.calibration import Preparation, calibrate
from pytest_dwsconv.fit.comparison import autocast_off, buffers_as_found
from pytest_dwsconv.fit.layers.fitted import Fitted
from pytest_dwsconv.fit.training.samples import PLAIN_PASSES
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.application import out_of_reach, replacements
from pytest_dwsconv.rewriting.duplicate import check_own, check_own_tensors, duplicate
from pytest_dwsconv.rewriting.outcome import Outcome, Placement, concluded, normalisations
from pytest_dwsconv.rewriting.outputs import Inputs
from pytest_dwsconv.rewriting.result import RewriteResult
from pytest_dwsconv.rewriting.verification import check_apart, check_runs_as_before
from pytest_dwsconv.separable.replacement import FIT

Choices = Mapping[str, Sequence[PlanEntry]]
"""The replacements that each layer may get."""


@dataclass(frozen=True)
class Examined:
    """A model as it was given, and what was found out of it.

    Attributes:
        model: it is left as found unless it is rewritten in place.
        report: its analysis.
        size: shapes of the inputs, as ``rewrite`` gets them.
        examples: inputs instead.
        inputs: arguments of a forward; None where there are none.
        policy: what is a candidate.
        verify: see ``rewrite``.
    """

    model: nn.Module
    report: Report
    size: Any
    examples: Any
    inputs: Inputs | None
    policy: Policy
    verify: str | bool


class Workplace:
    """The model itself, or a copy, with what is known of it whatever the plan."""

    def __init__(
        self,
        examined: Examined,
        batches: Sequence[Any],
        init: str,
        refine: int,
        inplace: bool = False,
    ) -> None:
        self.examined, self.init, self.refine = examined, init, refine
        model = examined.model
        self.network = model if inplace else _own_copy(examined, init)
        self.original = _kept(model, refine) if inplace and init == FIT else model
        self.preparation = Preparation(self.network, batches) if batches else None
        self.placement = Placement(self.network, inplace)

    @contextmanager
    def undisturbed(self) -> Iterator[nn.Module]:
        """The network without autocast; buffers that a forward writes into are put back."""
        network = self.network
        # reason: the statistics are the fit's to set
        statistics = [buffer for norm in normalisations(network) for buffer in norm.buffers()]
        with autocast_off(network), buffers_as_found(network, besides=statistics):
            yield network

    def rewritten(self, choices: Choices) -> RewriteResult:
        """Replace these layers by one of their choices each; ``placement`` can undo it."""
        examined = self.examined
        with self.undisturbed() as network:
            fit = None
            if self.init == FIT and choices and self.preparation is not None:
                fit = calibrate(self.preparation, choices)
            fitted = fit.fitted if fit else {}
            plan = _plan_of(choices, fitted)
            # reason: a layer that no calibration batch reached gets the nearest kernel
            start = "svd" if self.init == FIT else self.init
            inplace = self.placement.inplace
            swaps, errors = replacements(network, plan, start, inplace, fitted)
            verify, inputs = examined.verify, examined.inputs
            check_apart(network, examined.model, inputs if verify and swaps else None)
            check_runs_as_before(verify, network, swaps, plan, examined.report, inputs)
            self.placement.put(swaps)
            outcome = concluded(
                self.placement, Outcome(plan, errors), fit, self.refine, self.original
            )
            after = analyze(
                self.placement.model,
                examined.size,
                example_inputs=examined.examples,
                policy=examined.policy,
            )
            _check_in_use(outcome.plan, examined.report, after)
        return outcome.result(self.placement.model, examined.report, after)


def choices_of(plan: Plan) -> dict[str, list[PlanEntry]]:
    """What a plan leaves to choose."""
    return {entry.name: [entry] for entry in plan.entries}


def _own_copy(examined: Examined, init: str) -> nn.Module:
    """A copy that can be changed without changing the model."""
    copied = duplicate(examined.model)
    check_own(copied, examined.model, [found.name for found in examined.report.candidates])
    if init == FIT:
        check_own_tensors(copied, examined.model)
    return copied


def _kept(model: nn.Module, passes: int) -> nn.Module:
    """The model, or a copy if the refinement still asks it when the model itself is rewritten."""
    if passes <= PLAIN_PASSES:
        return model
    return duplicate(model, f"pass refine={PLAIN_PASSES} or less")


def _plan_of(choices: Choices, fitted: Mapping[str, Fitted]) -> Plan:
    """What the fit has chosen; the first choice of a layer that was not fitted."""
    chosen = {name: entries[0] for name, entries in choices.items()}
    chosen.update({name: one.entry for name, one in fitted.items()})
    return Plan(tuple(chosen.values()))


def _check_in_use(plan: Plan, before: Report, after: Report) -> None:
    """Of a layer that ran, its replacement runs: else something unknown holds the old one."""
    ran = {found.name for found in before.findings if found.calls}
    idle = {found.name for found in after.findings if not found.calls}
    for entry in plan.entries:
        if entry.name in ran and f"{entry.name}.depthwise".lstrip(".") in idle:
            raise out_of_reach(entry.name)
