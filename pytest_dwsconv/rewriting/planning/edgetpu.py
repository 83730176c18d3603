"""A plan for the Edge TPU: first that no parameters stream, else milliseconds for their loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from pytest_dwsconv.core.latency.evidence import Effect
from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.edgetpu.loads import CACHE_BYTES, Load, load_after, load_of, load_of_network
from pytest_dwsconv.edgetpu.prediction import LatencyFeatures, bus_ms, chip_ms, predict_latency
from pytest_dwsconv.edgetpu.savings import predicted_evidence
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.allocation import Amounts, Limited, least_loss
from pytest_dwsconv.fit.planning import budget_limits, check_reachable, plan_of_options
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.planning.goal import Goal, milliseconds
from pytest_dwsconv.rewriting.planning.options import LADDER, Options, TargetPlan


def plan_for_edgetpu(report: Report, options: Options, goal: Goal) -> TargetPlan:
    """The replacements for an Edge TPU, by predicted latencies.

    - Without a limit on the latency: the least loss with which all parameters fit on the chip. If
      no choice does that, each replacement of which a predicted millisecond costs no more loss than
      it does on average where all layers get what saves most.
    - With one: the least loss that keeps it.

    What is predicted to gain nothing is not done.

    Raises:
        InputError: the report has no MACs or is for a batch of several, or a limit cannot be kept.
    """
    check_reachable(report, options, goal.budgets)
    layers = _Layers(report, options, goal.budgets, goal.host)
    places = layers.chosen(goal)
    if places is None:
        raise InputError(_how_far(layers, goal))
    plan = plan_of_options(options, places)
    evidence = predicted_evidence(report, plan, goal.host)
    if goal.limit_ms is not None and not plan.entries:
        kept = f"the original keeps {milliseconds(goal.limit_ms)} as it is"
        return TargetPlan(plan, {"": replace(evidence[""], reason=kept)})
    # reason: whoever has a budget wants it kept, whether or not it gains time
    if evidence[""].effect is not Effect.FASTER and not goal.is_limited:
        return TargetPlan(Plan(), predicted_evidence(report, Plan(), goal.host))
    return TargetPlan(plan, evidence)


def _how_far(layers: _Layers, goal: Goal) -> str:
    """Why no plan was found."""
    fastest = layers.fastest()
    if goal.limit_ms is None or fastest is None or fastest[0] <= goal.limit_ms:
        return (
            "no choice of layers and sizes keeps all limits of the budget together, by what is "
            "predicted for the Edge TPU; raise one of them"
        )
    return (
        f"the budget of {milliseconds(goal.limit_ms)} cannot be kept: {milliseconds(fastest[0])} "
        f"are predicted with what is fastest, and {milliseconds(layers.as_it_is_ms)} without"
    )


def edgetpu_plans(report: Report, options: Options, host: str) -> list[Plan]:
    """The plans of least loss, from the fastest to the slowest, by predicted latencies.

    Raises:
        InputError: the report has no MACs or is for a batch of several.
    """
    layers = _Layers(report, options, {}, host)
    fastest = layers.fastest()
    if fastest is None:
        return []
    least, before = fastest[0], layers.as_it_is_ms
    plans: dict[Plan, None] = {}
    for step in range(LADDER):
        # reason: rounding may take the first limit below what the fastest network takes
        limit_ms = least * (before / least) ** (step / LADDER) + 1e-9
        places = layers.within(limit_ms)
        if places is not None:
            plans[plan_of_options(options, places)] = None
    return [plan for plan in plans if plan.entries]


class _Layers:
    """The options of all layers with what they ask of the chip, by layer and option."""

    def __init__(
        self, report: Report, options: Options, budgets: Mapping[str, float], host: str
    ) -> None:
        self._bus_ms = partial(bus_ms, host=host)
        self.losses = [[option.loss for option in layer] for layer in options.values()]
        self.budgets = budget_limits(report, options, budgets)
        loads = _loads(report, options)
        self.taken = [[float(load.taken) for load in layer] for layer in loads]
        self.chip_ms = [[chip_ms(load) for load in layer] for layer in loads]
        total = others = load_of_network(report)
        for kept, *_ in loads:
            others -= kept
        self.room = CACHE_BYTES - others.taken
        """Bytes on the chip for the candidates; below 0 if the other layers do not fit."""
        ms = predict_latency(LatencyFeatures.of(report), host).ms
        self.other_ms = ms - chip_ms(total) - self._bus_ms(total.off_chip) + chip_ms(others)
        """Milliseconds of an inference without the candidates and without what streams."""

    def chosen(self, goal: Goal) -> list[int] | None:
        """The place of the option of each layer; None if no choice keeps all limits."""
        if goal.limit_ms is not None:
            return self.within(goal.limit_ms)
        if goal.fastest:
            fastest = self.fastest()
            return None if fastest is None else fastest[1]
        return least_loss(self.losses, [*self.budgets, self._fits]) or self._worth_it()

    @property
    def _fits(self) -> Limited:
        return Limited(self.taken, self.room)

    @property
    def _streaming_ms(self) -> list[list[float]]:
        """Milliseconds of each option in a network of which some parameters stream anyway."""
        found = []
        for chip, taken in zip(self.chip_ms, self.taken, strict=True):
            found.append([ms + self._bus_ms(size) for ms, size in zip(chip, taken, strict=True)])
        return found

    def _cases(self) -> Iterator[tuple[Amounts, float, Limited]]:
        """All parameters fit, or some stream: the options' times, what else it takes, and when."""
        yield self.chip_ms, self.other_ms, self._fits
        does_not_fit = Limited([[-size for size in layer] for layer in self.taken], -self.room)
        yield self._streaming_ms, self.other_ms - self._bus_ms(self.room), does_not_fit

    @property
    def as_it_is_ms(self) -> float:
        """Milliseconds of an inference without replacements, as ``within`` reckons them."""
        fits = sum(layer[0] for layer in self.taken) <= self.room
        cases = list(self._cases())
        times, rest, _ = cases[0] if fits else cases[1]
        return rest + sum(layer[0] for layer in times)

    def within(self, limit_ms: float) -> list[int] | None:
        """The options of least loss that keep a limit; None if nothing does.

        Where some parameters stream, all that is too much counts as streamed, with what the chip
        rounds up: a little more than is predicted, so that the limit holds.
        """
        found = []
        for times, rest, case in self._cases():
            limits = [*self.budgets, case, Limited(times, limit_ms - rest)]
            if (places := least_loss(self.losses, limits)) is not None:
                found.append((_sum(self.losses, places), places))
        return min(found)[1] if found else None

    def fastest(self) -> tuple[float, list[int]] | None:
        """The least milliseconds, and the options that take them; None if no budget is kept."""
        found = []
        for times, rest, case in self._cases():
            if (places := least_loss(times, [*self.budgets, case])) is not None:
                found.append((rest + _sum(times, places), places))
        return min(found, default=None)

    def _worth_it(self) -> list[int] | None:
        """Where not all can fit: what saves time at no more loss than it costs on average.

        The average is that of all layers with what saves most.
        """
        times = self._streaming_ms
        most = [layer.index(min(layer)) for layer in times]
        saved = _sum(times, [0] * len(times)) - _sum(times, most)
        loss = _sum(self.losses, most)
        if saved <= 0:
            return least_loss(self.losses, self.budgets)
        price = loss / saved  # of a millisecond
        worth = []
        for losses, layer in zip(self.losses, times, strict=True):
            worth.append([one + price * ms for one, ms in zip(losses, layer, strict=True)])
        return least_loss(worth, self.budgets)


def _loads(report: Report, options: Options) -> list[list[Load]]:
    by_name = {finding.name: finding for finding in report.findings}
    found = []
    for name, layer in options.items():
        finding = by_name[name]
        loads = [
            load_after(finding, each.entry) if each.entry else load_of(finding) for each in layer
        ]
        found.append(loads)
    return found


def _sum(amounts: Amounts, places: Sequence[int]) -> float:
    return sum(layer[place] for layer, place in zip(amounts, places, strict=True))
