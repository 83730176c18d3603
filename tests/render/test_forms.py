"""What holds for every form of a report."""

from __future__ import annotations

import pytest
from render_samples import SMALL

from pytest_dwsconv.core.forms import FILES_ONLY, FORMS
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.render import Form, render_report
from pytest_dwsconv.render.forms import csv, github, gitlab, html, json, markdown, sarif, text

MODULES: dict[str, Form] = {
    "text": text,
    "json": json,
    "markdown": markdown,
    "github": github,
    "gitlab": gitlab,
    "sarif": sarif,
    "csv": csv,
    "html": html,
}
"""Checked by the type checker: each of these modules is a ``Form``."""


def test_every_form_has_a_module_and_a_purpose() -> None:
    assert list(MODULES) == list(FORMS)
    assert all(purpose for purpose in FORMS.values())
    assert set(FILES_ONLY) <= FORMS.keys()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_names_the_layers_of_a_model(form: str) -> None:
    shown = render_report(form, SMALL).replace("<wbr>", "")
    assert "Small" in shown
    assert all(finding.name in shown for finding in SMALL.candidates)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(InputError, match="there is no form 'plot' of a report: it is text, json"):
        render_report("plot", SMALL)
