"""Sphinx configuration; the page of rules is made from the table the judge itself uses."""

from __future__ import annotations

from typing import Any

from pytest_dwsconv import __version__
from pytest_dwsconv.core.rules import CANDIDATE_CODE, RULES

project = "pytest-dwsconv"
author = "The pytest-dwsconv developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
nitpicky = False


def rules_table() -> str:
    """One Markdown row a rule, in the order in which the judge asks them."""
    rows = [("code", "verdict", "rule", "reason"), ("---",) * 4]
    rows += [(f"`{rule.code}`", rule.verdict.value, rule.title, rule.reason) for rule in RULES]
    rows += [
        (
            f"`{CANDIDATE_CODE}`",
            "candidate",
            "none of the above",
            "a standard or grouped convolution that saves",
        )
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def fill_in_rules(app: Any, docname: str, source: list[str]) -> None:
    source[0] = source[0].replace("{{ rules }}", rules_table())


def setup(app: Any) -> None:
    app.connect("source-read", fill_in_rules)
