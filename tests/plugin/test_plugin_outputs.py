"""Each form of a report as pytest writes it: where it goes, and what the terminal makes of it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from inner_runs import is_one_sentence

NETS = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(4, 16, 3, bias=False), nn.Conv2d(16, 32, 3, bias=False))
"""
TESTS = """
from nets import small

def test_small(dws_report):
    dws_report(small(), (1, 4, 12, 12))
"""
PARAMS = 4 * 16 * 9 + 16 * 32 * 9


def test_a_form_whose_package_is_not_installed_ends_the_run_before_any_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)  # fails its import
    monkeypatch.delitem(sys.modules, "pytest_dwsconv.render.forms.html", raising=False)
    result = pytester.runpytest_inprocess("--dws-report=html:page.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: dws-report 'html:page.html': *needs the package jinja2: pip install jinja2"]
    )


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    inner.makepyfile(nets=NETS, test_it=TESTS)


@pytest.mark.parametrize(
    ("form", "holds"),
    [
        ("markdown", "### Sequential"),
        (
            "github",
            "::notice file=test_it.py,line=3,title=dwsconv%3A Sequential::Sequential: 5,184 params",
        ),
        ("sarif", '"uri": "test_it.py"'),
        ("html", "<h2>Sequential</h2>"),
        ("json", '"tests": ['),
    ],
)
def test_every_form_goes_to_a_file(pytester: pytest.Pytester, form: str, holds: str) -> None:
    result = pytester.runpytest(f"--dws-report={form}:out.txt")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*- dwsconv {form} report: *out.txt -*"])
    assert holds in (pytester.path / "out.txt").read_text(encoding="utf-8")


def test_annotations_are_lines_of_their_own_in_the_log(pytester: pytest.Pytester) -> None:
    pytester.runpytest("--dws-report=github").stdout.re_match_lines(
        [r"^::notice file=test_it\.py,line=3,title=dwsconv%3A"]
    )


def test_a_page_needs_a_file(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--dws-report=html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: dws-report 'html' goes to a file: write html:PATH"])


@pytest.mark.parametrize("name", ["x" * 300, f"{'x' * 300}/out.json"])
def test_a_name_that_is_too_long_is_one_sentence(pytester: pytest.Pytester, name: str) -> None:
    is_one_sentence(
        pytester.runpytest(f"--dws-report=json:{name}"),
        "dws-report *...* cannot be written: File name too long; name another file",
    )


def test_a_report_asked_for_twice_is_given_once(pytester: pytest.Pytester) -> None:
    twice = ["--dws-report", "--dws-report=text", *["--dws-report=json:o.json"] * 2]
    shown = pytester.runpytest(*twice).stdout.str()
    assert shown.count("Reported by test_it.py::test_small") == 1
    assert shown.count("dwsconv json report") == 1


@pytest.mark.parametrize("arguments", ["--co", "--co -q", "--collect-only --dws-update=force"])
def test_collecting_tests_reports_nothing(pytester: pytest.Pytester, arguments: str) -> None:
    result = pytester.runpytest(
        "--dws-report", "--dws-report=json:o.json", "--dws-model=nets:small", *arguments.split()
    )
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*dwsconv: *")
    assert not (pytester.path / "o.json").exists()
    assert not (pytester.path / ".dwsconv").exists()


def test_a_full_disk_loses_neither_the_old_report_nor_what_tests_found(
    pytester: pytest.Pytester,
) -> None:
    (pytester.path / "out.json").write_text("old")
    pytester.makeconftest(
        """
        import os
        def full(*paths): raise OSError(28, "No space left on device")
        os.replace = full
        """
    )
    pytester.makepyfile(test_it=f"{TESTS}\ndef test_fails(): assert 'what tests found' == ''")
    result = pytester.runpytest_subprocess("--dws-report=json:out.json", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: assert 'what tests found' == ''",
            "*= dwsconv: not written =*",
            "dws-report: *out.json cannot be written: No space left on device",
        ]
    )
    result.stdout.no_fnmatch_line("*dwsconv json report*")
    assert (pytester.path / "out.json").read_text() == "old"
    assert not list(pytester.path.glob(".out.json*"))


def test_the_summary_of_a_job_keeps_what_it_has(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = pytester.path / "summary.md"
    summary.write_text("# The job\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    for _ in range(2):
        pytester.runpytest(f"--dws-report=markdown:{summary}").assert_outcomes(passed=1)
    written = summary.read_text(encoding="utf-8")
    assert written.startswith("# The job\n")
    assert written.count("### Sequential") == 2


def test_colour_is_for_a_terminal_that_has_it(pytester: pytest.Pytester) -> None:
    assert (
        "\x1b[32mcandidate\x1b[0m" in pytester.runpytest("--dws-report", "--color=yes").stdout.str()
    )
    assert "\x1b" not in pytester.runpytest("--dws-report", "--color=no").stdout.str()
    pytester.runpytest("--color=yes", "--dws-report=text:out.txt")
    assert "\x1b" not in (pytester.path / "out.txt").read_text()


def in_a_terminal(command: list[str], folder: Path) -> str:
    """What the command writes to a pseudo-terminal."""
    reading, writing = pty.openpty()
    written = b""
    with subprocess.Popen(command, cwd=folder, stdout=writing, stderr=writing):
        os.close(writing)
        try:
            while part := os.read(reading, 4096):
                written += part
        except OSError:
            pass  # reason: so Linux says that the other end was closed
    os.close(reading)
    return written.decode()


def test_a_terminal_has_a_width_and_a_log_has_none(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    pytester.runpytest("--dws-report").stdout.fnmatch_lines(["*5,184*"])
    pytester.runpytest("--dws-report").stdout.no_fnmatch_line("Left out*")
    shown = in_a_terminal(
        [sys.executable, "-m", "pytest", "--dws-report", "--color=no"], pytester.path
    )
    assert "Left out for want of width: type" in shown
    layers = [line.rstrip() for line in shown.splitlines() if line.startswith(("0  ", "1  "))]
    assert [line.split()[-1] for line in layers] == ["2.77x", "7.02x"]
    assert all(len(line) <= 60 for line in layers)


class TestJUnit:
    def cases(self, path: Path) -> dict[str, dict[str, str]]:
        cases = ElementTree.parse(path).getroot().iter("testcase")
        return {case.attrib["name"]: self.properties(case) for case in cases}

    def properties(self, element: Any) -> dict[str, str]:
        return {found.attrib["name"]: found.attrib["value"] for found in element.iter("property")}

    @pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
    def test_a_case_has_what_it_reported(
        self, pytester: pytest.Pytester, workers: list[str]
    ) -> None:
        pytester.makepyfile(
            test_it=TESTS
            + """
def test_plain(): pass

def test_two(dws_report, record_property):
    record_property("own", "kept")
    dws_report(small())
    dws_report(small(), (1, 4, 16, 16))
"""
        )
        pytester.runpytest("--junitxml=out.xml", "-ojunit_family=xunit1", *workers).assert_outcomes(
            passed=3
        )
        cases = self.cases(pytester.path / "out.xml")
        assert cases["test_plain"] == {}
        assert cases["test_small"]["dwsconv.Sequential.params"] == str(PARAMS)
        assert cases["test_small"]["dwsconv.Sequential.input"] == "1,4,12,12"
        assert cases["test_two"]["own"] == "kept"
        assert "dwsconv.Sequential.macs" not in cases["test_two"]
        assert cases["test_two"]["dwsconv.Sequential-2.input"] == "1,4,16,16"

    @pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
    def test_a_case_has_what_it_called(self, pytester: pytest.Pytester, workers: list[str]) -> None:
        pytester.makepyfile(
            test_it="""
            import torch
            from nets import small
            def test_calls(dws_report):
                model = small()
                for side in (12, 16):
                    model(torch.zeros(1, 4, side, side))
                dws_report(model, (1, 4, 16, 16))
            """
        )
        arguments = ["--junitxml=out.xml", "-ojunit_family=xunit1", "--dws-report", *workers]
        pytester.runpytest(*arguments).assert_outcomes(passed=1)
        (case,) = self.cases(pytester.path / "out.xml").values()
        inputs = [value for name, value in case.items() if name.endswith(".input")]
        assert sorted(inputs) == ["1,4,12,12", "1,4,16,16"]

    def test_without_a_file_no_property_is_made(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(
            "def pytest_runtest_logreport(report): assert not [n for n, _ in "
            "report.user_properties if 'dws' in n]"
        )
        pytester.runpytest("--dws-report").assert_outcomes(passed=1)


class TestBudget:
    TESTS = """
import pytest
from nets import small
from pytest_dwsconv import analyze

REPORT = analyze(small(), (1, 4, 20, 20))

def test_within(dws_budget):
    dws_budget(small(), (1, 4, 12, 12), params="10k")

def test_over(dws_budget):
    dws_budget(small(), (1, 4, 12, 12), params="1k", macs="1G")

def test_made_elsewhere(dws_budget):
    dws_budget(REPORT, candidates=1)

@pytest.mark.dws_budget(params="1M")
def test_marked(dws_report):
    dws_report(small(), (1, 4, 16, 16))
"""

    @pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
    def test_every_limit_is_reported_with_its_model(
        self, pytester: pytest.Pytester, workers: list[str]
    ) -> None:
        pytester.makepyfile(test_it=self.TESTS)
        result = pytester.runpytest(
            "--dws-report=json:out.json", "--dws-report=html:out.html", *workers
        )
        result.assert_outcomes(passed=2, failed=2)
        models = json.loads((pytester.path / "out.json").read_text())["models"]
        found = {
            model["report"]["input_shapes"][0][-1]: sorted(
                (limit["name"], limit["limit"], bool(limit["violation"]))
                for limit in model["budget"]
            )
            for model in models
        }
        assert found == {
            12: [("macs", 10**9, False), ("params", 1000, True), ("params", 10_000, False)],
            16: [("params", 10**6, False)],
            20: [("candidates", 1, True)],
        }
        page = (pytester.path / "out.html").read_text()
        assert page.count('<li class="over">') == 2
        assert page.count('<li class="within">') == 3


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["-n2", "-p no:xdist"])
def test_models_and_budgets_of_numpys_numbers(inner: pytest.Pytester, workers: str) -> None:
    inner.makepyfile(
        test_numpy="""
        import numpy as np, pytest, torch
        from torch import nn

        ONE, TWO, FOUR = np.array([1, 2, 4])
        LAYERS = [
            nn.Conv2d(FOUR, TWO, TWO, stride=TWO, padding=ONE, dilation=ONE, groups=ONE),
            nn.ConvTranspose2d(FOUR, TWO, (TWO, TWO), stride=TWO, groups=TWO),
        ]

        @pytest.mark.parametrize("layer", LAYERS)
        def test_it(dws_budget, layer):
            layer(torch.zeros(1, 4, 8, 8))
            dws_budget(layer, (1, 4, 8, 8), params=np.float64(5e6), macs=np.int64(10**9))

        def test_function(dws_report):
            class Own(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.weight = nn.Parameter(torch.zeros(4, 4, 3, 3))
                def forward(self, x):
                    return nn.functional.conv2d(x, self.weight, stride=TWO, groups=ONE)
            assert dws_report(Own(), (1, 4, 8, 8)).macs == 9 * 4 * 4 * 9
        """
    )
    result = inner.runpytest_subprocess(
        *workers.split(), "--dws-report=json:out.json", "--dws-update=force", "test_numpy.py"
    )
    result.assert_outcomes(passed=3)
    rows = json.loads((inner.path / "out.json").read_text())["models"]
    assert {row["report"]["params"] for row in rows} == {4 * 2 * 4 + 2, 4 * 4 + 2, 4 * 4 * 9}


def test_quiet_is_one_line_per_model(inner: pytest.Pytester) -> None:
    inner.makepyfile(
        test_it="""
        import torch
        from torch import nn
        def test_it():
            for side in (8, 9):
                nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, side, side))
            nn.Linear(2, 2)(torch.zeros(1, 2))
        """
    )
    result = inner.runpytest("-q", "--dws-report")
    result.stdout.fnmatch_lines(
        [
            "Conv2d: 112 params, 52 with 1 candidate separable (2.15x), 5,292 MACs for input "
            "1 x 3 x 9 x 9 and 1 other input, in test_it.py::test_it",
            "1 model has no convolutions: Linear",
        ],
        consecutive=True,
    )
