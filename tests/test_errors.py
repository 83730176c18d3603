"""What an error says, and in how many words."""

from __future__ import annotations

import pickle

import pytest

from pytest_dwsconv.errors import (
    InputError,
    MissingDependencyError,
    MissingExtraError,
    first_line,
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("it is too wide\nby far"), "it is too wide"),
        (ValueError("\n  no such thing  \nsee above"), "ValueError: no such thing"),
        (KeyError("name"), "KeyError: 'name'"),
        (RuntimeError(), "RuntimeError"),
        (InputError(), "InputError"),
    ],
)
def test_an_error_in_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    error = MissingDependencyError("a plot", "matplotlib", "plot")
    sentence = "a plot needs the package matplotlib: pip install 'pytest-dwsconv[plot]'"
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == sentence
    assert isinstance(error, ImportError)
    assert MissingExtraError is MissingDependencyError
