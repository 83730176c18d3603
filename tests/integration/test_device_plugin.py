"""The fixtures with a device, which is the stand-in's, in real pytest runs."""

from __future__ import annotations

import json

import pytest
from standin import StandIn

pytest.importorskip("ai_edge_litert")

from small_models import edgetpu_model

MEASURES = """
import pytest
from pathlib import Path

@pytest.mark.parametrize("number", range(4))
def test_latency(edgetpu_latency, number):
    edgetpu_latency("net_edgetpu.tflite", max="10s")
"""


@pytest.fixture(autouse=True)
def model_file(project: pytest.Pytester) -> None:
    (project.path / "net_edgetpu.tflite").write_bytes(edgetpu_model())


def test_a_path_and_bytes_are_measured(pytester: pytest.Pytester, standin: StandIn) -> None:
    (device,) = standin.plug_in("usb0")
    standin.set(invoke="5000", first="20000")
    pytester.makepyfile(
        f"""
        from pathlib import Path

        def test_path(edgetpu_latency):
            more = {{"percentile": 99, "tolerance": "30%"}}
            measurement = edgetpu_latency("net_edgetpu.tflite", max="10s", **more)
            assert measurement.model == "net_edgetpu.tflite"
            assert measurement.device == {str(device)!r}
            assert measurement.first_invoke >= 0.02
            assert min(measurement.samples) >= 0.005

        def test_bytes(edgetpu_latency, edgetpu):
            content = Path("net_edgetpu.tflite").read_bytes()
            assert edgetpu_latency(content, max="10s").model == "model"
            assert edgetpu.measure(content).model == "model"

        def test_too_slow(edgetpu_latency):
            edgetpu_latency(Path("net_edgetpu.tflite"), max="4ms", percentile=0)
        """
    )
    result = pytester.runpytest("--dws-edgetpu=require")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*net_edgetpu.tflite took 5.*ms, measured at the percentile 0 of 100 invokes, the "
            "limit is 4.000 ms (1.*",
            "E*net_edgetpu.tflite: measured *, first invoke *.* ms, on */usb0 of *",
        ]
    )


def test_processes_share_a_device_in_turn(pytester: pytest.Pytester, standin: StandIn) -> None:
    """The stand-in, like the device, cannot be opened twice at a time."""
    (device,) = standin.plug_in("usb0")
    standin.set(invoke="5000")
    pytester.makepyfile(test_nets=MEASURES)
    pytester.runpytest(
        "-n2", "--dws-edgetpu=require", "--dws-report=json:run.json"
    ).assert_outcomes(passed=4)
    rows = json.loads((pytester.path / "run.json").read_text())["measured"]
    assert [row["tests"] for row in rows] == [
        [f"test_nets.py::test_latency[{number}]"] for number in range(4)
    ]
    assert {row["measurement"]["device"] for row in rows} == {str(device)}


def test_a_device_that_cannot_be_opened_fails_the_test(
    pytester: pytest.Pytester, standin: StandIn
) -> None:
    standin.plug_in("usb0")
    standin.set(open="crash")
    pytester.makepyfile(MEASURES.replace("range(4)", "[0]"))
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E*EdgeTpuError: the worker at this host died while opening the device*"]
    )


def test_a_module_is_exported_only_where_there_is_a_device(
    pytester: pytest.Pytester, standin: StandIn
) -> None:
    pytester.makepyfile(
        """
        from torch import nn

        def test_latency(edgetpu_latency):
            edgetpu_latency(nn.Conv2d(3, 4, 3), (1, 3, 8, 8), max="12ms")
        """
    )
    result = pytester.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*this host has no such Edge TPU (libedgetpu lists none)*"])
