"""The examples for pull requests: their YAML is read, their shell is run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "pull_requests"
needs_shell = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("git") is None, reason="needs a shell and git"
)


def read(name: str) -> dict[Any, Any]:
    yaml = pytest.importorskip("yaml")  # which libcst brings
    data: dict[Any, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return data


def run(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )


def test_the_workflow_may_comment_and_uses_the_action_with_inputs_it_has() -> None:
    workflow, action = read("workflow.yml"), read("action.yml")
    assert workflow[True] == "pull_request"  # YAML reads the key "on" as true
    assert workflow["permissions"]["pull-requests"] == "write"
    step = workflow["jobs"]["costs"]["steps"][-1]
    assert step["uses"] == "./.github/actions/dwsconv"
    assert set(step["with"]) <= set(action["inputs"])


def test_the_action_is_composite_and_each_variable_of_a_step_is_set() -> None:
    action = read("action.yml")
    assert action["runs"]["using"] == "composite"
    known = {"GITHUB_ACTION_PATH", "GITHUB_STEP_SUMMARY", "RUNNER_TEMP"}
    for step in action["runs"]["steps"]:
        used = set(re.findall(r"\$\{?([A-Z_]+)", step["run"]))
        assert used <= known | step["env"].keys()
        assert step["shell"] == "bash"
        # what others choose, such as the name of a branch, reaches the shell in variables only
        assert "${{" not in step["run"]


def test_the_job_of_gitlab_keeps_its_issues_when_it_fails() -> None:
    job = read("gitlab-ci.yml")["model costs"]
    assert job["artifacts"]["when"] == "always"
    issues = job["artifacts"]["reports"]["codequality"]
    assert f"--dws-report=gitlab:{issues}" in job["script"][-1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of a repository, whose branch "main" has a baseline."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    origin = tmp_path / "origin"
    (origin / ".dwsconv").mkdir(parents=True)
    (origin / ".dwsconv" / "baseline.json").write_text('{"schema_version": 1, "models": {"a": {}}}')
    run([*git, "init", "-q", "-b", "main"], origin)
    run([*git, "add", "."], origin)
    run([*git, "commit", "-q", "-m", "first"], origin)
    run([*git, "clone", "-q", str(origin), str(tmp_path / "clone")], tmp_path)
    return tmp_path / "clone"


@needs_shell
@pytest.mark.parametrize(
    ("baseline", "written"),
    [("", '"models": {"a": {}}'), ("other.json", '"models": {}')],
    ids=["there", "none"],
)
def test_the_baseline_of_a_branch_is_written_to_a_file(
    clone: Path, baseline: str, written: str
) -> None:
    run(["sh", str(FOLDER / "base.sh"), "main", "base.json"], clone, DWSCONV_BASELINE=baseline)
    assert written in (clone / "base.json").read_text()


GH = """#!/bin/sh
echo "$*" >> calls
case "$*" in *--jq*) cat earlier; exit ;; esac
for argument; do case $argument in body=@*) cat "${argument#body=@}" > sent ;; esac; done
"""


@needs_shell
@pytest.mark.parametrize(
    ("earlier", "call"),
    [
        ("", "api --silent --method POST --field body=@* repos/a/b/issues/7/comments"),
        ("12\n13\n", "api --silent --method PATCH --field body=@* repos/a/b/issues/comments/12"),
    ],
)
def test_a_comment_takes_the_place_of_an_earlier_one(
    tmp_path: Path, earlier: str, call: str
) -> None:
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    (tmp_path / "earlier").write_text(earlier)
    (tmp_path / "comment.md").write_text("| Small | 612 |\n")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    script = ["sh", str(FOLDER / "comment.sh"), "comment.md"]
    run(script, tmp_path, PATH=path, GITHUB_REPOSITORY="a/b", PULL_REQUEST="7")
    said = re.sub(r"body=@\S+", "body=@*", (tmp_path / "calls").read_text().splitlines()[-1])
    assert said == call
    assert (tmp_path / "sent").read_text() == "<!-- pytest-dwsconv -->\n| Small | 612 |\n"
