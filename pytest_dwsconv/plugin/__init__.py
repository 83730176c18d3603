"""The pytest plugin: what pytest finds here are options and hooks; the work is done elsewhere,
imported on demand.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_dwsconv.plugin.fixtures import budget_fixture, dws_report
from pytest_dwsconv.plugin.reports import (
    ASKED,
    LATENCIES,
    NOTICER,
    pytest_dwsconv_judge,
    pytest_runtest_makereport,
)

pytest_plugins = ("pytest_dwsconv.plugin.edgetpu",)
"""Loaded along with this one."""

__all__ = [
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
    """An option that takes a value after ``=`` only, may be bare, and leaves a test path after it
    alone.

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
        several = self.dest == "dws_report"
        setattr(
            namespace,
            self.dest,
            [*(getattr(namespace, self.dest) or ()), given] if several else given,
        )

    def _accepts(self, given: str) -> bool:
        if self.dest != "dws_report":
            return (
                given in (self.const, "force") or re.fullmatch(r"\d+(\.\d+)?%?", given) is not None
            )
        from pytest_dwsconv.render import FORMS

        return bool(given.partition(":")[0] in FORMS)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dwsconv", "depthwise separable convolutions")
    group.addoption(
        "--dws-report",
        action=ValueAfterEquals,
        nargs="?",
        const=_BARE["--dws-report"],
        metavar="FORMAT[:PATH]",
        help="report the models of this run: text (the default), json, markdown, github or sarif, "
        "in the terminal "
        "summary unless a PATH is given, or html:PATH; only the form with = takes a value; may be "
        "repeated",
    )
    group.addoption(
        "--dws-model",
        action="append",
        metavar="MODULE:FACTORY",
        help="report this model too: a torch.nn.Module, or what returns one when called, with its "
        "arguments in "
        "parentheses if it needs any; may be repeated",
    )
    group.addoption(
        "--dws-input-size",
        metavar="N,C,H,W",
        help="the input shape of the models named by --dws-model; several inputs are separated by "
        ";",
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
        help="show sums by the parts of a model, N names deep, in the place of its convolutions",
    )
    group.addoption(
        "--dws-strict",
        action="store_true",
        default=None,
        help="fail a run that reports models, or holds them to something, if one that it calls "
        "cannot be analysed or a "
        "latency that it limits cannot be measured",
    )
    group.addoption(
        "--dws-fail-on-increase",
        nargs="?",
        const=_BARE["--dws-fail-on-increase"],
        metavar="PCT",
        action=ValueAfterEquals,
        help="fail the run if a model has more parameters or MACs than .dwsconv/baseline.json "
        "says, "
        "by more than PCT percent if given",
    )
    group.addoption(
        "--dws-update",
        nargs="?",
        const=_BARE["--dws-update"],
        metavar="force",
        action=ValueAfterEquals,
        help="write what the models of this run cost to .dwsconv/baseline.json; force does so "
        "where CI is set",
    )
    parser.addini("dws_report", "as --dws-report, one a line", type="linelist")
    parser.addini(
        "dws_models",
        "models to report, one a line: as --dws-model, then its input size and limits",
        type="linelist",
    )
    parser.addini("dws_input_size", "as --dws-input-size, for models without one of their own")
    parser.addini(
        "dws_budgets",
        "budgets, one a line: a model's class, a target or a path of tests, then limits as in "
        "params=5M; * is for all, "
        "and of lines for the same model the last wins",
        type="linelist",
    )
    parser.addini("dws_sort", "as --dws-sort")
    parser.addini("dws_match", "as --dws-match, one a line", type="linelist")
    parser.addini("dws_depth", "as --dws-depth")
    parser.addini("dws_fail_on_increase", "as --dws-fail-on-increase, a number", default="")
    parser.addini("dws_strict", "as --dws-strict", type="bool", default=False)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_dwsconv.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> None:
    """Give bare options their value, or argparse takes the test path after them for one."""
    end = args.index("--") if "--" in args else len(args)
    bare = [index for index, argument in enumerate(args[:end]) if argument in _BARE]
    for index in bare:
        args[index] = f"{args[index]}={_BARE[args[index]]}"
    if bare:
        early_config.known_args_namespace.file_or_dir = parser.parse_known_args(args).file_or_dir


_MARKER = (
    "dws_budget(params=, macs=, size=, size_fp16=, size_int8=, activations=, candidates=, "
    "latency=, target=, "
    "input_size=): Fail the test if a model it reports, or else takes or returns, is over this "
    "budget."
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("dws_budget"):
        from pytest_dwsconv.plugin.marker import check_marker

        check_marker(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    if not item.get_closest_marker("dws_budget"):
        return (yield)
    from pytest_dwsconv.plugin.marker import held_to_marker

    with held_to_marker(item):
        result = yield
    return result


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    if config.getoption("dws_input_size") and not (
        config.getoption("dws_model") or config.getini("dws_models")
    ):
        raise pytest.UsageError(
            "dws-input-size is the input of a named model: name the model with --dws-model"
        )
    _check_strict(config)
    wanted, folder = _wanted(config)
    config.stash[ASKED] = bool(wanted) or _checked(config)
    if not config.stash[ASKED]:
        return
    from pytest_dwsconv.plugin.latencies import Tabled
    from pytest_dwsconv.plugin.noticing.noticer import Noticer

    if (tabled := Tabled.of(config)) is not None:
        config.stash[LATENCIES] = tabled
        config.pluginmanager.register(tabled, "dwsconv-latencies")
    if not hasattr(config, "workerinput"):
        from pytest_dwsconv.plugin.summary import Summary, outputs

        config.pluginmanager.register(Summary(config, outputs(wanted, folder)), "dwsconv-summary")
    config.stash[NOTICER] = Noticer(config)
    config.pluginmanager.register(config.stash[NOTICER], "dwsconv-noticer")


def _check_strict(config: pytest.Config) -> None:
    """Raise UsageError where the key is no truth value, which pytest tells whoever reads it first."""
    try:
        config.getini("dws_strict")
    except (ValueError, pytest.UsageError):
        from pytest_dwsconv.plugin.settings import strict

        strict(config)


def _checked(config: pytest.Config) -> bool:
    """Whether the models of the run are held to something, be they shown or not."""
    compared = config.getoption("dws_fail_on_increase") or config.getini("dws_fail_on_increase")
    return bool(
        compared
        or config.getoption("dws_update")
        or config.getini("dws_budgets")
        or _limited(config)
    )


def _limited(config: pytest.Config) -> bool:
    if not config.getini("dws_models"):
        return False
    from pytest_dwsconv.plugin.settings import named_models

    return any(named.budget is not None for named in named_models(config))


def _wanted(config: pytest.Config) -> tuple[list[str], Path]:
    """What is asked for on the command line, or else in the ini file, and the folder its paths
    start from.

    Naming a model on the command line asks for text where no form is asked for, and saying how text
    is to be shown does so in any case.
    """
    given, configured = config.getoption("dws_report"), config.getini("dws_report")
    folder = config.rootpath if given is None and configured else config.invocation_params.dir
    wanted: list[str] = given or configured or (["text"] if config.getoption("dws_model") else [])
    shown = any(map(config.getoption, ("dws_sort", "dws_match", "dws_depth")))
    if shown and not any(value.partition(":")[0] == "text" for value in wanted):
        wanted = [*wanted, "text"]
    return wanted, folder
