"""The plugin beside others, in real runs of its own process each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inner_runs import written

NETS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x):
        if not self.training:
            return self.conv(x) + 1
        return self.conv(x)

IMAGE = torch.zeros(1, 3, 8, 8)
"""
HEADER = "import os, pytest\nfrom nets import IMAGE, Small\n"
TESTS = """
@pytest.mark.parametrize("width", [4, 5, 6])
@pytest.mark.parametrize("again", [0, 1])
def test_each(width, again): Small(width)(IMAGE)
def test_asks(dws_report): dws_report(Small(7), (1, 3, 8, 8))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nets(project: pytest.Pytester) -> None:
    project.makeini("[pytest]")
    project.makepyfile(nets=NETS, test_them=HEADER + TESTS)


def reported(pytester: pytest.Pytester) -> dict[int, list[str]]:
    """The tests that used each width."""
    return {
        row["report"]["findings"][0]["spec"]["out_channels"]: row["tests"]
        for row in written(pytester)
    }


EXPECTED = {
    width: [f"test_them.py::test_each[{again}-{width}]" for again in (0, 1)] for width in (4, 5, 6)
} | {7: ["test_them.py::test_asks"]}


@pytest.mark.parametrize("mode", ["loadscope", "worksteal", "each"])
def test_ways_to_distribute(pytester: pytest.Pytester, mode: str) -> None:
    workers = ["--tx=2*popen"] if mode == "each" else ["-n2"]
    result = pytester.runpytest_subprocess(
        *workers, f"--dist={mode}", "--dws-report=json:out.json", "--dws-update=force"
    )
    result.assert_outcomes(passed=14 if mode == "each" else 7)
    assert reported(pytester) == EXPECTED
    baseline = json.loads((pytester.path / ".dwsconv" / "baseline.json").read_text())
    assert len(baseline["models"]) == 4


def test_a_worker_that_crashes_takes_only_its_own_test_along(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_them=f"{HEADER}{TESTS}\ndef test_crash():\n    Small(9)(IMAGE)\n    os._exit(1)"
    )
    result = pytester.runpytest_subprocess(
        "-n2", "--dws-report=json:out.json", "-o", "dws_budgets=* params=150"
    )
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(
        ["*= dwsconv: over budget =*", "Small has 168 parameters, the budget is 150 *"]
    )
    assert reported(pytester) == EXPECTED


def test_coverage_counts_what_tests_run_and_nothing_else(pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_cov")
    result = pytester.runpytest_subprocess(
        "--cov=nets", "--cov-report=json", "--dws-report=json:out.json", "-k", "each"
    )
    result.assert_outcomes(passed=6)
    assert set(reported(pytester)) == {4, 5, 6}
    covered: dict[str, Any] = json.loads((pytester.path / "coverage.json").read_text())["files"][
        "nets.py"
    ]
    (missing,) = covered["missing_lines"]
    assert NETS.strip().splitlines()[missing - 1].strip() == "return self.conv(x) + 1"


def test_what_a_fixture_analyses_is_not_covered(pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_cov")
    test = """
def test_asks(dws_report, dws_budget):
    dws_report(Small(1), (1, 3, 8, 8))
    dws_budget(Small(1), (1, 3, 8, 8), params='1M')
"""
    pytester.makepyfile(test_asks=f"{HEADER}{test}")
    pytester.runpytest_subprocess(
        "--cov=nets", "--cov-report=json", "test_asks.py"
    ).assert_outcomes(passed=1)
    covered: dict[str, Any] = json.loads((pytester.path / "coverage.json").read_text())["files"][
        "nets.py"
    ]
    source = (pytester.path / "nets.py").read_text().splitlines()
    missing = [source[line - 1].strip() for line in covered["missing_lines"]]
    assert missing == ["if not self.training:", "return self.conv(x) + 1", "return self.conv(x)"]


def test_a_conftest_may_load_the_plugin_and_implement_its_hooks(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "")
    pytester.makeconftest(
        """
        from pytest_dwsconv.core.rules import Judgement, Verdict
        pytest_plugins = ["pytest_dwsconv.plugin"]
        def pytest_dwsconv_judge(finding): return Judgement(Verdict.INELIGIBLE, "ACME1", "stays")
        """
    )
    result = pytester.runpytest_subprocess("--dws-report", "test_them.py::test_asks")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["ACME1 (ineligible, 1): stays"])
    result = pytester.runpytest_subprocess("test_them.py", "-k", "asks", "--dws-report=xml")
    result.stderr.fnmatch_lines(["ERROR: dws-report 'xml' is not *"])


@pytest.mark.skipif(
    int(pytest.__version__.split(".")[0]) < 9, reason="[tool.pytest] is read from pytest 9 on"
)
def test_native_configuration(pytester: pytest.Pytester) -> None:
    (pytester.path / "tox.ini").unlink()
    pytester.makepyprojecttoml(
        """
        [tool.pytest]
        dws_report = ["text", "json:out.json"]
        dws_models = ["nets:Small(width=3) 1,3,8,8 params=1k"]
        dws_budgets = ["* params=200", "Small params=190"]
        dws_strict = true
        """
    )
    result = pytester.runpytest_subprocess("-k", "asks")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["Small has 196 parameters, the budget is 190 (6 over). *"])
    assert set(reported(pytester)) == {3, 7}


def test_the_example_of_the_documentation(pytester: pytest.Pytester) -> None:
    folder = Path(__file__).parents[2] / "examples" / "hooks"
    for name in ("conftest.py", "test_model.py"):
        (pytester.path / name).write_text((folder / name).read_text())
    result = pytester.runpytest_subprocess(
        "--dws-report", "--dws-strict", "test_model.py", "-W", "error"
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "ACME1 (ineligible, 1): the stem reads the camera's image, keep it",
            "*= models by parameters =*",
            " *Net*1,868*test_model.py::test_forward, test_model.py::test_is_quick_enough",
        ]
    )
    pytester.runpytest_subprocess("-p", "no:dwsconv", "test_model.py").assert_outcomes(passed=2)
