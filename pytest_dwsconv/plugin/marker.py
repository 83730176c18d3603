"""The marker ``dws_budget``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.plugin.fixtures import ReportFixture, dws_budget
from pytest_dwsconv.plugin.record import Subject, record_of

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.core.budget import Budget
    from pytest_dwsconv.plugin.settings import Shapes

_RETURNED = pytest.StashKey[Any]()
"""The model that the test returned last, if it did."""


def _limits_of_markers(item: pytest.Item) -> tuple[Budget, Shapes]:
    """What the markers of a test say together; the closest wins where two set one argument."""
    arguments: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("dws_budget"))):
        if mark.args:
            raise pytest.UsageError(
                f"dws_budget takes keyword arguments only, not {mark.args[0]!r}"
            )
        arguments |= mark.kwargs
    accepted = signature(dws_budget).parameters
    unknown = [name for name in arguments if name not in accepted]
    if unknown:
        raise pytest.UsageError(
            f"dws_budget has no argument {unknown[0]!r}: it takes {', '.join(accepted)}"
        )
    return dws_budget(**arguments)


def check_marker(item: pytest.Item) -> None:
    """Fail a test whose markers cannot be read, before its fixtures are made."""
    with _in_one_sentence():
        _limits_of_markers(item)


@contextmanager
def enforce_marker(item: pytest.Item) -> Iterator[None]:
    """Hold the models of the test that runs in the block to its markers."""
    from pytest_dwsconv.plugin.budgets import assert_budget

    with _keep_returned(item):
        yield
    with _in_one_sentence():
        budget, shapes = _limits_of_markers(item)
        assert_budget(item, _subjects(item, shapes), budget, pytrace=False)


@contextmanager
def _keep_returned(item: pytest.Item) -> Iterator[None]:
    """Keep the model that a test returns, and let pytest see a test that returns nothing."""
    if not isinstance(item, pytest.Function):
        yield
        return
    test, item.stash[_RETURNED] = item.obj, None
    item.obj = (_wrapped_async if iscoroutinefunction(test) else _wrapped)(item, test)
    try:
        yield
    finally:
        item.obj = test


def _wrapped(item: pytest.Item, test: Callable[..., object]) -> Callable[..., object]:
    @wraps(test)
    def call(*args: Any, **kwargs: Any) -> object:
        __tracebackhide__ = True
        return _without_model(item, test(*args, **kwargs))

    return call


def _wrapped_async(
    item: pytest.Item, test: Callable[..., Awaitable[object]]
) -> Callable[..., Awaitable[object]]:
    @wraps(test)
    async def call(*args: Any, **kwargs: Any) -> object:
        __tracebackhide__ = True
        return _without_model(item, await test(*args, **kwargs))

    return call


def _without_model(item: pytest.Item, value: object) -> object:
    """What pytest sees of a test's result: None in the place of a model, which is kept."""
    if not _is_model(value):
        return value
    item.stash[_RETURNED] = value
    return None


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    """Turn an error that is the user's to mend into a failure without a traceback."""
    from pytest_dwsconv.core.plaintext import plain
    from pytest_dwsconv.errors import DwsconvError

    try:
        yield
    except (DwsconvError, pytest.UsageError) as error:
        raise pytest.fail.Exception(plain(str(error)), pytrace=False) from None


def _subjects(item: pytest.Item, shapes: Shapes) -> list[Subject]:
    """What the test reported, or else the models among its arguments and the one it returned."""
    if reported := record_of(item).subjects:
        return reported
    analyze = ReportFixture(item)
    subjects = [Subject(analyze(model, shapes), model) for model in _models(item)]
    if not subjects:
        raise pytest.UsageError(
            "dws_budget found no model: report one with the fixture dws_report, "
            "make one an argument of the test, or return one"
        )
    return subjects


def _models(item: pytest.Item) -> list[nn.Module]:
    """Those among the arguments of a test, and the one that it returned."""
    if not isinstance(item, pytest.Function):
        return []
    values: list[Any] = [
        *map(item.funcargs.get, signature(item.function).parameters),
        item.stash.get(_RETURNED, None),
    ]
    return [value for value in values if _is_model(value)]


def _is_model(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)
