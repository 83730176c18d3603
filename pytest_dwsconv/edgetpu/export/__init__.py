"""From a PyTorch model to a ``.tflite`` file."""

from pytest_dwsconv.errors import require, require_torch

require_torch()
require("exporting to TFLite", "numpy", "export")

from pytest_dwsconv.edgetpu.export.accuracy import (
    ChannelRanges,
    Int8Accuracy,
    Int8Comparison,
    compare_int8,
    int8_accuracy,
)
from pytest_dwsconv.edgetpu.export.exporter import export_float, export_int8

__all__ = [
    "ChannelRanges",
    "Int8Accuracy",
    "Int8Comparison",
    "compare_int8",
    "export_float",
    "export_int8",
    "int8_accuracy",
]
