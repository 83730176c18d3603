"""What this plugin runs for itself beside the tests: a stranger's forward, or a stranger's backend."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

import pytest

ENDS = (Exception, SystemExit, pytest.skip.Exception, pytest.fail.Exception)
"""How it may end: all but the user's wish to stop, of which ``pytest.exit`` has to be caught
before.
"""


@contextmanager
def aside() -> Iterator[None]:
    """A block that is nobody's: no test sees its warnings and prints, or is said to have covered
    its lines.
    """
    with _unheard(), uncovered():
        yield


@contextmanager
def _unheard() -> Iterator[None]:
    """A block whose warnings and prints are dropped: the test has had its own, and its filters may
    raise errors.
    """
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def uncovered() -> Iterator[None]:
    """A block whose lines coverage.py, if somebody runs it, does not count: no test has run them."""
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage is not None else None
    if current is None:
        yield
        return
    current.stop()
    try:
        yield
    finally:
        current.start()
