from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dwsconv.core.findings import Origin, ReportData
from pytest_dwsconv.core.suite.architectures import Reporters, SuiteRun, architectures
from pytest_dwsconv.core.suite.baseline import Baseline, Comparison
from pytest_dwsconv.core.suite.changes import ChangeStatus, Tolerance
from pytest_dwsconv.core.suite.costs import Current, Entry, Layer, current
from pytest_dwsconv.errors import FormatError
from pytest_dwsconv.report import Report

SMALL = Report("Small", (), 100, 2000, Origin.META, ((1, 3, 8, 8),))
WIDE = Report("Small", (), 150, 3000, Origin.META, ((1, 3, 8, 8),))
BARE = Report("Small", (), 100, None, Origin.ATTRIBUTES)
NAME = "Small"
INPUT = "1 x 3 x 8 x 8"

ENTRIES = st.dictionaries(
    st.text(),
    st.builds(
        Entry,
        st.integers(0, 10**12),
        st.none() | st.integers(0, 10**15),
        st.dictionaries(st.text(), st.floats(0, 100, exclude_min=True), max_size=2),
        st.text(),
    ),
    max_size=4,
)


Run = dict[Report, list[str]]


def models(run: Run, latencies: dict[ReportData, dict[str, float]] | None = None) -> list[Current]:
    """The models of a run, of reports with their tests."""
    reported: SuiteRun = {report: Reporters(tests={*tests}) for report, tests in run.items()}
    return current(architectures(reported), latencies or {})


def compared(
    baseline: Baseline, found: list[Current], percent: str | Decimal = "0", *gone: str
) -> tuple[list[str], list[str], list[str]]:
    """What grew, what shrank, and what is missing."""
    result = comparison(baseline, found, percent, *gone)
    return result.changes.increases, result.changes.decreases, result.missing


def comparison(
    baseline: Baseline, found: list[Current], percent: str | Decimal = "0", *gone: str
) -> Comparison:
    tolerance = Tolerance(Decimal(percent))
    return baseline.compared(found, lambda model: tolerance, gone.__contains__)


def names(run: Run) -> dict[str, int]:
    return {model.name: model.entry.params for model in models(run)}


def as_entry(params: int, macs: int | None, reported_by: str = "", **more: Any) -> Entry:
    """The entry of a model of this file, none of which has a candidate."""
    return Entry(params, macs, reported_by=reported_by, candidates=0, input=INPUT, **more)


def baseline_of(run: Run) -> Baseline:
    return Baseline().updated(models(run))[0]


def grown(report: Report, params: int) -> Report:
    return replace(report, params=params)


def on(side: int, report: Report = SMALL) -> Report:
    """The report for a larger input, which takes more MACs."""
    return replace(report, macs=20 * side * side, input_shapes=((1, 3, side, side),))


NOTHING: Any = ([], [], [])
"""What a comparison says of models that are as they were."""


@given(ENTRIES)
def test_json_round_trip_is_sorted(entries: dict[str, Entry]) -> None:
    text = Baseline(entries).to_json()
    assert Baseline.from_json(text) == Baseline(entries)
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_layers_are_compared_and_not_written() -> None:
    layered = replace(Entry(1, 2), layers={"conv": Layer(1, 2)})
    assert Baseline({"a": layered}).to_json() == Baseline({"a": Entry(1, 2)}).to_json()


# --------------------------------------------------------------------------- names


def test_models_are_named_by_class_and_where_needed_by_their_users() -> None:
    assert names({SMALL: ["a"]}) == {NAME: 100}
    assert names({SMALL: ["b", "c"], WIDE: ["a"]}) == {f"{NAME}, in b": 100, f"{NAME}, in a": 150}
    assert names({SMALL: ["a"], WIDE: ["a"]}) == {f"{NAME}, in a": 100, f"{NAME}, in a (2)": 150}


def test_one_architecture_is_one_entry_whatever_its_inputs() -> None:
    run: Run = {on(side): [f"test_it[{side}]"] for side in (8, 16, 32, 64)}
    written = baseline_of({**run, BARE: ["bare"]})
    assert written.entries == {NAME: replace(as_entry(100, 1280), reported_by="bare")}
    assert written.updated(models(dict(reversed(run.items()))))[0].entries[NAME].macs == 1280
    assert compared(written, models(run)) == NOTHING


def test_an_entry_keeps_its_input_while_the_model_has_it() -> None:
    before = baseline_of({on(16): ["a"]})
    assert before.updated(models({on(16): ["a"], on(8): ["a"]})) == (before, [])
    after, changes = before.updated(models({on(8): ["a"]}))
    assert after.entries[NAME].input == INPUT
    assert changes == [f"{NAME}: its input, who reports it, or what was not known before"]


# ------------------------------------------------------------------- whose entry is whose


def test_a_model_beside_a_new_one_of_its_class_and_input_is_still_compared() -> None:
    before = baseline_of({SMALL: ["a"]})
    for written in (
        before,
        Baseline.from_json(before.to_json().replace('"reported_by": "a"', '"reported_by": ""')),
    ):
        beside = models({grown(SMALL, 500): ["a", "c"], grown(SMALL, 20): ["b"]})
        assert compared(written, beside) == (
            [f"{NAME}, in a has 500 parameters, 100 in the baseline (+400, +400.00 %)."],
            [],
            [f"{NAME}, in b is not in the baseline"],
        )
        after, changes = written.updated(beside)
        assert {name: entry.params for name, entry in after.entries.items()} == {
            NAME: 500,
            f"{NAME}, in b": 20,
        }
        assert any(line.startswith(f"{NAME}: 500 parameters, 100 in") for line in changes)
        assert compared(after, beside) == NOTHING
        assert after.updated(beside) == (after, [])


def test_a_new_model_that_costs_what_another_did_does_not_take_its_place() -> None:
    before = baseline_of({SMALL: ["a"]})
    found, _, _ = compared(before, models({grown(SMALL, 500): ["a"], SMALL: ["b"]}))
    assert [line.partition(" has ")[0] for line in found] == [f"{NAME}, in a"]


def test_a_model_whose_test_was_renamed_is_compared() -> None:
    before = baseline_of({SMALL: ["a"]})
    renamed = models({grown(SMALL, 500): ["z"]})
    assert len(compared(before, renamed)[0]) == 1
    after, _ = before.updated(renamed)
    assert after.entries == {NAME: as_entry(500, 2000, "z")}
    beside = models({grown(SMALL, 600): ["y"], SMALL: ["x"]})
    assert len(compared(after, beside)[0]) == 1


def test_an_update_keeps_a_model_that_did_not_run_beside_one_that_may_be_another() -> None:
    both = baseline_of({SMALL: ["a"], WIDE: ["b"]})
    after, changes = both.updated(models({grown(SMALL, 7): ["c"]}))
    assert changes == [f"{NAME}, in c: new"]
    assert {entry.params for entry in after.entries.values()} == {100, 150, 7}


def test_networks_of_a_class_that_take_other_inputs_are_not_taken_for_each_other() -> None:
    before = baseline_of({SMALL: ["a"]})
    other = models({grown(on(80), 500): ["b"]})
    assert compared(before, other) == ([], [], [f"{NAME} is not in the baseline"])
    after, _ = before.updated(other)
    assert {name: entry.params for name, entry in after.entries.items()} == {
        NAME: 100,
        f"{NAME}, in b": 500,
    }


def test_an_entry_keeps_its_reporter_while_that_still_reports_the_model() -> None:
    before = baseline_of({SMALL: ["b"]})
    assert before.updated(models({SMALL: ["a", "b"]})) == (before, [])
    after, _ = before.updated(models({SMALL: ["a"]}))
    assert after.entries[NAME].reported_by == "a"


def test_models_of_equal_parameters_are_told_apart_by_their_macs() -> None:
    slow = replace(SMALL, macs=3000)
    both = baseline_of({SMALL: ["x"], slow: ["y"]})
    assert compared(both, models({slow: ["z"]})) == NOTHING


def test_of_two_models_of_one_test_the_one_that_ran_is_compared() -> None:
    both = baseline_of({SMALL: ["a"], WIDE: ["a"]})
    assert compared(both, models({SMALL: ["a"]})) == NOTHING


def test_a_model_of_a_new_test_is_compared_with_the_largest_of_its_kind() -> None:
    both = baseline_of({SMALL: ["a"], WIDE: ["b"]})
    found, _, _ = compared(both, models({grown(WIDE, 160): ["c"]}))
    assert found == [f"{NAME} has 160 parameters, 150 in the baseline (+10, +6.67 %)."]


def test_an_update_keeps_an_entry_that_either_of_two_new_models_may_be() -> None:
    before = baseline_of({SMALL: ["a"]})
    after, changes = before.updated(models({WIDE: ["b"], grown(SMALL, 200): ["c"]}))
    assert after.entries[NAME] == before.entries[NAME]
    assert [line.rpartition(": ")[2] for line in changes] == ["new", "new"]


def test_a_run_of_one_of_two_models_of_a_name_finds_the_right_one() -> None:
    both = baseline_of({SMALL: ["b"], WIDE: ["a"]})
    assert compared(both, models({WIDE: ["a"]})) == NOTHING


# ---------------------------------------------------------------------- what is compared


@pytest.mark.parametrize(
    ("params", "macs", "percent", "increases", "decreases"),
    [
        (100, 2000, "0", [], []),
        (101, 2000, "0", ["101 parameters, 100 in the baseline (+1, +1.00 %)"], []),
        (101, 2000, "1", [], []),
        (101, 2000, "0.99", ["101 parameters, 100 in the baseline (+1, +1.00 %)"], []),
        (
            99,
            2020,
            "0",
            ["2,020 MACs, 2,000 in the baseline (+20, +1.00 %)"],
            ["99 parameters, 100 in the baseline (-1, -1.00 %)"],
        ),
        (100, None, "0", [], []),
    ],
)
def test_comparison_is_exact(
    params: int, macs: int | None, percent: str, increases: list[str], decreases: list[str]
) -> None:
    baseline = Baseline({NAME: as_entry(100, 2000)})
    run = models({replace(SMALL, params=params, macs=macs): ["a"]})
    assert compared(baseline, run, percent) == (
        [f"{NAME} has {said}." for said in increases],
        [f"{NAME} has {said}." for said in decreases],
        [],
    )


@given(st.integers(1, 10**18), st.integers(0, 10**18), st.decimals(0, 1000, places=3))
def test_an_increase_is_one_beyond_the_percentage(old: int, more: int, percent: Decimal) -> None:
    baseline = Baseline({NAME: as_entry(old, None)})
    found = compared(baseline, models({grown(SMALL, old + more): ["a"]}), percent)
    assert bool(found[0]) == (more * 100_000 > old * int(percent * 1000))


@pytest.mark.parametrize(
    ("tolerance", "is_told"),
    [
        (Tolerance(Decimal(0), 10), False),
        (Tolerance(Decimal(0), 9), True),
        (Tolerance(Decimal(10), 0), False),
        (None, False),
    ],
)
def test_a_tolerance_is_a_percentage_or_an_amount(
    tolerance: Tolerance | None, is_told: bool
) -> None:
    found = baseline_of({SMALL: ["a"]}).compared(
        models({grown(SMALL, 110): ["a"]}), lambda model: tolerance, lambda reporter: False
    )
    (model,) = found.changes.shown
    assert model.status is ChangeStatus.CHANGED
    assert bool(found.changes.increases) == is_told


def test_latency_is_compared_under_the_same_conditions_and_with_a_percentage_only() -> None:
    baseline = Baseline({NAME: as_entry(100, 2000, latency={"bench, torch 2, 4 threads": 0.004})})

    def found(conditions: str, seconds: float, percent: str) -> Any:
        run = models({SMALL: ["a"]}, {SMALL: {conditions: seconds}})
        return compared(baseline, run, percent)

    assert found("bench, torch 2, 4 threads", 0.00500012345, "20")[0] == [
        f"{NAME} has 5.000 ms median latency (bench, torch 2, 4 threads), 4.000 in the baseline "
        "(+1.000, +25.00 %)."
    ]
    assert found("bench, torch 2, 4 threads", 0.005, "25") == NOTHING
    assert found("bench, torch 2, 4 threads", 0.005, "0") == NOTHING
    assert found("bench, torch 2, 2 threads", 9, "20") == NOTHING
    assert found("bench, torch 2, 4 threads", 0.001, "20") == NOTHING
    assert compared(baseline, models({SMALL: ["a"]}), "20") == NOTHING


def test_a_latency_measured_again_replaces_the_old_one() -> None:
    before = Baseline({NAME: as_entry(100, 2000, "a", latency={"here": 1.0, "there": 3.0})})
    after, _ = before.updated(models({SMALL: ["a"]}, {SMALL: {"here": 2.0}}))
    assert after.entries[NAME].latency == {"here": 2.0, "there": 3.0}


def test_every_quantity_is_in_the_table() -> None:
    found = comparison(baseline_of({SMALL: ["a"]}), models({grown(SMALL, 110): ["a"]}))
    (model,) = found.changes.models
    assert [(change.name, *change.cells()) for change in model.quantities] == [
        ("params", "100", "110", "+10, +10.00 %"),
        ("macs", "2,000", "2,000", ""),
        ("size", "400", "440", "+40, +10.00 %"),
        ("candidates", "0", "0", ""),
    ]


# ------------------------------------------------------------------- what is not there


def test_a_model_that_is_new() -> None:
    found = comparison(Baseline(), models({SMALL: ["a"]}))
    assert found.missing == [f"{NAME} is not in the baseline"]
    assert [model.status for model in found.changes.models] == [ChangeStatus.NEW]


@pytest.mark.parametrize(
    ("tests", "gone", "escapes"),
    [
        (["a"], ["a"], True),  # its own test has another class now
        (["b"], ["a"], True),  # its test is gone, and another has come
        (["b"], [], False),  # its test did not run
    ],
)
def test_a_renamed_class_that_escapes_its_entry_is_told(
    tests: list[str], gone: list[str], escapes: bool
) -> None:
    renamed = models({replace(SMALL, model="Renamed"): tests})
    found = comparison(baseline_of({SMALL: ["a"]}), renamed, "0", *gone)
    sentence = "Renamed is not in the baseline"
    if escapes:
        assert found.escaped == [f"{sentence}, and {NAME} of the baseline was not seen"]
    else:
        assert found.missing == [sentence]


def test_a_new_model_beside_an_entry_whose_test_now_has_another_is_not_taken_for_it() -> None:
    run = models({replace(SMALL, model="New"): ["b"], replace(SMALL, model="Other"): ["a"]})
    found = comparison(baseline_of({SMALL: ["a"]}), run, "0", "a")
    assert found.missing == ["New is not in the baseline"]
    assert [line.partition(" ")[0] for line in found.escaped] == ["Other"]


def test_a_larger_input_that_escapes_its_entry_is_told() -> None:
    before = baseline_of({SMALL: ["a"]})
    assert comparison(before, models({on(80): ["a"]})).escaped == [
        f"{NAME} was not seen with input 1 x 3 x 8 x 8 of the baseline, but with 1 x 3 x 80 x 80: "
        "its MACs are not compared"
    ]
    another_test = comparison(before, models({on(80): ["b"]}))  # "a" did not run
    assert (another_test.escaped, another_test.missing) == ([], [])


def test_an_update_keeps_what_did_not_run_and_removes_what_is_gone() -> None:
    old = Baseline({"other": Entry(1, 1, reported_by="o"), NAME: as_entry(90, 2000)})
    run = models({SMALL: ["a"]}, {SMALL: {"there": 2.0}})
    new, changes = old.updated(run, commit="abc")
    assert new.entries == {
        "other": Entry(1, 1, reported_by="o"),
        NAME: as_entry(100, 2000, "a", latency={"there": 2.0}, commit="abc"),
    }
    assert changes == [f"{NAME}: 100 parameters, 90 in the baseline (+10, +11.11 %)"]
    assert new.updated(run, commit="later") == (new, [])
    assert new.unseen(run, lambda reporter: False) == []
    alone, changes = new.updated(run, new.unseen(run, lambda reporter: True))
    assert list(alone.entries) == [NAME]
    assert changes == ["other: removed, this run did not see it"]


# --------------------------------------------------------------- files of earlier releases


def test_a_baseline_with_an_entry_for_each_input_is_read_as_one_entry() -> None:
    old = Baseline(
        {
            f"{NAME}, input 1 x 3 x 16 x 16": Entry(100, 5120, reported_by="test_it[16]"),
            f"{NAME}, input 1 x 3 x 8 x 8": Entry(100, 2000, reported_by="test_it[8]"),
            f"{NAME}, no input": Entry(100, None, reported_by="test_bare"),
            f"{NAME}, input 1 x 3 x 8 x 8, in b (2)": Entry(150, 3000),
            "Other, input 1 x 8 and 2": Entry(7, 8),
        }
    )
    run: Run = {
        SMALL: ["test_it[8]"],
        on(16): ["test_it[16]"],
        WIDE: ["b"],
    }
    assert compared(old, models(run)) == NOTHING
    after, _ = old.updated(models(run))
    assert after.entries == {
        f"{NAME}, in test_it[8]": as_entry(100, 2000, "test_it[8]"),
        f"{NAME}, in b": as_entry(150, 3000, "b"),
        "Other": Entry(7, 8, input="1 x 8 and 2"),
    }


def test_a_baseline_compares_with_another() -> None:
    before, after = baseline_of({SMALL: ["a"], WIDE: ["b"]}), baseline_of({WIDE: ["b"]})
    found = before.compared(after.models(), lambda model: Tolerance(), lambda reporter: True)
    assert {model.name: model.status for model in found.changes.models} == {
        NAME: ChangeStatus.SAME,
        f"{NAME}, in a": ChangeStatus.GONE,
    }


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "not a baseline in JSON: Expecting value"),
        ("[]", "not a baseline: [] is not an object"),
        ("{}", "not a baseline: it has no schema_version"),
        (
            '{"schema_version": 2}',
            "a baseline of schema version 2 cannot be read; this release reads version 1: use the",
        ),
        ('{"schema_version": 1}', "not a baseline: it lacks models"),
        ("[" * 100_000, "not a baseline in JSON"),
        ('{"schema_version": 1, "models": []}', "not a baseline"),
        (
            '{"schema_version": 1, "models": {"a": {"params": 1}}}',
            "not a baseline: models['a']: it lacks macs",
        ),
        (
            '{"schema_version": 1, "models": {"a": {"params": 1, "macs": 1, "params": 2}}}',
            "the key 'params' is there twice",
        ),
        (
            '{"schema_version": 1, "models": {"a": {"params": -1, "macs": 1}}}',
            "-1 is not a whole number from 0",
        ),
        (
            '{"schema_version": 1, "models": {"a": {"params": 1, "macs": true}}}',
            "True is not a whole number from 0",
        ),
        (
            '{"schema_version": 1, "models": {"a": {"params": 1, "macs": 1, "size": 1}}}',
            "models['a']: it has keys that this release does not know: 'size'",
        ),
        (
            '{"schema_version": 1, "models": {"a": {"params": 1, "macs": 1, "latency": {"b": '
            '"c"}}}}',
            "not a baseline",
        ),
        (
            '{"schema_version": 1, "models": {"a": {"params": 1, "macs": 1, "latency": {"b": '
            "NaN}}}}",
            "latency['b']: nan is not a finite number above 0",
        ),
        (
            '{"schema_version": 1, "models": {"a": {"params": 1, "macs": 1, "latency": {"b": 0}}}}',
            "latency['b']: 0 is not a finite number above 0",
        ),
    ],
)
def test_what_is_no_baseline(text: str, part: str) -> None:
    with pytest.raises(FormatError) as error:
        Baseline.from_json(text)
    assert part in str(error.value)
