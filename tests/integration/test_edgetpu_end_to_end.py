"""From a module to an asserted latency: exported for real, compiled and run by stand-ins."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

pytest.importorskip("litert_torch", exc_type=ImportError)
pytest.importorskip("tflite", exc_type=ImportError)

from compiler_standin import CompilerStandIn
from standin import StandIn
from tflite_files import COMPILED, FEATURES, pack

ONE_OPERATOR = pack(replace(COMPILED, operators=COMPILED.operators[:1], outputs=(FEATURES,)))

TEST = """
import torch
from torch import nn

def build_model():
    torch.manual_seed(0)
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8, 4))

def test_latency(edgetpu_latency):
    measurement = edgetpu_latency(build_model(), (1, 3, 32, 32), max="{limit}")
    assert measurement.device.endswith("usb0")
"""


@pytest.fixture
def compiler(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> CompilerStandIn:
    home = pytester.mkdir("bin")
    monkeypatch.setenv("PATH", str(home), prepend=os.pathsep)
    return CompilerStandIn(home, ONE_OPERATOR)


@pytest.mark.parametrize(("limit", "outcome"), [("10s", "passed"), ("4ms", "failed")])
def test_a_module_is_exported_compiled_and_measured(
    pytester: pytest.Pytester, standin: StandIn, compiler: CompilerStandIn, limit: str, outcome: str
) -> None:
    standin.plug_in("usb0")
    standin.set(invoke="5000")
    pytester.makepyfile(TEST.format(limit=limit))
    result = pytester.runpytest_subprocess(
        "--dws-edgetpu=require", "--dws-report=json:run.json", "-p", "no:anyio"
    )
    result.assert_outcomes(**{outcome: 1})
    assert compiler.seen["arguments"][-1].endswith(".tflite")
    (row,) = json.loads((pytester.path / "run.json").read_text())["measured"]
    assert row["measurement"]["model"] == "Sequential"
    assert min(row["measurement"]["samples"]) >= 0.005
    if outcome == "failed":
        result.stdout.fnmatch_lines(
            ["E*Sequential took *ms, measured at *, the limit is 4.000 ms*"]
        )


def test_what_the_compiler_refuses_fails_the_test(
    pytester: pytest.Pytester, standin: StandIn, compiler: CompilerStandIn
) -> None:
    standin.plug_in("usb0")
    compiler.does("Invalid model: model.tflite\nModel not quantized\n", writes=[], status=1)
    pytester.makepyfile(TEST.format(limit="10s"))
    result = pytester.runpytest_subprocess("-p", "no:anyio")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*Model not quantized*"])
