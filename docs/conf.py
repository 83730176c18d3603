"""Sphinx configuration; the rules and the forms of a report come from the package's own tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import tomllib

from pytest_dwsconv import __version__
from pytest_dwsconv.core.forms import FILES_ONLY, FORMS
from pytest_dwsconv.core.rules import CANDIDATE_CODE, RULEBOOK, RULES

sys.path.insert(0, str(Path(__file__).parent))
import reference_tables  # beside this file

project = "pytest-dwsconv"
author = "The pytest-dwsconv developers"
project_copyright = "the pytest-dwsconv developers, MIT licence"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_static_path = ["wide.css"]
html_css_files = ["wide.css"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
suppress_warnings = ["ref.python"]  # two classes are called Layer
autodoc_member_order = "bysource"
nitpicky = True
nitpick_ignore_regex = [
    # the documentation of the standard library, PyTorch, pandas and matplotlib is not at hand
    # offline
    (
        r"py:.*",
        r"(collections|decimal|os|pathlib|typing|torch|nn|matplotlib|DataFrame|Axes|PathLike|Path)\b.*",
    ),
    # names that only annotations have
    (
        r"py:.*",
        r"'above 0'|.*\._Data|AbsentKind|Decimal|Positive|Remedies|dict\[str|.*Counted|.*Layout",
    ),
]


def rules_table() -> str:
    """One row per rule, in the order in which the judge asks them."""
    rows = [["code", "verdict", "rule", "reason"]]
    for rule in RULES:
        link = f"[{rule.code}](#{rule.code.lower()})"
        rows.append([link, rule.verdict.value, rule.title, rule.reason])
    candidate = ["candidate", "none of the above", "a standard or grouped convolution that saves"]
    link = f"[{CANDIDATE_CODE}](#{CANDIDATE_CODE.lower()})"
    return markdown_table([*rows, [link, *candidate]])


def rule_sections() -> str:
    """What each code means, with an example and what to do, under an anchor of its own."""
    lines = []
    for entry in RULEBOOK.values():
        lines += [f"({entry.code.lower()})=", f"## {entry.code}: {entry.title}", ""]
        lines += [f"*{entry.verdict.value}*: {entry.reason}.", ""]
        lines += ["```python", entry.example, "```", "", entry.advice, ""]
    return "\n".join(lines)


def forms_table() -> str:
    """One row per form of a report, and how to ask for it."""
    rows = [["form", "for", "asked for with"]]
    for form, purpose in FORMS.items():
        option = f"--dws-report={form}"
        if form in FILES_ONLY:
            option += ":PATH"
        rows.append([f"`{form}`", purpose, f"`{option}`"])
    rows.append(["JUnit properties", "whatever collects JUnit files", "`--junitxml=junit.xml`"])
    rows.append(["a plot", "notebooks and papers", "`report.plot()`"])
    return markdown_table(rows)


def layers() -> str:
    """The layers of the import contract, from top to bottom."""
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return "\n".join(["```text", *contracts[0]["layers"], "```"])


def markdown_table(rows: list[list[str]]) -> str:
    """A table whose first row is its header."""
    header, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *body])


TABLES = {
    "rules": rules_table,
    "codes": rule_sections,
    "forms": forms_table,
    "layers": layers,
    **reference_tables.TABLES,
}


def fill_in_tables(app: Any, docname: str, source: list[str]) -> None:
    for name, table in TABLES.items():
        if f"{{{{ {name} }}}}" in source[0]:
            source[0] = source[0].replace(f"{{{{ {name} }}}}", table())


def pack_examples(app: Any) -> None:
    """An archive of each folder of examples, for those who have no checkout."""
    examples = Path(__file__).parents[1] / "examples"
    packed = Path(app.srcdir, "_build", "examples")
    packed.mkdir(parents=True, exist_ok=True)
    for folder in filter(Path.is_dir, examples.iterdir()):
        with ZipFile(packed / f"{folder.name}.zip", "w") as archive:
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(examples)
                if path.is_file() and "cache" not in str(name):  # of pytest and of Python
                    archive.write(path, name)


def setup(app: Any) -> None:
    app.connect("builder-inited", pack_examples)
    app.connect("source-read", fill_in_tables)
