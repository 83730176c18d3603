"""Pages show what runs: code is that of an example's file, commands print what stands below them.

A page that has commands to run names the folder of its example, as ``<!-- runs in: examples/NAME
-->``. They run in a copy of that folder, one after the other. In what they print to standard
output, ``...`` stands for any lines. Percentages and numbers with a decimal point may differ,
because sums round differently from machine to machine. ``<!-- needs: MODULE ... -->`` names what
has to be installed besides.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETUP = ("git ", "pip ", "python3 -m venv", "source ", "ssh ", "sudo ")  # for the reader's machine
FOLDER = re.compile(r"^<!-- runs in: (\S+) -->$", re.MULTILINE)
NEEDS = re.compile(r"^<!-- needs: (.+) -->$", re.MULTILINE)


def commands_of(text: str) -> list[tuple[str, str]]:
    """Each command of a page's console blocks, and what is shown below it."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            found.append((command, shown))
    return [(command, shown) for command, shown in found if not command.startswith(SETUP)]


def pattern_of(shown: str) -> str:
    """The regular expression of what a page shows of a command's output."""
    lines = []
    for line in shown.splitlines():
        if line == "...":
            lines.append(r"(?:.*\n)*?")
        else:
            text = re.sub(r"\d+(\\\.\d+|(?=%))", r"[\\d.]+", re.escape(line))
            # reason: pytest pads the line that ends in its duration
            lines.append(re.sub("={4,}", "=+", text) + r"[ ]*\n")
    return "".join(lines)


def runnable() -> list[Path]:
    return [page for page in PAGES if FOLDER.search(page.read_text(encoding="utf-8"))]


@pytest.mark.pages
@pytest.mark.parametrize("page", runnable(), ids=lambda page: page.stem)
def test_commands_of_a_page_print_what_it_shows(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for needed in " ".join(NEEDS.findall(text)).split():
        if find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    (example,) = FOLDER.findall(text)
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / example, folder)
    # reason: a reader has neither, and both change what pytest prints
    environment = {name: os.environ[name] for name in os.environ.keys() - {"CI", "PYTEST_ADDOPTS"}}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "80",
        "OMP_NUM_THREADS": "1",
    }
    for command, shown in commands_of(text):
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        as_shown = re.fullmatch(pattern_of(shown), done.stdout) if shown else not done.returncode
        if not as_shown:
            pytest.fail(
                f"{command}\nprints\n{done.stdout}\nwhere the page shows\n{shown}\n{done.stderr}"
            )


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("accuracy 96.5%\n", "accuracy 95.1%\n", True),
        ("58% right\n", "100% right\n", True),
        ("97,652 parameters\n", "97,653 parameters\n", False),
        ("first\n...\nlast\n", "first\n1\n2\nlast\n", True),
        ("first\n...\nlast\n", "first\n1\n2\n", False),
    ],
)
def test_what_a_page_shows_is_compared(shown: str, printed: str, same: bool) -> None:
    assert bool(re.fullmatch(pattern_of(shown), printed)) is same


def test_code_in_the_readme_is_that_of_the_files_it_names() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert named
    for path, code in named:
        assert code in (ROOT / path).read_text(encoding="utf-8"), path
    assert len(named) == text.count("```python")


def test_the_readme_leads_to_each_page_to_start_with_and_each_guide() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"^:caption: (\w+)\n:hidden:\n\n(.*?)^```$", index, re.MULTILINE | re.DOTALL)
    pages = [
        page for caption, tree in trees if caption in ("Start", "Guides") for page in tree.split()
    ]
    assert pages
    _, _, after = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Read on\n")
    listed = after.partition("\n## ")[0]
    assert [page for page in pages if f"(docs/{page}.md)" not in listed] == []
