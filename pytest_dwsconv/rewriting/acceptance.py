"""The smallest plan with which a network stays good enough, by bisection over budgets.

What each choice would cost is weighed once; every step chooses a plan from that, fits it, and asks
whether the result is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.core.quantities import parse_share
from pytest_dwsconv.errors import FitWarning, InputError
from pytest_dwsconv.fit.comparison import buffers_as_found
from pytest_dwsconv.fit.moments import all_reduce, place_in_group
from pytest_dwsconv.fit.planning import Option, allocate, budget_limits
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.result import Acceptance, RewriteResult, Trial
from pytest_dwsconv.separable.replacement import FIT
from pytest_dwsconv.tracing.preserving import as_found

BUDGETS = 24
"""Budgets to choose from, in equal ratios between the least and the original's parameters."""


class Terms(NamedTuple):
    """What a result has to keep, all of it: see the arguments of ``rewrite``."""

    accept: Callable[[RewriteResult], Any] | None
    max_error: float | None
    min_agreement: float | None
    evaluate: Callable[[nn.Module], Any] | None

    @classmethod
    def of(cls, accept: Any, max_error: Any, min_agreement: Any, evaluate: Any) -> Terms:
        """The terms as they are given.

        Raises:
            InputError: one of them is not what it has to be.
        """
        for name, given in (("accept", accept), ("evaluate", evaluate)):
            if given is not None and not callable(given):
                raise InputError(f"{name} must be a function, not {given!r}")
        if min_agreement is not None:
            min_agreement = parse_share("min_agreement", min_agreement, "98%")
        if evaluate is None:
            if max_error is not None:
                max_error = parse_share("max_error", max_error, "5%")
        elif isinstance(max_error, bool) or not isinstance(max_error, (int, float)):
            raise InputError(
                "evaluate needs max_error: by how much its value may fall below that of the "
                f"original, as a number, not {max_error!r}"
            )
        elif not 0 <= max_error < inf:
            raise InputError(f"max_error must be a number from 0, not {max_error!r}")
        return cls(accept, max_error, min_agreement, evaluate)

    def __bool__(self) -> bool:
        return any(term is not None for term in self)

    def __str__(self) -> str:
        found = []
        if self.max_error is not None:
            what = "an output error of" if self.evaluate is None else "a fall of evaluate by"
            found.append(f"{what} at most {self.max_error:g}")
        if self.min_agreement is not None:
            found.append(f"an agreement of at least {self.min_agreement:g}")
        if self.accept is not None:
            found.append("accept")
        return " and ".join(found)


def check_alone(terms: Terms, init: str | None, *choosing: object) -> None:
    """Raise InputError where other arguments leave nothing to search."""
    if not terms:
        return
    if init not in (None, FIT):
        raise InputError(
            f"to keep {terms}, plans are fitted: leave init={init!r} out, or pass init='fit'"
        )
    if any(choosing):
        raise InputError(
            f"to keep {terms}, the smallest plan that does is searched: leave out plan, budget "
            "and depth_multiplier"
        )


def check_held_out(terms: Terms, batches: Sequence[Any]) -> None:
    """Raise InputError where nothing is left to measure an error or an agreement on."""
    measured = terms.min_agreement is not None or (
        terms.max_error is not None and terms.evaluate is None
    )
    if measured and len(batches) == 1 and place_in_group()[1] == 1:
        raise InputError(
            f"{terms} is measured on batches that are held out, and calibration has a single one: "
            "split it into several"
        )


class Rung(NamedTuple):
    """A plan, the parameters of the model with it, and the loss predicted of it."""

    plan: Plan
    params: int
    loss: float


def smallest(
    model: nn.Module,
    terms: Terms,
    report: Report,
    rungs: Sequence[Rung],
    rewritten: Callable[[Plan], RewriteResult],
) -> RewriteResult:
    """The first of these results that keeps the terms; the original if none does.

    It is taken for granted that each plan is nearer to the original than those before it.

    Args:
        model: the original.
        terms: what to keep.
        report: the analysis of the original.
        rungs: plans from the smallest, or the fastest, on.
        rewritten: carries out a plan on a copy, fitted.
    """
    judge = _Judge(model, terms, rewritten)
    low, high = 0, len(rungs)
    best: RewriteResult | None = None
    while low < high:
        at = _next(rungs[low:high], judge, terms) + low
        result = judge.tried(rungs[at])
        if judge.trials[-1].kept:
            high, best = at, result
        else:
            low = at + 1
    if best is None:
        best = rewritten(Plan())
    acceptance = Acceptance(str(terms), bool(best.plan.entries), judge.before, tuple(judge.trials))
    return replace(best, report_before=report, acceptance=acceptance)


def plans_by_size(report: Report, options: Mapping[str, Sequence[Option]]) -> list[Plan]:
    """The best plan for each of some budgets, from the fewest parameters to the most."""
    if not options:
        return []
    (limited,) = budget_limits(report, options, {"params": report.params})
    saved = limited.limit - sum(map(min, limited.amounts))
    least = report.params - saved
    plans: dict[Plan, int] = {}
    for step in range(BUDGETS):
        budget = int(least * (report.params / least) ** (step / BUDGETS))
        plan = allocate(report, options, {"params": max(budget, least)})
        if plan.entries:
            plans[plan] = plan.params_after - plan.params_before
    return sorted(plans, key=lambda plan: plans[plan])


def rungs_of(
    report: Report, options: Mapping[str, Sequence[Option]], plans: Iterable[Plan]
) -> list[Rung]:
    """The plans with their parameters and losses, in their order."""
    losses = {option.entry: option.loss for each in options.values() for option in each}
    rungs = []
    for plan in plans:
        params = report.params - plan.params_before + plan.params_after
        rungs.append(Rung(plan, params, sum(losses[entry] for entry in plan.entries)))
    return rungs


def _next(rungs: Sequence[Rung], judge: _Judge, terms: Terms) -> int:
    """Which of these to try: the middle one, or that from which on the terms should be kept.

    Squared errors are as their predictions, to scale; the last one measured says to which.
    """
    middle = (len(rungs) - 1) // 2
    if terms.max_error is None or terms.evaluate is not None or judge.scale is None:
        return middle
    wanted = [
        place for place, rung in enumerate(rungs) if rung.loss * judge.scale <= terms.max_error**2
    ]
    found = min(wanted, default=len(rungs) - 1)
    # reason: a prediction that was off leaves a long way, which bisection goes faster
    return found if len(judge.trials) < 3 else middle


class _Judge:
    """What was tried so far."""

    def __init__(
        self, model: nn.Module, terms: Terms, rewritten: Callable[[Plan], RewriteResult]
    ) -> None:
        self.terms, self.rewritten = terms, rewritten
        self.before = None if terms.evaluate is None else _evaluated(terms.evaluate, model)
        if self.before is not None and not isfinite(self.before):
            raise InputError(
                f"evaluate gives {self.before} for the original, which nothing can keep"
            )
        self.trials: list[Trial] = []
        self.scale: float | None = None
        """Squared error of the outputs over the loss that was predicted."""

    def tried(self, rung: Rung) -> RewriteResult:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)  # of plans that are not returned
            result = self.rewritten(rung.plan)
        evaluate = self.terms.evaluate
        metric = None if evaluate is None else _evaluated(evaluate, result.model)
        kept = self._kept(result, metric)
        params = result.report_after.params
        self.trials.append(Trial(params, result.output_error, result.agreement, metric, kept))
        if result.output_error is not None and rung.loss > 0:
            self.scale = result.output_error**2 / rung.loss
        return result

    def _kept(self, result: RewriteResult, metric: float | None) -> bool:
        terms, verdicts = self.terms, []
        if terms.max_error is not None and metric is not None:
            assert self.before is not None
            verdicts.append(metric >= self.before - terms.max_error)
        elif terms.max_error is not None:
            error = result.output_error
            # reason: where outputs hardly depend on the input, a small error may tell nothing of it
            worthless = any(fault.worthless for fault in result.faults)
            verdicts.append(error is not None and error <= terms.max_error and not worthless)
        if terms.min_agreement is not None:
            if result.agreement is None:
                raise InputError(
                    "min_agreement is for networks that give one tensor of class scores, (samples, "
                    "classes), and this one does not: pass max_error, accept or evaluate"
                )
            verdicts.append(result.agreement >= terms.min_agreement)
        if terms.accept is not None:
            verdicts.append(bool(terms.accept(result)))
        refused = torch.tensor(float(not all(verdicts)), device="cpu")
        all_reduce(refused)  # reason: all processes have to go on with one plan
        return not float(refused)


@torch.no_grad()
def _evaluated(evaluate: Callable[[nn.Module], Any], model: nn.Module) -> float:
    with buffers_as_found(model), as_found(list(model.modules())):
        value = evaluate(model)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"evaluate must give a number, the higher the better, not {value!r}"
        ) from error
