"""What works where PyTorch, NumPy and SciPy are not installed, and what the rest says there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from render_samples import SMALL
from torch import nn

import pytest_dwsconv
from pytest_dwsconv import rewrite
from pytest_dwsconv.errors import MissingDependencyError, require, require_torch

SENTENCE = (
    "analysing or rewriting a PyTorch model needs the package torch: "
    "pip install 'pytest-dwsconv[torch]'"
)
START = """
import runpy, sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
absent = {"torch", "numpy", "scipy"}
PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.partition(".")[0] in absent else find(name, *rest)
)
"""
NETWORK = "import torch\nlayer = torch.nn.Conv2d(8, 16, 3)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project of one source file, and a stored report."""
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "run.json").write_text(SMALL.to_json())
    return tmp_path


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START + code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def module(name: str, arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``python -m name arguments``."""
    code = f"sys.argv[1:] = {arguments.split()}\nrunpy.run_module({name!r}, run_name='__main__')"
    return run(code, folder)


def pytest_run(test: str, arguments: str, folder: Path) -> tuple[int, str]:
    """The exit status and the output of a run of one test file."""
    (folder / "test_it.py").write_text(f"import pytest\n{test}\n")
    done = module("pytest", f"-q -p no:hypothesispytest {arguments}", folder)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "from pytest_dwsconv import analyze",
        "from pytest_dwsconv import rewrite",
        "from pytest_dwsconv import distill",
        "from pytest_dwsconv import SeparableConv2d",
        "import pytest_dwsconv.tracing.trace",
        "from pytest_dwsconv.edgetpu import export_int8",
        "from pytest_dwsconv.targets import load_target; load_target('net:layer')",
    ],
)
def test_a_public_name_that_needs_it_says_so_in_one_sentence(statement: str, folder: Path) -> None:
    done = run(statement, folder)
    assert (
        done.stderr.splitlines()[-1] == f"pytest_dwsconv.errors.MissingDependencyError: {SENTENCE}"
    )


@pytest.mark.parametrize(
    "arguments",
    ["report net.py:layer", "report torchvision:resnet18", "rewrite --check --model layer net.py"],
)
def test_a_command_that_needs_it_says_so_in_one_line(arguments: str, folder: Path) -> None:
    done = module("pytest_dwsconv", arguments, folder)
    assert done.returncode == 2
    assert done.stderr.partition(": ")[2] == f"{SENTENCE}\n"


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        ("rewrite --check net.py", 1, "net.py:2:9: torch.nn.Conv2d(8, 16, 3) -> Depth"),
        ("rewrite net.py", 0, "1 convolution rewritten in 1 file, 0 left alone"),
        ("compare run.json run.json", 0, "Models: 1 unchanged, compared with run.json"),
    ],
)
def test_a_command_that_reads_files_works(
    arguments: str, status: int, line: str, folder: Path
) -> None:
    done = module("pytest_dwsconv", arguments, folder)
    assert (done.returncode, done.stdout.count(line)) == (status, 1), done.stderr


@pytest.mark.parametrize(
    "test",
    [
        "def test_it(dws_report): dws_report(object(), (1, 3, 8, 8))",
        "def test_it(dws_budget): dws_budget(object(), (1, 3, 8, 8), params='5M')",
        "def test_it(dws_agreement): dws_agreement(1, 2, [], min_top1='98%')",
        "@pytest.mark.dws_budget(params='5M')\ndef test_it(): pass",
        "@pytest.mark.dws_agreement(min_top1='98%')\ndef test_it(): pass",
    ],
)
def test_a_test_that_needs_it_fails_with_one_sentence(test: str, folder: Path) -> None:
    status, output = pytest_run(test, "--tb=short", folder)
    assert status == 1, output
    assert SENTENCE in output
    assert "site-packages" not in output
    assert "pytest_dwsconv/" not in output


def test_a_model_named_for_the_report_needs_it(folder: Path) -> None:
    status, output = pytest_run("", "--dws-model=net:layer", folder)
    assert (status, output.strip()) == (4, f"ERROR: {SENTENCE}")


def test_a_run_that_reports_no_model_says_why(folder: Path) -> None:
    status, output = pytest_run("def test_it(): pass", "--dws-report", folder)
    assert status == 0
    assert SENTENCE in output.splitlines()


def test_stored_reports_are_held_to_budgets_and_shown_in_every_form(folder: Path) -> None:
    test = """
from pathlib import Path
from pytest_dwsconv import Report
def test_it(dws_budget):
    report = Report.from_json(Path("run.json").read_text())
    dws_budget(report, params="1G")
"""
    forms = ("text", "html:x.html", "markdown:x.md", "json:x.json", "sarif:x.sarif", "csv:x.csv")
    status, output = pytest_run(test, " ".join(f"--dws-report={form}" for form in forms), folder)
    assert status == 0, output
    assert SENTENCE not in output
    assert SMALL.model in (folder / "x.html").read_text()


def test_each_folder_of_modules_that_import_it_checks_first() -> None:
    package = Path(pytest_dwsconv.__file__).parent
    importing = {
        path.parent
        for path in package.rglob("*.py")
        if re.search(r"^(import|from) torch\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    # reason: the plugin imports that one's modules when a test has imported PyTorch
    importing.remove(package / "plugin" / "noticing")
    checking = {
        path.parent
        for path in package.rglob("__init__.py")
        if "\nrequire_torch()\n" in path.read_text(encoding="utf-8")
    }
    unchecked = {folder for folder in importing if checking.isdisjoint({folder, *folder.parents})}
    assert unchecked == set()


@pytest.mark.parametrize("version", ["2.4.1", "1.13.0+cu117"])
def test_a_pytorch_that_is_too_old_is_named(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    with pytest.raises(MissingDependencyError) as caught:
        require_torch.__wrapped__()
    assert str(caught.value) == (
        "analysing or rewriting a PyTorch model needs the package torch>=2.5, and "
        f"{version} is here: pip install 'pytest-dwsconv[torch]'"
    )


@pytest.mark.parametrize("version", ["2.5.0a0+git1234", "2.14.1", "3.0.0", "unknown"])
def test_any_other_pytorch_is_taken(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    require_torch.__wrapped__()


def test_a_package_is_looked_for_under_the_name_of_its_module() -> None:
    require("a test", "pytest-dwsconv", "test")
    with pytest.raises(MissingDependencyError, match="a test needs the package no-such-package"):
        require("a test", "no-such-package", "test")


@pytest.mark.parametrize("package", ["numpy", "scipy"])
def test_a_budget_beside_a_pytorch_of_ones_own_needs_the_rest_of_the_extra(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if not installed
    sentence = rf"needs the package {package}: pip install 'pytest-dwsconv\[torch\]'"
    with pytest.raises(MissingDependencyError, match=sentence):
        rewrite(nn.Conv2d(8, 16, 3), calibration=[torch.rand(4, 8, 6, 6)], budget="800")
