from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from render_samples import SMALL

from pytest_dwsconv.command.compare import main
from pytest_dwsconv.core.suite.baseline import Baseline
from pytest_dwsconv.core.suite.costs import Entry
from pytest_dwsconv.render import Reporters, render_run
from pytest_dwsconv.report import Report

Output = pytest.CaptureFixture[str]
PARAMS = SMALL.params
GROWN = replace(
    SMALL,
    params=PARAMS + PARAMS // 10,
    findings=(replace(SMALL.findings[0], params=1), *SMALL.findings[1:]),
)


def run_of(report: Report) -> str:
    return render_run("json", {report: Reporters(tests={"test_it.py::test"})})


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two JSON reports, a report by itself, and two baselines."""
    monkeypatch.chdir(tmp_path)
    entry = Entry(PARAMS, SMALL.macs, input="1 x 3 x 224 x 224", reported_by="test_it.py::test")
    written = {
        "old.json": run_of(SMALL),
        "new.json": run_of(GROWN),
        "single.json": SMALL.to_json(),
        "baseline.json": Baseline({"Small": entry}).to_json(),
        "grown.json": Baseline({"Small": replace(entry, params=GROWN.params)}).to_json(),
        "plan.json": '{"schema_version": 1, "layers": []}',
        "text.json": "no JSON",
        "list.json": '{"models": [7]}',
    }
    for name, text in written.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("old", ["old.json", "single.json", "baseline.json"])
@pytest.mark.parametrize("new", ["new.json", "grown.json"])
def test_baselines_and_reports_are_compared_in_any_mix(capsys: Output, old: str, new: str) -> None:
    assert main([old, new]) == 0
    table = capsys.readouterr().out
    assert table.startswith(f"Models: 1 changed, compared with {old}\n")
    assert f"{PARAMS:,}" in table
    assert f"{GROWN.params:,}" in table


@pytest.mark.parametrize(
    ("new", "percent", "status"),
    [
        ("new.json", "0", 1),
        ("new.json", "9.99", 1),
        ("new.json", "10%", 0),
        ("old.json", "0", 0),
    ],
)
def test_growth_beyond_the_percentage_is_exit_status_1(new: str, percent: str, status: int) -> None:
    assert main(["old.json", new, "--fail-on-increase", percent]) == status


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        ("text", "Models: "),
        ("markdown", "## Model costs before and after"),
        ("json", "{"),
        ("github", "::error file=test_it.py,title=Small has grown::"),
        ("gitlab", "["),
    ],
)
def test_every_form_has_the_layers_that_changed(capsys: Output, form: str, begins: str) -> None:
    arguments = ["old.json", "new.json", "--format", form, "--layers", "--fail-on-increase=0"]
    assert main(arguments) == 1
    shown = capsys.readouterr().out
    assert shown.startswith(begins)
    if form in ("text", "markdown", "json"):
        assert "stem" in shown
        assert "body.conv1" not in shown


def test_issues_of_gitlab_have_what_code_quality_asks_for(capsys: Output) -> None:
    main(["old.json", "new.json", "--format=gitlab", "--fail-on-increase=0"])
    first = json.loads(capsys.readouterr().out)
    main(["old.json", "grown.json", "--format=gitlab"])
    second = json.loads(capsys.readouterr().out)
    for issue in (*first, *second):
        assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["location"] == {"path": "test_it.py", "lines": {"begin": 1}}
    assert [(issue["check_name"], issue["severity"]) for issue in first] == [
        ("dwsconv-increase", "major")
    ]
    assert [issue["check_name"] for issue in second] == ["dwsconv-change"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.json", "new.json"], "none.json cannot be compared: No such file or directory"),
        (["old.json", "text.json"], "text.json cannot be compared: not a baseline in JSON"),
        (["plan.json", "new.json"], "plan.json cannot be compared: not a baseline: it is a plan"),
        (["list.json", "new.json"], "list.json cannot be compared: not the JSON of a run: 7 has"),
        (["old.json", "new.json", "--fail-on-increase=-1"], "--fail-on-increase '-1' is not a"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    capsys: Output, arguments: list[str], sentence: str
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(f"python -m pytest_dwsconv compare: {sentence}")


def test_layers_are_asked_for_in_vain_of_a_baseline(capsys: Output) -> None:
    assert main(["baseline.json", "new.json", "--layers"]) == 0
    assert "layers are compared between two JSON reports" in capsys.readouterr().err


def test_it_needs_no_torch(files: Path) -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'libcst', 'numpy'))\n"
        "from pytest_dwsconv.command.compare import main\n"
        "sys.exit(main(['old.json', 'new.json', '--fail-on-increase=0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
