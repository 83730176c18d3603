"""How this plugin analyses a model: under the hooks, and unnoticed by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.core.rules import Judgement
from pytest_dwsconv.plugin.isolation import inner_calls, uncovered
from pytest_dwsconv.plugin.settings import project_policy

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.core.findings import Finding
    from pytest_dwsconv.plugin.settings import Shapes
    from pytest_dwsconv.report import Report


def analyze_under_hooks(
    hook: Any,
    config: pytest.Config,
    model: nn.Module,
    shapes: Shapes,
    target: str | Sequence[str] | None = None,
    **options: Any,
) -> Report:
    """The report of a model, with what the hook ``pytest_dwsconv_judge`` makes of its verdicts.

    Without a policy it is judged by that of ``[tool.dwsconv]``.
    """
    from pytest_dwsconv.analysis.analyze import analyze
    from pytest_dwsconv.analysis.targets import with_targets
    from pytest_dwsconv.analysis.verdicts import rejudged

    def judged(finding: Finding) -> Judgement:
        judgement = hook.pytest_dwsconv_judge(config=config, finding=finding)
        if not isinstance(judgement, Judgement):
            raise pytest.UsageError(
                f"pytest_dwsconv_judge must return a Judgement or None, not {judgement!r}"
            )
        return judgement

    options.setdefault("policy", project_policy(config))
    with inner_calls(), uncovered():
        report = analyze(model, shapes, **options)
    report = rejudged(report, judged)
    if target is None:
        return report
    with inner_calls(), uncovered():
        return with_targets(report, model, target)
