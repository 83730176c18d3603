"""The rule book: it has an entry for each code, and its examples are what they say."""

from __future__ import annotations

import ast

import pytest

from pytest_dwsconv.core.rulebook import RULEBOOK
from pytest_dwsconv.core.rules import CANDIDATE_CODE, RULES
from pytest_dwsconv.source.edit import rewrite_text

ONLY_IN_A_MODEL = {"DWS116", "DWS102", "DWS109", "DWS112", "DWS113", "DWS114"}
"""Settled by what a model holds; in a file's text there is nothing to see."""


def test_there_is_one_entry_for_each_code_in_their_order() -> None:
    codes = sorted(rule.code for rule in RULES)
    assert list(RULEBOOK) == [CANDIDATE_CODE, *codes]


@pytest.mark.parametrize("code", sorted(RULEBOOK.keys() - ONLY_IN_A_MODEL))
def test_the_example_gets_its_code(code: str) -> None:
    imports = "import torch\nfrom functools import partial\nfrom torch import nn\n"
    sites = rewrite_text(f"{imports}\n{RULEBOOK[code].example}\n", guards=False).sites
    assert [site.judgement.code for site in sites] == [code]


@pytest.mark.parametrize("code", sorted(RULEBOOK))
def test_every_entry_is_python_and_sentences(code: str) -> None:
    entry = RULEBOOK[code]
    ast.parse(entry.example)
    assert entry.advice.endswith(".")
