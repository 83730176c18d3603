from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pytest_dwsconv.edgetpu.remote import devices, loader, runtimes, supervisor, worker


@pytest.mark.parametrize("module", [supervisor, loader, runtimes, devices, worker])
def test_it_is_written_for_an_old_python_alone(module: ModuleType) -> None:
    """Syntax of Python 3.8, and nothing from outside the standard library but what it looks for."""
    text = Path(str(module.__file__)).read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    nodes = list(ast.walk(tree))
    imported = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    outside = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert outside <= {"numpy", *(part.__name__ for part in (runtimes, devices, worker))}


def test_the_worker_is_the_text_that_was_sent(tmp_path: Path) -> None:
    """Also where this package is installed, and where a file in the folder is called json."""
    (tmp_path / "json.py").write_text("raise SystemExit('taken from the folder')")
    modules = {
        "pytest_dwsconv.edgetpu.remote.devices": "CLAIM = 'sent'",
        "pytest_dwsconv.edgetpu.remote.worker": (
            "from pytest_dwsconv.edgetpu.remote.devices import CLAIM\n"
            "def main(): print(CLAIM, __import__('sys').stdin.read())"
        ),
    }
    done = subprocess.run(
        [sys.executable, "-c", Path(str(loader.__file__)).read_text()],
        input=f"{json.dumps(modules)}\nthe rest",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "sent the rest\n"
