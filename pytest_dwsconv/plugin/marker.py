"""The marker ``dws_budget``."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.plugin.fixtures import ReportFixture, hold
from pytest_dwsconv.plugin.reports import MADE, Shapes

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.budget import Budget
    from pytest_dwsconv.report import Report


def dws_budget(
    *,
    params: float | str | None = None,
    macs: float | str | None = None,
    size: float | str | None = None,
    candidates: float | str | None = None,
    input_size: str | Shapes = None,
) -> tuple[Budget, Shapes]:
    """Fail the test if a model it reports, or else takes as an argument, is over this budget.

    ``input_size`` is for the models among the test's arguments, which have no MACs without it.
    """
    from pytest_dwsconv.budget import Budget
    from pytest_dwsconv.targets import parse_input_size

    shapes = parse_input_size(input_size) if isinstance(input_size, str) else input_size
    return Budget(params, macs, size, candidates), shapes


def marker_help() -> str:
    """The line that ``pytest --markers`` shows, made from the function above."""
    arguments = ", ".join(f"{name}=" for name in signature(dws_budget).parameters)
    return f"{dws_budget.__name__}({arguments}): {(dws_budget.__doc__ or '').splitlines()[0]}"


def _marked(item: pytest.Item) -> tuple[Budget, Shapes]:
    """What the markers of a test say together; of two that set the same argument the closest wins."""
    arguments: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("dws_budget"))):
        if mark.args:
            raise pytest.UsageError(f"dws_budget takes keyword arguments only, not {mark.args[0]!r}")
        arguments |= mark.kwargs
    accepted = signature(dws_budget).parameters
    unknown = [name for name in arguments if name not in accepted]
    if unknown:
        raise pytest.UsageError(f"dws_budget has no argument {unknown[0]!r}: it takes {', '.join(accepted)}")
    return dws_budget(**arguments)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("dws_budget"):
        with _in_one_sentence():
            _marked(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    if item.get_closest_marker("dws_budget"):
        with _in_one_sentence():
            budget, shapes = _marked(item)
            hold(item, _reports(item, shapes), budget, pytrace=False)
    return result


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    """Turn an error that is the user's to mend into a failure without a traceback."""
    from pytest_dwsconv.errors import DwsconvError

    try:
        yield
    except (DwsconvError, pytest.UsageError) as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def _reports(item: pytest.Item, shapes: Shapes) -> list[Report]:
    """The reports the test made, or else those of the models among its arguments."""
    made = item.stash.get(MADE, None)
    if made is not None:
        return made.reports
    analyze = ReportFixture(item)
    reports = [analyze(model, shapes) for model in _models(item)]
    if not reports:
        raise pytest.UsageError(
            "dws_budget found no model: report one with the fixture dws_report, or make one an argument of the test"
        )
    return reports


def _models(item: pytest.Item) -> list[nn.Module]:
    from torch import nn

    if not isinstance(item, pytest.Function):
        return []
    values = [item.funcargs.get(name) for name in signature(item.function).parameters]
    return [value for value in values if isinstance(value, nn.Module)]
