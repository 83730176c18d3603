"""Make the tables of README and documentation again, each with its date, versions and command.

    python benchmarks/tables.py                    # which there are, and what each needs
    python benchmarks/tables.py analysis peers  # these; "all" makes every one

A table is printed, and written to ``benchmarks/tables/NAME.txt`` for the page that shows it. Times
are worth something only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from pytest_dwsconv.latency.machine import processor, usable_cores

BENCHMARKS = Path(__file__).parent
FASHION = "--network fashion_resnet.py --weights fashion_resnet.pt"


class Table(NamedTuple):
    page: str
    """Below ``docs/``."""
    command: str
    """A script of this folder, and its arguments; files are taken from the working folder."""
    needs: str = ""


TABLES = {
    "analysis": Table(
        "coverage.md", "analyze.py", "torchinfo fvcore thop ptflops torchvision timm"
    ),
    "peers": Table(
        "explanation/comparison.md", "peers.py", "torchinfo fvcore bsconv torch-pruning"
    ),
    "plugin": Table("pytest.md", "plugin.py", "torchvision"),
    "codemod": Table("command.md", "codemod.py", "timm and other packages to read"),
    "accuracy": Table("fitting.md", f"accuracy.py fashion {FASHION}", "a trained network"),
    "decompositions": Table("fitting.md", f"accuracy.py peers {FASHION}", "a trained network"),
    "plans": Table("fitting.md", f"accuracy.py plans {FASHION}", "a trained network"),
    "mtcnn": Table("fitting.md", "accuracy.py mtcnn", "facenet-pytorch scikit-image scikit-learn"),
    "packaged": Table(
        "fitting.md",
        "accuracy.py packaged",
        "nudenet ddddocr onnx onnx2torch matplotlib pillow scikit-image scikit-learn",
    ),
    "memory": Table("fitting.md", "accuracy.py memory"),
    "nearest": Table("fitting.md", "accuracy.py svd", "torchvision"),
    "resnet50": Table("fitting.md", "accuracy.py resnet50", "torchvision"),
    "speed": Table(
        "targets.md", "speed.py --yardstick fashion_resnet.py", "torchvision, half an hour"
    ),
    "predictions": Table("edgetpu.md", "edgetpu_latency.py latency_features.csv", "the latencies"),
    "judgements": Table("edgetpu.md", "edgetpu_judge.py models", "pairs of files"),
}


def conditions(command: str) -> str:
    """What a table was made with, as text."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("pytest-dwsconv", "torch", "numpy"))
    today = datetime.date.today().isoformat()
    machine = f"{processor()}, {usable_cores()} cores"
    return f"{today}, Python {platform.python_version()}, {versions}, {machine}\n{command}\n"


def make(name: str) -> bool:
    """Run a script and keep what it prints; whether it ended well."""
    command = f"python benchmarks/{TABLES[name].command}"
    _, script, *arguments = command.split()
    done = subprocess.run(
        [sys.executable, BENCHMARKS / Path(script).name, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{name}: {command} ended with {done.returncode}", file=sys.stderr)
        return False
    text = f"{conditions(command)}\n{done.stdout}"
    print(text)
    folder = BENCHMARKS / "tables"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names
    if unknown := set(names) - {*TABLES, "all"}:
        parser.error(f"no table is called {', '.join(sorted(unknown))}")
    if not names:
        rows = [
            [name, f"docs/{page}", command, needs]
            for name, (page, command, needs) in TABLES.items()
        ]
        print(tabulate(rows, ["name", "page", "script", "needs"]))
    chosen = list(TABLES) if "all" in names else names
    failed = [name for name in chosen if not make(name)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
