"""Reports of one network are one entry, and networks of one class have names of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from render_samples import EMPTY, SMALL, WITHOUT_SHAPES, conv, finding, totalled

from pytest_dwsconv.core.budget import Budget, check_limits
from pytest_dwsconv.core.conv import Trait
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.core.suite.architectures import Architecture, Reporters, SuiteRun, architectures
from pytest_dwsconv.report import Report


def net(width: int, side: int = 8, model: str = "Net", batch: int = 1) -> Report:
    """A network of two convolutions for an input with such sides."""
    layers = (finding("stem", conv(3, width, 3, side)), finding("head", conv(width, 4, 1, side)))
    batched = [replace(row, macs=(row.macs or 0) * batch) for row in layers]
    shapes = ((batch, 3, side, side),)
    report = totalled(model, *batched)
    spec_shapes = (batch, 3, side, side)
    findings = tuple(
        replace(row, spec=replace(row.spec, input_shape=spec_shapes)) for row in report.findings
    )
    return replace(report, findings=findings, input_shapes=shapes)


def by(*tests: str) -> Reporters:
    return Reporters(set(), set(tests))


def names(run: SuiteRun) -> list[str]:
    return [found.name for found in architectures(run)]


def only(run: SuiteRun) -> Architecture:
    (found,) = architectures(run)
    return found


def test_inputs_and_tests_of_one_network_are_one_entry() -> None:
    run: SuiteRun = {net(8, side): by(f"t.py::test[{side}]") for side in range(4, 64)}
    found = only(run)
    assert found.name == "Net"
    assert len(found.inputs) == 60
    assert found.reporters.tests == {f"t.py::test[{side}]" for side in range(4, 64)}


def test_the_report_to_show_has_the_most_macs_per_sample_and_the_smallest_batch() -> None:
    large, batched, small = net(8, 32), net(8, 32, batch=4), net(8, 16, batch=16)
    bare = replace(WITHOUT_SHAPES, model="Net", findings=large.findings, params=large.params)
    assert (batched.macs or 0) > (large.macs or 0)
    for order in permutations([small, bare, batched, large]):
        found = only({report: by("t.py::t") for report in order})
        assert found.reports == (large, batched, small, bare)
        assert list(found.inputs.values()) == [large.macs, batched.macs, small.macs]


def test_a_report_without_input_is_of_the_network_too() -> None:
    assert only({WITHOUT_SHAPES: by("b"), SMALL: by("a")}).report == SMALL


def changed(**spec: object) -> Report:
    stem, head = net(8, 9).findings
    return replace(
        net(8, 9),
        findings=(replace(stem, spec=replace(stem.spec, **spec)), head),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "other",
    [
        replace(net(8, 9), model="Other"),
        replace(net(8, 9), params=1),
        replace(net(8, 9), depth_multiplier=2),
        replace(net(8, 9), findings=net(8, 9).findings[:1]),
        changed(stride=(2, 2)),
        changed(padding=(1, 1)),
        changed(traits=(Trait.IGNORED,)),
    ],
)
def test_what_does_not_follow_from_the_input_makes_another_network(other: Report) -> None:
    assert len(architectures({net(8): by("a"), other: by("b")})) == 2


def test_a_padding_computed_from_the_input_makes_no_other_network() -> None:
    run: SuiteRun = {
        changed(traits=(Trait.FUNCTIONAL,), padding=(side, side)): by("t") for side in (1, 2)
    }
    assert len(architectures(run)) == 1


def test_networks_that_differ_by_nothing_but_macs_are_kept_apart() -> None:
    def pooled(side: int, stride: int) -> Report:
        return replace(net(8, side), macs=(net(8, side).macs or 0) // stride)

    run: SuiteRun = {pooled(side, stride): by("t") for side in (8, 16, 32) for stride in (1, 2)}
    half, whole = sorted(architectures(run), key=lambda found: found.report.macs or 0)
    assert list(half.reports) == [pooled(side, 2) for side in (32, 16, 8)]
    assert list(whole.reports) == [pooled(side, 1) for side in (32, 16, 8)]


def test_a_verdict_that_a_hook_changed_is_not_lost() -> None:
    stem, head = net(8).findings
    judged = replace(stem, verdict=Verdict.INELIGIBLE, code="OWN1", separable_params=None)
    other = replace(net(8), findings=(judged, head))
    assert len(architectures({net(8): by("a"), other: by("b")})) == 2


def test_of_each_limit_the_worst_check_is_kept() -> None:
    budget, other = Budget(params="1k", macs="20k"), Budget(macs="1G")
    run: SuiteRun = {}
    for side in (4, 8, 16):
        report = net(8, side)
        checks = [*check_limits(report, budget), *check_limits(report, other)]
        run = {**run, report: Reporters(set(), {"t"}, [*checks])}
    found = only(run)
    told = [(check.name, check.limit, check.actual) for check in found.reporters.checks]
    macs = net(8, 16).macs
    assert told == [("macs", 20_000, macs), ("macs", 10**9, macs), ("params", 1000, 248)]
    assert found.exceeded


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({net(8): by("a.py::t"), net(8, model="Other"): by("a.py::t")}, ["Net", "Other"]),
        (
            {net(8): by("a.py::t"), net(16): by("a.py::t")},
            ["Net, 16 channels in stem", "Net, 8 channels in stem"],
        ),
        (
            {net(8): Reporters({"nets:small"}), net(16): Reporters({"nets:large"})},
            ["Net, nets:large", "Net, nets:small"],
        ),
        (
            {
                net(8): by("a.py::test_one", "a.py::test_two"),
                changed(stride=(2, 2)): by("b.py::T::t[::x]"),
            },
            ["Net, in t[::x]", "Net, in test_one"],
        ),
        (
            {net(8): by("a.py::t"), changed(stride=(2, 2)): by("b.py::t")},
            ["Net, in a.py::t", "Net, in b.py::t"],
        ),
        (
            {net(8): by("a.py::t"), changed(stride=(2, 2)): by("a.py::t")},
            ["Net, input 1 x 3 x 8 x 8", "Net, input 1 x 3 x 9 x 9"],
        ),
        (
            {
                net(8): by("a.py::t"),
                changed(stride=(2, 2), input_shape=None): by("a.py::t"),
                changed(stride=(3, 3)): by("b.py::t"),
            },
            ["Net, in a.py::t", "Net, in a.py::t (2)", "Net, in b.py::t"],
        ),
        ({EMPTY: Reporters(), replace(EMPTY, params=31): Reporters()}, ["Linear", "Linear (2)"]),
    ],
)  # fmt: skip
def test_names_tell_networks_of_one_class_apart(run: SuiteRun, expected: list[str]) -> None:
    for order in permutations(run):
        assert sorted(names({report: run[report] for report in order})) == expected


def test_names_do_not_depend_on_the_order_of_layers_that_one_of_them_has() -> None:
    def net_of(first: str, second: str, width: int) -> Report:
        layers = [finding(name, conv(3, width, 3, 8)) for name in (first, second)]
        return totalled("Net", *layers)

    run = {net_of("a", "b", 8): by("t"), net_of("b", "a", 16): by("t")}
    assert len({tuple(sorted(names(dict(order)))) for order in permutations(run.items())}) == 1


def test_over_budget_comes_first_then_named_ones_then_the_largest_saving() -> None:
    over = Reporters(set(), {"t"}, [*check_limits(net(2), Budget(params=1))])
    rows: Sequence[tuple[Report, Reporters]] = [
        (net(2, model="Over"), over),
        (net(4, model="Named"), Reporters({"nets:named"})),
        (net(32, model="Large"), by("z.py::t")),
        (net(16, model="Medium"), by("a.py::t")),
        (EMPTY, by("a.py::t")),
    ]
    for order in permutations(rows):
        assert names(dict(order)) == ["Over", "Named", "Large", "Medium", "Linear"]
