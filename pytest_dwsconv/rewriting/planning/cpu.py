"""A plan for this CPU and what runs networks on it: by what was measured faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pytest_dwsconv.core.conv import ORDERS, Form
from pytest_dwsconv.core.latency.comparison import RUNTIMES, Comparison, Conditions, Speed
from pytest_dwsconv.core.latency.evidence import Effect, Evidence, Provenance
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.allocation import Limited, least_loss
from pytest_dwsconv.fit.planning import Option, budget_limits, check_reachable, plan_of_options
from pytest_dwsconv.latency import compare_networks, time_layers
from pytest_dwsconv.latency.runs import conditions_of
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.application import apply_plan
from pytest_dwsconv.rewriting.planning.goal import Goal, milliseconds
from pytest_dwsconv.rewriting.planning.options import LADDER, Options, TargetPlan

TRIES = 4
"""Plans that are measured whole, until one keeps a limit on the latency."""


def plan_for_cpu(
    model: nn.Module, report: Report, options: Options, goal: Goal, inputs: Sequence[Tensor]
) -> TargetPlan:
    """The replacements that make a network faster on this CPU, with the runtime of the target.

    Each replacement is timed in turns with its convolution, at its shape, and what is not faster is
    left out. Then the whole network is timed in turns with the original; unless it is faster, the
    plan is empty. Weights play no part in times, so that no fit is needed for them.

    Without a limit of any kind each layer gets what loses least of what is faster. With a budget
    besides the latency a network that is no slower will do.

    Raises:
        InputError: a limit cannot be kept, or something cannot be measured.
    """
    return _Timed(model, report, options, goal, inputs).planned()


def cpu_plans(
    model: nn.Module, report: Report, options: Options, target: str, inputs: Sequence[Tensor]
) -> list[Plan]:
    """The plans of least loss, from the fastest to the slowest, by what the layers save.

    Raises:
        InputError: something cannot be measured.
    """
    goal = Goal(target, None, {}, fastest=False)
    return _Timed(model, report, options, goal, inputs).plans()


class _Choice(NamedTuple):
    """Something to do with a layer; a comparison with it as it is, unless it is kept."""

    option: Option
    comparison: Comparison | None
    saved_ms: float


_Asked = tuple[str, Option, PlanEntry]
"""An option of the layer of this name."""


class _Timed:
    """What was measured of the layers, and the whole networks that are made of them."""

    def __init__(
        self,
        model: nn.Module,
        report: Report,
        options: Options,
        goal: Goal,
        inputs: Sequence[Tensor],
    ) -> None:
        assert goal.target is not None
        self.model, self.goal, self.inputs, self.target = model, goal, inputs, goal.target
        self.conditions = conditions_of(model, RUNTIMES[goal.target])
        self.timed = _timed(report, options, self.conditions, goal.fastest)
        self.faster: dict[str, list[_Choice]] = {}
        for name, choices in self.timed.items():
            kept, *others = choices
            self.faster[name] = [kept, *(each for each in others if _is_faster(each))]
        self.options = {
            name: [choice.option for choice in choices] for name, choices in self.faster.items()
        }
        check_reachable(report, self.options, goal.budgets)
        self.budgets = budget_limits(report, self.options, goal.budgets)
        self.losses = [[option.loss for option in layer] for layer in self.options.values()]
        self.saved_ms = [[one.saved_ms for one in choices] for choices in self.faster.values()]

    def planned(self) -> TargetPlan:
        if self.goal.limit_ms is not None:
            return self._within(self.goal.limit_ms)
        if not any(len(choices) > 1 for choices in self.faster.values()):
            timed: list[Comparison] = []
            for layer in self.timed.values():
                timed += [choice.comparison for choice in layer if choice.comparison is not None]
            return self._without(Evidence.without_a_faster_layer(self.target, timed))
        if self.goal.fastest:
            places = self._fastest()
        elif self.budgets:
            places = self._least_loss()
        else:
            places = [
                1 + layer[1:].index(min(layer[1:])) if layer[1:] else 0 for layer in self.losses
            ]
        plan, whole = self._compared(places)
        # reason: whoever limits something else wants that kept, if it takes no time
        enough = (Speed.FASTER, Speed.SAME) if self.budgets else (Speed.FASTER,)
        if whole.verdict not in enough:
            if not self._keeps_budgets:
                raise InputError(
                    "a network that keeps the budget is not known to be as fast as the original: "
                    f"{whole}; raise the budget, or leave the target out"
                )
            return self._without(Evidence.measured(self.target, whole, "nothing is replaced"))
        return self._with(plan, whole)

    def plans(self) -> list[Plan]:
        """The least loss for each of some times that are to be saved, from the most on."""
        if not self.saved_ms:
            return []
        most = sum(map(max, self.saved_ms))
        plans: dict[Plan, None] = {}
        for step in range(LADDER):
            # reason: rounding may take the first above what can be saved
            places = self._saving(most * (1 - step / LADDER) - 1e-9)
            if places is not None:
                plans[plan_of_options(self.options, places)] = None
        return [plan for plan in plans if plan.entries]

    def _saving(self, ms: float) -> list[int] | None:
        """The options of least loss that save as much by themselves; None if none do."""
        less = [[-saved for saved in layer] for layer in self.saved_ms]
        return least_loss(self.losses, [*self.budgets, Limited(less, -ms)])

    def _within(self, limit_ms: float) -> TargetPlan:
        """The least loss with which the whole network keeps the limit, as it is measured.

        A network saves less than its layers by themselves do: how much is learnt from each plan.
        """
        places = self._fastest()
        plan, whole = self._compared(places)
        limit = milliseconds(limit_ms)
        if whole.first_ms <= limit_ms and self._keeps_budgets:
            kept = f"the original keeps {limit} as it is"
            where = whole.circumstances
            return self._without(
                Evidence(self.target, Provenance.MEASURED, Effect.NONE, where, reason=kept)
            )
        if not self._is_within(whole, limit_ms):
            is_noisy = whole.is_busy or whole.verdict is Speed.UNDECIDED
            fault = "is not known to be kept" if is_noisy else "cannot be kept"
            noise = "; times were too noisy, measure on an idle machine" if is_noisy else ""
            raise InputError(
                f"the budget of {limit} {fault}: {milliseconds(whole.second_ms)} are measured with "
                f"all that is faster, and {milliseconds(whole.first_ms)} without{noise}"
            )
        best = plan, whole
        for _ in range(TRIES):
            if whole.saved_ms <= 0:
                break
            worth = whole.saved_ms / self._saved(places)
            found = self._saving((whole.first_ms - limit_ms) / worth)
            if found is None:
                break
            places = found
            plan, whole = self._compared(places)
            if self._is_within(whole, limit_ms):
                best = plan, whole
                break
        return self._with(*best)

    @staticmethod
    def _is_within(whole: Comparison, limit_ms: float) -> bool:
        # reason: of a network whose times are too noisy nobody knows that it is not slower
        return whole.second_ms <= limit_ms and whole.verdict in (Speed.FASTER, Speed.SAME)

    def _least_loss(self) -> list[int]:
        return _checked(least_loss(self.losses, self.budgets))

    def _fastest(self) -> list[int]:
        most = max(map(max, self.saved_ms), default=0.0)
        taken = [[most - ms for ms in layer] for layer in self.saved_ms]
        return _checked(least_loss(taken, self.budgets))

    @property
    def _keeps_budgets(self) -> bool:
        """Whether the original does."""
        return all(
            sum(kept for kept, *_ in budget.amounts) <= budget.limit for budget in self.budgets
        )

    def _saved(self, places: Sequence[int]) -> float:
        return sum(layer[place] for layer, place in zip(self.saved_ms, places, strict=True))

    def _compared(self, places: Sequence[int]) -> tuple[Plan, Comparison]:
        """The plan of the options at these places, and the network with it beside the original."""
        plan = plan_of_options(self.options, places)
        with torch.random.fork_rng(devices=[]):
            replaced = apply_plan(self.model, plan)
        return plan, compare_networks(self.model, replaced, self.inputs, self.conditions)

    def _with(self, plan: Plan, whole: Comparison) -> TargetPlan:
        return TargetPlan(plan, {**self._by_layer(plan), "": Evidence.measured(self.target, whole)})

    def _without(self, whole: Evidence) -> TargetPlan:
        """Nothing is replaced, for what is known of the network."""
        return TargetPlan(Plan(), {**self._by_layer(Plan()), "": whole})

    def _by_layer(self, plan: Plan) -> dict[str, Evidence]:
        """What was measured of each layer with what is planned for it, or else what saves most."""
        planned = {entry.name: entry for entry in plan.entries}
        found = {}
        for name, (_, *others) in self.timed.items():
            done = [each for each in others if each.option.entry == planned.get(name)]
            shown = max(done or others, key=lambda one: one.saved_ms, default=None)
            if shown is not None and shown.comparison is not None:
                found[name] = Evidence.measured(self.target, shown.comparison)
        return found


def _checked(places: list[int] | None) -> list[int]:
    if places is None:
        raise InputError(
            "no choice of replacements that were measured faster keeps all limits of the budget "
            "together; raise one of them"
        )
    return places


def _is_faster(choice: _Choice) -> bool:
    # reason: of noisy times the medians may say another thing than the rounds
    is_faster = choice.comparison is not None and choice.comparison.verdict is Speed.FASTER
    return is_faster and choice.saved_ms > 0


def _timed(
    report: Report, options: Options, conditions: Conditions, is_fastest_wanted: bool
) -> dict[str, list[_Choice]]:
    """The options with their times; a layer that runs several times saves as often.

    A larger depth multiplier takes longer, and more of everything that a budget limits. Beyond one
    that is not faster none is measured, and where the fastest network is wanted the least alone.
    """
    findings = {finding.name: finding for finding in report.findings}
    found = {name: [_Choice(kept, None, 0.0)] for name, (kept, *_) in options.items()}
    beaten: set[tuple[str, Form]] = set()
    for stage in _stages(options):
        asked = [
            (name, option, entry)
            for name, option, entry in stage
            # reason: a layer that does not run, as a head for training, takes no time
            if findings[name].calls and (name, entry.form) not in beaten
        ]
        pairs = [(findings[name].spec, entry) for name, _, entry in asked]
        for (name, option, entry), one in zip(asked, time_layers(pairs, conditions), strict=True):
            choice = _Choice(option, one, one.saved_ms * findings[name].calls)
            found[name].append(choice)
            if entry.form in ORDERS and (is_fastest_wanted or not _is_faster(choice)):
                beaten.add((name, entry.form))
    return found


def _stages(options: Options) -> list[list[_Asked]]:
    """What is measured first, and what only after that: multipliers from 2, 3, 5, 9 and 17 on."""
    stages: dict[int, list[_Asked]] = {}
    for name, layer in options.items():
        for option in layer:
            entry = option.entry
            if entry is not None:
                doublings = (entry.size - 1).bit_length() if entry.form in ORDERS else 0
                stages.setdefault(doublings, []).append((name, option, entry))
    return [stages[stage] for stage in sorted(stages)]
