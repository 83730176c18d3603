"""The machine that measures, as far as a latency depends on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import torch

from pytest_dwsconv.core.jsonio import Positive
from pytest_dwsconv.core.latency.comparison import Runtime
from pytest_dwsconv.edgetpu.remote.worker import processor
from pytest_dwsconv.errors import require

_LITERT = ("ai-edge-litert", "ai-edge-quantizer", "litert-torch")


@dataclass(frozen=True)
class Machine:
    """A processor, and the versions of what runs on it."""

    processor: str
    cores: Positive
    runtime: str

    def __str__(self) -> str:
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{self.processor}, {cores}, {self.runtime}"


@cache
def this_machine(runtime: Runtime = Runtime.EAGER) -> Machine:
    """The machine this process runs on, with the cores that it may use, and what runs networks.

    Raises:
        MissingDependencyError: LiteRT is not installed.
    """
    if runtime.is_litert:
        for name in _LITERT:
            require("timing with LiteRT", name, "export")
        versions = ", ".join(f"{name} {version(name)}" for name in _LITERT)
    else:
        versions = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    return Machine(processor(), usable_cores(), versions)


def usable_cores() -> int:
    """The cores that this process may use: in a container they may be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
