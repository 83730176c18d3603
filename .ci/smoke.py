"""Install the wheel as a user does, without PyTorch and with it, and try what the pages promise.

    python .ci/smoke.py FOLDER [PYTHON=TORCH ...]

takes the folder of the wheel, and pairs such as ``python3.10=2.5.1``; without any it is this Python
and the release in constraints.txt. For each, one row of the table in docs/install.md is printed.
All of it happens in a temporary folder, which is removed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
MISSING = "needs the package torch: pip install 'pytest-dwsconv[torch]'"

NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 16, 3)
        self.second = nn.Conv2d(16, 32, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))
"""
TEST = """\
import pytest
import torch
from net import Net


def test_within(dws_budget):
    dws_budget(Net(), (1, 8, 16, 16), params="10k", macs="2M")


@pytest.mark.dws_budget(params="100")
def test_over():
    Net()(torch.zeros(1, 8, 16, 16))
"""
USE = """\
import io
import torch
from net import Net
from pytest_dwsconv import analyze, apply_plan, rewrite

torch.manual_seed(0)
net, size = Net().eval(), (1, 8, 16, 16)
assert len(analyze(net, size).findings) == 2
batches = [torch.randn(16, 8, 16, 16) for _ in range(4)]
fitted = rewrite(net, size, init="fit", calibration=batches, budget="4k")  # SciPy chooses
again = apply_plan(Net(), fitted.plan)
again.load_state_dict(fitted.model.state_dict())
file = io.BytesIO()
torch.save(again.eval(), file)
file.seek(0)
loaded = torch.load(file, weights_only=False)
torch.testing.assert_close(loaded(batches[0]), fitted.model.eval()(batches[0]))
"""
VERSIONS = """\
import platform
from importlib.metadata import version
names = ("torch", "numpy", "scipy", "pytest", "libcst")
print(" | ".join([platform.python_version(), *map(version, names)]))
"""


class Environment:
    """A virtual environment, with a user's project in a folder beside it."""

    def __init__(self, python: str, folder: Path) -> None:
        self._bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self._project = folder / "project"
        self._project.mkdir()
        subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
        for name, text in (("net.py", NET), ("test_net.py", TEST), ("use.py", USE)):
            (self._project / name).write_text(text)

    def install(self, *requirements: str) -> None:
        self.run(0, "", "python", "-m", "pip", "install", "--quiet", *requirements)

    def run(self, status: int, expected: str, program: str, *arguments: str) -> str:
        """Run a program of the environment; its output.

        Raises:
            SystemExit: it has another exit status, or what it prints does not hold ``expected``.
        """
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [self._bin / program, *arguments],
            cwd=self._project,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        if done.returncode != status or expected not in output:
            raise SystemExit(
                f"{program} {' '.join(arguments)}: exit status {done.returncode}, not {status}, or "
                f"{expected!r} is not printed:\n{output}"
            )
        return output


def try_without_torch(environment: Environment) -> None:
    """Source files and stored reports work; the rest names the line that installs PyTorch."""
    run = environment.run
    run(1, "2 convolutions would be rewritten", "dwsconv-rewrite", "--check", "net.py")
    run(2, MISSING, "dwsconv-rewrite", "--check", "--model", "Net", "net.py")
    run(2, MISSING, "python", "-m", "pytest_dwsconv", "report", "net.py:Net")
    run(1, MISSING, "python", "-c", "from pytest_dwsconv import analyze")
    run(4, MISSING, "pytest", "--dws-model=net:Net")
    run(0, "dws_report", "pytest", "--fixtures")


def try_with_torch(environment: Environment) -> None:
    """The main jobs: a report, budgets, the rewrite of a file and of a network."""
    run = environment.run
    size = ("--input-size", "1,8,16,16")
    report = ("python", "-m", "pytest_dwsconv", "report", "net.py:Net", *size)
    run(0, "candidate", *report)
    run(0, "", *report, "--format", "json", "--output", "run.json")
    run(0, "1 unchanged", "python", "-m", "pytest_dwsconv", "compare", "run.json", "run.json")
    run(1, "the budget is 100", "pytest", "--dws-report", "--dws-report=html:page.html")
    run(0, "", "python", "use.py")
    run(1, "+class Depthwise", "dwsconv-rewrite", "--diff", "--model", "Net", *size, "net.py")


def pinned_torch() -> str:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (release,) = re.findall(r"^torch==(\S+)$", constraints, re.MULTILINE)
    return str(release)


def main() -> None:
    folder, *pairs = sys.argv[1:]
    (wheel,) = Path(folder).resolve().glob("*.whl")
    print("| Python | PyTorch | NumPy | SciPy | pytest | libcst |\n|---|---|---|---|---|---|")
    for pair in pairs or [f"{sys.executable}={pinned_torch()}"]:
        python, _, torch = pair.rpartition("=")
        with TemporaryDirectory(prefix="dwsconv-smoke-") as temporary:
            environment = Environment(python, Path(temporary))
            environment.install(str(wheel))
            try_without_torch(environment)
            environment.install(f"{wheel}[torch]", f"torch=={torch}")
            try_with_torch(environment)
            print(f"| {environment.run(0, '', 'python', '-c', VERSIONS).strip()} |", flush=True)


if __name__ == "__main__":
    main()
