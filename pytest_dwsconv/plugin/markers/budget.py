"""The marker ``dws_budget``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.errors import require_torch
from pytest_dwsconv.plugin.fixtures import ReportFixture, dws_budget
from pytest_dwsconv.plugin.limits.budgets import assert_budget
from pytest_dwsconv.plugin.markers.arguments import in_one_sentence, said_by_markers
from pytest_dwsconv.plugin.noticing.callers import unwrapped
from pytest_dwsconv.plugin.noticing.holders import held_models
from pytest_dwsconv.plugin.noticing.noticer import CalledReport, Noticer
from pytest_dwsconv.plugin.record import Subject, record_of
from pytest_dwsconv.plugin.settings import strict

if TYPE_CHECKING:
    from pytest_dwsconv.core.budget import Budget
    from pytest_dwsconv.plugin.noticing.calls import CallLog
    from pytest_dwsconv.plugin.settings import Shapes

_RETURNED = pytest.StashKey[Any]()
"""The model that the test returned last, if it did."""


def check_marker(item: pytest.Item) -> None:
    """Fail a test whose markers cannot be read, before its fixtures are made."""
    with in_one_sentence():
        require_torch()
        said_by_markers(item, dws_budget)


@contextmanager
def enforce_marker(item: pytest.Item) -> Iterator[None]:
    """Hold the models of the test that runs in the block to its markers."""
    with Noticer.of(item.config).watching(item) as logs, _keep_returned(item):
        yield
    with in_one_sentence(), ExitStack() as stack:
        budget, shapes = said_by_markers(item, dws_budget)
        subjects = _subjects(item, shapes, logs, stack)
        for those, limits in _with_their_layers(subjects, budget):
            assert_budget(item, those, limits, pytrace=False)


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


def _subjects(
    item: pytest.Item, shapes: Shapes, logs: Sequence[CallLog], stack: ExitStack
) -> list[Subject]:
    """What the test reported, or else the models that it holds, returned or called, each once.

    A model has the inputs that it was called with, unless the marker gives another. Called ones
    are as they were called until the stack is closed.
    """
    if reported := record_of(item).subjects:
        return reported
    arguments, returned = _values(item)
    analyze = ReportFixture(item)
    called: list[CalledReport] = []
    unknown: list[str] = []
    if logs:
        called, unknown = Noticer.of(item.config).reports(item, logs[0])
    subjects = []
    for model in held_models([*arguments.values(), returned]):
        own = [each for each in called if each.call.model() is unwrapped(model)]
        if shapes is not None or not own:
            subjects.append(Subject(analyze(model, shapes), model))
            called = [each for each in called if each not in own]
    for report, call in called:
        model = stack.enter_context(call.snapshot.restored())
        is_partial = shapes is not None and not report.input_shapes
        subjects.append(Subject(analyze(model, shapes) if is_partial else report, model))
    if not subjects:
        reasons = unknown + [notice for log in logs for notice in log.notices]
        raise pytest.UsageError(_found_no_model(arguments, reasons))
    _tell(item, unknown)
    return subjects


def _with_their_layers(
    subjects: Sequence[Subject], budget: Budget
) -> Iterator[tuple[list[Subject], Budget]]:
    """The models with what their budget limits: layers that only others of them have are left out.

    Of layers that none of them has, the budget itself says so.
    """
    from pytest_dwsconv.core.budget import layers_of

    patterns: dict[str, list[Subject]] = {}
    for pattern in budget.layers or ():
        having = [subject for subject in subjects if layers_of(subject.report, pattern)]
        patterns[pattern] = having or list(subjects)
    whole = [subject for subject in subjects if all(subject in held for held in patterns.values())]
    if whole:
        yield whole, budget
    for subject in subjects:
        if subject in whole:
            continue
        own = {
            name: limits
            for name, limits in (budget.layers or {}).items()
            if subject in patterns[name]
        }
        without_layers = {**vars(budget), "layers": None, "target": None}
        if own or any(value is not None for value in without_layers.values()):
            yield [subject], replace(budget, layers=own or None)


def _tell(item: pytest.Item, unknown: Sequence[str]) -> None:
    """Warn of models that the test called and that its budget says nothing of."""
    if unknown and strict(item.config):
        raise pytest.UsageError(" ".join(unknown))
    for sentence in unknown:
        warning = pytest.PytestWarning(plain(f"dws_budget is not checked: {sentence}"))
        try:
            item.warn(warning)
        except pytest.PytestWarning:  # warnings are errors
            raise pytest.UsageError(str(warning)) from None


def _values(item: pytest.Item) -> tuple[dict[str, object], object]:
    """The arguments of a test by name, its instance among them, and what it returned."""
    if not isinstance(item, pytest.Function):
        return {}, None
    names = signature(item.function).parameters
    arguments = {name: item.funcargs.get(name) for name in names}
    return arguments | {"self": item.instance}, item.stash.get(_RETURNED, None)


def _found_no_model(arguments: Mapping[str, object], reasons: Sequence[str]) -> str:
    if reasons:
        return f"dws_budget found no model that it can check: {' '.join(reasons)}"
    names = ", ".join(name for name in arguments if name != "self")
    looked = f"none is in its arguments ({names})" if names else "it has no arguments"
    return (
        f"dws_budget found no model: the test called none and returned none, and {looked}; call "
        "the model in the test, make it an argument (in a list or dict too), return it, or report "
        "it with the fixture dws_report"
    )


def _is_model(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)
