"""The extra that measures installs where the Edge TPU is: asked of pip's resolver, not tried."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
RESOLVE = "install --dry-run --ignore-installed --quiet --report - --retries 0 --timeout 15".split()


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *RESOLVE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def measure() -> list[str]:
    """What the extra asks for; the index of packages must be at hand."""
    if pip("--no-deps", "execnet").returncode:
        pytest.skip("no index of packages can be reached, or pip is not installed")
    project: dict[str, Any] = tomllib.loads(PYPROJECT.read_text())["project"]
    requirements: list[str] = project["optional-dependencies"]["measure"]
    return requirements


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["manylinux_2_28_aarch64", "win_amd64", "macosx_12_0_arm64"])
def test_measuring_installs_without_a_compiler(
    platform: str, measure: list[str], tmp_path: Path
) -> None:
    place = ("--platform", platform, "--python-version", "3.11", "--target", str(tmp_path))
    done = pip(*place, "--only-binary=:all:", *measure)
    assert done.returncode == 0, done.stderr
    installed = {package["metadata"]["name"] for package in json.loads(done.stdout)["install"]}
    assert installed == {"execnet", "flatbuffers", "tflite", "numpy"}
