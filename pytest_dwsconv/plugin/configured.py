"""What the configuration says of models, read from its text."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from pytest_dwsconv.plugin.reports import Shapes
from pytest_dwsconv.targets import parse_input_size

_LINE = re.compile(r"([^\s(]+(?:\(.*\))?)(.*)")
"""A target, whose arguments may hold spaces, and the words after it."""


class NamedModel(NamedTuple):
    """A model to report whatever the tests do."""

    target: str
    shapes: Shapes


def named_models(config: pytest.Config) -> list[NamedModel]:
    """The models of ``--dws-model``, or else those of ``dws_models``.

    Raises:
        InputError: an input size is no shape.
        pytest.UsageError: a line says more than a target and an input size.
    """
    size = config.getoption("dws_input_size") or config.getini("dws_input_size")
    shapes = parse_input_size(size) if size else None
    if given := config.getoption("dws_model"):
        return [NamedModel(target, shapes) for target in given]
    return [_named(line, shapes) for line in config.getini("dws_models")]


def _named(line: str, shapes: Shapes) -> NamedModel:
    match = _LINE.fullmatch(line)
    target, words = (match[1], match[2].split()) if match else (line, [])
    if len(words) > 1:
        raise pytest.UsageError(f"dws_models {line!r} is not a target and an input size, as in net:small 1,3,224,224")
    return NamedModel(target, parse_input_size(words[0]) if words else shapes)


def strict(config: pytest.Config) -> bool:
    """Whether what could not be found out fails the run."""
    given: bool | None = config.getoption("dws_strict")
    return bool(config.getini("dws_strict")) if given is None else given
