from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dwsconv.core.baseline import Baseline, Current, Entry, current
from pytest_dwsconv.core.findings import Origin, ReportData
from pytest_dwsconv.errors import FormatError
from pytest_dwsconv.report import Report

SMALL = Report("Small", (), 100, 2000, Origin.META, ((1, 3, 8, 8),))
WIDE = Report("Small", (), 150, 3000, Origin.META, ((1, 3, 8, 8),))
BARE = Report("Small", (), 100, None, Origin.ATTRIBUTES)
NAME = "Small, input 1 x 3 x 8 x 8"

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


def names(run: dict[ReportData, list[str]]) -> dict[str, int]:
    return {model.name: model.entry.params for model in current(run, {})}


@given(ENTRIES)
def test_json_round_trip_is_sorted(entries: dict[str, Entry]) -> None:
    text = Baseline(entries).to_json()
    assert Baseline.from_json(text) == Baseline(entries)
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_models_are_named_by_class_and_input_and_where_needed_by_their_users() -> None:
    assert names({SMALL: ["a"], BARE: ["a"]}) == {NAME: 100, "Small, no input": 100}
    assert names({SMALL: ["b", "c"], WIDE: ["a"]}) == {f"{NAME}, in b": 100, f"{NAME}, in a": 150}
    assert names({SMALL: ["a"], WIDE: ["a"]}) == {f"{NAME}, in a": 100, f"{NAME}, in a (2)": 150}


def grown(report: Report, params: int) -> Report:
    return replace(report, params=params)


def test_a_model_beside_a_new_one_of_its_class_and_input_is_still_compared() -> None:
    before, _ = Baseline().updated(current({SMALL: ["a"]}, {}))
    for written in (
        before,
        Baseline.from_json(before.to_json().replace('"reported_by": "a"', '"reported_by": ""')),
    ):
        beside = current({grown(SMALL, 500): ["a", "c"], grown(SMALL, 20): ["b"]}, {})
        found = written.compared(beside, Decimal(0))
        assert found.increases == [
            f"{NAME}, in a has 500 parameters, 100 in the baseline (+400, +400.00 %)."
        ]
        assert found.missing == [f"{NAME}, in b is not in the baseline"]
        after, changes = written.updated(beside)
        assert {name: entry.params for name, entry in after.entries.items()} == {
            NAME: 500,
            f"{NAME}, in b": 20,
        }
        assert changes[1].startswith(f"{NAME}: 500 parameters, 100 in")
        assert after.compared(beside, Decimal(0)) == ([], [], [])
        assert after.updated(beside) == (after, [])


def test_a_new_model_that_costs_what_another_did_does_not_take_its_place() -> None:
    before, _ = Baseline().updated(current({SMALL: ["a"]}, {}))
    found = before.compared(current({grown(SMALL, 500): ["a"], SMALL: ["b"]}, {}), Decimal(0))
    assert [line.partition(" has ")[0] for line in found.increases] == [f"{NAME}, in a"]


def test_a_model_whose_test_was_renamed_is_compared() -> None:
    before, _ = Baseline().updated(current({SMALL: ["a"]}, {}))
    renamed = current({grown(SMALL, 500): ["z"]}, {})
    assert len(before.compared(renamed, Decimal(0)).increases) == 1
    after, _ = before.updated(renamed)
    assert after.entries == {NAME: Entry(500, 2000, reported_by="z")}
    beside = current({grown(SMALL, 600): ["y"], SMALL: ["x"]}, {})
    assert len(after.compared(beside, Decimal(0)).increases) == 1


def test_an_update_keeps_a_model_that_did_not_run_beside_one_that_may_be_another() -> None:
    both, _ = Baseline().updated(current({SMALL: ["a"], WIDE: ["b"]}, {}))
    after, changes = both.updated(current({grown(SMALL, 7): ["c"]}, {}))
    assert changes == [f"{NAME}, in c: new"]
    assert {entry.params for entry in after.entries.values()} == {100, 150, 7}


NOTHING: Any = ([], [], [])
"""What a comparison says of models that are as they were."""


def baseline_of(run: dict[ReportData, list[str]]) -> Baseline:
    return Baseline().updated(current(run, {}))[0]


def test_an_input_that_begins_alike_is_another() -> None:
    wider = replace(SMALL, input_shapes=((1, 3, 8, 80),))
    found = baseline_of({wider: ["a"]}).compared(current({SMALL: ["a"]}, {}), Decimal(0))
    assert found.missing == [f"{NAME} is not in the baseline"]


def test_an_entry_keeps_its_reporter_while_that_still_reports_the_model() -> None:
    before = baseline_of({SMALL: ["b"]})
    assert before.updated(current({SMALL: ["a", "b"]}, {})) == (before, [])
    after, _ = before.updated(current({SMALL: ["a"]}, {}))
    assert after.entries[NAME].reported_by == "a"


def test_a_latency_measured_again_replaces_the_old_one() -> None:
    before = Baseline({NAME: Entry(100, 2000, {"here": 1.0, "there": 3.0}, "a")})
    after, _ = before.updated(current({SMALL: ["a"]}, {SMALL: {"here": 2.0}}))
    assert after.entries[NAME].latency == {"here": 2.0, "there": 3.0}


def test_models_of_equal_parameters_are_told_apart_by_their_macs() -> None:
    slow = replace(SMALL, macs=3000)
    both = baseline_of({SMALL: ["x"], slow: ["y"]})
    assert both.compared(current({slow: ["z"]}, {}), Decimal(0)) == NOTHING


def test_of_two_models_of_one_test_the_one_that_ran_is_compared() -> None:
    both = baseline_of({SMALL: ["a"], WIDE: ["a"]})
    assert both.compared(current({SMALL: ["a"]}, {}), Decimal(0)) == NOTHING


def test_a_model_of_a_new_test_is_compared_with_the_largest_of_its_kind() -> None:
    both = baseline_of({SMALL: ["a"], WIDE: ["b"]})
    found = both.compared(current({grown(WIDE, 160): ["c"]}, {}), Decimal(0))
    assert found.increases == [
        f"{NAME} has 160 parameters, 150 in the baseline (+10, +6.67 %).",
    ]


def test_an_update_keeps_an_entry_that_either_of_two_new_models_may_be() -> None:
    before = baseline_of({SMALL: ["a"]})
    after, changes = before.updated(current({WIDE: ["b"], grown(SMALL, 200): ["c"]}, {}))
    assert after.entries[NAME] == before.entries[NAME]
    assert [line.rpartition(": ")[2] for line in changes] == ["new", "new"]


def test_a_run_of_one_of_two_models_of_a_name_finds_the_right_one() -> None:
    both, _ = Baseline().updated(current({SMALL: ["b"], WIDE: ["a"]}, {}))
    alone = current({WIDE: ["a"]}, {})
    assert both.compared(alone, Decimal(0)) == ([], [], [])


@pytest.mark.parametrize(
    ("entry", "percent", "expected"),
    [
        (Entry(100, 2000), "0", ([], [], [])),
        (
            Entry(101, 2000),
            "0",
            ([f"{NAME} has 101 parameters, 100 in the baseline (+1, +1.00 %)."], [], []),
        ),
        (Entry(101, 2000), "1", ([], [], [])),
        (
            Entry(101, 2000),
            "0.99",
            ([f"{NAME} has 101 parameters, 100 in the baseline (+1, +1.00 %)."], [], []),
        ),
        (
            Entry(99, 2020),
            "0",
            (
                [f"{NAME} has 2,020 MACs, 2,000 in the baseline (+20, +1.00 %)."],
                [f"{NAME} has 99 parameters, 100 in the baseline (-1, -1.00 %)."],
                [],
            ),
        ),
        (Entry(100, None), "0", ([], [], [])),
    ],
)
def test_comparison_is_exact(entry: Entry, percent: str, expected: Any) -> None:
    baseline = Baseline({NAME: Entry(100, 2000)})
    assert baseline.compared([Current(NAME, NAME, (), entry)], Decimal(percent)) == expected


@given(st.integers(1, 10**18), st.integers(0, 10**18), st.decimals(0, 1000, places=3))
def test_an_increase_is_one_beyond_the_percentage(old: int, more: int, percent: Decimal) -> None:
    found = Baseline({"a": Entry(old, None)}).compared(
        [Current("a", "a", (), Entry(old + more, None))], percent
    )
    assert bool(found.increases) == (more * 100_000 > old * int(percent * 1000))


def test_latency_is_compared_under_the_same_conditions_and_with_a_percentage_only() -> None:
    baseline = Baseline({NAME: Entry(100, None, {"bench, torch 2, 4 threads": 0.004})})

    def compared(conditions: str, seconds: float, percent: int) -> Any:
        return baseline.compared(
            [Current(NAME, NAME, (), Entry(100, None, {conditions: seconds}))], Decimal(percent)
        )

    assert compared("bench, torch 2, 4 threads", 0.00500012345, 20).increases == [
        f"{NAME} has 5.000 ms median latency (bench, torch 2, 4 threads), 4.000 in the baseline "
        "(+1.000, +25.00 %)."
    ]
    nothing: Any = ([], [], [])
    assert compared("bench, torch 2, 4 threads", 0.005, 25) == nothing
    assert compared("bench, torch 2, 4 threads", 0.005, 0) == nothing
    assert compared("bench, torch 2, 2 threads", 9, 20) == nothing
    assert compared("bench, torch 2, 4 threads", 0.001, 20) == nothing
    assert baseline.compared([Current(NAME, NAME, (), Entry(100, None))], Decimal(20)) == nothing


def test_a_model_that_is_new() -> None:
    assert Baseline().compared(current({SMALL: ["a"]}, {}), Decimal(0)).missing == [
        f"{NAME} is not in the baseline"
    ]


def test_an_update_keeps_what_did_not_run_and_says_what_changed() -> None:
    old = Baseline({"other": Entry(1, 1), NAME: Entry(90, 2000, {"here": 1.0})})
    new, changes = old.updated(
        [
            *current({SMALL: ["a"]}, {SMALL: {"there": 2.0}}),
            Current("new", "new", (), Entry(7, None)),
        ]
    )
    assert new.entries == {
        "other": Entry(1, 1),
        NAME: Entry(100, 2000, {"here": 1.0, "there": 2.0}, "a"),
        "new": Entry(7, None),
    }
    assert changes == [f"{NAME}: 100 parameters, 90 in the baseline (+10, +11.11 %)", "new: new"]
    assert new.updated(current({SMALL: ["a"]}, {})) == (new, [])


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
