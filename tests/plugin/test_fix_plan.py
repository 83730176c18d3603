"""--dws-fix-plan: a failing budget leaves the plan of its advice."""

from __future__ import annotations

from pathlib import Path

import pytest
from inner_runs import NETS, is_one_sentence, run

from pytest_dwsconv.core.plan import Plan

OPTION = "--dws-fix-plan=plan.json"
SENTENCE = "Small: plan.json makes body separable, which keeps its budget of params: rewrite(*"


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


def names(file: Path) -> list[str]:
    return [entry.name for entry in Plan.from_json(file.read_text()).entries]


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        ("def test_it(dws_budget): dws_budget(Small(), params='5k')", []),
        ("@pytest.mark.dws_budget(params='5k')\ndef test_it(): return Small()", []),
        ("def test_it(dws_report): dws_report(Small())", ["-o", "dws_budgets=* params=5k"]),
        ("", ["-o", "dws_models=nets:Small 1,4,9,9 params=5k"]),
    ],
)
def test_a_failing_budget_leaves_the_plan_of_its_advice(
    pytester: pytest.Pytester, source: str, arguments: list[str]
) -> None:
    result = run(pytester, source, OPTION, *arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*= dwsconv: fix plan =*", SENTENCE])
    assert names(pytester.path / "plan.json") == ["body"]
    assert [file.name for file in pytester.path.glob("*plan*")] == ["plan.json"]


def test_the_failure_of_the_test_names_the_file(pytester: pytest.Pytester) -> None:
    source = "def test_it(dws_budget): dws_budget(Small(), params='5k')"
    result = run(pytester, source, OPTION)
    result.stdout.fnmatch_lines(
        ["*- dwsconv: fix plan -*", SENTENCE, "*= dwsconv: fix plan =*", SENTENCE],
        consecutive=True,
    )


def test_one_plan_meets_all_budgets_of_a_model(pytester: pytest.Pytester) -> None:
    source = """
def test_params(dws_budget): dws_budget(Small(), (1, 4, 9, 9), params="5k")
def test_candidates(dws_budget): dws_budget(Small(), (2, 4, 12, 12), candidates=0)
"""
    result = run(pytester, source, OPTION)
    result.stdout.fnmatch_lines(["Small: plan.json makes 2 convolutions separable, which keeps *"])
    assert names(pytester.path / "plan.json") == ["body", "stem"]


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_several_models_get_a_file_each(pytester: pytest.Pytester, workers: list[str]) -> None:
    source = """
@pytest.mark.parametrize("width", [32, 64])
def test_it(dws_budget, width): dws_budget(Small(width), params="5k")
def test_hopeless(dws_budget): dws_budget(Plain(), params=1)
"""
    result = run(pytester, source, OPTION, *workers)
    assert {file.name for file in pytester.path.glob("plan*")} == {
        "plan-Small.json",
        "plan-Small-2.json",
    }
    result.stdout.fnmatch_lines_random(
        [
            "Small, 32 channels in body: plan-Small*.json makes body *",
            "Small, 64 channels in body: plan-Small*.json makes body *",
            "Plain: replacements alone do not keep its budget, so there is no plan.",
        ]
    )
    outputs = {
        Plan.from_json(file.read_text()).entries[0].out_channels
        for file in pytester.path.glob("plan*")
    }
    assert outputs == {32, 64}


@pytest.mark.parametrize("arguments", [[], ["-o", "dws_budgets=* params=6k"], ["-k", "other"]])
def test_nothing_is_written_where_no_budget_fails(
    pytester: pytest.Pytester, arguments: list[str]
) -> None:
    source = """
def test_it(dws_budget): dws_budget(Small(), params="6k")
def test_other(): Small()
def test_fails(): assert False
"""
    result = run(pytester, source, OPTION, *arguments)
    result.stdout.no_fnmatch_line("*fix plan*")
    result.stdout.no_fnmatch_line("*= dwsconv*")
    assert not list(pytester.path.glob("plan*"))


def test_a_plan_that_cannot_be_written_is_told(pytester: pytest.Pytester) -> None:
    is_one_sentence(
        run(pytester, "", "--dws-fix-plan=nowhere/plan.json"),
        "dws-fix-plan: nowhere/plan.json cannot be written, name a file in a folder that is there",
    )
    (pytester.path / "plan.json").write_text("old")
    source = """
def test_it(dws_budget):
    import os
    os.chmod("plan.json", 0o444)
    dws_budget(Small(), params="5k")
"""
    result = run(pytester, source, OPTION)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["Small: plan.json cannot be written: *read-only*"])
    assert (pytester.path / "plan.json").read_text() == "old"
