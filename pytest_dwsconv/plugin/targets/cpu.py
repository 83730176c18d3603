"""The targets ``cpu``, ``litert`` and ``litert_int8``: processors, with PyTorch or with LiteRT."""

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


class ThisCpu:
    """Measures modules with PyTorch on this machine's processor."""

    def measure(
        self, model: nn.Module | bytes | str | PathLike[str], shape: tuple[int, ...] | None
    ) -> Measurement:
        from pytest_dwsconv.latency.benchmark import measure_network

        return measure_network(*_module(model, shape))


class LitertCpu:
    """Measures modules with LiteRT on the processor of the host of ``--dws-edgetpu-host``."""

    def __init__(self, host: str, runtime: Runtime) -> None:
        self._host = host
        self._runtime = runtime

    def measure(
        self, model: nn.Module | bytes | str | PathLike[str], shape: tuple[int, ...] | None
    ) -> Measurement:
        from pytest_dwsconv.edgetpu.faults import EdgeTpuAbsentError
        from pytest_dwsconv.latency.benchmark import measure_exported

        try:
            return measure_exported(*_module(model, shape), self._runtime, self._host)
        except EdgeTpuAbsentError as error:
            pytest.skip(str(error))


def _module(
    model: nn.Module | bytes | str | PathLike[str], shape: tuple[int, ...] | None
) -> tuple[nn.Module, tuple[int, ...]]:
    from pytest_dwsconv.errors import InputError

    if isinstance(model, (bytes, str, PathLike)) or shape is None:
        raise InputError("a latency on a CPU takes a module and its input shape")
    return model, shape


@pytest.hookimpl(trylast=True)
def pytest_dwsconv_latency_backend(config: pytest.Config, target: str) -> LatencyBackend | None:
    if target == "cpu":
        return ThisCpu()
    if target not in ("litert", "litert_int8"):
        return None
    from pytest_dwsconv.core.latency.comparison import Runtime

    host = str(config.getoption("dws_edgetpu_host") or config.getini("dws_edgetpu_host") or "")
    return LitertCpu(host, Runtime.LITERT if target == "litert" else Runtime.LITERT_INT8)
