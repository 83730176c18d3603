"""The targets that are processors, with PyTorch or with LiteRT."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.core.latency.comparison import Runtime
    from pytest_dwsconv.core.measurement import LatencyBackend, Measurement


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dwsconv", "depthwise separable convolutions")
    group.addoption(
        "--dws-remeasure",
        action="store_true",
        default=None,
        help="measure replacements of convolutions again on this CPU, also those whose latency "
        "is kept from an earlier run",
    )


class Cpu:
    """Measures modules on a processor: this machine's, or with LiteRT that of a host."""

    def __init__(self, runtime: Runtime, host: str) -> None:
        self._runtime = runtime
        self._host = host

    def measure(
        self, model: nn.Module | bytes | str | PathLike[str], shape: tuple[int, ...] | None
    ) -> Measurement:
        from pytest_dwsconv.edgetpu.faults import EdgeTpuAbsentError
        from pytest_dwsconv.errors import InputError
        from pytest_dwsconv.latency.benchmark import measure_exported, measure_network

        if isinstance(model, (bytes, str, PathLike)) or shape is None:
            raise InputError("a latency on a CPU takes a module and its input shape")
        if not self._runtime.is_litert:
            return measure_network(model, shape, self._runtime)
        try:
            return measure_exported(model, shape, self._runtime, self._host)
        except EdgeTpuAbsentError as error:
            pytest.skip(str(error))


@pytest.hookimpl(trylast=True)
def pytest_dwsconv_latency_backend(config: pytest.Config, target: str) -> LatencyBackend | None:
    from pytest_dwsconv.core.latency.comparison import RUNTIMES

    if target not in RUNTIMES:
        return None
    host = str(config.getoption("dws_edgetpu_host") or config.getini("dws_edgetpu_host") or "")
    return Cpu(RUNTIMES[target], host)
