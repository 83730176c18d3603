"""A suite that measures ``.tflite`` files where PyTorch is not installed, as on a Raspberry Pi."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from standin import NOT_RUN, StandIn
from standin_runtime import python_with, write_runtime

SUITE = """
import pytest

def test_latency(edgetpu_latency):
    assert edgetpu_latency("net_edgetpu.tflite", max="10s").model == "net_edgetpu.tflite"

def test_bytes(edgetpu):
    with open("net_edgetpu.tflite", "rb") as file:
        assert edgetpu.measure(file.read()).model == "model"

def test_what_needs_torch(edgetpu):
    with pytest.raises(ValueError, match="dict is not a model, as PyTorch is not installed here"):
        edgetpu.measure({})
"""

RUN = """
import sys
# None in place of a module fails its import, as where it is not installed
sys.modules.update(dict.fromkeys(["torch", "scipy", "libcst", "numpy", "jinja2"]))
import pytest
raise SystemExit(pytest.main(sys.argv[1:]))
"""


def test_the_plugin_measures_and_reports(standin: StandIn, tmp_path: Path) -> None:
    standin.plug_in("usb0")
    write_runtime(tmp_path / "packages", "ai_edge_litert", "2.3.0")
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "net_edgetpu.tflite").write_bytes(NOT_RUN)
    arguments = [
        *("-p", "no:xdist", "-p", "no:hypothesispytest"),
        "--dws-edgetpu=require",
        f"--dws-edgetpu-host={python_with(tmp_path / 'packages')}",
        *(f"--dws-report={form}" for form in ("text", "markdown", "github", "json:run.json")),
        "--junitxml=run.xml",
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    assert "Measured latency of" in done.stdout
    measured = json.loads((tmp_path / "run.json").read_text())["measured"]
    assert [row["measurement"]["runtime"] for row in measured] == ["ai_edge_litert 2.3.0"]
    assert "measured_median" in (tmp_path / "run.xml").read_text()
