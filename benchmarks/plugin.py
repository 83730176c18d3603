"""What the pytest plugin costs: its import, a suite without it, one that runs ResNet-50 once, one
of many architectures, and a call of a model that is known already.

Run it with ``python benchmarks/plugin.py`` in an environment that has the package. Each suite runs
in pairs, with and without the plugin, and each of the two comes first in turn, so that a busy
moment affects both. The figures are medians, of processor time and of wall-clock time; the latter
depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

IMPORT = """
import pytest, _pytest.config, time
pytest.main(["--version"])
start = time.process_time()
import pytest_dwsconv.plugin, pytest_dwsconv.plugin.targets.edgetpu, pytest_dwsconv.plugin.hookspecs
print(time.process_time() - start)
import sys
assert "torch" not in sys.modules
"""

THOUSAND = """
import pytest

@pytest.mark.parametrize("number", range(1000))
def test_it(number):
    assert number + 1 > number

def test_no_torch():
    import sys
    assert "torch" not in sys.modules
"""

RESNET50 = """
import torch
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != 4 * width:
            projection = nn.Conv2d(channels, 4 * width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(4 * width))

    def forward(self, x):
        out = torch.relu(self.norm1(self.conv1(x)))
        out = torch.relu(self.norm2(self.conv2(out)))
        return torch.relu(self.norm3(self.conv3(out)) + self.shortcut(x))


def resnet50():
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, 2 if block == 0 and width > 64 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def test_resnet50():
    model = resnet50()
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
"""

ARCHITECTURES = """
import pytest, torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width, kernel):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, kernel), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("again", range(4))
@pytest.mark.parametrize("number", range(500))
def test_it(number, again):
    net = Net(4 + number // 5, 1 + number % 5)
    assert net(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
"""

CALLS = """
import time, torch
from torch import nn


class Same(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x


MODELS = {
    "one layer that does nothing": Same(),
    "one convolution": nn.Conv2d(3, 8, 3),
    "10 layers that do nothing": nn.Sequential(*(Same() for _ in range(10))),
    "100 layers that do nothing": nn.Sequential(*(Same() for _ in range(100))),
}


def fastest(model, x, calls):
    best = float("inf")
    for _ in range(60):
        start = time.process_time()
        for _ in range(calls):
            model(x)
        best = min(best, time.process_time() - start)
    return best / calls


def test_calls():
    with torch.no_grad():
        for name, model in MODELS.items():
            calls = 2000 // len(list(model.modules()))
            microseconds = 1e6 * fastest(model, torch.zeros(1, 3, 8, 8), max(calls, 50))
            print(f"\\ncall: {name}: {microseconds}")
"""


class Cost(NamedTuple):
    """Seconds of one run: by the clock, and of the processor."""

    clock: float
    processor: float


def run(arguments: list[str], folder: Path) -> Cost:
    """One run of pytest in a process of its own."""
    before, start = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment())
    clock, after = time.perf_counter() - start, os.times()
    used = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return Cost(clock, used)


def pair(without: list[str], having: list[str], folder: Path, swapped: bool) -> tuple[Cost, Cost]:
    """One run of each, the second first if ``swapped``: the later of two tends to be faster."""
    if swapped:
        after = run(having, folder)
        return run(without, folder), after
    return run(without, folder), run(having, folder)


def compared(source: str, without: list[str], having: list[str], pairs: int) -> str:
    """Medians without and with, and the median of the ratios of neighbouring runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_suite.py").write_text(source)
        (folder / "pytest.ini").write_text("[pytest]\n")
        run(without, folder)
        run(having, folder)
        rows = [pair(without, having, folder, swapped=bool(number % 2)) for number in range(pairs)]
    texts = []
    measures: list[tuple[str, Callable[[Cost], float]]] = [
        ("clock", lambda cost: cost.clock),
        ("processor", lambda cost: cost.processor),
    ]
    for label, measure in measures:
        before, after = (median(measure(row[side]) for row in rows) for side in (0, 1))
        ratio = median(measure(row[1]) / measure(row[0]) for row in rows)
        texts.append(f"{label} {before:.3f} s -> {after:.3f} s ({100 * (ratio - 1):+.1f} %)")
    return ", ".join(texts)


def calls(pairs: int) -> str:
    """Processor time of a call, unwatched and watched: of each the fastest in several processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_calls.py").write_text(CALLS)
        (folder / "pytest.ini").write_text("[pytest]\n")
        unwatched: dict[str, list[float]] = {}
        watched: dict[str, list[float]] = {}
        for _ in range(pairs):
            measure_calls(["-p", "no:dwsconv"], folder, unwatched)
            measure_calls(["-o", "dws_budgets=* params=1G"], folder, watched)
    lines = []
    for model, before in unwatched.items():
        extra = min(watched[model]) - min(before)
        lines.append(f"  {model}: {min(before):.2f} us, watched {extra:.2f} us more")
    return "\n".join(lines)


def measure_calls(options: list[str], folder: Path, found: dict[str, list[float]]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, env=environment()
    )
    for line in done.stdout.splitlines():
        if line.startswith("call: "):
            _, model, microseconds = line.split(": ")
            found.setdefault(model, []).append(float(microseconds))


def import_time(repeats: int) -> str:
    """Of the plugin, in a process that has pytest loaded and started."""
    command = [sys.executable, "-c", IMPORT]
    # reason: without automatic loading, or pytest would load the plugin before it is timed
    alone = environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    runs = [
        subprocess.run(command, check=True, capture_output=True, text=True, env=alone)
        for _ in range(repeats + 1)
    ]
    seconds = [float(done.stdout.splitlines()[-1]) for done in runs[1:]]
    middle, fastest = 1000 * median(seconds), 1000 * min(seconds)
    return f"median {middle:.2f} ms of the processor, fastest {fastest:.2f} ms"


def environment(**extra: str) -> dict[str, str]:
    """The environment, with byte code kept between runs as users have it."""
    return {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    } | extra


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pairs", type=int, default=15, help="interleaved pairs of runs of each suite"
    )
    pairs = parser.parse_args().pairs
    print("import beyond pytest:      ", import_time(2 * pairs))
    print("1,000 tests, loaded or not:", compared(THOUSAND, ["-p", "no:dwsconv"], [], pairs))
    print(
        "ResNet-50 once, reported:  ",
        compared(RESNET50, ["-p", "no:dwsconv"], ["--dws-report"], pairs),
    )
    reporting = ["--dws-report=json:report.json"]
    print(
        "2,000 tests of 500 models: ",
        compared(ARCHITECTURES, ["-p", "no:dwsconv"], reporting, max(pairs // 4, 2)),
    )
    print("calls of a known model, with only dws_budgets set:")
    print(calls(max(pairs // 4, 2)))


if __name__ == "__main__":
    main()
