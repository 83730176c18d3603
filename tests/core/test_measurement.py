from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dwsconv.core.measurement import LatencyLimit, Measurement
from pytest_dwsconv.errors import FormatError, InputError

MEASURED = Measurement(
    model="mobilenet.tflite",
    host="ssh=pi@raspberrypi",
    machine="raspberrypi, Raspberry Pi 4 Model B Rev 1.4",
    device="/sys/bus/usb/devices/2-1",
    python="3.9.2",
    runtime="tflite_runtime 2.14.0",
    library="/usr/lib/aarch64-linux-gnu/libedgetpu.so.1.0",
    library_version="RuntimeVersion(14)",
    clock="std",
    first_invoke=0.0141,
    samples=(0.004, 0.003, 0.0035, 0.0031),
)


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_those_of_numpy(samples: list[float], percent: float) -> None:
    measured = replace(MEASURED, samples=tuple(samples))
    assert measured.percentile(percent) == pytest.approx(np.percentile(samples, percent), rel=1e-9)
    assert measured.median == pytest.approx(np.median(samples))
    assert measured.p90 == pytest.approx(np.percentile(samples, 90))
    assert measured.p99 == pytest.approx(np.percentile(samples, 99))
    assert measured.spread == pytest.approx(
        np.subtract(*np.percentile(samples, [90, 10])) / np.median(samples)
    )


@pytest.mark.parametrize("percent", [-1, 100.5, float("nan")])
def test_a_percentile_is_between_0_and_100(percent: float) -> None:
    with pytest.raises(InputError, match="a percentile is a number from 0 to 100, not"):
        MEASURED.percentile(percent)


@pytest.mark.parametrize(
    "samples", [(), (0.004, 0.0), (-0.004,), (float("nan"),), (float("inf"),), ("soon",), None]
)
def test_samples_are_seconds(samples: Any) -> None:
    with pytest.raises(
        InputError,
        match="was not measured: samples are the seconds of one invoke or more, numbers above 0, "
        "not",
    ):
        replace(MEASURED, samples=samples)
    with pytest.raises(FormatError, match="not a measurement: "):
        Measurement.from_dict({**MEASURED.to_dict(), "samples": samples})


def test_samples_of_numpy_become_plain_numbers() -> None:
    measured = replace(MEASURED, samples=np.array([0.25, 0.5], dtype=np.float32))  # type: ignore[arg-type]
    assert measured.samples == (0.25, 0.5)
    assert json.loads(measured.to_json())["samples"] == [0.25, 0.5]
    assert len({measured, replace(measured)}) == 1


def test_it_says_that_it_was_measured() -> None:
    assert str(MEASURED) == (
        "mobilenet.tflite: measured 3.300 ms median, 3.850 ms p90, 3.985 ms p99, spread 24.8%, "
        "first invoke 14.100 ms, on /sys/bus/usb/devices/2-1 of raspberrypi, Raspberry Pi 4 Model "
        "B Rev 1.4"
    )
    assert MEASURED.to_dict()["obtained"] == "measured"


def test_a_trip_through_json_changes_nothing() -> None:
    text = MEASURED.to_json()
    assert Measurement.from_json(text) == MEASURED
    assert json.loads(text)["median"] == pytest.approx(0.0033)
    assert json.loads(text)["samples"] == [0.004, 0.003, 0.0035, 0.0031]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schema_version": 2},
            "a measurement of schema version 2 cannot be read; this release reads version 1",
        ),
        (
            {"samples": "fast"},
            "not a measurement: samples: 'fast' is not a list",
        ),
        ({"samples": 3}, "not a measurement: samples: 3 is not a list"),
    ],
)
def test_what_is_no_measurement_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Measurement.from_dict(MEASURED.to_dict() | change)


def test_a_missing_value_is_named() -> None:
    data = MEASURED.to_dict()
    del data["clock"]
    with pytest.raises(FormatError, match="not a measurement: it lacks clock"):
        Measurement.from_dict(data)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_text_that_is_no_measurement_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="measurement"):
        Measurement.from_json(text)


class TestLimits:
    @pytest.mark.parametrize(
        ("limit", "excess"),
        [
            (LatencyLimit("3.3ms"), ""),
            (LatencyLimit(0.0033), ""),
            (LatencyLimit("3ms", tolerance="10%"), ""),
            (LatencyLimit("3ms", tolerance=0.1), ""),
            (
                LatencyLimit("3ms"),
                "mobilenet.tflite took 3.300 ms, measured at the percentile 50 of 4 invokes, "
                "the limit is 3.000 ms (0.300 ms over).",
            ),
            (
                LatencyLimit("3ms", percentile=99, tolerance="30%"),
                "mobilenet.tflite took 3.985 ms, measured at the percentile 99 of 4 invokes, "
                "the limit is 3.000 ms + 30% (0.085 ms over).",
            ),
            (
                LatencyLimit(1e-3, percentile=0),
                "mobilenet.tflite took 3.000 ms, measured at the percentile 0 of 4 invokes, "
                "the limit is 1.000 ms (2.000 ms over).",
            ),
            (LatencyLimit("3ms", "0"), ""),
            (LatencyLimit("3x"), ""),
            (
                LatencyLimit("2.5 x", 90.0, "10%"),
                "mobilenet.tflite took 3.850 ms, measured at the percentile 90 of 4 invokes, the "
                "limit is 2.5x the reference convolution, which took 1.200 ms: 3.000 ms + 10% "
                "(0.550 ms over).",
            ),
        ],
    )
    def test_a_measurement_is_held_to_them(self, limit: LatencyLimit, excess: str) -> None:
        assert limit.excess(replace(MEASURED, reference=(0.0012, 0.001, 0.005))) == excess

    def test_what_is_relative_needs_a_reference(self) -> None:
        with pytest.raises(InputError, match=r"a limit of 2x is relative to: give the limit in ms"):
            LatencyLimit("2x").excess(MEASURED)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"max": "fast"},
                "'fast' is not a quantity: write a number from 0 with us, ms or s, as in 5ms",
            ),
            ({"max": "12"}, "'12' is not a quantity"),
            ({"max": "x"}, "'x' is not a quantity"),
            ({"max": "-2x"}, "'-2x' is not a quantity"),
            ({"max": "3ms", "percentile": "most"}, "a percentile is a number from 0 to 100, not"),
            ({"max": "3ms", "percentile": 101}, "a percentile is a number from 0 to 100, not 101"),
            (
                {"max": "3ms", "tolerance": "30"},
                "'30' is not a tolerance: write a share from 0, as in '30%' or 0.3",
            ),
            ({"max": "3ms", "tolerance": "much%"}, "'much%' is not a tolerance"),
            ({"max": "3ms", "tolerance": -0.1}, "-0.1 is not a tolerance"),
            ({"max": "3ms", "tolerance": float("nan")}, "nan is not a tolerance"),
        ],
    )
    def test_what_is_no_limit_is_refused(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises((FormatError, InputError), match=re.escape(message)):
            LatencyLimit(**arguments)
