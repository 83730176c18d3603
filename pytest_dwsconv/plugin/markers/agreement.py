"""The marker ``dws_agreement``."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_dwsconv.errors import InputError, require_torch
from pytest_dwsconv.plugin.fixtures import dws_agreement
from pytest_dwsconv.plugin.isolation import inner_calls
from pytest_dwsconv.plugin.markers.arguments import in_one_sentence, said_by_markers


def check_agreement_marker(item: pytest.Item) -> None:
    """Fail a test whose markers cannot be read, or that lacks what they name."""
    with in_one_sentence():
        require_torch()
        _, names = said_by_markers(item, dws_agreement)
        for role, name in zip(("student", "teacher", "batches"), names, strict=True):
            if name not in getattr(item, "fixturenames", ()):
                raise InputError(
                    f"dws_agreement found no argument {name!r} of the test for its {role}: name "
                    f"one, as in {role}='mine'"
                )


def enforce_agreement(item: pytest.Item) -> None:
    """Hold the models among the arguments of a test that has passed to its markers."""
    from pytest_dwsconv.rewriting.agreement import measure_agreement, shortfall

    with in_one_sentence(), inner_calls():
        limits, names = said_by_markers(item, dws_agreement)
        values: dict[str, Any] = getattr(item, "funcargs", {})
        student, teacher, batches = (values[name] for name in names)
        missed = shortfall(measure_agreement(student, teacher, batches), limits)
    if missed:
        pytest.fail(missed, pytrace=False)
