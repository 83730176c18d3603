"""How much of its tests a run had: what a model that was not seen means depends on it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from pytest_dwsconv.plugin.settings import is_whole


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

    @property
    def is_full(self) -> bool:
        """Whether every test has run and none failed, so that what was not seen is gone."""
        option = self._config.option
        # reason: even tests that the configuration deselects in every run may have models
        chosen = self._deselected or option.markexpr or option.ignore or option.ignore_glob
        return is_whole(self._config) and not chosen and not self._failed

    def is_gone(self, reporter: str, targets: Collection[str]) -> bool:
        """Whether this run shows that what a test or target reported is no longer there.

        Args:
            reporter: the node id of a test, or the target that the model was reported by; empty if
                it is not known.
            targets: those that this run named.
        """
        if reporter in self._passed or reporter in targets:
            return True
        if not self.is_full:
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
