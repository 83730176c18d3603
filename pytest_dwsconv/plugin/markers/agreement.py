"""The marker ``dws_agreement``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.errors import DwsconvError, InputError, require_torch
from pytest_dwsconv.plugin.fixtures import dws_agreement
from pytest_dwsconv.plugin.isolation import inner_calls

if TYPE_CHECKING:
    from pytest_dwsconv.core.limits import AgreementLimits


def check_agreement_marker(item: pytest.Item) -> None:
    """Fail a test whose markers cannot be read, or that lacks what they name."""
    with _in_one_sentence():
        require_torch()
        _, names = _of_markers(item)
        for role, name in zip(("student", "teacher", "batches"), names, strict=True):
            if name not in getattr(item, "fixturenames", ()):
                raise InputError(
                    f"dws_agreement found no argument {name!r} of the test for its {role}: name "
                    f"one, as in {role}='mine'"
                )


def enforce_agreement(item: pytest.Item) -> None:
    """Hold the models among the arguments of a test that has passed to its markers."""
    from pytest_dwsconv.rewriting.agreement import measure_agreement, shortfall

    with _in_one_sentence(), inner_calls():
        limits, names = _of_markers(item)
        values: dict[str, Any] = getattr(item, "funcargs", {})
        student, teacher, batches = (values[name] for name in names)
        missed = shortfall(measure_agreement(student, teacher, batches), limits)
    if missed:
        pytest.fail(missed, pytrace=False)


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    """Turn an error that is the user's to mend into a failure without a traceback."""
    try:
        yield
    except DwsconvError as error:
        raise pytest.fail.Exception(plain(str(error)), pytrace=False) from None


def _of_markers(item: pytest.Item) -> tuple[AgreementLimits, tuple[str, str, str]]:
    """What the markers of a test say together; the closest wins where two set one argument."""
    arguments: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("dws_agreement"))):
        if mark.args:
            raise InputError(f"dws_agreement takes keyword arguments only, not {mark.args[0]!r}")
        arguments |= mark.kwargs
    accepted = signature(dws_agreement).parameters
    unknown = [name for name in arguments if name not in accepted]
    if unknown:
        raise InputError(
            f"dws_agreement has no argument {unknown[0]!r}: it takes {', '.join(accepted)}"
        )
    return dws_agreement(**arguments)
