"""What options and configuration say of models and budgets, read from their text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_dwsconv.configuration import load_config
from pytest_dwsconv.core.budget import Budget, layers_of
from pytest_dwsconv.core.plaintext import plain, quoted
from pytest_dwsconv.core.quantities import parse_quantity
from pytest_dwsconv.core.suite.changes import Tolerance
from pytest_dwsconv.errors import DwsconvError, InputError
from pytest_dwsconv.targets import parse_input_size

if TYPE_CHECKING:
    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.core.measurement import LatencyLimit
    from pytest_dwsconv.core.policy import Policy
    from pytest_dwsconv.render import Reporters, SuiteRun, View

    Shapes = Sequence[int] | Sequence[Sequence[int]] | None

_LINE = re.compile(r"([^\s(]+(?:\(.*\))?)(.*)")
"""A target, whose arguments may hold spaces, and the words after it."""
_LIMIT = re.compile(r"([^<=]*)<?=(.*)")
_SIZE = re.compile(r"\d[\dx,;]*", re.IGNORECASE)
Limits = dict[str, dict[str, str]]
"""Limits by name as they are written, for each pattern of layers; "" is the whole model."""
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
    target, words = _words(line)
    sizes = [word for word in words if _SIZE.fullmatch(word)]
    with usage_errors(f"dws_models {line!r}: "):
        limits = _limits(word for word in words if word not in sizes)
    if len(sizes) > 1 or limits is None:
        raise pytest.UsageError(
            f"dws_models {line!r} is not a target, an input size and limits, as in net:small "
            "1,3,224,224 params=5M"
        )
    with usage_errors(f"dws_models {line!r}: "):
        own = parse_input_size(sizes[0]) if sizes else shapes
        return NamedModel(target, own, _budget(limits) if limits else None)


def _words(line: str) -> tuple[str, list[str]]:
    """A target or a pattern, and the words after it."""
    match = _LINE.fullmatch(line)
    return (match[1], match[2].split()) if match else (line, [])


class TargetLimit(NamedTuple):
    """The latency that models may have on a target."""

    target: str
    limit: LatencyLimit


class BudgetRule(NamedTuple):
    """A line of ``dws_budgets``: limits for the models that a pattern is for."""

    pattern: str
    limits: Limits
    latency: TargetLimit | None = None
    increase: Tolerance | None = None
    """By how much a model may grow over the baseline."""

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
    pattern, words = _words(line)
    if "." in pattern and not re.search(r"[/:(]|\.py", pattern):
        # reason: no class has a dot in its name, but most layers do
        pattern, words = "*", [pattern, *words]
    with usage_errors(f"dws_budgets {line!r}: "):
        limits = _limits(words)
    if not limits or "=" in pattern.partition("(")[0]:
        raise pytest.UsageError(
            f"dws_budgets {line!r} is not a pattern and limits, as in Small* params=5M macs=600M"
        )
    with usage_errors(f"dws_budgets {line!r}: "):
        increase = _increase(limits.get("", {}).pop("increase", None))
        budget = None if increase and not any(limits.values()) else _budget(limits)
    latency = None
    if budget is not None and budget.latency_limit is not None:
        latency = TargetLimit(str(budget.target), budget.latency_limit)
        for name in ("latency", "target", "percentile", "tolerance"):
            limits[""].pop(name, None)
    return BudgetRule(pattern, limits, latency, increase)


def _increase(text: str | None) -> Tolerance | None:
    """The growth in ``2%`` or ``10k``.

    Raises:
        FormatError: it is neither.
    """
    if text is None:
        return None
    if text.endswith("%"):
        return Tolerance.parsed(text)
    return Tolerance(amount=int(parse_quantity(text)))


def tolerated(
    model: str, users: Collection[str], table: Sequence[BudgetRule], default: Tolerance
) -> Tolerance:
    """By how much a model may grow: as the last line for it says, or else ``default``.

    ``users`` are the tests and targets that reported it.
    """
    tests = {user for user in users if "::" in user}
    targets = set(users) - tests
    for rule in reversed(table):
        if rule.increase is not None and rule.is_for(model, targets, tests):
            return rule.increase
    return default


def allowed(
    report: ReportData, users: Reporters, table: Sequence[BudgetRule]
) -> tuple[list[Budget], dict[str, LatencyLimit]]:
    """A budget for each limit of a model, and the latency that it may have on each target.

    Of lines that set the same limit for it the last wins. Limits on layers that it does not have
    are left out.
    """
    limits: dict[tuple[str, str], str] = {}
    latencies: dict[str, LatencyLimit] = {}
    for rule in table:
        if not rule.is_for(report.model, users.targets, users.tests):
            continue
        for layers, own in rule.limits.items():
            if not layers or layers_of(report, layers):
                limits |= {(layers, name): limit for name, limit in own.items()}
        if rule.latency is not None:
            latencies[rule.latency.target] = rule.latency.limit
    budgets = [_budget({layers: {name: limit}}) for (layers, name), limit in limits.items()]
    return budgets, latencies


def without_effect(run: SuiteRun, table: Sequence[BudgetRule]) -> Iterator[str]:
    """What no model of a run, or no layer of one, is under: most likely it is mistyped."""
    for rule in table:
        models = [
            report
            for report, users in run.items()
            if rule.is_for(report.model, users.targets, users.tests)
        ]
        if not models and rule.pattern != "*":
            advice = _what_patterns_are_for(rule.pattern, run)
            yield f"dws_budgets {rule.pattern} is for no model of this run: {advice}"
        for layers in rule.limits:
            if models and layers and not any(layers_of(report, layers) for report in models):
                yield (
                    f"dws_budgets {rule.pattern} {layers}: no model that this is for has a "
                    "convolution of such a name"
                )


def _what_patterns_are_for(pattern: str, run: SuiteRun) -> str:
    """What a pattern like this one has to match, for somebody whose pattern matches nothing."""
    if re.search(r"[/\\]|\.py", pattern):
        return "tests are written from the root folder, with /, as in tests/edge/"
    if ":" in pattern:
        return "a target is one that --dws-model or dws_models names"
    classes = ", ".join(sorted({report.model for report in run})[:10])
    return f"the classes are {classes or 'none'}, and a folder ends in /"


def _limits(words: Iterable[str]) -> Limits | None:
    """The limits in ``params=5M layer4.* params<=2M candidates=0``; None if it is not that.

    Raises:
        InputError: two limits are for the same.
    """
    limits: Limits = {}
    layers = ""
    for word in words:
        match = _LIMIT.fullmatch(word)
        if match is None:
            layers = word
            limits.setdefault(layers, {})
            continue
        name, value = match.groups()
        own = limits.setdefault(layers, {})
        if name in own:
            raise InputError(f"{f'{layers} {name}'.strip()} has two limits; give one")
        own[name] = value
    return limits if all(limits.values()) else None


def _budget(limits: Limits) -> Budget:
    """The budget of these limits.

    Raises:
        InputError: there is no such limit.
        FormatError: one is not a quantity.
    """
    layers = {pattern: own for pattern, own in limits.items() if pattern}
    return Budget.of({**limits.get("", {}), "layers": layers or None})


def is_whole(config: pytest.Config) -> bool:
    """Whether a run has had all tests, or was ended early or told to leave some out.

    A marker expression counts on the command line only: one in the configuration file leaves out
    the same tests in every run.
    """
    option, session = config.option, config.pluginmanager.get_plugin("session")
    left_out = ("keyword", "collectonly", "deselect", "lf", "stepwise")
    if any(getattr(option, name, None) for name in left_out):
        return False
    if any(argument.startswith("-m") for argument in config.invocation_params.args):
        return False
    if option.maxfail and session is not None and session.testsfailed >= option.maxfail:
        return False
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        return True
    return all(_has_all_tests(config, Path(argument)) for argument in config.args)


def _has_all_tests(config: pytest.Config, argument: Path) -> bool:
    """Whether it is taken to hold every test: the root folder, or a folder right in it."""
    folder = config.invocation_params.dir / argument
    return folder.is_dir() and config.rootpath in (folder, folder.parent)


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
        pytest.UsageError: there is no such column, or a number is not a whole one.
    """
    from pytest_dwsconv.render import View

    chosen = {name: _setting(config, f"dws_{name}") for name in ("sort", "match", "depth", "top")}
    for name in ("depth", "top"):
        if str(chosen[name]).isdecimal():
            chosen[name] = int(chosen[name])
    with usage_errors("dws-"):  # a number that is still text is refused there
        return View(
            **{name: value for name, value in chosen.items() if value not in (None, "", [])}
        )


def targets(config: pytest.Config) -> list[str]:
    """The machines for which reports tell what replacements gain.

    Raises:
        pytest.UsageError: one is not known, or the same one is named twice.
    """
    from pytest_dwsconv.edgetpu.prediction import check_targets

    given = config.getoption("dws_target") or lines(config, "dws_target")
    found = [word.strip() for words in given for word in words.split(",") if word.strip()]
    with usage_errors("dws-target: "):
        check_targets(found)
    return found


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
