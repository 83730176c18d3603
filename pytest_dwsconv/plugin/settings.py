"""What options and configuration say of models and budgets, read from their text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_dwsconv.core.budget import Budget
from pytest_dwsconv.errors import DwsconvError, InputError
from pytest_dwsconv.targets import parse_input_size

if TYPE_CHECKING:
    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.plugin.reports import Shapes
    from pytest_dwsconv.render import Reporters, View

_LINE = re.compile(r"([^\s(]+(?:\(.*\))?)(.*)")
"""A target, whose arguments may hold spaces, and the words after it."""


class NamedModel(NamedTuple):
    """A model to report whatever the tests do, and the budget it is held to."""

    target: str
    shapes: Shapes
    budget: Budget | None = None


def named_models(config: pytest.Config) -> list[NamedModel]:
    """The models of ``--dws-model``, or else those of ``dws_models``.

    Raises:
        pytest.UsageError: an input size is no shape, a budget no budget, or a line something else.
    """
    size = config.getoption("dws_input_size") or config.getini("dws_input_size")
    with usage_errors():
        shapes = parse_input_size(size) if size else None
    if given := config.getoption("dws_model"):
        return [NamedModel(target, shapes) for target in given]
    return [_named(line, shapes) for line in config.getini("dws_models")]


def _named(line: str, shapes: Shapes) -> NamedModel:
    match = _LINE.fullmatch(line)
    target, words = (match[1], match[2].split()) if match else (line, [])
    sizes = [word for word in words if "=" not in word]
    if len(sizes) > 1:
        raise pytest.UsageError(
            f"dws_models {line!r} is not a target, an input size and limits, as in net:small "
            "1,3,224,224 params=5M"
        )
    with usage_errors(f"dws_models {line!r}: "):
        limits = _limits(word for word in words if "=" in word)
        own = parse_input_size(sizes[0]) if sizes else shapes
        return NamedModel(target, own, Budget.of(limits) if limits else None)


class LatencyLimit(NamedTuple):
    """A latency, as in "5ms", that models may have on a target."""

    target: str
    limit: str


class Rule(NamedTuple):
    """Limits for the models that a pattern is for."""

    pattern: str
    limits: dict[str, float | str | None]
    latency: LatencyLimit | None = None

    def is_for(self, model: str, targets: Collection[str], tests: Collection[str]) -> bool:
        """A pattern with a slash or of a file is for models its tests report, one with a colon for
        a target.

        Args:
            model: the class.
            targets: those that reported a model of it.
            tests: the same, by node id.
        """
        pattern = self.pattern
        if "/" in pattern or ".py" in pattern:
            return any(_under(pattern, test) for test in tests)
        names = targets if ":" in pattern else [model]
        return pattern in names or any(fnmatchcase(name, pattern) for name in names)


def _under(pattern: str, test: str) -> bool:
    pattern = pattern.removeprefix("./")
    folder = pattern.rstrip("/")
    return (
        test == folder
        or test.startswith((f"{folder}/", f"{folder}::"))
        or fnmatchcase(test, pattern)
    )


def rules(config: pytest.Config) -> list[Rule]:
    """The table of ``dws_budgets``.

    Raises:
        pytest.UsageError: a line is not a pattern and limits.
    """
    return [_rule(line) for line in config.getini("dws_budgets")]


def _rule(line: str) -> Rule:
    match = _LINE.fullmatch(line)
    pattern, words = (match[1], match[2].split()) if match else (line, [])
    if not words or any("=" not in word for word in words) or "=" in pattern.partition("(")[0]:
        raise pytest.UsageError(
            f"dws_budgets {line!r} is not a pattern and limits, as in Small* params=5M macs=600M"
        )
    with usage_errors(f"dws_budgets {line!r}: "):
        limits = _limits(words)
        budget = Budget.of(limits)
    if budget.latency is None:
        return Rule(pattern, limits)
    rest = {name: limit for name, limit in limits.items() if name not in ("latency", "target")}
    return Rule(pattern, rest, LatencyLimit(str(budget.target), str(budget.latency)))


class Allowed(NamedTuple):
    """What a model may cost: a budget on what its report tells, if any, and latencies by their
    targets.
    """

    budget: Budget | None
    limits: dict[str, float | str | None]
    """Those of the budget."""
    latencies: dict[str, str]


def allowed(report: ReportData, users: Reporters, table: Sequence[Rule]) -> Allowed:
    """The limits of a model; of lines that set the same limit for it the last wins."""
    limits: dict[str, float | str | None] = {}
    latencies: dict[str, str] = {}
    for rule in table:
        if rule.is_for(report.model, users.targets, users.tests):
            limits |= rule.limits
            latencies |= [rule.latency] if rule.latency else []
    return Allowed(Budget.of(limits) if limits else None, limits, latencies)


def _limits(words: Iterable[str]) -> dict[str, float | str | None]:
    limits: dict[str, float | str | None] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name in limits:
            raise InputError(f"{name} has two limits; give one")
        limits[name] = value
    return limits


def view(config: pytest.Config) -> View:
    """Which convolutions are shown, and how.

    Raises:
        pytest.UsageError: there is no such column, or the depth is no whole number from 1.
    """
    from pytest_dwsconv.render import View

    sort, match, depth = (_setting(config, f"dws_{name}") for name in ("sort", "match", "depth"))
    with usage_errors("dws-"):
        return View(
            sort or None,
            match or (),
            (int(depth) if str(depth).isdecimal() else depth) if depth else None,
        )


def _setting(config: pytest.Config, name: str) -> Any:
    """An option, or else its key in the ini file."""
    given = config.getoption(name)
    return config.getini(name) if given is None else given


@contextmanager
def usage_errors(where: str = "") -> Iterator[None]:
    """Turn an error that is the user's to mend into one that ends the run with exit code 4."""
    try:
        yield
    except DwsconvError as error:
        raise pytest.UsageError(f"{where}{error}") from error


def strict(config: pytest.Config) -> bool:
    """Whether what could not be found out fails the run."""
    given: bool | None = config.getoption("dws_strict")
    try:
        return bool(config.getini("dws_strict")) if given is None else given
    except (ValueError, pytest.UsageError) as error:
        raise pytest.UsageError(f"dws_strict is not true or false: {error}") from error
