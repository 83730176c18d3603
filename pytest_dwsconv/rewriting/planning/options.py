"""What can be done with each candidate, with the weight error as loss where there are no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from pytest_dwsconv.core.latency.evidence import Evidence
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.planning import Option, cost_of, kept
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.application import convolution
from pytest_dwsconv.separable.factorize import decompose
from pytest_dwsconv.separable.modules import standard_kernel

Options = Mapping[str, Sequence[Option]]
"""By the name of each candidate; the first of each is to keep it."""


class TargetPlan(NamedTuple):
    """A plan for a target, and what is known of the latency: by layer, and of all as ``""``."""

    plan: Plan
    evidence: Mapping[str, Evidence]


LADDER = 24
"""Limits on a latency that plans are made for, from the fastest network to the original."""


def options_of_plan(report: Report, plan: Plan) -> Options:
    """To do with each layer of a plan what the plan says, or to keep it."""
    by_name = {finding.name: finding for finding in report.findings}
    found = {}
    for entry in plan.entries:
        finding = by_name[entry.name]
        found[entry.name] = [kept(finding), Option(entry, 0.0, cost_of(finding, entry))]
    return found


def options_by_weights(
    model: nn.Module, report: Report, entries: Mapping[str, Sequence[PlanEntry]]
) -> Options:
    """These replacements, and keeping each layer; a loss is the squared relative weight error.

    Losses of layers are taken to add up, though a layer may matter more than another: only
    calibration data tell.

    Raises:
        InputError: a kernel has no values, or cannot be factorised.
    """
    found = {}
    for finding in report.candidates:
        name = finding.name
        weight = standard_kernel(convolution(model, name))
        if weight.is_meta:
            raise InputError(
                f"{name}: the kernel is on the meta device and has no values to plan by; load the "
                "weights first"
            )
        options = [kept(finding)]
        forms = {entry.form for entry in entries[name]}
        nearest = {form: decompose(weight, finding.spec.groups or 1, form) for form in forms}
        for entry in entries[name]:
            loss = nearest[entry.form].error(entry.size) ** 2
            options.append(Option(entry, loss, cost_of(finding, entry)))
        found[name] = options
    return found
