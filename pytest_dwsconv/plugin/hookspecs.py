"""The hooks this plugin calls; implement them in a conftest.py or in a plugin of your own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_dwsconv.core.findings import Finding
    from pytest_dwsconv.core.measurement import LatencyBackend
    from pytest_dwsconv.core.rules import Judgement
    from pytest_dwsconv.report import Report


@pytest.hookspec(firstresult=True)
def pytest_dwsconv_judge(config: pytest.Config, finding: Finding) -> Judgement | None:
    """Return the judgement that takes the place of the finding's own, or None to keep it."""


@pytest.hookspec
def pytest_dwsconv_report(config: pytest.Config, nodeid: str, report: Report) -> None:
    """Receive a report that joins the summary; ``nodeid`` is empty for one of ``--dws-model``."""


@pytest.hookspec(firstresult=True)
def pytest_dwsconv_latency_backend(config: pytest.Config, target: str) -> LatencyBackend | None:
    """Return what measures models on ``target``, as in "edgetpu", or None to leave it to others."""
