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
    from pytest_dwsconv.core.budget import Budget, check_limits
    from pytest_dwsconv.core.conv import (
        ConvSpec,
        Cost,
        Form,
        Kind,
        Order,
        Part,
        Trait,
        cost,
        separable_cost,
    )
    from pytest_dwsconv.core.findings import Finding, Layer, Memory, Origin, ReportData
    from pytest_dwsconv.core.latency.comparison import (
        Comparison,
        Conditions,
        MemoryFormat,
        Runtime,
        Speed,
    )
    from pytest_dwsconv.core.latency.evidence import Effect, Evidence, Provenance
    from pytest_dwsconv.core.limits import LimitCheck
    from pytest_dwsconv.core.measurement import LatencyBackend, LatencyLimit, Measurement
    from pytest_dwsconv.core.plan import Plan, PlanEntry
    from pytest_dwsconv.core.policy import Policy
    from pytest_dwsconv.core.quantities import Unit
    from pytest_dwsconv.core.rules import Judgement, Verdict, judge
    from pytest_dwsconv.errors import (
        CompilerError,
        DwsconvError,
        EdgeTpuWarning,
        ExportError,
        FitWarning,
        FormatError,
        InputError,
        MissingDependencyError,
        SourceError,
        TargetError,
        TracingError,
    )
    from pytest_dwsconv.fit.planning import Budgets
    from pytest_dwsconv.fit.quality import Fault, FitQuality, Refinement, Remedies
    from pytest_dwsconv.fit.training.distillation import Batches, Distilled, distill
    from pytest_dwsconv.report import Report
    from pytest_dwsconv.rewriting.agreement import Agreement, measure_agreement
    from pytest_dwsconv.rewriting.application import apply_plan
    from pytest_dwsconv.rewriting.fx_pass import DepthwiseSeparablePass
    from pytest_dwsconv.rewriting.result import Acceptance, RewriteResult, Trial
    from pytest_dwsconv.rewriting.rewrite import rewrite
    from pytest_dwsconv.separable.modules import SeparableConv1d, SeparableConv2d, SeparableConv3d
    from pytest_dwsconv.separable.transposed import (
        SeparableConvTranspose1d,
        SeparableConvTranspose2d,
        SeparableConvTranspose3d,
    )

_HOMES = {
    "analysis.analyze": ("analyze",),
    "core.budget": ("Budget", "check_limits"),
    "core.conv": (
        "ConvSpec",
        "Cost",
        "Form",
        "Kind",
        "Order",
        "Part",
        "Trait",
        "cost",
        "separable_cost",
    ),
    "core.findings": ("Finding", "Layer", "Memory", "Origin", "ReportData"),
    "core.latency.comparison": ("Comparison", "Conditions", "MemoryFormat", "Runtime", "Speed"),
    "core.latency.evidence": ("Effect", "Evidence", "Provenance"),
    "core.measurement": ("LatencyBackend", "LatencyLimit", "Measurement"),
    "core.plan": ("Plan", "PlanEntry"),
    "core.policy": ("Policy",),
    "core.rules": ("Judgement", "Verdict", "judge"),
    "errors": (
        "CompilerError",
        "DwsconvError",
        "EdgeTpuWarning",
        "FitWarning",
        "ExportError",
        "FormatError",
        "InputError",
        "MissingDependencyError",
        "SourceError",
        "TargetError",
        "TracingError",
    ),
    "fit.planning": ("Budgets",),
    "fit.quality": ("Fault", "FitQuality", "Refinement", "Remedies"),
    "fit.training.distillation": ("Batches", "Distilled", "distill"),
    "report": ("Report",),
    "rewriting.agreement": ("Agreement", "measure_agreement"),
    "rewriting.fx_pass": ("DepthwiseSeparablePass",),
    "rewriting.application": ("apply_plan",),
    "rewriting.result": ("Acceptance", "RewriteResult", "Trial"),
    "rewriting.rewrite": ("rewrite",),
    "separable.modules": ("SeparableConv1d", "SeparableConv2d", "SeparableConv3d"),
    "separable.transposed": (
        "SeparableConvTranspose1d",
        "SeparableConvTranspose2d",
        "SeparableConvTranspose3d",
    ),
    "core.limits": ("LimitCheck",),
    "core.quantities": ("Unit",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Acceptance",
    "Agreement",
    "Batches",
    "Budget",
    "Budgets",
    "Comparison",
    "CompilerError",
    "Conditions",
    "ConvSpec",
    "Cost",
    "DepthwiseSeparablePass",
    "Distilled",
    "DwsconvError",
    "EdgeTpuWarning",
    "Effect",
    "Evidence",
    "ExportError",
    "Fault",
    "Finding",
    "FitQuality",
    "FitWarning",
    "Form",
    "FormatError",
    "InputError",
    "Judgement",
    "Kind",
    "LatencyBackend",
    "LatencyLimit",
    "Layer",
    "LimitCheck",
    "Measurement",
    "Memory",
    "MemoryFormat",
    "MissingDependencyError",
    "Order",
    "Origin",
    "Part",
    "Plan",
    "PlanEntry",
    "Policy",
    "Provenance",
    "Refinement",
    "Remedies",
    "Report",
    "ReportData",
    "RewriteResult",
    "Runtime",
    "SeparableConv1d",
    "SeparableConv2d",
    "SeparableConv3d",
    "SeparableConvTranspose1d",
    "SeparableConvTranspose2d",
    "SeparableConvTranspose3d",
    "SourceError",
    "Speed",
    "TargetError",
    "TracingError",
    "Trait",
    "Trial",
    "Unit",
    "Verdict",
    "analyze",
    "apply_plan",
    "check_limits",
    "cost",
    "distill",
    "judge",
    "measure_agreement",
    "rewrite",
    "separable_cost",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
