"""The smallest plan with which a network stays good enough, by bisection over budgets.

What each choice would cost is weighed once; every step chooses a plan from that, fits it, and asks
whether the result is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite, log
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.core.quantities import parse_share
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.comparison import buffers_as_found
from pytest_dwsconv.fit.moments import all_reduce, place_in_group
from pytest_dwsconv.fit.planning import Option, allocate, budget_limits
from pytest_dwsconv.progress import Progress
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.duplicate import duplicate
from pytest_dwsconv.rewriting.outcome import Placed
from pytest_dwsconv.rewriting.result import Acceptance, RewriteResult, Trial
from pytest_dwsconv.rewriting.workplace import Workplace, choices_of
from pytest_dwsconv.separable.replacement import FIT
from pytest_dwsconv.tracing.preserving import as_found

BUDGETS = 24
"""Budgets to choose from, in equal ratios between the least and the original's parameters."""

CHANGED = 0.25
"""Samples that change their class, about, over the relative error of the outputs."""


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


def check_alone(terms: Terms, init: str | None, calibration: object, *choosing: object) -> None:
    """Raise InputError where other arguments leave nothing to search, or nothing to fit on."""
    if not terms:
        return
    if calibration is None:
        raise InputError(
            f"to keep {terms}, plans are fitted, which needs calibration=batches: some hundred "
            "inputs of the model, without labels"
        )
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


def smallest(workplace: Workplace, terms: Terms, rungs: Sequence[Rung]) -> RewriteResult:
    """The first of these plans whose result keeps the terms; the original if none does.

    It is taken for granted that each plan is nearer to the original than those before it. What is
    returned is in place in the workplace.

    Args:
        workplace: where plans are carried out, fitted, and undone; without any to begin with.
        terms: what to keep.
        rungs: plans from the smallest, or the fastest, on.
    """
    judge = _Judge(workplace.examined.model, terms)
    low, high = 0, len(rungs)
    # reason: so many find one of the rungs by halves, and predictions may waste two
    most = len(rungs).bit_length() + 2
    best: tuple[RewriteResult, Placed] | None = None
    with Progress("searching", most, "plan") as progress:
        while low < high:
            halves = (high - low).bit_length()
            predicted = judge.predicted(rungs[low:high]) if halves < most - progress.done else None
            at = low + ((high - low - 1) // 2 if predicted is None else predicted)
            progress.at(f"{rungs[at].params:,} parameters")
            result = workplace.rewritten(choices_of(rungs[at].plan))
            if judge.keeps(result, rungs[at]):
                high, best = at, (result, workplace.placement.placed())
            else:
                low = at + 1
            workplace.placement.undo()
            progress.advance(error=result.output_error)
    if best is None:
        found = workplace.rewritten({})
    else:
        found = best[0]
        workplace.placement.again(best[1])
    acceptance = Acceptance(str(terms), best is not None, judge.before, tuple(judge.trials))
    return replace(found, acceptance=acceptance)


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


class _Judge:
    """What was tried so far, and what it says of plans that were not."""

    def __init__(self, model: nn.Module, terms: Terms) -> None:
        self.terms = terms
        self.before = None if terms.evaluate is None else _evaluated(terms.evaluate, model)
        if self.before is not None and not isfinite(self.before):
            raise InputError(
                f"evaluate gives {self.before} for the original, which nothing can keep"
            )
        self.trials: list[Trial] = []
        self._shares: dict[bool, tuple[float, float]] = {}
        """Of the last plan that kept the terms, and of the last that did not: the predicted loss,
        and what there was of what the terms allow.
        """

    def keeps(self, result: RewriteResult, rung: Rung) -> bool:
        """Judge the result of a rung."""
        evaluate = self.terms.evaluate
        metric = None if evaluate is None else _evaluated(evaluate, result.model)
        kept = self._kept(result, metric)
        params = result.report_after.params
        self.trials.append(Trial(params, result.output_error, result.agreement, metric, kept))
        share = self._share(result, metric)
        # reason: where a function, or another thing than the figures, decides they say nothing
        if self.terms.accept is None and 0 < share < inf and (share <= 1) == kept and rung.loss > 0:
            self._shares[kept] = rung.loss, share
        return kept

    def predicted(self, rungs: Sequence[Rung]) -> int | None:
        """The first of these that should keep the terms, or the last; None where nothing tells.

        What is lost goes with a power of the predicted loss: errors with its root, unless two
        trials tell. The predicted loss is a squared relative error, which is what to start from.
        """
        (loss, share), *others = list(self._shares.values()) or [(1.0, self._first())]
        if not share:
            return None
        power = 0.5
        for other_loss, other_share in others:
            if other_loss != loss:
                power = max(0.1, log(other_share / share) / log(other_loss / loss))
        allowed = loss * share ** (-1 / power)
        found = [place for place, rung in enumerate(rungs) if rung.loss <= allowed]
        return found[0] if found else len(rungs) - 1

    def _first(self) -> float:
        """The share that a predicted loss of 1 should use up; 0 where nothing tells."""
        terms, used = self.terms, [0.0]
        if terms.accept is not None or terms.evaluate is not None or self.trials:
            return 0.0
        if terms.max_error:
            used.append(1 / terms.max_error)
        if terms.min_agreement is not None and terms.min_agreement < 1:
            used.append(CHANGED / (1 - terms.min_agreement))
        return max(used)

    def _share(self, result: RewriteResult, metric: float | None) -> float:
        """The largest share of what a term allows that is used up."""
        terms, used = self.terms, []
        if metric is not None and self.before is not None:
            used.append((self.before - metric, terms.max_error))
        elif result.output_error is not None:
            used.append((result.output_error, terms.max_error))
        if result.agreement is not None and terms.min_agreement is not None:
            used.append((1 - result.agreement, 1 - terms.min_agreement))
        return max((lost / limit for lost, limit in used if limit), default=0.0)

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
            # reason: the network itself is changed again once this one was judged
            own = replace(result, model=duplicate(result.model))
            verdicts.append(bool(terms.accept(own)))
        refused = torch.tensor(float(not all(verdicts)), device="cpu")
        all_reduce(refused)  # reason: all processes have to go on with one plan
        return not float(refused)


@torch.no_grad()
def _evaluated(evaluate: Callable[[nn.Module], Any], model: nn.Module) -> float:
    """What the metric gives, in the mean over processes, which all have to try the same plans."""
    with buffers_as_found(model), as_found(list(model.modules())):
        value = evaluate(model)
    try:
        number = torch.tensor(float(value), dtype=torch.float64, device="cpu")
    except (TypeError, ValueError) as error:
        raise InputError(
            f"evaluate must give a number, the higher the better, not {value!r}"
        ) from error
    all_reduce(number)
    return float(number) / place_in_group()[1]
