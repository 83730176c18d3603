"""Stored files: those of earlier releases are read, damaged ones are refused in one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dwsconv.core.jsonio import OMITTED, Document, Positive, from_plain, to_plain
from pytest_dwsconv.core.measurement import Measurement
from pytest_dwsconv.core.plan import Plan
from pytest_dwsconv.core.suite.baseline import Baseline
from pytest_dwsconv.errors import FormatError
from pytest_dwsconv.report import Report

STORED = Path(__file__).parent / "stored"
"""Files that the first release wrote."""

READERS: dict[str, Callable[[str], Any]] = {
    "worked-example": Report.from_json,
    "report": Report.from_json,
    "report-no-input": Report.from_json,
    "plan": Plan.from_json,
    "baseline": Baseline.from_json,
    "measurement": Measurement.from_json,
}
DAMAGE: tuple[Any, ...] = (
    None,
    True,
    "abc",
    "5",
    "",
    -1,
    0,
    1.5,
    math.nan,
    10**400,
    [],
    [3, "x"],
    [[]],
    {},
    {"a": 1},
)
"""What a field may come to hold."""


def text_of(name: str) -> str:
    return (STORED / f"{name}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_an_earlier_release_is_read_and_written_as_before(name: str) -> None:
    assert json.loads(READERS[name](text_of(name)).to_json()) == json.loads(text_of(name))


def damages(data: Any) -> Iterator[str]:
    """The data as JSON with one value exchanged or missing, or with one key too many."""
    yield json.dumps(data | {"colour": 1})
    for holder, key in list(places(data)):
        value = holder[key]
        for other in DAMAGE:
            holder[key] = other
            yield json.dumps(data)
        holder[key] = value
        if isinstance(holder, dict):
            del holder[key]
            yield json.dumps(data)
            holder[key] = value
        if isinstance(value, dict):
            value["colour"] = 1
            yield json.dumps(data)
            del value["colour"]


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in the data, by what holds it and its key or index there."""
    for key in data if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], (dict, list)):
            yield from places(data[key])


def meaning(text: str) -> Any:
    """What a file says, whatever the order of its layers and what it leaves out when empty."""

    def without_empty(found: dict[str, Any]) -> dict[str, Any]:
        return {
            k: v for k, v in found.items() if v or k not in ("latency", "reported_by", *FIGURES)
        }

    data = json.loads(text, object_hook=without_empty)
    if "layers" in data:
        data["layers"].sort(key=lambda layer: layer["name"])
    return {key: value for key, value in data.items() if key not in FIGURES}


FIGURES = ("obtained", "unit", "median", "p90", "p99", "spread")
"""Of a measurement: they may be missing, for they follow from the samples."""


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_refused_or_read_as_it_stands(name: str) -> None:
    """Whatever is read can be shown, and is written as it was found."""
    data = json.loads(text_of(name))
    if name.startswith("report"):
        data["findings"] = data["findings"][1:3]
    refused, shown = 0, set()
    for text in damages(data):
        try:
            found = READERS[name](text)
        except FormatError as error:
            refused += 1
            shown.add("\n" in str(error))
            continue
        shown.add(str(found) == "")
        assert meaning(found.to_json()) == meaning(text)
    assert refused > 100
    assert shown == {False}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.sampled_from(sorted(READERS)), JSON)
def test_any_json_is_refused_in_one_sentence(name: str, data: Any) -> None:
    with pytest.raises(FormatError):
        READERS[name](json.dumps(data))


@pytest.mark.parametrize("name", ["report", "plan", "baseline", "measurement"])
@pytest.mark.parametrize(
    "text", ["", "\0", "{", "NaN", "9" * 5000, "[" * 100_000, '{"a":' * 100_000, "\ud800", b"\xff"]
)
def test_text_that_is_not_such_a_file(name: str, text: str) -> None:
    with pytest.raises(FormatError, match=f"not a {name}"):
        READERS[name](text)


@pytest.mark.parametrize(
    ("read", "name", "said"),
    [
        (Plan.from_json, "report", "not a plan: it is a report"),
        (Report.from_json, "plan", "not a report: it is a plan"),
        (Plan.from_json, "baseline", "not a plan: it is a baseline"),
        (Baseline.from_json, "measurement", "not a baseline: it is a measurement"),
        (Measurement.from_json, "report", "not a measurement: it is a report"),
    ],
)
def test_a_file_of_another_kind_is_called_by_it(
    read: Callable[[str], Any], name: str, said: str
) -> None:
    with pytest.raises(FormatError) as error:
        read(text_of(name))
    assert str(error.value) == said


def test_the_json_of_a_run_is_neither_a_report_nor_a_baseline() -> None:
    run = json.dumps({"schema_version": 1, "models": [], "measured": []})
    for read in (Report.from_json, Baseline.from_json):
        with pytest.raises(FormatError, match="it is the JSON of a whole run"):
            read(run)


@pytest.mark.parametrize("version", [True, 1.0, "1", None, -1, 2, 10**400])
def test_a_schema_version_is_the_whole_number_that_is_known(version: Any) -> None:
    data = json.loads(text_of("plan")) | {"schema_version": version}
    with pytest.raises(
        FormatError, match=r"schema_version: .* is not a whole|schema version .* can"
    ):
        Plan.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("way", "value", "place"),
    [
        (("findings", 3, "params"), "five", r"findings\[3\]\.params: 'five' is not a whole number"),
        (("findings", 0, "params"), -3, r"findings\[0\]\.params: -3 is not a whole number from 0"),
        (("findings", 0, "params"), 10**400, "params: a number of over 40 digits is too large"),
        (
            ("findings", 0, "separable_params"),
            0,
            "separable_params: 0 is not a whole number from 1",
        ),
        (("findings", 0, "macs_share"), math.inf, "macs_share: inf is not a finite number from 0"),
        (("findings", 0, "spec"), None, r"findings\[0\]\.spec: None is not an object"),
        (("findings", 0, "spec", "traits"), ["odd"], r"spec\.traits\[0\]: 'odd' is not 'subclass'"),
        (("findings", 0, "spec", "stride"), [1], r"spec\.stride: \(1,\) has not 2 sides"),
        (("findings", 0, "spec", "input_shape"), [1], r"input_shape: \(1,\) is not the shape of 2"),
        (("input_shapes",), "abc", "input_shapes: 'abc' is not a list"),
        (("input_shapes", 0, 1), 1.0, r"input_shapes\[0\]\[1\]: 1\.0 is not a whole number"),
        (("not_counted",), [["x"]], r"not_counted\[0\]: \['x'\] is not a list of 2"),
        (("memory",), {}, "memory: it lacks inputs, activations, params"),
    ],
)
def test_what_is_wrong_with_a_report_is_named(way: Any, value: Any, place: str) -> None:
    data = json.loads(text_of("report"))
    inside = data
    for key in way[:-1]:
        inside = inside[key]
    inside[way[-1]] = value
    with pytest.raises(FormatError, match=f"^not a report: .*{place}"):
        Report.from_dict(data)


def test_figures_of_a_measurement_follow_from_its_samples() -> None:
    data = json.loads(text_of("measurement"))
    with pytest.raises(FormatError, match=r"median: 0\.1 does not follow from the samples"):
        Measurement.from_dict(data | {"median": 0.1})


@dataclass(frozen=True)
class Small:
    sides: tuple[Positive, ...]
    later: str = field(default="", metadata=OMITTED)


@dataclass(frozen=True)
class Other:
    weight: float


@pytest.mark.parametrize("value", [Small((1, 2)), Small((), "new"), Other(0.5)])
def test_a_union_is_read_as_the_member_whose_keys_these_are(value: object) -> None:
    assert from_plain(Small | Other, to_plain(value), "thing") == value


def test_a_field_that_came_later_is_left_out_while_it_has_its_default() -> None:
    document = Document("thing", 1, "make it again")
    assert document.to_dict(Small((3,))) == {"schema_version": 1, "sides": [3]}
    assert document.to_dict(Small((3,), "x")) == {"schema_version": 1, "sides": [3], "later": "x"}
