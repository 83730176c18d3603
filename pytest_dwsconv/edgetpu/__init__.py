"""The Edge TPU: export, model files, compiler, device. Each is imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_dwsconv.core.measurement import LatencyPrediction
    from pytest_dwsconv.edgetpu.compiler import (
        Compilation,
        CompilerReport,
        OperatorCount,
        compile_model,
        compile_segments,
    )
    from pytest_dwsconv.edgetpu.device import Device, EdgeTpu, Procedure, measure
    from pytest_dwsconv.edgetpu.export import (
        ChannelRanges,
        Int8Accuracy,
        Int8Comparison,
        compare_int8,
        export_float,
        export_int8,
        int8_accuracy,
    )
    from pytest_dwsconv.edgetpu.faults import EdgeTpuAbsentError, EdgeTpuError
    from pytest_dwsconv.edgetpu.hosts import Host
    from pytest_dwsconv.edgetpu.loads import Load
    from pytest_dwsconv.edgetpu.modelfile import (
        ModelFile,
        Operator,
        Quantization,
        Tensor,
        read_model,
    )
    from pytest_dwsconv.edgetpu.package import Package
    from pytest_dwsconv.edgetpu.prediction import LatencyFeatures, predict_latency
    from pytest_dwsconv.edgetpu.savings import (
        ChipMemory,
        LayerMemory,
        chip_memory,
        compiler_evidence,
        predicted_evidence,
    )
    from pytest_dwsconv.edgetpu.support import OperatorJudgement, Status, Support, judge_model

_HOMES = {
    "compiler": "Compilation CompilerReport OperatorCount compile_model compile_segments",
    "device": "Device EdgeTpu Procedure measure",
    "export": "ChannelRanges Int8Accuracy Int8Comparison compare_int8 export_float export_int8 "
    "int8_accuracy",
    "faults": "EdgeTpuAbsentError EdgeTpuError",
    "hosts": "Host",
    "loads": "Load",
    "modelfile": "ModelFile Operator Quantization Tensor read_model",
    "package": "Package",
    "prediction": "LatencyFeatures LatencyPrediction predict_latency",
    "savings": "ChipMemory LayerMemory chip_memory compiler_evidence predicted_evidence",
    "support": "OperatorJudgement Status Support judge_model",
}
"""The names that each file has."""
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "ChannelRanges",
    "ChipMemory",
    "Compilation",
    "CompilerReport",
    "Device",
    "EdgeTpu",
    "EdgeTpuAbsentError",
    "EdgeTpuError",
    "Host",
    "Int8Accuracy",
    "Int8Comparison",
    "LatencyFeatures",
    "LatencyPrediction",
    "LayerMemory",
    "Load",
    "ModelFile",
    "Operator",
    "OperatorCount",
    "OperatorJudgement",
    "Package",
    "Procedure",
    "Quantization",
    "Status",
    "Support",
    "Tensor",
    "chip_memory",
    "compare_int8",
    "compile_model",
    "compile_segments",
    "compiler_evidence",
    "export_float",
    "export_int8",
    "int8_accuracy",
    "judge_model",
    "measure",
    "predict_latency",
    "predicted_evidence",
    "read_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
