"""How much of its tests a run had: what a model that was not seen means depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

_CHOOSING = {
    "keyword": "-k",
    "markexpr": "-m",
    "deselect": "--deselect",
    "ignore": "--ignore",
    "ignore_glob": "--ignore-glob",
    "lf": "--lf",
    "stepwise": "--stepwise",
    "collectonly": "--collect-only",
}
"""Options that leave tests out."""


class Extent:
    """Which tests of a project have run, as the process that prints hears of it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._passed: set[str] = set()
        self._heard_of: set[str] = set()
        self._failed = False
        self._deselected = False

    def pytest_deselected(self) -> None:
        self._deselected = True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._failed |= report.failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._heard_of.add(report.nodeid)
        self._failed |= report.failed
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)

    def left_out_by(self) -> str:
        """Why this run is not one of all tests; empty if it is."""
        option = self._config.option
        for name, written in _CHOOSING.items():
            if getattr(option, name, None):
                return f"under {written}"
        if self._deselected:
            return "where tests are deselected"
        if self._failed:
            return "in which a test fails"
        if not self._covers_the_project():
            return "of some files or folders"
        return ""

    def _covers_the_project(self) -> bool:
        """Whether pytest was given the whole project, or what ``testpaths`` says it consists of."""
        config = self._config
        folder = config.invocation_params.dir
        given = {(folder / argument.partition("::")[0]).resolve() for argument in config.args}
        root = config.rootpath.resolve()
        if root in given or any(root.is_relative_to(path) for path in given):
            return True
        configured = [path for entry in config.getini("testpaths") for path in root.glob(entry)]
        return bool(configured) and {path.resolve() for path in configured} <= given

    def is_gone(self, reporter: str, *, full: bool, targets: frozenset[str]) -> bool:
        """Whether this run shows that what a test or target reported is no longer there.

        Args:
            reporter: the node id of a test, or the target that the model was reported by; empty if
                it is not known.
            full: whether this run had all tests.
            targets: those that this run named.
        """
        if reporter in self._passed or reporter in targets:
            return True
        if not full:
            return False
        if "::" not in reporter:
            return not reporter or self._targets_are_configured()
        file = reporter.partition("::")[0]
        if not (Path(self._config.rootpath) / file).exists():
            return True
        # reason: of a file that was skipped as a whole nothing is heard
        of_the_file = any(nodeid.startswith(f"{file}::") for nodeid in self._passed)
        return of_the_file and reporter not in self._heard_of

    def _targets_are_configured(self) -> bool:
        """Whether the models named are those of the configuration, and not of one command line."""
        config = self._config
        return bool(config.getini("dws_models")) and not config.getoption("dws_model")
