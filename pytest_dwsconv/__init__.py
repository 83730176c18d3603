"""Find, cost and replace the standard convolutions that could be depthwise separable.

Public names are resolved on first use (PEP 562): importing the package imports neither torch nor
libcst.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_dwsconv._version import __version__ as __version__

if TYPE_CHECKING:
    from pytest_dwsconv.analysis.analyze import analyze
    from pytest_dwsconv.core.budget import Budget
    from pytest_dwsconv.core.conv import ConvSpec, Cost, Kind, Order
    from pytest_dwsconv.core.findings import Finding
    from pytest_dwsconv.core.plan import Plan
    from pytest_dwsconv.core.rules import Policy, Verdict, judge
    from pytest_dwsconv.errors import DwsconvError
    from pytest_dwsconv.fit.distillation import distill
    from pytest_dwsconv.report import Report
    from pytest_dwsconv.rewriting.application import apply_plan
    from pytest_dwsconv.rewriting.fx_pass import DepthwiseSeparablePass
    from pytest_dwsconv.rewriting.result import RewriteResult
    from pytest_dwsconv.rewriting.rewrite import rewrite
    from pytest_dwsconv.separable.modules import SeparableConv1d, SeparableConv2d, SeparableConv3d

_HOMES = {
    "analysis.analyze": ("analyze",),
    "core.budget": ("Budget",),
    "core.conv": ("ConvSpec", "Cost", "Kind", "Order"),
    "errors": ("DwsconvError",),
    "fit.distillation": ("distill",),
    "rewriting.fx_pass": ("DepthwiseSeparablePass",),
    "core.plan": ("Plan",),
    "core.findings": ("Finding",),
    "report": ("Report",),
    "rewriting.application": ("apply_plan",),
    "rewriting.result": ("RewriteResult",),
    "rewriting.rewrite": ("rewrite",),
    "core.rules": ("Policy", "Verdict", "judge"),
    "separable.modules": ("SeparableConv1d", "SeparableConv2d", "SeparableConv3d"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Budget",
    "ConvSpec",
    "Cost",
    "DepthwiseSeparablePass",
    "DwsconvError",
    "Finding",
    "Kind",
    "Order",
    "Plan",
    "Policy",
    "Report",
    "RewriteResult",
    "SeparableConv1d",
    "SeparableConv2d",
    "SeparableConv3d",
    "Verdict",
    "analyze",
    "apply_plan",
    "distill",
    "judge",
    "rewrite",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
