"""What runs faster on a CPU: networks and layers timed in turns with their replacements."""

from __future__ import annotations

from pytest_dwsconv.errors import require, require_torch

require_torch()
require("timing a network", "numpy", "torch")

from pytest_dwsconv.core.latency.comparison import (
    Comparison,
    Conditions,
    MemoryFormat,
    Runtime,
    Speed,
)
from pytest_dwsconv.latency.layers import time_layers
from pytest_dwsconv.latency.networks import compare_networks

__all__ = [
    "Comparison",
    "Conditions",
    "MemoryFormat",
    "Runtime",
    "Speed",
    "compare_networks",
    "time_layers",
]
