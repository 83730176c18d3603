"""The Edge TPU in pytest: options and fixtures. Loaded with the plugin, idle until asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_dwsconv.plugin.record import record_of

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.core.measurement import LatencyBackend, Measurement
    from pytest_dwsconv.edgetpu.device import EdgeTpu
    from pytest_dwsconv.edgetpu.faults import EdgeTpuAbsentError
    from pytest_dwsconv.edgetpu.hosts import Host

TARGET = "edgetpu"
MODES = ("auto", "require", "off")
PREDICTION_HOST = "rpi4_usb3"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dwsconv", "depthwise separable convolutions")
    group.addoption(
        "--dws-edgetpu",
        choices=MODES,
        help="without an Edge TPU, tests that want one are skipped (auto, the default) or fail "
        "(require); off skips them in any case",
    )
    group.addoption(
        "--dws-edgetpu-host",
        metavar="SPEC",
        help="where the Edge TPU is: python=/path/python3.9, ssh=pi@raspberrypi, or both separated "
        "by //; this Python by default",
    )
    group.addoption(
        "--dws-edgetpu-device",
        metavar="STR",
        help="which Edge TPU, as pycoral names it: :1, usb, usb:0, pci or pci:0; any by default",
    )
    parser.addini("dws_edgetpu", "as --dws-edgetpu")
    parser.addini("dws_edgetpu_host", "as --dws-edgetpu-host")
    parser.addini("dws_edgetpu_device", "as --dws-edgetpu-device")
    parser.addini(
        "dws_prediction_host",
        "the kind of host that latencies are predicted for: rpi4_usb3 (the default), desktop_usb3 "
        "or dev_board_pcie",
        default=PREDICTION_HOST,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a setting that cannot be used before any test runs."""
    if _mode(config) not in MODES:
        raise pytest.UsageError(
            f"dws_edgetpu {_mode(config)!r} is not {', '.join(MODES[:-1])} or {MODES[-1]}"
        )
    host, device = _setting(config, "dws_edgetpu_host"), _setting(config, "dws_edgetpu_device")
    if host or device:
        from pytest_dwsconv.edgetpu.device import check_device
        from pytest_dwsconv.edgetpu.hosts import HostSpec
        from pytest_dwsconv.errors import InputError

        try:
            HostSpec.parse(host)
            check_device(device)
        except InputError as error:
            raise pytest.UsageError(f"dws-edgetpu: {error}") from error
    if (kind := str(config.getini("dws_prediction_host"))) != PREDICTION_HOST:
        from pytest_dwsconv.edgetpu.prediction import rates_of
        from pytest_dwsconv.plugin.settings import usage_errors

        with usage_errors("dws_prediction_host: "):
            rates_of(kind)


def pytest_unconfigure(config: pytest.Config) -> None:
    connection = config.stash.get(_CONNECTION, None)
    if connection is not None:
        connection.host.close()


def _setting(config: pytest.Config, name: str) -> str:
    """An option, or else its key in the ini file, or else nothing."""
    return str(config.getoption(name) or config.getini(name) or "")


def _mode(config: pytest.Config) -> str:
    return _setting(config, "dws_edgetpu") or MODES[0]


# --------------------------------------------------------------------------- the device


class _Connection:
    """The host of this process' tests, what was found there, or why nothing was."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.found: EdgeTpu | None = None
        self.absent: EdgeTpuAbsentError | None = None


_CONNECTION = pytest.StashKey[_Connection]()


def _connected(config: pytest.Config) -> EdgeTpu:
    """The device of this run. It is looked for once: a search that fails may take seconds.

    Raises:
        EdgeTpuError: there is none, or it cannot be used.
    """
    from pytest_dwsconv.edgetpu.device import EdgeTpu
    from pytest_dwsconv.edgetpu.faults import EdgeTpuAbsentError
    from pytest_dwsconv.edgetpu.hosts import Host

    if _CONNECTION not in config.stash:
        config.stash[_CONNECTION] = _Connection(Host(_setting(config, "dws_edgetpu_host")))
    connection = config.stash[_CONNECTION]
    if connection.absent is not None:
        raise connection.absent
    if connection.found is None:
        device = EdgeTpu(connection.host, _setting(config, "dws_edgetpu_device"))
        try:
            device.devices()
        except EdgeTpuAbsentError as error:
            connection.absent = error
            raise
        connection.found = device
    return connection.found


@contextmanager
def _skipping(config: pytest.Config) -> Iterator[None]:
    """Skip where there is no device, or fail if one is required."""
    from pytest_dwsconv.edgetpu.faults import EdgeTpuAbsentError

    if _mode(config) == "off":
        pytest.skip("the Edge TPU is switched off by dws-edgetpu")
    try:
        yield
    except EdgeTpuAbsentError as error:
        _absent(config, str(error))


def _absent(config: pytest.Config, reason: str) -> NoReturn:
    if _mode(config) == "require":
        raise pytest.fail.Exception(
            f"an Edge TPU is required by dws-edgetpu: {reason}", pytrace=False
        ) from None
    pytest.skip(reason)


@pytest.hookimpl(trylast=True)
def pytest_dwsconv_latency_backend(config: pytest.Config, target: str) -> LatencyBackend | None:
    if target != TARGET:
        return None
    with _skipping(config):
        return _connected(config)


# --------------------------------------------------------------------------- fixtures


@pytest.fixture(scope="session")
def edgetpu(pytestconfig: pytest.Config) -> EdgeTpu:
    """The connected Edge TPU: edgetpu.measure(model, (1, 3, 224, 224)).

    Without one, the test is skipped with the reason.
    """
    with _skipping(pytestconfig):
        return _connected(pytestconfig)


@pytest.fixture
def edgetpu_latency(request: pytest.FixtureRequest) -> LatencyFixture:
    """Hold a model to a latency: edgetpu_latency(model, (1, 3, 224, 224), max="12ms").

    It is measured on the connected Edge TPU. Without one, the test is skipped with the reason, and
    reports show what is predicted.
    """
    return LatencyFixture(request.node)


class LatencyFixture:
    """The fixture ``edgetpu_latency``: call it with a model, its input shape and a latency."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def __call__(
        self,
        model: nn.Module | bytes | str | PathLike[str],
        shape: tuple[int, ...] | None = None,
        *,
        max: float | str,  # noqa: A002  # as people say it
        percentile: float = 50,
        tolerance: float | str = 0,
    ) -> Measurement:
        __tracebackhide__ = True
        from pytest_dwsconv.core.measurement import LatencyLimit, measured_by
        from pytest_dwsconv.core.plaintext import plain
        from pytest_dwsconv.errors import DwsconvError

        config = self._item.config
        try:
            limit = LatencyLimit(max, percentile, tolerance)
            backend = self._backend(model)
            with _skipping(config):
                measurement = measured_by(backend, model, shape, _name(model))
        except (DwsconvError, pytest.skip.Exception) as error:
            if isinstance(error, pytest.skip.Exception):
                error.msg = self._predicted(model, shape, str(error.msg))
            # reason: a fault is the user's to mend, and a skip is shown where the test asked: both
            # in one sentence, without frames of this plugin
            raise error.with_traceback(None) from None
        record_of(self._item).add_measurement(measurement)
        excess = limit.excess(measurement)
        if excess:
            pytest.fail(f"{plain(excess)}\n{measurement}")
        return measurement

    def _predicted(
        self,
        model: nn.Module | bytes | str | PathLike[str],
        shape: tuple[int, ...] | None,
        why: str,
    ) -> str:
        """Record what is predicted of a model that is not measured, and add it to the reason."""
        from pytest_dwsconv.plugin.latency import predicted_instead

        predicted = predicted_instead(self._item.config, model, shape, _name(model), why)
        if predicted is None:
            return why
        record_of(self._item).add_measurement(predicted)
        return f"{why}; {predicted.prediction.figures}"

    def _backend(self, model: object) -> LatencyBackend:
        config = self._item.config
        try:
            with _skipping(config):
                backend: LatencyBackend = self._item.ihook.pytest_dwsconv_latency_backend(
                    config=config, target=TARGET
                )
        except pytest.skip.Exception:
            connection = config.stash.get(_CONNECTION, None)
            # a backend of the user's own, which may skip too, may take models that are not files
            if connection is not None and connection.absent is not None:
                from pytest_dwsconv.edgetpu.device import file_content

                file_content(model)  # one that is missing is the user's to mend, not to skip
            raise
        return backend


def _name(model: object) -> str:
    """What a measurement would call a model: by its file, or else its class."""
    if isinstance(model, bytes):
        return "model"
    return Path(model).name if isinstance(model, (str, PathLike)) else type(model).__name__
