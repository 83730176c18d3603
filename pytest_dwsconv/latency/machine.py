"""The machine that measures, as far as a latency depends on it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from pytest_dwsconv.core.jsonio import Positive


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
def this_machine() -> Machine:
    """The machine this process runs on, with the cores that it may use."""
    capability = torch.backends.cpu.get_cpu_capability()
    return Machine(_processor(), usable_cores(), f"torch {torch.__version__}, {capability}")


def usable_cores() -> int:
    """The cores that this process may use: in a container they may be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """What the processor is called; what ``platform`` says where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    # reason: an ARM board has no model name, and says which board it is instead
    for name in ("model name", "Model"):
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return platform.processor() or platform.machine()
