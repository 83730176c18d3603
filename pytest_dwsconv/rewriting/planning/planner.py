"""The plan of a rewrite under a budget, or for a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.latency.comparison import RUNTIMES
from pytest_dwsconv.core.latency.evidence import EDGETPU, Effect, Evidence, Provenance
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.core.sizes import choices, forms_for
from pytest_dwsconv.edgetpu.savings import predicted_evidence
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.calibration import Preparation
from pytest_dwsconv.fit.planning import allocate, estimate
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.planning.cpu import cpu_plans, plan_for_cpu
from pytest_dwsconv.rewriting.planning.edgetpu import edgetpu_plans, plan_for_edgetpu
from pytest_dwsconv.rewriting.planning.goal import Goal, is_litert
from pytest_dwsconv.rewriting.planning.options import (
    Options,
    TargetPlan,
    options_by_weights,
    options_of_plan,
)
from pytest_dwsconv.separable.replacement import possible

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of a forward."""


def planned(
    model: nn.Module,
    report: Report,
    goal: Goal,
    forms: Sequence[Form],
    depth_multiplier: int,
    preparation: Preparation | None,
    inputs: Arguments | None,
) -> TargetPlan:
    """What to replace, and by what, for a goal.

    Losses are predicted from calibration batches, or are weight errors. Where times are measured,
    without a limit, each layer gets one of the forms at ``depth_multiplier``, or at equal cost.

    Raises:
        InputError: a target has no input, something cannot be measured, or a limit cannot be kept.
    """
    if goal.target is not None:
        _check_inputs(goal, inputs)
    if goal.target == EDGETPU:
        as_it_is = predicted_evidence(report, Plan(), goal.host)
        if not goal.is_limited and not as_it_is[""].streamed_before:
            return TargetPlan(Plan(), as_it_is)
    if preparation is not None and goal.chooses_sizes:
        options = estimated(preparation, report, forms)
    else:
        entries = _entries(report, goal, forms, depth_multiplier)
        options = options_by_weights(model, report, entries)
    if goal.target == EDGETPU:
        return plan_for_edgetpu(report, options, goal)
    if goal.target is not None and inputs is not None:
        return plan_for_cpu(model, report, options, goal, inputs[0])
    return TargetPlan(allocate(report, options, goal.budgets), {})


def estimated(preparation: Preparation, report: Report, forms: Sequence[Form]) -> Options:
    """What can be done with each candidate, with losses predicted from the batches."""
    return estimate(preparation, report.candidates, forms)


def plans_by_time(
    model: nn.Module, report: Report, options: Options, goal: Goal, inputs: Arguments | None
) -> list[Plan]:
    """The plans of least loss for a target, from the fastest to the slowest.

    Raises:
        InputError: there are no inputs, or something cannot be measured.
    """
    _check_inputs(goal, inputs)
    if goal.target in RUNTIMES and inputs is not None:
        return cpu_plans(model, report, options, goal.target, inputs[0])
    return edgetpu_plans(report, options, goal.host)


def confirmed(
    model: nn.Module, report: Report, plan: Plan, goal: Goal, inputs: Arguments | None
) -> TargetPlan:
    """The plan with what is known of it, or an empty one if a network with it is not faster."""
    if goal.target in RUNTIMES and not plan.entries:
        reason = "no network that is faster keeps what is asked of it"
        return TargetPlan(
            plan, {"": Evidence(goal.target, Provenance.MEASURED, Effect.NONE, reason=reason)}
        )
    if goal.target in RUNTIMES and inputs is not None:
        goal = Goal(goal.target, None, {}, fastest=False)
        return plan_for_cpu(model, report, options_of_plan(report, plan), goal, inputs[0])
    evidence = predicted_evidence(report, plan, goal.host)
    if evidence[""].effect is Effect.FASTER:
        return TargetPlan(plan, evidence)
    return TargetPlan(Plan(), predicted_evidence(report, Plan(), goal.host))


def _check_inputs(goal: Goal, inputs: Arguments | None) -> None:
    if inputs is None:
        raise InputError(
            f"target={goal.target!r} needs an input: give its shape, as in (1, 3, 224, 224)"
        )
    args, kwargs = inputs
    is_measured = goal.target in RUNTIMES
    if is_measured and (kwargs or not all(isinstance(one, Tensor) for one in args)):
        raise InputError(
            f"target={goal.target!r} times networks whose forward takes tensors by their places: "
            "wrap it in a module that does"
        )
    if is_litert(goal.target) and (len(args) != 1 or args[0].shape[:1] != (1,)):
        raise InputError(
            f"target={goal.target!r} exports networks, which takes one input of batch size 1: give "
            "its shape, as in (1, 3, 224, 224)"
        )


def _entries(
    report: Report, goal: Goal, forms: Sequence[Form], depth_multiplier: int
) -> dict[str, list[PlanEntry]]:
    """What is tried for each candidate without data."""
    # reason: a bottleneck has no closed form, and ten sizes of it for each layer take minutes
    forms = [form for form in forms if form is not Form.BOTTLENECK] or forms
    found = {}
    for finding in report.candidates:
        name, spec = finding.name, finding.spec
        if goal.chooses_sizes:
            sizes = choices(spec, forms_for(forms, spec, finding.order))
            found[name] = [PlanEntry.of(name, spec, form, size) for form, size in sizes]
        else:
            found[name] = possible(name, spec, forms, depth_multiplier, finding.order)
    return found
