"""Replace convolutions in a live model: what ``analyze`` finds is planned and carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.analysis.inputs import forward_arguments
from pytest_dwsconv.core.conv import Form, Order
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.errors import TracingError
from pytest_dwsconv.fit.planning import Budgets
from pytest_dwsconv.fit.refusals import rejected
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.acceptance import (
    Terms,
    check_alone,
    check_held_out,
    plans_by_size,
    rungs_of,
    smallest,
)
from pytest_dwsconv.rewriting.application import (
    check_fits,
    convolution,
)
from pytest_dwsconv.rewriting.arguments import (
    check_choosing,
    check_passes,
    check_patterns,
    checked_batches,
    checked_multiplier,
)
from pytest_dwsconv.rewriting.outcome import told
from pytest_dwsconv.rewriting.planning.goal import Goal, forms_on, goal_of
from pytest_dwsconv.rewriting.planning.planner import confirmed, estimated, planned, plans_by_time
from pytest_dwsconv.rewriting.result import RewriteResult
from pytest_dwsconv.rewriting.verification import (
    SHAPES,
    check_verify,
)
from pytest_dwsconv.rewriting.workplace import Examined, Workplace, choices_of
from pytest_dwsconv.separable.replacement import (
    AUTO,
    FIT,
    INITS,
    allowed_forms,
    check_init,
    choose,
    patterns,
    possible,
)
from pytest_dwsconv.tracing.inventory import check_hashable
from pytest_dwsconv.tracing.preserving import copied


def rewrite(  # noqa: PLR0913  # each keyword is a decision of the caller's, and all have defaults
    model: nn.Module,
    input_size: Sequence[Any] | str | None = None,
    *,
    example_inputs: Any = None,
    depth_multiplier: int = 1,
    order: Order | str = AUTO,
    form: Form | str | None = None,
    init: str | None = None,
    calibration: Iterable[Any] | None = None,
    refine: int = 20,
    budget: Budgets | None = None,
    target: str | None = None,
    objective: str | None = None,
    max_error: float | str | None = None,
    min_agreement: float | str | None = None,
    accept: Callable[[RewriteResult], object] | None = None,
    evaluate: Callable[[nn.Module], object] | None = None,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    plan: Plan | None = None,
    subclasses: bool = False,
    few_channels: bool = False,
    inplace: bool = False,
    verify: str | bool = SHAPES,
) -> RewriteResult:
    """Replace every candidate convolution of ``model`` by a depthwise separable one.

    Kept are dtype, device, mode, ``requires_grad``, the bias, stride, padding and its mode,
    dilation, groups, memory format, forward and backward hooks, further attributes set on the
    module, and sharing between parents.

    Args:
        model: the network; it is copied unless ``inplace``.
        input_size: shape or shapes of the input, as for ``analyze``; without it, and without
            calibration batches, MACs are not looked at.
        example_inputs: inputs instead of shapes, as for ``analyze``.
        depth_multiplier: depthwise filters per channel; lowered, per layer, to the multiplier that
            is exact. Candidates are those that save parameters at multiplier 1, whatever is asked
            for here.
        order: ``"depthwise_first"``, ``"pointwise_first"``, or ``"auto"``, which takes per layer
            the smaller relative weight error at equal cost: ``depthwise_first`` at
            ``depth_multiplier`` against ``pointwise_first`` at the largest multiplier that exceeds
            it neither in parameters nor, where shapes are known, in MACs; ``depthwise_first`` where
            even 1 does. At equal errors the fewer parameters win. With ``init="fresh"`` there is no
            error to compare, and ``"auto"`` is ``depthwise_first``. With ``init="fit"`` both are
            fitted, and the smaller error of the outputs wins.
        form: in place of ``order``: ``"depthwise_first"``, ``"pointwise_first"``, ``"bottleneck"``
            or ``"grouped"`` (see ``core.conv.parts``), or ``"auto"``, which takes per layer the
            best of all four, at the cost of ``depthwise_first`` at ``depth_multiplier``. A
            bottleneck that is asked for by name gets the parameters of ``depthwise_first`` at
            ``depth_multiplier``, groups get 8 channels times that (see ``core.sizes.size_for``).
            Without ``order`` and ``form`` these are the two orders, or under a budget all four. For
            an Edge TPU groups are left out unless they are asked for by name.
        init: ``"svd"``, the nearest separable kernel (see ``factorize``); ``"fit"``, the kernels
            whose outputs on ``calibration`` are nearest to the original's (see
            ``fit.calibration``); ``"fresh"``, new random weights of matched variance, for a network
            still to be trained.
        calibration: batches of inputs without labels, each a tensor, a tuple of positional
            arguments or a mapping of keyword arguments. Every eighth is held out to measure on. A
            few hundred samples are enough. With a process group initialised each process passes its
            own batches, and all get the same fit. Of a single batch nothing is held out, so that
            nothing is refined.
        refine: after ``init="fit"``, passes over the calibration batches in which all replacements,
            and the scales and shifts of batch normalisation, are improved together. Passes beyond
            20 see samples mixed from those of the batches. Kept are the weights for which the
            outputs of the held-out batches are nearest. 0 leaves it at the closed form.
        budget: in place of ``depth_multiplier``: what the whole model may have, as a number of
            parameters such as ``"100k"``, or several limits as a mapping with ``params``, ``macs``,
            ``size`` (bytes in float32) and ``int8`` (bytes with weights in int8). Which layers are
            replaced, by which form and of which size is chosen so that the loss predicted
            from ``calibration`` is least.
        target: what it is to be faster on: ``"cpu"``, ``"torch_compile"``, ``"litert"`` or
            ``"litert_int8"``, which run it on this machine's CPU, where only what was measured
            faster is replaced, or ``"edgetpu"``, by predictions. These are for a Raspberry Pi 4;
            ``"edgetpu:desktop_usb3"`` and ``"edgetpu:dev_board_pcie"`` name other hosts. A budget
            may then have a ``latency``, such as ``"8ms"``, and needs no calibration: without it
            what a replacement loses is taken to be its weight error. If the network is not faster
            with any plan, the plan is empty; ``report_before.evidence`` says why.
        objective: ``"latency"`` for the fastest network within the budget, instead of the least
            loss. With ``max_error`` and the like a target means that anyway.
        max_error: in place of ``budget``: the smallest plan is searched with which
            ``output_error`` of the result is at most this, such as 0.05, and no output is as wrong
            as its mean. The original is returned, with an empty plan, where none keeps it. Like the
            three below it needs ``calibration``, and means ``init="fit"``. Of all that are given,
            each has to be kept.
        min_agreement: the same for ``agreement`` of the result, as 0.98, for networks with classes.
        accept: a function of a result that tells whether to accept it.
        evaluate: your own metric, a function of a model that gives a number, the higher the better.
            It is judged in place of the error: ``max_error`` is by how much it may fall below what
            the original has, in its own unit.
        select: shell-style patterns of the qualified names to replace; all by default.
        ignore: patterns of the names to leave alone. A pattern that no convolution matches is an
            error, here as there.
        plan: what to replace by what, in place of choosing: that of another rewrite, or the one
            that ``pytest --dws-fix-plan`` has left. Excludes the arguments that choose.
        subclasses: replace instances of subclasses of ``nn.ConvNd`` too; what their own forward
            does besides the convolution is lost.
        few_channels: replace convolutions of few input channels, such as those of an image, in
            either order. Without it pointwise first is all they get, where it saves: depthwise
            first would make all their outputs mixtures of the same few maps.
        inplace: change ``model`` itself. It is left as found if anything fails, Ctrl-C included.
        verify: how to check that the network runs as before, where inputs are given: ``"shapes"``,
            by the recorded operators, what they read and their shapes, if no values are needed;
            ``"exact"``, also by running it with and without replacements at the multiplier that is
            exact, which must give the same; or ``False``.

    Raises:
        InputError: an argument cannot be used, the model cannot be copied, a kernel cannot be
            factorised, or the network does not run as before with a replacement.
        FormatError: an amount of the budget is not written as one.
        TracingError: the forward fails on the inputs.
    """
    terms = Terms.of(accept, max_error, min_agreement, evaluate)
    goal = goal_of(target, objective, budget, has_terms=bool(terms))
    check_alone(terms, init, calibration, depth_multiplier != 1, budget, plan)
    forms = forms_on(goal, allowed_forms(order, form, bool(terms) or goal is not None))
    init = init or (FIT if terms else "svd")
    check_init(init, (*INITS, FIT))
    check_passes(refine)
    depth_multiplier = checked_multiplier(depth_multiplier, goal)
    check_choosing(plan, depth_multiplier != 1, order != AUTO or form, goal, select, ignore)
    policy = Policy(
        subclasses=subclasses,
        few_channels=few_channels,
        # reason: a TFLite file has no transposed convolution in groups
        transposed=goal is None or not goal.is_exported,
        select=patterns(select, "select"),
        ignore=patterns(ignore, "ignore"),
    )
    workplace: Workplace | None = None
    try:
        # reason: weights made under inference mode can never be trained
        with torch.inference_mode(False):
            batches = checked_batches(calibration, init, goal)
            has_inputs = input_size is not None or example_inputs is not None
            check_verify(verify, has_inputs or bool(batches))
            check_held_out(terms, batches)
            if batches and not has_inputs:
                example_inputs, before = _analyzed(model, batches, policy)
            else:
                before = analyze(model, input_size, example_inputs=example_inputs, policy=policy)
            check_hashable(model)
            check_patterns(policy, before)
            inputs = forward_arguments(list(model.parameters()), input_size, example_inputs)
            examined = Examined(model, before, input_size, example_inputs, inputs, policy, verify)
            found = None
            if terms:
                found = _searched(Workplace(examined, batches, init, refine), terms, forms, goal)
                if not inplace:
                    return told(found)
                plan = found.plan
            workplace = Workplace(examined, batches, init, refine, inplace)
            if goal is not None and found is None:
                with workplace.undisturbed() as network:
                    plan, evidence = planned(
                        network,
                        before,
                        goal,
                        forms,
                        depth_multiplier,
                        workplace.preparation,
                        inputs,
                    )
                before = before.with_evidence(evidence)
            choices = _choices(workplace.network, before, depth_multiplier, forms, init, plan)
            result = replace(workplace.rewritten(choices), report_before=before)
            if found is not None:
                before, acceptance = found.report_before, found.acceptance
                result = replace(result, report_before=before, acceptance=acceptance)
            return told(result)
    except BaseException:  # until the very return: Ctrl-C comes at any time
        if workplace is not None:
            workplace.placement.undo()
        raise


def _analyzed(model: nn.Module, batches: Sequence[Any], policy: Policy) -> tuple[Any, Report]:
    """The first calibration batch as inputs, and the report on the model with it."""
    # reason: the tracer lets a forward write into arrays that an object holds
    inputs = tree_map(copied, batches[0])
    try:
        return inputs, analyze(model, example_inputs=inputs, policy=policy)
    except TracingError as error:
        raise rejected(batches[0], 0, error) from error


def _searched(
    workplace: Workplace, terms: Terms, forms: Sequence[Form], goal: Goal | None
) -> RewriteResult:
    """The smallest, or fastest, fitted network that keeps the terms, in a workplace of its own."""
    examined, preparation = workplace.examined, workplace.preparation
    assert preparation is not None
    report, inputs = examined.report, examined.inputs
    with workplace.undisturbed() as network:
        options = estimated(preparation, report, forms)
        if goal is None:
            plans = plans_by_size(report, options)
        else:
            plans = plans_by_time(network, report, options, goal, inputs)
    found = smallest(workplace, terms, rungs_of(report, options, plans))
    if goal is None:
        return found
    plan, evidence = confirmed(examined.model, report, found.plan, goal, inputs)
    if plan != found.plan:
        workplace.placement.undo()
        found = replace(workplace.rewritten(choices_of(plan)), acceptance=found.acceptance)
    return replace(found, report_before=report.with_evidence(evidence))


def _choices(
    model: nn.Module,
    report: Report,
    depth_multiplier: int,
    forms: Sequence[Form],
    init: str,
    plan: Plan | None,
) -> dict[str, list[PlanEntry]]:
    """The replacements that each layer of the plan, or else each candidate, may get.

    A fit chooses among the forms that are allowed.
    """
    if plan is not None:
        check_fits(plan, model)
        return choices_of(plan)
    found = {}
    for finding in report.candidates:
        name, spec = finding.name, finding.spec
        entries = possible(name, spec, forms, depth_multiplier, finding.order)
        if init != FIT:
            entries = [choose(name, convolution(model, name).weight, entries, init)]
        found[name] = entries
    return found
