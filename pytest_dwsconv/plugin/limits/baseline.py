"""The baseline that a run is compared with, or that it updates."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_dwsconv.core.suite.baseline import Baseline, Gone, stored_models
from pytest_dwsconv.core.suite.changes import ChangeStatus, Tolerance
from pytest_dwsconv.core.suite.costs import Current, current
from pytest_dwsconv.errors import FormatError
from pytest_dwsconv.plugin.limits.extent import Extent
from pytest_dwsconv.plugin.settings import BudgetRule, tolerated, usage_errors
from pytest_dwsconv.writing import replace_content

if TYPE_CHECKING:
    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.plugin.limits.checks import CheckResult
    from pytest_dwsconv.render import SuiteRun

PLACE = Path(".dwsconv") / "baseline.json"

_REMOVE = "--dws-update removes it in a run of all tests"


class BaselineCheck:
    """Compares the models of a run with a baseline, or writes them to it.

    What is wrong with options and the file is found on construction, before any test runs.

    Raises:
        pytest.UsageError: an option or the baseline's file cannot be used.
    """

    def __init__(self, config: pytest.Config, table: Sequence[BudgetRule]) -> None:
        self._table = table
        self._tolerance = _tolerance(config)
        self._update = _update(config)
        self._root = config.rootpath
        self._path, is_named = _path(config)
        self._extent = Extent(config)
        config.pluginmanager.register(self._extent, "dwsconv-extent")
        self._baseline: Baseline | None = None
        if self._tolerance is not None or self._update or is_named:
            self._baseline = self._read()

    @property
    def _name(self) -> str:
        """The file as messages and tables call it."""
        if self._path.is_relative_to(self._root):
            return self._path.relative_to(self._root).as_posix()
        return str(self._path)

    def run(
        self, run: SuiteRun, latencies: Mapping[ReportData, Mapping[str, float]], found: CheckResult
    ) -> None:
        """Compare or update; what there is to say is added to ``found``."""
        if self._baseline is None:
            return
        from pytest_dwsconv.core.suite.architectures import architectures

        models = current(architectures(run), latencies)
        targets = {target for reporters in run.values() for target in reporters.targets}
        is_gone = partial(self._extent.is_gone, targets=targets)
        if self._update:
            self._write(self._baseline, models, is_gone, found)
        else:
            self._compare(self._baseline, models, is_gone, found)

    def _write(
        self, baseline: Baseline, models: list[Current], is_gone: Gone, found: CheckResult
    ) -> None:
        """Take the models over; a run of all tests removes those that are no longer there."""
        unseen = baseline.unseen(models, is_gone)
        if not self._extent.is_full:
            found.notices += [f"{name} of the baseline was not seen: {_REMOVE}." for name in unseen]
            unseen = []
        updated, changes = baseline.updated(models, unseen, _commit(self._root))
        if not changes and not self._path.exists():
            found.notices.append(
                f"{self._name} is not made, as no model was reported: call one in a test, or name "
                "one with --dws-model."
            )
            return
        if not changes:
            found.notices.append(f"{self._name} is up to date.")
            return
        try:
            write_baseline(self._path, updated)
        except OSError as error:
            kept = f"the baseline {self._path} is as it was"
            found.unwritten.append(f"{kept}, it cannot be written: {error.strerror}")
        else:
            found.notices += [f"{self._name} is updated:", *changes]

    def _compare(
        self, baseline: Baseline, models: list[Current], is_gone: Gone, found: CheckResult
    ) -> None:
        compared = baseline.compared(models, self._tolerated, is_gone, self._name)
        found.changes = compared.changes
        accept = "If that is meant, take it over with --dws-update."
        found.faults += [f"{increase} {accept}" for increase in compared.changes.increases]
        found.unknown += [f"{escaped}. {accept}" for escaped in compared.escaped]
        tighten = "It is smaller than the baseline: tighten that with --dws-update."
        found.notices += [f"{decrease} {tighten}" for decrease in compared.changes.decreases]
        found.notices += [f"{missing}: add it with --dws-update." for missing in compared.missing]
        gone = compared.changes.of(ChangeStatus.GONE)
        found.notices += [f"{one.name} of the baseline was not seen: {_REMOVE}." for one in gone]

    def _tolerated(self, model: Current) -> Tolerance | None:
        if self._tolerance is None:
            return None
        return tolerated(model.kind, model.users, self._table, self._tolerance)

    def _read(self) -> Baseline:
        try:
            text = self._path.read_text(encoding="utf-8")
            return Baseline.from_json(text) if self._update else Baseline.of(stored_models(text))
        except FileNotFoundError as error:
            if self._update and _can_be_made(self._path):
                return Baseline()
            advice = "make it with --dws-update and commit it"
            if self._update:
                advice = "name a folder that can be written"
            raise pytest.UsageError(f"there is no baseline {self._path}: {advice}") from error
        except OSError as error:
            raise pytest.UsageError(f"the baseline {self._path} cannot be read: {error}") from error
        except (FormatError, UnicodeDecodeError) as error:
            raise pytest.UsageError(
                f"the baseline {self._path} cannot be used ({error}): restore it, or delete it and "
                "use --dws-update"
            ) from error


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Replace the file at one stroke, whatever interrupts that.

    Raises:
        OSError: it cannot be written, and is as it was.
    """
    path.parent.mkdir(exist_ok=True)
    replace_content(path, baseline.to_json().encode())


def _tolerance(config: pytest.Config) -> Tolerance | None:
    """The growth that is tolerated; None where models may grow by any amount."""
    given = config.getoption("dws_fail_on_increase")
    if given == "":
        raise pytest.UsageError(
            "dws-fail-on-increase is empty: write a number from 0, as in 2.5, or leave it out"
        )
    text = str(config.getini("dws_fail_on_increase") if given is None else given)
    with usage_errors("dws-fail-on-increase "):
        return Tolerance.parsed(text) if text.strip() else None


def _update(config: pytest.Config) -> bool:
    given = config.getoption("dws_update")
    if given not in (None, "yes", "force"):
        raise pytest.UsageError(
            f"dws-update {given!r} is not force: write --dws-update, or --dws-update=force under CI"
        )
    if given == "yes" and os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise pytest.UsageError(
            "--dws-update is refused where CI is set: update the baseline on your machine and "
            "commit it, or force it with --dws-update=force"
        )
    return given is not None


def _path(config: pytest.Config) -> tuple[Path, bool]:
    """Where the baseline lies, and whether it is named, so that a report shows what changed.

    One that the configuration names may still have to be made.
    """
    given = config.getoption("dws_baseline")
    if given is not None:
        if not given:
            raise pytest.UsageError("dws-baseline is empty: name a file, or leave it out")
        return config.invocation_params.dir / given, True
    configured = config.getini("dws_baseline")
    path = config.rootpath / (configured or PLACE)
    return path, bool(configured) and path.exists()


def _commit(folder: Path) -> str:
    """The commit that is checked out, abbreviated; empty where there is no git or no commit."""
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    try:
        said = subprocess.run(command, cwd=folder, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    commit = said.stdout.decode(errors="replace").strip()
    return commit if re.fullmatch("[0-9a-f]+", commit) else ""


def _can_be_made(path: Path) -> bool:
    folder = path.parent if path.parent.exists() else path.parent.parent
    return folder.is_dir() and os.access(folder, os.W_OK)
