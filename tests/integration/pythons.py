"""Other Pythons with a TFLite runtime, made once and kept in pytest's cache folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUNTIMES = (
    ("3.8", "tflite-runtime==2.7.0"),
    ("3.9", "tflite-runtime==2.11.0"),
    ("3.13", "ai-edge-litert==2.3.0"),
)
"""Python versions, each with the runtime to install."""


def interpreter(version: str) -> str | None:
    """A Python of this version that starts, from PATH or from those that pyenv keeps."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = shutil.which(f"python{version}")
    candidates = [
        *([on_path] if on_path else []),
        *map(str, sorted(kept.glob(f"{version}.*/bin/python"))),
    ]
    for candidate in candidates:
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def environment(version: str, requirement: str, cache: Path) -> Path:
    """The interpreter of an environment with the requirement; skips where Python is missing."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"needs Python {version}")
    folder = cache / f"{version}-{requirement}"
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may be making it
        if not (folder / "ready").exists():
            _make(folder, python, requirement)
    return folder / "bin" / "python"


def _make(folder: Path, python: str, requirement: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    command = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
    ]
    numpy = ["numpy<2"] if requirement.startswith("tflite") else []
    environ = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    subprocess.run([*command, requirement, *numpy], check=True, env=environ)
    (folder / "ready").touch()
