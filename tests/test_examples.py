"""Examples do what they are there for; the commands of those in tutorials run in test_pages.py."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDER = EXAMPLES / "pull_requests"
needs_shell = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("git") is None, reason="needs a shell and git"
)


def read(name: str, folder: Path = FOLDER) -> dict[Any, Any]:
    yaml = pytest.importorskip("yaml")  # which libcst brings
    data: dict[Any, Any] = yaml.safe_load((folder / name).read_text(encoding="utf-8"))
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


@pytest.mark.parametrize("name", ["workflow.yml", "gitlab-ci.yml"])
def test_a_job_that_runs_the_tests_installs_what_models_need(name: str) -> None:
    (line,) = re.findall(r"pip install .*", (FOLDER / name).read_text(encoding="utf-8"))
    assert '"pytest-dwsconv[torch]"' in line


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


def test_the_project_uses_the_action_with_inputs_it_has() -> None:
    workflow = read(".github/workflows/models.yml", EXAMPLES / "project")
    step = workflow["jobs"]["budgets"]["steps"][-1]
    assert step["uses"] == "./.github/actions/dwsconv"
    assert set(step["with"]) <= set(read("action.yml")["inputs"])


def test_the_hook_for_pre_commit_stops_a_commit_with_candidates() -> None:
    (repository,) = read(".pre-commit-config.yaml", EXAMPLES / "project")["repos"]
    (hook,) = repository["hooks"]
    script, *options = shlex.split(hook["entry"])
    assert script == "dwsconv-rewrite"
    command = [sys.executable, "-m", "pytest_dwsconv", "rewrite", *options]
    done = subprocess.run(
        [*command, "edge_models/camera.py"],
        cwd=EXAMPLES / "project",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "2 convolutions would be rewritten in 1 file, 1 left alone" in done.stdout


def test_the_notebook_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    pytest.importorskip("matplotlib")
    cells = json.loads((EXAMPLES / "analysis.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    exec("\n".join(code), {})
    assert "3 of 3 convolutions replaced" in capsys.readouterr().out


@pytest.mark.pages
def test_distillation_on_two_processes(tmp_path: Path) -> None:
    script = str(EXAMPLES / "distributed" / "distil.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", script]
    done = run(torchrun, tmp_path, OMP_NUM_THREADS="1")
    assert done.stdout.startswith("2 processes, the best weights are those of step ")
    assert (tmp_path / "student.pt").exists()
