"""What the markers of a test say, and how it fails where they cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any, TypeVar

import pytest

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.errors import DwsconvError, InputError

Said = TypeVar("Said")


def said_by_markers(item: pytest.Item, marker: Callable[..., Said]) -> Said:
    """``marker`` called with what the markers of its name say together.

    The closest wins where two set one argument.
    """
    name, accepted = marker.__name__, signature(marker).parameters
    arguments: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers(name))):
        if mark.args:
            raise InputError(f"{name} takes keyword arguments only, not {mark.args[0]!r}")
        arguments |= mark.kwargs
    for argument in arguments:
        if argument not in accepted:
            raise InputError(f"{name} has no argument {argument!r}: it takes {', '.join(accepted)}")
    return marker(**arguments)


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turn an error that is the user's to mend into a failure without a traceback."""
    try:
        yield
    except (DwsconvError, pytest.UsageError) as error:
        raise pytest.fail.Exception(plain(str(error)), pytrace=False) from None
