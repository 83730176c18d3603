"""What options and configuration say of models and budgets, read from their text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_dwsconv.configuration import load_config
from pytest_dwsconv.core.budget import Budget
from pytest_dwsconv.core.plaintext import plain, quoted
from pytest_dwsconv.errors import DwsconvError, InputError
from pytest_dwsconv.targets import parse_input_size

if TYPE_CHECKING:
    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.core.rules import Policy
    from pytest_dwsconv.render import Reporters, View

    Shapes = Sequence[int] | Sequence[Sequence[int]] | None

_LINE = re.compile(r"([^\s(]+(?:\(.*\))?)(.*)")
"""A target, whose arguments may hold spaces, and the words after it."""
_POLICY: pytest.StashKey[Policy] = pytest.StashKey()


class NamedModel(NamedTuple):
    """A model to report whatever the tests do, and the budget it is held to."""

    target: str
    shapes: Shapes
    budget: Budget | None = None


def named_models(config: pytest.Config) -> list[NamedModel]:
    """The models of ``--dws-model``, or else those of ``dws_models``.

    Raises:
        pytest.UsageError: a line is not a target with an input size and limits, or one of these
            cannot be read.
    """
    size = config.getoption("dws_input_size") or config.getini("dws_input_size")
    if size and not isinstance(size, str):
        raise pytest.UsageError(
            plain(f'dws_input_size {quoted(size)} is not text: write it as in "1,3,224,224"')
        )
    with usage_errors():
        shapes = parse_input_size(size) if size else None
    if given := config.getoption("dws_model"):
        return [NamedModel(target, shapes) for target in given]
    return [_named(line, shapes) for line in lines(config, "dws_models")]


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


class TargetLimit(NamedTuple):
    """The latency, as in "5ms", that models may have on a target."""

    target: str
    limit: str


class BudgetRule(NamedTuple):
    """A line of ``dws_budgets``: limits for the models that a pattern is for."""

    pattern: str
    limits: dict[str, float | str | None]
    latency: TargetLimit | None = None

    def is_for(self, model: str, targets: Collection[str], tests: Collection[str]) -> bool:
        """Whether this line is for a model.

        A pattern with a slash or ``.py`` is for the models that those tests report, one with a
        colon for a target, and any other for a class.

        Args:
            model: the class.
            targets: the ``module:factory`` that reported it.
            tests: the tests that reported it, by node id.
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


def budget_rules(config: pytest.Config) -> list[BudgetRule]:
    """The lines of ``dws_budgets``.

    Raises:
        pytest.UsageError: a line is not a pattern and limits.
    """
    return [_rule(line) for line in lines(config, "dws_budgets")]


def _rule(line: str) -> BudgetRule:
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
        return BudgetRule(pattern, limits)
    rest = {name: limit for name, limit in limits.items() if name not in ("latency", "target")}
    return BudgetRule(pattern, rest, TargetLimit(str(budget.target), str(budget.latency)))


class Allowed(NamedTuple):
    """What a model may cost: a budget on what its report tells, and a latency for each target."""

    budget: Budget | None
    limits: dict[str, float | str | None]
    """Those of the budget, by name."""
    latencies: dict[str, str]


def allowed(report: ReportData, users: Reporters, table: Sequence[BudgetRule]) -> Allowed:
    """The limits of a model; of lines that set the same limit for it the last wins."""
    limits: dict[str, float | str | None] = {}
    latencies: dict[str, str] = {}
    for rule in table:
        if rule.is_for(report.model, users.targets, users.tests):
            limits |= rule.limits
            if rule.latency is not None:
                latencies[rule.latency.target] = rule.latency.limit
    return Allowed(Budget.of(limits) if limits else None, limits, latencies)


def _limits(words: Iterable[str]) -> dict[str, float | str | None]:
    limits: dict[str, float | str | None] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name in limits:
            raise InputError(f"{name} has two limits; give one")
        limits[name] = value
    return limits


def project_policy(config: pytest.Config) -> Policy:
    """What ``[tool.dwsconv]`` asks of the judge, as the command does; read once.

    Raises:
        InputError: the settings cannot be used.
    """
    if _POLICY not in config.stash:
        config.stash[_POLICY] = load_config(config.rootpath).policy
    return config.stash[_POLICY]


def view(config: pytest.Config) -> View:
    """Which convolutions are shown, and how.

    Raises:
        pytest.UsageError: there is no such column, or the depth is not a whole number from 1.
    """
    from pytest_dwsconv.render import View

    depth = _setting(config, "dws_depth") or None
    if depth is not None and str(depth).isdecimal():
        depth = int(depth)
    sort, match = _setting(config, "dws_sort") or None, _setting(config, "dws_match") or ()
    with usage_errors("dws-"):  # a depth that is still text is refused there
        return View(sort, match, depth)


def _setting(config: pytest.Config, name: str) -> Any:
    """An option, or else its key in the ini file."""
    given = config.getoption(name)
    return config.getini(name) if given is None else given


def lines(config: pytest.Config, key: str) -> list[str]:
    """The lines of a key in the ini file; in TOML they may have been written as anything.

    Raises:
        pytest.UsageError: one of them is not text.
    """
    found = config.getini(key)
    for line in found:
        if not isinstance(line, str):
            raise pytest.UsageError(
                plain(f"{key} {quoted(line)} is not text: write a list of strings")
            )
    return list(found)


@contextmanager
def usage_errors(where: str = "") -> Iterator[None]:
    """Turn an error that is the user's to mend into one that ends the run with exit code 4."""
    try:
        yield
    except DwsconvError as error:
        raise pytest.UsageError(plain(f"{where}{error}")) from error


def strict(config: pytest.Config) -> bool:
    """Whether what could not be found out fails the run."""
    given: bool | None = config.getoption("dws_strict")
    try:
        return bool(config.getini("dws_strict")) if given is None else given
    except (ValueError, pytest.UsageError) as error:
        raise pytest.UsageError(f"dws_strict is not true or false: {error}") from error
