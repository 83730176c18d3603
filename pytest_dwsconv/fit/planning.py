"""Which layers to replace, and how, under a budget: the choice of least predicted loss, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import exp, floor, log

import torch
from torch import Tensor

from pytest_dwsconv.analysis.verdicts import replacement_cost
from pytest_dwsconv.core import sizes
from pytest_dwsconv.core.budget import per_sample_of
from pytest_dwsconv.core.conv import ORDERS, Cost, Form, cost
from pytest_dwsconv.core.findings import Finding
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.core.quantities import Unit, humanize, parse_quantity
from pytest_dwsconv.errors import FormatError, InputError
from pytest_dwsconv.fit.allocation import Limited, check_solver, least_loss
from pytest_dwsconv.fit.calibration import Preparation
from pytest_dwsconv.fit.layers.choice import is_too_wide, last_part_fits
from pytest_dwsconv.fit.layers.fitted import weighted_loss
from pytest_dwsconv.fit.layers.problem import LayerProblem, output_weight
from pytest_dwsconv.fit.least_squares.solution import fit
from pytest_dwsconv.fit.moments import all_reduce
from pytest_dwsconv.fit.observations import Layer, Observation, PairedRun, layers_of
from pytest_dwsconv.progress import Progress
from pytest_dwsconv.report import Report
from pytest_dwsconv.separable.factorize import dense_kernel
from pytest_dwsconv.tracing.preserving import as_found


@dataclass(frozen=True)
class Limit:
    """One thing that a budget can limit: bytes per weight and per bias, or MACs."""

    noun: str
    unit: Unit
    per_weight: int = 1
    per_bias: int = 1
    macs: bool = False

    def of(self, cost: Cost, biases: int) -> int:
        """What one convolution takes of this limit."""
        if self.macs:
            return cost.macs or 0
        return self.per_weight * (cost.params - biases) + self.per_bias * biases


LIMITS = {
    "params": Limit("parameters", Unit.COUNT),
    "macs": Limit("MACs", Unit.COUNT, macs=True),
    "size": Limit("bytes of float32 parameters", Unit.BYTES, 4, 4),
    "int8": Limit("bytes of int8 parameters", Unit.BYTES, 1, 4),
}
"""By the name that a budget calls it. With int8 weights, biases are kept in 32 bits."""

Budgets = str | float | Mapping[str, str | float]


@dataclass(frozen=True)
class Option:
    """One thing that can be done with a layer, with its predicted loss and cost.

    It is a replacement, or None to keep the layer.
    """

    entry: PlanEntry | None
    loss: float
    cost: Cost


def parse_budgets(budgets: Budgets) -> dict[str, float]:
    """Limits by name, from one number of parameters or from several limits.

    Raises:
        InputError: a limit of a name that is not known, or none at all.
        FormatError: a limit that is not a quantity.
    """
    given = budgets if isinstance(budgets, Mapping) else {"params": budgets}
    unknown = sorted(given.keys() - LIMITS.keys())
    if unknown or not given:
        raise InputError(
            f"a budget takes {', '.join(LIMITS)}, and with a target latency, not "
            f"{unknown[0] if unknown else 'nothing'!r}"
        )
    limits = {}
    for name, value in given.items():
        try:
            limits[name] = parse_quantity(value, LIMITS[name].unit)
        except FormatError as error:
            raise FormatError(f"the budget's {name} {error}") from error
    return limits


def allocate(
    report: Report,
    options: Mapping[str, Sequence[Option]],
    budgets: Mapping[str, float],
    alike: Sequence[Sequence[str]] = (),
) -> Plan:
    """One option per layer: the least sum of losses with which the model keeps every limit.

    Args:
        report: the model as it is.
        options: what can be done with each candidate; keeping it must be among them.
        budgets: limits on the whole model by their names in ``LIMITS``; that of MACs is per
            sample, whatever the batch that the model was analysed with.
        alike: groups of layers; those of one are all kept, or all get the same replacement.

    Raises:
        InputError: no choice keeps the limits, or MACs are limited and none were counted.
    """
    check_reachable(report, options, budgets)
    if not options:
        return Plan()
    limits = [*_alike(options, alike), *budget_limits(report, options, budgets)]
    losses = [[option.loss for option in choices] for choices in options.values()]
    places = least_loss(losses, limits)
    if places is None:
        raise InputError(
            "no choice of layers and multipliers keeps all limits of the budget together; raise "
            "one of them"
        )
    return plan_of_options(options, places)


def budget_limits(
    report: Report, options: Mapping[str, Sequence[Option]], budgets: Mapping[str, float]
) -> list[Limited]:
    """What each option takes of each limit of a budget, and how much the options may take.

    Raises:
        InputError: MACs are limited and none were counted.
    """
    found = []
    for name, limit in budgets.items():
        amounts = []
        for layer, choices in options.items():
            amounts.append([_taken(report, layer, option, name) for option in choices])
        left = floor(limit * _samples(report, name)) - _fixed(report, options, name)
        found.append(Limited(amounts, left))
    return found


def plan_of_options(options: Mapping[str, Sequence[Option]], places: Sequence[int]) -> Plan:
    """The plan that takes the option at each place; there is one place per layer."""
    chosen = []
    for choices, place in zip(options.values(), places, strict=True):
        entry = choices[place].entry
        if entry is not None:
            chosen.append(entry)
    return Plan(tuple(chosen))


def _alike(
    options: Mapping[str, Sequence[Option]], alike: Sequence[Sequence[str]]
) -> Iterator[Limited]:
    """For layers that are to be alike, two by two, and each replacement: both have it, or neither.

    What one has more of it than the other is at most 0, and so is what it has less.
    """
    for one, other in chain.from_iterable(map(pairwise, alike)):
        found = [_replacement(option) for name in (one, other) for option in options[name]]
        for wanted in dict.fromkeys(found):
            for sign in (1, -1):
                amounts = []
                for name, choices in options.items():
                    factor = sign * ((name == one) - (name == other))
                    amounts.append([factor * (_replacement(each) == wanted) for each in choices])
                yield Limited(amounts, 0)


def _replacement(option: Option) -> tuple[Form, int] | None:
    entry = option.entry
    return None if entry is None else (entry.form, entry.size)


def _samples(report: Report, name: str) -> int:
    """By how many samples a limit is multiplied to be one on the report's totals."""
    return (report.batch_size or 1) if LIMITS[name].macs else 1


def _finding(report: Report, name: str) -> Finding:
    return next(finding for finding in report.findings if finding.name == name)


def _taken(report: Report, layer: str, option: Option, name: str) -> int:
    spec = _finding(report, layer).spec
    return LIMITS[name].of(option.cost, (spec.out_channels or 0) if spec.bias else 0)


def _total(report: Report, name: str) -> int:
    if not LIMITS[name].macs:
        return _model_size(report, LIMITS[name])
    if report.macs is None:
        raise InputError(
            "the budget limits MACs and none were counted: give an input size, as in (1, 3, 224, "
            "224)"
        )
    return report.macs


def _model_size(report: Report, limit: Limit) -> int:
    biases = sum(f.spec.out_channels or 0 for f in report.findings if f.spec.bias)
    return limit.of(Cost(report.params, None), biases)


def _fixed(report: Report, options: Mapping[str, Sequence[Option]], name: str) -> int:
    """What everything else in the model takes."""
    kept = (
        next(option for option in choices if option.entry is None) for choices in options.values()
    )
    return _total(report, name) - sum(
        _taken(report, n, o, name) for n, o in zip(options, kept, strict=True)
    )


def check_reachable(
    report: Report, options: Mapping[str, Sequence[Option]], budgets: Mapping[str, float]
) -> None:
    """Raise InputError where a limit cannot be kept even by itself."""
    for limited, name in zip(budget_limits(report, options, budgets), budgets, strict=True):
        lacking = sum(map(min, limited.amounts)) - limited.limit
        if lacking <= 0:
            continue
        samples, unit = _samples(report, name), LIMITS[name].unit
        allowed = humanize(budgets[name], unit)
        left = humanize((floor(budgets[name] * samples) + lacking) / samples, unit)
        noun = LIMITS[name].noun + (per_sample_of(report) if LIMITS[name].macs else "")
        raise InputError(
            f"the budget of {allowed} {noun} cannot be kept: replacing every candidate "
            f"at its cheapest leaves {left}"
        )


ROUNDS = 4


@torch.no_grad()
def estimate(
    preparation: Preparation, findings: Iterable[Finding], forms: Sequence[Form]
) -> dict[str, list[Option]]:
    """All that can be done with each candidate: keep it, or replace it at a saving multiplier.

    The predicted loss of a replacement is tr H E[e e^T]: e the error that its fit leaves on the
    original network's own activations, H the sensitivity of the outputs to the layer. Losses of
    different layers are in one unit, the squared relative error of the outputs, and are taken to
    add up.
    """
    check_solver()
    by_name = {finding.name: finding for finding in findings}
    entries = {
        name: [
            PlanEntry.of(name, finding.spec, *choice)
            for choice in sizes.choices(
                finding.spec, sizes.forms_for(forms, finding.spec, finding.order)
            )
        ]
        for name, finding in by_name.items()
    }
    with as_found(list(preparation.model.modules())):
        return _weighed(preparation, by_name, entries)


def _weighed(
    preparation: Preparation,
    findings: Mapping[str, Finding],
    entries: Mapping[str, Sequence[PlanEntry]],
) -> dict[str, list[Option]]:
    layers = layers_of(preparation.model, entries, preparation.data)
    weights = preparation.sensitivities(layers)
    run = PairedRun(preparation.data, range(len(preparation.batches)), layers)
    options = {}
    with Progress("weighing", len(layers), "layer") as progress:
        for layer in layers:
            progress.at(layer.name)
            seen, finding = run.observe(layer, {}), findings[layer.name]
            if not layer.entries:
                options[layer.name] = [kept(finding)]
            elif is_too_wide(layer.entries[0]):
                options[layer.name] = _options_by_last_parts(layer, finding, seen, weights)
            else:
                problem = LayerProblem(layer, seen, output_weight(layer, weights))
                options[layer.name] = _options(layer, finding, problem)
            run.done(layer)
            progress.advance()
    return options


def _options(layer: Layer, finding: Finding, problem: LayerProblem) -> list[Option]:
    found = [kept(finding)]
    own = problem.own()
    least = own.loss(problem.kernel)
    # reason: the orders, at large multipliers, take the longest to fit and are the least use
    for form in sorted({entry.form for entry in layer.entries}, key=lambda form: form in ORDERS):
        entries = {entry.size: entry for entry in layer.entries if entry.form == form}
        decomposition = layer.nearest(form)
        fitted: dict[int, Option] = {}
        for size in _spread(entries):
            entry = entries[size]
            factors = fit(own, entry, decomposition.factors(size), ROUNDS)
            kernel = dense_kernel(factors, form, size, entry.groups).reshape(problem.kernel.shape)
            loss = max(0.0, own.loss(kernel) - least)
            fitted[size] = Option(entry, loss, cost_of(finding, entry))
            if form in ORDERS and any(_as_good(other, fitted[size]) for other in found):
                break  # reason: larger ones are no use either
        between = [size for size in entries if min(fitted) < size < max(fitted)]
        losses = _interpolated({size: option.loss for size, option in fitted.items()}, between)
        options = {
            size: Option(entries[size], loss, cost_of(finding, entries[size]))
            for size, loss in zip(between, losses, strict=True)
        }
        options.update(fitted)
        found += [options[size] for size in sorted(options)]
    return found


def kept(finding: Finding) -> Option:
    """To leave a convolution as it is."""
    before = cost(finding.spec)
    assert before is not None
    return Option(None, 0.0, Cost(before.params, finding.macs))


def cost_of(finding: Finding, entry: PlanEntry) -> Cost:
    """What a candidate costs with a replacement."""
    after = replacement_cost(finding, entry.form, entry.size)
    assert after is not None
    return after


FITTED_SIZES = 5
"""Of each form, from the smallest to the largest. The losses of sizes between them are interpolated
in logarithms, which is off by 8 % at the most frequent, as much as four rounds leave by chance.
"""


def _spread(sizes: Iterable[int]) -> list[int]:
    """At most ``FITTED_SIZES`` of the sizes, rising, in steps as even as can be by ratio."""
    ordered = sorted(sizes)
    first, last = ordered[0], ordered[-1]
    chosen = set()
    for step in range(FITTED_SIZES):
        wanted = first * (last / first) ** (step / (FITTED_SIZES - 1))
        chosen.add(min(ordered, key=lambda size: max(size / wanted, wanted / size)))
    return sorted(chosen)


def _interpolated(losses: Mapping[int, float], between: Sequence[int]) -> list[float]:
    """The losses of sizes between those of known losses, by monotone cubics of the logarithms."""
    if not between:
        return []
    from scipy.interpolate import PchipInterpolator

    known = sorted(losses.items())
    # reason: nothing has a logarithm where a form is exact
    least = TINY * max(losses.values()) or TINY
    curve = PchipInterpolator(
        [log(size) for size, _ in known], [log(max(loss, least)) for _, loss in known]
    )
    return [exp(curve(log(size))) for size in between]


TINY = 1e-12
"""Of the largest loss of a form: less is rounding."""


def _options_by_last_parts(
    layer: Layer, finding: Finding, seen: Sequence[Observation], weights: Mapping[int, Tensor]
) -> list[Option]:
    """Those of a layer with too many inputs to solve for more than the last part.

    Only the two least sizes of either order, for each is fitted to the data themselves.
    """
    found = [kept(finding)]
    values = torch.tensor(float(sum(one.target.numel() for one in seen)), device="cpu")
    all_reduce(values)
    positions = float(values) / layer.conv.out_channels
    for form in ORDERS:
        for entry in [entry for entry in layer.entries if entry.form is form][:2]:
            *_, fitted = last_part_fits(layer, entry, seen, weights)
            loss = weighted_loss(seen, fitted, weights) / positions
            found.append(Option(entry, loss, cost_of(finding, entry)))
    return found


def _as_good(one: Option, other: Option) -> bool:
    """Whether an option is neither worse nor costs more than another."""
    macs = (one.cost.macs or 0) <= (other.cost.macs or 0)
    return macs and one.loss <= other.loss and one.cost.params <= other.cost.params
