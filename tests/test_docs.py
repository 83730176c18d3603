"""What the documentation says of this repository is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dwsconv import __all__
from pytest_dwsconv.core.latency.comparison import RUNTIMES
from pytest_dwsconv.core.latency.evidence import EDGETPU

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:pytest_dwsconv|tests|docs|benchmarks|examples)/[\w./-]+)`", text)
    placeholder = "pytest_dwsconv/render/forms/NAME.py"
    assert [path for path in named if path != placeholder and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", ["latency", "pytest", "targets"])
def test_a_page_on_latency_names_each_target(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert [target for target in (*RUNTIMES, EDGETPU) if target not in page] == []


def test_every_folder_of_the_package_is_on_the_map() -> None:
    folders = {path.parent.name for path in (ROOT / "pytest_dwsconv").glob("*/__init__.py")}
    assert set(re.findall(r"^`pytest_dwsconv/(\w+)/`\n: ", ARCHITECTURE, re.MULTILINE)) == folders


def test_the_workflow_runs_each_part_of_the_script() -> None:
    yaml = pytest.importorskip("yaml")  # which libcst brings
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (parts,) = re.findall(r"^  parts=\((.*)\)$", script, re.MULTILINE)
    assert workflow["jobs"]["checks"]["strategy"]["matrix"]["part"] == parts.split()


def test_each_benchmark_makes_a_table_of_a_page() -> None:
    listed = (ROOT / "benchmarks" / "tables.py").read_text(encoding="utf-8")
    tables = re.findall(r'Table\(\s*f?"([\w/.-]+)",\s*f?"(\w+\.py)', listed)
    assert [page for page, _ in tables if not (ROOT / "docs" / page).exists()] == []
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    assert {script for _, script in tables} == scripts - {"tables.py", "factored.py", "packaged.py"}


def test_every_environment_of_tox_is_in_the_guide() -> None:
    sections = re.findall(r"^\[testenv:(\w+)\]$", (ROOT / "tox.ini").read_text(), re.MULTILINE)
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [name for name in sections if f"`{name}`" not in guide] == []


def test_every_extra_is_on_the_page_for_installing() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = pyproject.partition("optional-dependencies]\n")[2].partition("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", table, re.MULTILINE)
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert "torch" in extras
    assert [name for name in extras if f"`{name}`" not in page] == []


def test_the_recipe_for_an_operators_formula(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"```python\n(.*?)```", ARCHITECTURE, re.DOTALL)
    uses = """
from pytest_dwsconv import Origin, analyze
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(8, 4))
    def forward(self, x):
        return mix(x, self.weight)
report = analyze(Net(), (5, 8))
assert (report.macs, report.not_counted, report.origin) == (5 * 8 * 4, (), Origin.META), report
"""
    script = tmp_path / "recipe.py"
    script.write_text(recipe + uses)
    subprocess.run([sys.executable, script], check=True)


def test_each_public_name_is_on_the_page_of_the_library_once() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    described = re.findall(r"^\.\. auto\w+:: (\S+)$", page, re.MULTILINE)
    assert [name for name in set(described) if described.count(name) > 1] == []
    missing = [name for name in __all__ if f"pytest_dwsconv.{name}" not in described]
    assert missing == []


@pytest.mark.parametrize(
    "path",
    [*PAGES, *sorted((ROOT / "examples").rglob("*.py"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_code_that_is_shown_imports_what_is_promised_to_stay(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    modules = set(re.findall(r"^from (pytest_dwsconv[\w.]*) import", text, re.MULTILINE))
    rooms = {f"pytest_dwsconv.{room}" for room in ("edgetpu", "latency", "render")}
    schema = "pytest_dwsconv.render.forms.json"
    assert modules <= {"pytest_dwsconv", *rooms, schema}
