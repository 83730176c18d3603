"""What the command costs: processor time on real packages, beside TorchFix and a plain visitor.

    python benchmarks/codemod.py [--only timm] [--torchfix PYTHON] [--jobs 2]

Each package that is installed is looked at with ``--check``, in a process of its own per tool. The
plain visitor parses every file with libcst, resolves qualified names and asks each call for its
own: the least that a codemod built on libcst's providers does. TorchFix wants another release of
libcst than others may, so it may be installed for another Python, which ``--torchfix`` names.
Figures are processor time of the process and those that it starts, and the largest memory of one.
Then come files of 1,000 to 20,000 lines: the time for each line should stay the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from pytest_dwsconv.source.edit import rewrite_text

PACKAGES = ("torchvision", "timm", "transformers")

PLAIN_VISITOR = """
import sys
from pathlib import Path
import libcst as cst
from libcst.metadata import MetadataWrapper, QualifiedNameProvider

class Calls(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (QualifiedNameProvider,)

    def visit_Call(self, node):
        self.get_metadata(QualifiedNameProvider, node.func)

for path in sorted(Path(sys.argv[1]).rglob("*.py")):
    MetadataWrapper(cst.parse_module(path.read_bytes())).visit(Calls())
"""

BLOCK = '''

class Block{number}(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        x = self.act(self.norm(self.first(x)))
        x = self.second(x)
        return self.act(x + shortcut)
'''


class Cost(NamedTuple):
    """Seconds of processor time and of waiting, and MiB of the largest process."""

    cpu: float
    wall: float
    memory: float


def cost(command: list[str], folder: Path) -> Cost:
    """What a command costs, in a process that waits for nothing else."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "usage = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)\n"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *command, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    cpu, memory = map(float, done.stdout.split())
    return Cost(cpu, time.perf_counter() - start, memory)


def package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def packages(names: list[str], torchfix: str | None, jobs: int) -> None:
    ours = [sys.executable, "-m", "pytest_dwsconv", "rewrite", "--check", "--quiet"]
    tools = {
        "dwsconv-rewrite": ours,
        f"dwsconv-rewrite --jobs {jobs}": [*ours, "--jobs", str(jobs)],
        "plain libcst visitor": [sys.executable, "-c", PLAIN_VISITOR],
    }
    if torchfix is not None:
        tools["TorchFix -j 1"] = [torchfix, "-m", "torchfix", "-j", "1"]
    rows = []
    for name in names:
        folder = package_folder(name)
        if folder is None:
            print(f"{name} is not installed")
            continue
        files = len(list(folder.rglob("*.py")))
        costs = {tool: cost(command, folder) for tool, command in tools.items()}
        base = next(iter(costs.values())).cpu
        for tool, each in costs.items():
            rows.append([name, files, tool, each.cpu, each.wall, each.memory, base / each.cpu])
    header = ["package", "files", "tool", "CPU s", "wall s", "MiB", "ours / its CPU"]
    print(tabulate(rows, header, floatfmt=("", "", "", ".1f", ".1f", ".0f", ".3f")))


def lines() -> None:
    """The time for each line of files of growing length."""
    rows = []
    for wanted in (1_000, 5_000, 20_000):
        text = "import torch\nfrom torch import nn\n"
        number = 0
        while text.count("\n") < wanted:
            text += BLOCK.format(number=number)
            number += 1
        start = time.process_time()
        sites = rewrite_text(text).sites
        seconds = time.process_time() - start
        count = text.count("\n")
        rows.append([f"{count:,}", len(sites), seconds, 1e6 * seconds / count])
    header = ["lines", "convolutions", "CPU s", "us per line"]
    print(tabulate(rows, header, floatfmt=("", "", ".2f", ".0f")))
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=PACKAGES)
    parser.add_argument("--torchfix", metavar="PYTHON", help="the Python that has TorchFix")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    torchfix = options.torchfix
    if torchfix is None and importlib.util.find_spec("torchfix") is not None:
        torchfix = sys.executable
    lines()
    packages(options.only or list(PACKAGES), torchfix, options.jobs)


if __name__ == "__main__":
    main()
