"""The extra that measures installs where the Edge TPU is: asked of pip's resolver, not tried."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
RESOLVE = (
    "install --dry-run --ignore-installed --quiet --report - --only-binary=:all: --retries 0 "
    "--timeout 15"
).split()


REQUIREMENTS: list[str] = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"][
    "measure"
]


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["manylinux_2_28_aarch64", "win_amd64", "macosx_12_0_arm64"])
def test_measuring_installs_without_a_compiler(platform: str, tmp_path: Path) -> None:
    def pip(*requirements: str) -> subprocess.CompletedProcess[str]:
        place = ("--platform", platform, "--python-version", "3.11", "--target", str(tmp_path))
        command = [sys.executable, "-m", "pip", *RESOLVE, *place, *requirements]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = pip(*REQUIREMENTS)
    if done.returncode and pip("--no-deps", "numpy").returncode:
        pytest.skip("no index of packages with those of this platform can be reached")
    assert done.returncode == 0, done.stderr
    installed = {package["metadata"]["name"] for package in json.loads(done.stdout)["install"]}
    assert installed == {"execnet", "flatbuffers", "tflite", "numpy"}
