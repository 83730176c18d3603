"""Findings: each convolution with its verdict, its cost, and the cost of what would replace it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from pytest_dwsconv.analysis.sites import Site
from pytest_dwsconv.core.conv import (
    ORDERS,
    ConvSpec,
    Cost,
    Form,
    Order,
    Trait,
    cost,
    separable_cost,
    separable_traffic,
    traffic,
)
from pytest_dwsconv.core.findings import Finding, Origin
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.core.rules import Judgement, Verdict, judge
from pytest_dwsconv.report import Report


def finding_of(site: Site, policy: Policy, model_params: int, model_macs: int | None) -> Finding:
    """The row of one convolution, with its shares of the model's parameters and MACs."""
    if policy.leaves_out(site.name, *site.aliases):
        site.add_trait(Trait.IGNORED)
    spec = site.spec.shaped(*site.calls[0]) if site.calls else site.spec
    judgement, order = judge(spec, policy), policy.order_for(spec)
    before = cost(spec)
    params = None if before is None else before.params
    if Trait.NO_PARAMETER in spec.traits:
        params = 0
    macs = None if site.origin is Origin.ATTRIBUTES else site.macs
    after = intensity_after = None
    if judgement.verdict is Verdict.CANDIDATE:
        after = _over_calls(site, spec, order, policy.depth_multiplier)
        intensity_after = _separable_intensity(
            spec, order, policy.depth_multiplier, site.element_size
        )
    return Finding(
        name=site.name,
        spec=spec,
        verdict=judgement.verdict,
        code=judgement.code,
        reason=judgement.reason,
        params=params,
        macs=macs,
        separable_params=None if after is None else after.params,
        separable_macs=None if after is None else after.macs,
        origin=site.origin,
        type_name=site.type_name,
        calls=len(site.calls),
        aliases=site.aliases,
        input_bytes=_bytes(spec.input_shape, site.element_size),
        output_bytes=_bytes(spec.output_shape, site.element_size),
        arithmetic_intensity=_intensity(before, traffic(spec, params or 0), site.element_size),
        separable_intensity=intensity_after,
        params_share=_share(params, model_params),
        macs_share=_share(macs, model_macs),
        followed_by=site.followed_by,
        order=None if order is policy.order else order,
    )


def _over_calls(site: Site, spec: ConvSpec, order: Order, depth_multiplier: int) -> Cost | None:
    """Cost of the replacement, its MACs summed over the calls."""
    first = separable_cost(spec, order, depth_multiplier)
    if first is None or site.origin is Origin.ATTRIBUTES:
        return first
    macs = 0
    for shapes in site.calls:
        each: Cost | None = first
        if shapes != site.calls[0]:
            each = separable_cost(spec.shaped(*shapes), order, depth_multiplier)
        if each is not None and each.macs is not None:
            macs += each.macs
    return Cost(first.params, macs)


def rejudged(
    report: Report,
    judge_finding: Callable[[Finding], Judgement],
    replacement_of: Callable[[Finding], tuple[Form, int]] | None = None,
) -> Report:
    """The report with the verdicts that ``judge_finding`` gives.

    A convolution that becomes a candidate gets the cost of its replacement, whose form and size
    ``replacement_of`` gives if they are not the report's order and multiplier.
    """

    def again(finding: Finding) -> Finding:
        new = judge_finding(finding)
        old = Form(finding.order or report.order), report.depth_multiplier
        form, size = old if replacement_of is None else replacement_of(finding)
        is_same = new == Judgement(finding.verdict, finding.code, finding.reason)
        if is_same and (form, size) == old:
            return finding
        after = intensity_after = None
        if new.verdict is Verdict.CANDIDATE:
            after = replacement_cost(finding, form, size)
            intensity_after = _separable_intensity(finding.spec, form, size, _element_size(finding))
        order = Order(form) if form in ORDERS else report.order
        return replace(
            finding,
            verdict=new.verdict,
            code=new.code,
            reason=new.reason,
            separable_params=None if after is None else after.params,
            separable_macs=None if after is None else after.macs,
            separable_intensity=intensity_after,
            order=None if order is report.order else order,
        )

    return replace(report, findings=tuple(again(finding) for finding in report.findings))


def replacement_cost(finding: Finding, form: Form | Order, size: int) -> Cost | None:
    """Cost of a replacement, its MACs scaled from the first call to all of them.

    A finding has the shapes of the first call alone.
    """
    after = separable_cost(finding.spec, form, size)
    if after is None:
        return None
    before = cost(finding.spec)
    if before is None or not (finding.macs and before.macs and after.macs):
        return Cost(after.params, None)
    return Cost(after.params, finding.macs * after.macs // before.macs)


def _element_size(finding: Finding) -> int | None:
    if not finding.input_shape or not finding.input_bytes:
        return None
    return finding.input_bytes // prod(finding.input_shape)


def _separable_intensity(
    spec: ConvSpec, form: Form | Order, size: int, element_size: int | None
) -> float | None:
    after = separable_cost(spec, form, size)
    if after is None:
        return None
    moved = separable_traffic(spec, after.params, form, size)
    return _intensity(after, moved, element_size)


def _intensity(one: Cost | None, elements: int | None, element_size: int | None) -> float | None:
    """MACs per byte moved, of one call."""
    if one is None or one.macs is None or not elements or not element_size:
        return None
    return one.macs / (elements * element_size)


def _share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole


def _bytes(shape: tuple[int, ...] | None, element_size: int | None) -> int | None:
    return None if shape is None or element_size is None else prod(shape) * element_size
