"""Budgets: the choice is the best there is, keeps every limit, and predictions rank real losses."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_dwsconv.analysis.analyze import analyze
from pytest_dwsconv.core import sizes
from pytest_dwsconv.core.conv import ORDERS, Cost, Form, Order, cost, separable_cost
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.errors import DwsconvError, FormatError, InputError
from pytest_dwsconv.fit import planning
from pytest_dwsconv.fit.calibration import Preparation
from pytest_dwsconv.fit.least_squares.problem import Problem
from pytest_dwsconv.fit.least_squares.solution import fit as solve
from pytest_dwsconv.fit.planning import LIMITS, Option, allocate, estimate, parse_budgets
from pytest_dwsconv.report import Report
from pytest_dwsconv.rewriting.rewrite import rewrite
from pytest_dwsconv.separable.factorize import Factors


def network() -> nn.Module:
    torch.manual_seed(0)
    convs = [
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
    ]
    return nn.Sequential(*convs).eval()


SHAPE = (1, 8, 10, 10)


def report() -> Report:
    return analyze(network(), SHAPE)


def options_of(found: Report, losses: list[float]) -> dict[str, list[Option]]:
    """Keep, or either order at multipliers 1 and 2, with the losses given in turn."""
    supply = iter(losses)
    options = {}
    for finding in found.candidates:
        before = cost(finding.spec)
        assert before is not None
        options[finding.name] = [Option(None, 0.0, before)]
        for order, multiplier in product(Order, (1, 2)):
            after = separable_cost(finding.spec, order, multiplier)
            assert after is not None
            entry = PlanEntry.of(finding.name, finding.spec, order, multiplier)
            options[finding.name].append(Option(entry, next(supply), after))
    return options


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 1000), min_size=12, max_size=12),
    st.floats(0.3, 1),
    st.sampled_from([("params",), ("macs",), ("params", "macs"), ("int8", "size")]),
    st.sampled_from([(), (("0", "2"),), (("0", "2", "4"),)]),
)
def test_the_choice_is_the_best_of_all(
    losses: list[int], share: float, limited: tuple[str, ...], alike: tuple[tuple[str, ...], ...]
) -> None:
    found = report()
    options = options_of(found, [float(loss) for loss in losses])
    totals = {
        "params": found.params,
        "macs": found.macs or 0,
        "size": 4 * found.params,
        "int8": found.params + 3 * 40,
    }
    budgets = {name: share * totals[name] for name in limited}
    biases = {finding.name: finding.spec.out_channels or 0 for finding in found.findings}

    def within(choice: tuple[Option, ...]) -> bool:
        saved = dict.fromkeys(limited, 0)
        for (layer, its), option in zip(options.items(), choice, strict=True):
            for name in limited:
                saved[name] += LIMITS[name].of(its[0].cost, biases[layer]) - LIMITS[name].of(
                    option.cost, biases[layer]
                )
        if not all(totals[name] - saved[name] <= budgets[name] for name in limited):
            return False
        made = {}
        for layer, option in zip(options, choice, strict=True):
            entry = option.entry
            made[layer] = None if entry is None else (entry.order, entry.depth_multiplier)
        return all(len({made[layer] for layer in group}) == 1 for group in alike)

    feasible = [
        sum(o.loss for o in choice) for choice in product(*options.values()) if within(choice)
    ]
    if not feasible:
        with pytest.raises(InputError, match=r"cannot be kept|keeps all limits"):
            allocate(found, options, budgets, alike)
        return
    plan = allocate(found, options, budgets, alike)
    losses_of = {option.entry: option.loss for its in options.values() for option in its}
    assert sum(losses_of[entry] for entry in plan.entries) == pytest.approx(min(feasible))


def batches() -> list[Tensor]:
    torch.manual_seed(1)
    noise = torch.randn(48, *SHAPE[1:])
    return list((noise + noise.roll(1, 2) + noise.roll(1, 3)).split(8))


@pytest.mark.parametrize(
    "budget",
    ["2.5k", {"params": 3000}, {"macs": "60k", "params": "3k"}, {"int8": "3kB"}, {"size": "12kB"}],
)
def test_a_rewritten_network_keeps_its_budget(budget: str | dict[str, str | float]) -> None:
    result = rewrite(network(), budget=budget, calibration=batches(), init="fit", refine=0)
    limits = parse_budgets(budget)
    after = result.report_after
    assert after.params == sum(parameter.numel() for parameter in result.model.parameters())
    found = {
        "params": after.params,
        "macs": (after.macs or 0) / (after.batch_size or 1),
        "size": 4 * after.params,
        "int8": after.params + 3 * 40,
    }
    assert all(found[name] <= limit for name, limit in limits.items())
    assert result.plan.entries


def test_what_already_keeps_its_budget_is_left_alone() -> None:
    result = rewrite(network(), budget="1M", calibration=batches(), init="fit")
    assert not result.plan.entries
    assert result.report_after == result.report_before


# reason: kernels of random numbers cannot be approximated well
@pytest.mark.filterwarnings("ignore::pytest_dwsconv.errors.FitWarning")
def test_a_plan_under_a_budget_is_better_than_a_uniform_one() -> None:
    """The middle layer is separable as it is: a plan gives what it does not need to the others."""
    data = batches()
    model = network()
    easy, middle = rewrite(model, select=["2"]).model.get_submodule("2"), model.get_submodule("2")
    assert isinstance(easy.weight, Tensor)
    assert isinstance(middle.weight, Tensor)
    with torch.no_grad():
        middle.weight.copy_(easy.weight)
    uniform = rewrite(model, init="fit", calibration=data, depth_multiplier=2, refine=0)
    planned = rewrite(
        model, init="fit", calibration=data, budget=uniform.report_after.params, refine=0
    )
    assert planned.report_after.params <= uniform.report_after.params

    def error(other: nn.Module) -> float:
        with torch.no_grad():
            return sum(float((other(x) - model(x)).square().sum()) for x in data)

    assert error(planned.model) < error(uniform.model)


@pytest.mark.parametrize(
    ("budget", "kind", "message"),
    [
        (
            "10",
            InputError,
            "the budget of 10 parameters cannot be kept: replacing every candidate at its cheapest "
            "leaves",
        ),
        ("many", FormatError, "the budget's params 'many' is not a quantity"),
        ({}, InputError, "int8, and with a target latency, not 'nothing'"),
        ({"parms": 1}, InputError, "int8, and with a target latency, not 'parms'"),
    ],
)
def test_budgets_that_cannot_be(
    budget: str | dict[str, str | float], kind: type[DwsconvError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        rewrite(network(), budget=budget, calibration=batches(), init="fit")


def test_limits_that_exclude_each_other() -> None:
    found = report()
    options = options_of(found, [1.0] * 12)
    for choices in options.values():
        few, many = choices[1], choices[2]
        choices[1] = Option(few.entry, 1.0, Cost(few.cost.params, 10**9))
        choices[2] = Option(many.entry, 1.0, Cost(10**9, 0))
        del choices[3:]
    with pytest.raises(InputError, match="no choice of layers and multipliers keeps all limits"):
        allocate(found, options, {"params": 2000, "macs": 1000})


def test_macs_cannot_be_limited_unknown() -> None:
    found = analyze(network())
    with pytest.raises(InputError, match="the budget limits MACs and none were counted"):
        allocate(found, options_of(found, [1.0] * 12), {"macs": 1})


@pytest.mark.parametrize("batch", [1, 4])
def test_a_budget_of_macs_is_per_sample_whatever_the_batch(batch: int) -> None:
    found = analyze(network(), (batch, *SHAPE[1:]))
    options = {}
    for finding in found.candidates:
        keep, replaced = cost(finding.spec), separable_cost(finding.spec)
        assert keep is not None
        assert replaced is not None
        entry = PlanEntry.of(finding.name, finding.spec, Order.DEPTHWISE_FIRST, 1)
        options[finding.name] = [Option(None, 0.0, keep), Option(entry, 1.0, replaced)]
    macs = report().macs or 0
    assert allocate(found, options, {"macs": macs}).entries == ()
    assert len(allocate(found, options, {"macs": macs - 1}).entries) == 1
    with pytest.raises(InputError, match=f"input {batch} x 8 x 10 x 10 cannot be kept: .* leaves"):
        allocate(found, options, {"macs": 1})


def test_larger_multipliers_of_an_order_are_left_out_once_another_form_beats_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def fit(problem: Problem, entry: PlanEntry, start: Factors, rounds: int) -> Factors:
        tried.append(entry)
        return solve(problem, entry, start, rounds)

    monkeypatch.setattr(planning, "fit", fit)
    model = network()
    findings = analyze(model, batches()[0].shape).candidates[:1]
    options = estimate(Preparation(model, batches()), findings, tuple(Form))
    offered = sizes.choices(findings[0].spec, tuple(Form))
    assert {form for form, _ in offered} == {entry.form for entry in tried}
    given = [option.entry for option in options[findings[0].name] if option.entry is not None]
    assert len(given) < len(offered)
    assert {(entry.form, entry.size) for entry in given if entry.form not in ORDERS} == {
        choice for choice in offered if choice[0] not in ORDERS
    }


def test_losses_of_sizes_between_those_that_are_fitted_are_interpolated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network().eval()
    findings = analyze(model, batches()[0].shape).candidates[:1]

    def losses() -> list[float]:
        (options,) = estimate(Preparation(model, batches()), findings, [Form.BOTTLENECK]).values()
        return [option.loss for option in options[1:]]

    interpolated = losses()
    monkeypatch.setattr(planning, "FITTED_SIZES", len(interpolated))
    fitted = losses()
    assert interpolated == sorted(interpolated, reverse=True)
    assert interpolated != fitted
    pairs = zip(interpolated, fitted, strict=True)
    assert all(0.5 * own < loss < 2 * own for loss, own in pairs)


@pytest.mark.parametrize("known", [{1: 4.0, 2: 1.0, 8: 0.0}, {1: 0.0, 2: 0.0, 8: 0.0}])
def test_an_interpolated_loss_is_between_those_beside_it(known: dict[int, float]) -> None:
    (found,) = planning._interpolated(known, [4])
    assert known[8] <= found <= max(known[2], 1e-9)
