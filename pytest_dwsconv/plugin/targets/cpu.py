"""The target ``cpu``: this machine's processor, with PyTorch."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.core.measurement import LatencyBackend, Measurement

TARGET = "cpu"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dwsconv", "depthwise separable convolutions")
    group.addoption(
        "--dws-remeasure",
        action="store_true",
        default=None,
        help="measure replacements of convolutions on this CPU again, whose latencies are known "
        "from an earlier run",
    )


class ThisCpu:
    """Measures modules on this machine's processor."""

    def measure(
        self, model: nn.Module | bytes | str | PathLike[str], shape: tuple[int, ...] | None
    ) -> Measurement:
        from pytest_dwsconv.errors import InputError
        from pytest_dwsconv.latency.benchmark import measure_network

        if isinstance(model, (bytes, str, PathLike)) or shape is None:
            raise InputError("the target cpu takes a module and its input shape")
        return measure_network(model, shape)


@pytest.hookimpl(trylast=True)
def pytest_dwsconv_latency_backend(target: str) -> LatencyBackend | None:
    return ThisCpu() if target == TARGET else None
