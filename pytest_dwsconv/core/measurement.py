"""Latencies, measured or predicted, as plain data that survives pickle and JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Real
from os import PathLike
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from pytest_dwsconv.core.jsonio import OMITTED, Document, Seconds
from pytest_dwsconv.core.latency.comparison import BUSY, Conditions
from pytest_dwsconv.core.plaintext import plain, quoted
from pytest_dwsconv.core.quantities import Unit, parse_quantity
from pytest_dwsconv.errors import FormatError, InputError

if TYPE_CHECKING:
    from torch import nn

_DOCUMENT = Document("measurement", 1, "measure again")
_FIGURES = ("median", "p90", "p99", "spread")


@dataclass(frozen=True)
class Measurement:
    """How long one model took on one device. Times are seconds.

    ``samples`` are the invokes after the warm-up, in order; ``first_invoke`` comes before it and
    uploads the parameters. ``host`` is the specification of the host ("" for this one) and
    ``machine`` what it calls itself; ``device`` is the device's path, or "cpu". ``runtime`` is the
    package that ran the model, ``library`` and ``library_version`` the file of libedgetpu and what
    it calls itself, and ``clock`` its variant: "std", "max" or "unknown". The last three are empty
    for a CPU.

    ``reference`` are the seconds of a standard convolution, timed in turns with the model, on
    targets that have one: it tells how fast the machine is, and whether it was busy. ``conditions``
    are those on this machine's CPU, None elsewhere. ``waited`` is the share of the
    reference's time in which it did not run, as other programs had the cores; 0 where nobody knows.

    Raises:
        InputError: ``samples`` are not numbers above 0, or there are none.
    """

    model: str
    host: str
    machine: str
    device: str
    python: str
    runtime: str
    library: str
    library_version: str
    clock: str
    first_invoke: float
    samples: tuple[Seconds, ...]
    reference: tuple[Seconds, ...] = field(default=(), metadata=OMITTED)
    conditions: Conditions | None = field(default=None, metadata=OMITTED)
    waited: float = field(default=0.0, metadata=OMITTED)

    def __post_init__(self) -> None:
        try:
            seconds = tuple(map(float, self.samples))
        except (TypeError, ValueError, OverflowError):
            seconds = ()
        if not seconds or not all(0 < sample < math.inf for sample in seconds):
            wanted = "samples are the seconds of one invoke or more, numbers above 0"
            raise InputError(f"{self.model} was not measured: {wanted}, not {quoted(self.samples)}")
        object.__setattr__(self, "samples", seconds)

    def percentile(self, percent: float) -> float:
        """The latency that ``percent`` of the samples do not exceed.

        Between two samples it is interpolated linearly.

        Raises:
            InputError: ``percent`` is not between 0 and 100.
        """
        _check_percentile(percent)
        return _percentile(self.samples, percent)

    @property
    def median(self) -> float:
        return self.percentile(50)

    @property
    def p90(self) -> float:
        return self.percentile(90)

    @property
    def p99(self) -> float:
        return self.percentile(99)

    @property
    def spread(self) -> float:
        """The distance from the 10th to the 90th percentile, as a share of the median."""
        return _spread(self.samples)

    @property
    def is_busy(self) -> bool:
        """Whether the reference was disturbed so much that something else must have been running.

        Where that goes on all the time, the times are long, and need not vary.
        """
        return self.disturbance > BUSY

    @property
    def disturbance(self) -> float:
        """The larger one of the reference's spread and its wait."""
        return max(self.reference_spread, self.waited)

    @property
    def reference_spread(self) -> float:
        """As ``spread``, of the reference; 0 where there is none."""
        return _spread(self.reference) if self.reference else 0.0

    def __str__(self) -> str:
        median, p90, p99 = map(milliseconds, (self.median, self.p90, self.p99))
        times = f"{median} median, {p90} p90, {p99} p99"
        first = f"spread {self.spread:.1%}, first invoke {milliseconds(self.first_invoke)}"
        return plain(f"{self.model}: measured {times}, {first}, on {self.device} of {self.machine}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the schema's version and the figures that follow from ``samples``."""
        values = _DOCUMENT.to_dict(self)
        return {"schema_version": values.pop("schema_version"), **self._figures(), **values}

    def _figures(self) -> dict[str, Any]:
        """What readers of the JSON should not have to work out."""
        figures = {name: getattr(self, name) for name in _FIGURES}
        return {"obtained": "measured", "unit": "s", **figures}

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """The measurement that ``to_dict`` described.

        Raises:
            FormatError: ``data`` is of another schema version, or not a measurement.
        """
        found = _DOCUMENT.from_dict(data, cls, ("obtained", "unit", *_FIGURES))
        for key, expected in found._figures().items():
            if data.get(key, expected) != expected:
                raise FormatError(
                    f"not a measurement: {key}: {quoted(data[key])} does not follow from the "
                    f"samples, {expected!r} does"
                )
        return found

    @classmethod
    def from_json(cls, text: str) -> Measurement:
        """The measurement that ``to_json`` wrote.

        Raises:
            FormatError: ``text`` is not JSON, or not a measurement.
        """
        return cls.from_dict(_DOCUMENT.parsed(text))


def _percentile(samples: Sequence[float], percent: float) -> float:
    ordered = sorted(samples)
    position = (len(ordered) - 1) * percent / 100
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    return below + (above - below) * (position % 1)


def _spread(samples: Sequence[float]) -> float:
    return (_percentile(samples, 90) - _percentile(samples, 10)) / _percentile(samples, 50)


@dataclass(frozen=True)
class LatencyPrediction:
    """A predicted latency in milliseconds; it is expected between ``low`` and ``high``.

    ``lower_bound_ms`` is the time of the bus alone. ``reason`` says what takes the time, and what
    the interval rests on. ``host`` is the kind of host, such as "rpi4_usb3".
    """

    ms: float
    low: float
    high: float
    lower_bound_ms: float
    reason: str
    host: str

    def __str__(self) -> str:
        return f"{self.figures}: {self.reason}"

    @property
    def figures(self) -> str:
        """The latency, its interval and the host, without the reason."""
        interval = f"{self.low:.2f} to {self.high:.2f}"
        return f"predicted {self.ms:.2f} ms ({interval}) on {self.host}"


@dataclass(frozen=True)
class NotMeasured:
    """A latency that a test asked for and nobody measured, and what is predicted in its place.

    ``why`` says why it was not measured.
    """

    model: str
    why: str
    prediction: LatencyPrediction

    def __str__(self) -> str:
        return plain(f"{self.model}: not measured, {self.prediction}; {self.why}")


@dataclass(frozen=True)
class LatencyLimit:
    """What a model may take at a percentile of the samples.

    ``max`` is seconds, or text as in "12ms". "8x" is eight times as long as the reference
    convolution, which some targets time in turns with the model, so that the limit holds on faster
    and on slower machines. ``tolerance`` is the share by which the measurement may exceed it: "30%"
    or 0.3.

    Raises:
        InputError: the percentile is not between 0 and 100.
        FormatError: ``max`` or ``tolerance`` cannot be read.
    """

    max: float | str
    percentile: float | str = 50
    tolerance: float | str = 0

    def __post_init__(self) -> None:
        self.percent, self._share  # noqa: B018  # reading them is the test
        if self._factor is None:
            parse_quantity(self.max, Unit.SECONDS)

    @property
    def percent(self) -> float:
        """The percentile as a number."""
        percent = self.percentile
        if isinstance(percent, str):  # as it is written in dws_budgets
            with suppress(ValueError):
                percent = float(percent)
        _check_percentile(percent)
        return float(percent)

    @property
    def _factor(self) -> float | None:
        """How many times as long as the reference convolution, where the limit is relative."""
        match = _TIMES.fullmatch(self.max.strip()) if isinstance(self.max, str) else None
        return None if match is None else float(match[1])

    @property
    def _share(self) -> float:
        value, share = self.tolerance, -1.0
        with suppress(TypeError, ValueError, OverflowError):
            if not isinstance(value, str):
                share = float(value)
            elif value.strip().endswith("%"):
                share = float(value.strip().removesuffix("%")) / 100
        if not 0 <= share < math.inf:
            raise FormatError(
                f"{quoted(value)} is not a tolerance: write a share from 0, as in '30%' or 0.3"
            )
        return share

    def actual(self, measurement: Measurement) -> float:
        """Seconds at the percentile."""
        return measurement.percentile(self.percent)

    def allowed(self, measurement: Measurement) -> float:
        """Seconds that the limit comes to, with its tolerance.

        Raises:
            InputError: the limit is relative, and no reference was timed with the model.
        """
        return self._seconds(measurement) * (1 + self._share)

    def _seconds(self, measurement: Measurement) -> float:
        if self._factor is None:
            return parse_quantity(self.max, Unit.SECONDS)
        if not measurement.reference:
            raise InputError(
                f"{measurement.model} was measured on {measurement.device} of "
                f"{measurement.machine} without the reference convolution that a limit of "
                f"{self.max} is relative to: give the limit in ms"
            )
        return self._factor * median(measurement.reference)

    def excess(self, measurement: Measurement) -> str:
        """One sentence about a measurement that is over the limit, or nothing.

        Raises:
            InputError: as ``allowed`` does.
        """
        actual, allowed = self.actual(measurement), self.allowed(measurement)
        if actual <= allowed:
            return ""
        return plain(
            f"{measurement.model} took {milliseconds(actual)}, measured at the percentile "
            f"{self.percent:g} of {len(measurement.samples)} invokes, the limit is "
            f"{self.sentence(measurement)} ({milliseconds(actual - allowed)} over)."
        )

    def sentence(self, measurement: Measurement) -> str:
        """``12.000 ms + 10%``; of a relative limit, what it is relative to."""
        seconds = self._seconds(measurement)
        tolerated = f" + {self._share:.0%}" if self._share else ""
        if self._factor is None:
            return f"{milliseconds(seconds)}{tolerated}"
        took = milliseconds(median(measurement.reference))
        return (
            f"{self._factor:g}x the reference convolution, which took {took}: "
            f"{milliseconds(seconds)}{tolerated}"
        )


_TIMES = re.compile(r"(\d+(?:\.\d+)?)\s*x", re.ASCII)


def _check_percentile(percent: Any) -> None:
    number = isinstance(percent, Real) and not isinstance(percent, bool)
    if not number or not 0 <= percent <= 100:
        raise InputError(f"a percentile is a number from 0 to 100, not {quoted(percent)}")


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3f} ms"


class LatencyBackend(Protocol):
    """Measures models on one target; what a ``pytest_dwsconv_latency_backend`` hook returns."""

    def measure(
        self, model: nn.Module | bytes | str | PathLike[str], shape: tuple[int, ...] | None
    ) -> Measurement:
        """Measure a module, or a ``.tflite`` file by its bytes or its path.

        ``shape`` is a module's input shape.
        """


def measured_by(
    backend: LatencyBackend,
    model: nn.Module | bytes | str | PathLike[str],
    shape: tuple[int, ...] | None,
    name: str,
) -> Measurement:
    """What a backend measures, which may be anybody's.

    Raises:
        InputError: the model, called ``name``, is on the meta device, or what the backend returns
            is not a measurement.
    """
    if not isinstance(model, (bytes, str, PathLike)) and any(
        parameter.is_meta for parameter in model.parameters()
    ):
        raise InputError(
            f"{name} is on the meta device, where nothing is computed: make it on another"
        )
    measurement: object = backend.measure(model, shape)
    if not isinstance(measurement, Measurement):
        raise InputError(
            f"{name} was not measured: the backend must return a Measurement, not {measurement!r}"
        )
    return measurement
