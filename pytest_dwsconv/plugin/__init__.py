"""The pytest plugin: what pytest finds here are options and hooks; the work is done elsewhere, imported on demand."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_dwsconv.plugin.fixtures import budget_fixture, dws_report
from pytest_dwsconv.plugin.marker import marker_help, pytest_runtest_call, pytest_runtest_setup
from pytest_dwsconv.plugin.reports import ASKED, NOTICER, pytest_dwsconv_judge, pytest_runtest_makereport

__all__ = [
    "budget_fixture",
    "dws_report",
    "pytest_addhooks",
    "pytest_addoption",
    "pytest_configure",
    "pytest_dwsconv_judge",
    "pytest_load_initial_conftests",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dwsconv", "depthwise separable convolutions")
    group.addoption(
        "--dws-report",
        action="append",
        nargs="?",
        const="text",
        metavar="FORMAT[:PATH]",
        help="report the models of this run: text (the default, in the terminal summary unless a PATH is given) "
        "or json; only the form with = takes a value; may be repeated",
    )
    group.addoption(
        "--dws-model",
        action="append",
        metavar="MODULE:FACTORY",
        help="report this model too: a torch.nn.Module, or what returns one when called, with its arguments in "
        "parentheses if it needs any; may be repeated",
    )
    group.addoption(
        "--dws-input-size",
        metavar="N,C,H,W",
        help="the input shape of the models named by --dws-model; several inputs are separated by ;",
    )
    group.addoption(
        "--dws-strict",
        action="store_true",
        default=None,
        help="fail the run if a model it calls cannot be analysed",
    )
    parser.addini("dws_report", "as --dws-report, one a line", type="linelist")
    parser.addini("dws_models", "models to report, one a line: as --dws-model, then its input size", type="linelist")
    parser.addini("dws_input_size", "as --dws-input-size, for models without one of their own")
    parser.addini("dws_strict", "as --dws-strict", type="bool", default=False)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_dwsconv import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Give a bare ``--dws-report`` its value, or argparse takes the test path after it for one."""
    end = args.index("--") if "--" in args else len(args)
    bare = [index for index, argument in enumerate(args[:end]) if argument == "--dws-report"]
    for index in bare:
        args[index] = "--dws-report=text"
    if bare:
        early_config.known_args_namespace.file_or_dir = parser.parse_known_args(args).file_or_dir


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", marker_help())
    wanted, folder = _wanted(config)
    config.stash[ASKED] = bool(wanted)
    if wanted:
        from pytest_dwsconv.plugin.noticing import Noticer

        config.stash[NOTICER] = Noticer(config)
        config.pluginmanager.register(config.stash[NOTICER], "dwsconv-noticer")
    if wanted and not hasattr(config, "workerinput"):
        from pytest_dwsconv.plugin.summary import Summary, output

        outputs = [output(value, folder) for value in wanted]
        config.pluginmanager.register(Summary(config, outputs), "dwsconv-summary")


def _wanted(config: pytest.Config) -> tuple[list[str], Path]:
    """What is asked for on the command line, or else in the ini file, and the folder its paths start from.

    Naming a model on the command line asks for text.
    """
    given, configured = config.getoption("dws_report"), config.getini("dws_report")
    if given is None and configured:
        return configured, config.rootpath
    if given is None:
        given = ["text"] if config.getoption("dws_model") else []
    return given, config.invocation_params.dir
