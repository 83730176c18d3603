"""The pytest plugin: options and hooks. The work is done elsewhere, imported on demand."""

from __future__ import annotations

import argparse
import re
from collections.abc import Generator
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.core.forms import FILES_ONLY, FORMS, VIEW_OPTIONS
from pytest_dwsconv.plugin.fixtures import (
    agreement_fixture,
    budget_fixture,
    dws_agreement,
    dws_budget,
    dws_report,
)
from pytest_dwsconv.plugin.record import REPORTING, pytest_runtest_makereport

if TYPE_CHECKING:
    from pytest_dwsconv.core.findings import Finding
    from pytest_dwsconv.core.rules import Judgement

pytest_plugins = ("pytest_dwsconv.plugin.targets.cpu", "pytest_dwsconv.plugin.targets.edgetpu")
"""Loaded along with this one."""

__all__ = [
    "agreement_fixture",
    "budget_fixture",
    "dws_report",
    "pytest_addhooks",
    "pytest_addoption",
    "pytest_configure",
    "pytest_dwsconv_judge",
    "pytest_load_initial_conftests",
    "pytest_plugins",
    "pytest_runtest_makereport",
]


_BARE = {"--dws-report": "text", "--dws-fail-on-increase": "0", "--dws-update": "yes"}
"""Options that mean this when they are given without a value."""


class ValueAfterEquals(argparse.Action):
    """An option that takes a value after ``=`` only, and leaves a test path after it alone.

    Where a ``conftest.py`` loads this plugin, it comes too late to tell argparse so. A path is
    handed back then, in the way that argparse's own subcommands do.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = str(values)
        if given and not self._accepts(given) and Path(given.partition("::")[0]).exists():
            namespace.__dict__.setdefault("_unrecognized_args", []).append(given)
            given = str(self.const)
        if self.dest == "dws_report":
            earlier = getattr(namespace, self.dest) or ()
            setattr(namespace, self.dest, [*earlier, given])
        else:
            setattr(namespace, self.dest, given)

    def _accepts(self, given: str) -> bool:
        if self.dest == "dws_report":
            return given.partition(":")[0] in FORMS
        return given in (self.const, "force") or bool(re.fullmatch(r"\d+(\.\d+)?%?", given))


def _forms() -> str:
    """The forms of a report as the option takes them, with what each is for."""
    shown = [
        f"{form}:PATH ({use})" if form in FILES_ONLY else f"{form} ({use})"
        for form, use in FORMS.items()
    ]
    return f"{', '.join(shown[:-1])} or {shown[-1]}"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dwsconv", "depthwise separable convolutions")
    group.addoption(
        "--dws-report",
        action=ValueAfterEquals,
        nargs="?",
        const=_BARE["--dws-report"],
        metavar="FORMAT[:PATH]",
        help=f"report the models of this run: {_forms()}; in the terminal summary unless a PATH is "
        "given; only the form with = takes a value; may be repeated",
    )
    group.addoption(
        "--dws-model",
        action="append",
        metavar="MODULE:FACTORY",
        help="report this model too: a torch.nn.Module, or what returns one when called, with its "
        "arguments in parentheses if it needs any; may be repeated",
    )
    group.addoption(
        "--dws-input-size",
        metavar="N,C,H,W",
        help="the input shape of the models named by --dws-model; several inputs are separated "
        "by ;",
    )
    group.addoption(
        "--dws-sort",
        metavar="COLUMN",
        help="sort the convolutions of a report in text by a column: macs, params, saving and so "
        "on",
    )
    group.addoption(
        "--dws-match",
        action="append",
        metavar="PATTERN",
        help="show only convolutions of such names, as in 'layer3.*'; may be repeated",
    )
    group.addoption(
        "--dws-depth",
        metavar="N",
        help="show sums over the parts of a model, N names deep, in place of its convolutions",
    )
    group.addoption(
        "--dws-top",
        metavar="N",
        help="show N models in detail, below the table of all, in text, Markdown and annotations "
        "(default: 10)",
    )
    group.addoption(
        "--dws-target",
        action="append",
        metavar="MACHINE",
        help="show what replacements gain there: edgetpu or edgetpu:HOST, predicted, or cpu, "
        "torch_compile, litert or litert_int8, measured on this machine at the end of the run; "
        "several separated by commas",
    )
    group.addoption(
        "--dws-strict",
        action="store_true",
        default=None,
        help="fail a run that reports or checks models if one that it calls cannot be analysed, or "
        "a latency that it limits cannot be measured",
    )
    group.addoption(
        "--dws-fail-on-increase",
        nargs="?",
        const=_BARE["--dws-fail-on-increase"],
        metavar="PCT",
        action=ValueAfterEquals,
        help="fail the run if a model has more parameters or MACs than the baseline says, by "
        "more than PCT percent if given",
    )
    group.addoption(
        "--dws-update",
        nargs="?",
        const=_BARE["--dws-update"],
        metavar="force",
        action=ValueAfterEquals,
        help="write what the models of this run cost to the baseline, and remove those that a "
        "run of all tests no longer has; force does so where CI is set",
    )
    group.addoption(
        "--dws-baseline",
        metavar="PATH",
        help="compare with this baseline, or with the JSON report of another run, and show what "
        "changed in every report; .dwsconv/baseline.json where models are held to one",
    )
    group.addoption(
        "--dws-fix-plan",
        metavar="PATH",
        help="write the replacements that bring a model within its budget to this file, for "
        "rewrite and apply_plan; for several models to one file each beside it",
    )
    parser.addini("dws_report", "as --dws-report, one per line", type="linelist")
    parser.addini(
        "dws_models",
        "models to report, one per line: as --dws-model, then its input size and limits",
        type="linelist",
    )
    parser.addini("dws_input_size", "as --dws-input-size, for models without one of their own")
    parser.addini(
        "dws_budgets",
        "budgets, one per line: a model's class, a target or a path of tests, then limits as in "
        "params=5M; * is for all models, and of lines for the same model the last wins",
        type="linelist",
    )
    parser.addini("dws_sort", "as --dws-sort")
    parser.addini("dws_match", "as --dws-match, one per line", type="linelist")
    parser.addini("dws_depth", "as --dws-depth")
    parser.addini("dws_top", "as --dws-top")
    parser.addini("dws_target", "as --dws-target, one per line", type="linelist")
    parser.addini("dws_fail_on_increase", "as --dws-fail-on-increase, a number", default="")
    parser.addini("dws_baseline", "as --dws-baseline", default="")
    parser.addini("dws_strict", "as --dws-strict", type="bool", default=False)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_dwsconv.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> None:
    """Give bare options their value, or argparse takes the test path after them for it."""
    end = args.index("--") if "--" in args else len(args)
    bare = [index for index, argument in enumerate(args[:end]) if argument in _BARE]
    for index in bare:
        args[index] = f"{args[index]}={_BARE[args[index]]}"
    if bare:
        early_config.known_args_namespace.file_or_dir = parser.parse_known_args(args).file_or_dir


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("dws_budget"):
        from pytest_dwsconv.plugin.markers.budget import check_marker

        check_marker(item)
    if item.get_closest_marker("dws_agreement"):
        from pytest_dwsconv.plugin.markers.agreement import check_agreement_marker

        check_agreement_marker(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    if item.get_closest_marker("dws_budget"):
        from pytest_dwsconv.plugin.markers.budget import enforce_marker

        with enforce_marker(item):
            result = yield
    else:
        result = yield
    if item.get_closest_marker("dws_agreement"):
        from pytest_dwsconv.plugin.markers.agreement import enforce_agreement

        enforce_agreement(item)
    return result


def pytest_configure(config: pytest.Config) -> None:
    for marker in (dws_budget, dws_agreement):
        arguments = ", ".join(f"{name}=" for name in signature(marker).parameters)
        config.addinivalue_line("markers", f"{marker.__name__}({arguments}): {marker.__doc__}")
    if config.getoption("dws_input_size") and not (
        config.getoption("dws_model") or config.getini("dws_models")
    ):
        raise pytest.UsageError(
            "dws-input-size is the input of a named model: name the model with --dws-model"
        )
    _check_strict(config)
    wanted, folder = _wanted(config)
    noticing = bool(wanted) or _checked(config)
    is_asked = noticing or config.getoption("dws_fix_plan") is not None
    # reason: where tests are only collected, none runs, and there is nothing to report or check
    config.stash[REPORTING] = is_asked and not config.option.collectonly
    if not config.stash[REPORTING]:
        return
    from pytest_dwsconv.plugin.noticing.noticer import Noticer
    from pytest_dwsconv.plugin.settings import project_policy, usage_errors
    from pytest_dwsconv.plugin.targets.backends import LATENCIES, TableLatencies

    with usage_errors():
        project_policy(config)
    if (table := TableLatencies.of(config)) is not None:
        config.stash[LATENCIES] = table
        config.pluginmanager.register(table, "dwsconv-latencies")
    if not hasattr(config, "workerinput"):
        from pytest_dwsconv.plugin.outputs import outputs
        from pytest_dwsconv.plugin.summary import Summary

        summary = Summary(config, outputs(wanted, folder))
        config.pluginmanager.register(summary, "dwsconv-summary")
        if config.getoption("dws_fix_plan") is not None:
            from pytest_dwsconv.plugin.fix_plan import FixPlans

            config.pluginmanager.register(FixPlans(config, summary.run), "dwsconv-fix-plans")
    if noticing:
        Noticer.of(config).start()


@pytest.hookimpl(trylast=True)
def pytest_dwsconv_judge(finding: Finding) -> Judgement:
    from pytest_dwsconv.core.rules import Judgement

    return Judgement(finding.verdict, finding.code, finding.reason)


def _check_strict(config: pytest.Config) -> None:
    """Refuse a ``dws_strict`` that is not true or false.

    pytest raises its own error for whoever reads the key first, and before pytest 9 a ValueError.
    """
    try:
        config.getini("dws_strict")
    except (ValueError, pytest.UsageError):
        from pytest_dwsconv.plugin.settings import strict

        strict(config)


def _checked(config: pytest.Config) -> bool:
    """Whether the models of the run are checked, be they shown or not."""
    compared = config.getoption("dws_fail_on_increase") or config.getini("dws_fail_on_increase")
    return bool(
        compared
        or config.getoption("dws_update")
        or config.getoption("dws_baseline") is not None
        or config.getini("dws_budgets")
        or _has_named_budgets(config)
    )


def _has_named_budgets(config: pytest.Config) -> bool:
    if not config.getini("dws_models"):
        return False
    from pytest_dwsconv.plugin.settings import named_models

    return any(named.budget is not None for named in named_models(config))


def _wanted(config: pytest.Config) -> tuple[list[str], Path]:
    """The reports asked for on the command line, or else in the ini file, and their folder.

    Naming a model or a target on the command line, or saying how many models are to be shown, asks
    for text where no form is asked for, and saying how text is to be shown does so in any case.
    """
    given = config.getoption("dws_report")
    folder = config.invocation_params.dir
    wanted: list[str] = []
    if given:
        wanted = given
    elif config.getini("dws_report"):
        from pytest_dwsconv.plugin.settings import lines

        wanted = lines(config, "dws_report")
        folder = config.rootpath
    elif any(map(config.getoption, ("dws_model", "dws_top", "dws_target"))):
        wanted = ["text"]
    shown = any(map(config.getoption, VIEW_OPTIONS))
    if shown and not any(value.partition(":")[0] == "text" for value in wanted):
        wanted = [*wanted, "text"]
    return wanted, folder
