"""How long analysis takes compared with other counters: medians, and ratios to the fastest peer.

Every tool runs as its documentation shows. Each row is measured in a fresh process, because earlier
runs would change its times. Each round runs every tool once, so that all see the same machine. This
project's memory of operators is emptied before each of its runs, so what is timed is the first
analysis of a process, without imports. Peak extra memory is measured in a fresh process for each
tool.

    python benchmarks/analyze.py [--rounds 5] [--only resnet50]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pytest_dwsconv import ConvSpec, Finding, Report, Verdict, analyze
from pytest_dwsconv.core.budget import Budget, check_limits
from pytest_dwsconv.core.findings import Origin
from pytest_dwsconv.core.plan import enough
from pytest_dwsconv.core.rules import CANDIDATE_CODE
from pytest_dwsconv.tracing import memo

warnings.simplefilter("ignore")

OURS = "pytest-dwsconv"
Shape = tuple[int, ...]


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name)  # type: ignore[no-any-return]

    return build


def yolo() -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel("yolov8n.yaml", verbose=False)  # type: ignore[no-any-return]


def billion() -> nn.Module:
    with torch.device("meta"):
        return stack(28, channels=2048)


def stack(layers: int, channels: int = 8) -> nn.Sequential:
    """As many 3 x 3 convolutions, each with a normalisation and an activation."""
    blocks = [
        nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        for _ in range(layers)
    ]
    return nn.Sequential(*blocks)


ROWS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "resnet50": (torchvision_model("resnet50"), (1, 3, 224, 224)),
    "resnet50 at 1024": (torchvision_model("resnet50"), (1, 3, 1024, 1024)),
    "convnext_large": (torchvision_model("convnext_large"), (1, 3, 224, 224)),
    "vgg16": (torchvision_model("vgg16"), (1, 3, 224, 224)),
    "efficientnet_b0": (torchvision_model("efficientnet_b0"), (1, 3, 224, 224)),
    "vit_b_16": (torchvision_model("vit_b_16"), (1, 3, 224, 224)),
    "yolov8n": (yolo, (1, 3, 640, 640)),
    "1 billion parameters (meta)": (billion, (1, 2048, 32, 32)),
}


def ours(model: nn.Module, shape: Shape) -> None:
    memo.forget()
    analyze(model, shape)


def torchinfo(model: nn.Module, shape: Shape) -> None:
    from torchinfo import summary

    summary(model, input_size=shape, verbose=0)


def fvcore(model: nn.Module, shape: Shape) -> None:
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model.eval(), (_input(model, shape),))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()


def ptflops(model: nn.Module, shape: Shape) -> None:
    from ptflops import get_model_complexity_info

    macs, _ = get_model_complexity_info(
        model, shape[1:], print_per_layer_stat=False, as_strings=False
    )
    if macs is None:
        raise RuntimeError("ptflops gave up")


def thop(model: nn.Module, shape: Shape) -> None:
    from thop import profile

    profile(model, inputs=(_input(model, shape),), verbose=False)


def torchsummary(model: nn.Module, shape: Shape) -> None:
    from torchsummary import summary

    summary(model, shape[1:], device="cpu")


def flop_counter(model: nn.Module, shape: Shape) -> None:
    with FlopCounterMode(display=False), torch.no_grad():
        model.eval()(_input(model, shape))


def _input(model: nn.Module, shape: Shape) -> torch.Tensor:
    return torch.empty(shape, device=next(model.parameters()).device)


TOOLS: dict[str, Callable[[nn.Module, Shape], None]] = {
    OURS: ours,
    "torchinfo": torchinfo,
    "fvcore": fvcore,
    "ptflops": ptflops,
    "thop": thop,
    "torchsummary": torchsummary,
    "FlopCounterMode": flop_counter,
}


def run(tool: str, model: nn.Module, shape: Shape) -> float:
    """Seconds that one analysis takes; what the tool prints is swallowed."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        gc.collect()  # what an earlier run left is not a cost of this one
        start = time.perf_counter()
        TOOLS[tool](model, shape)
        return time.perf_counter() - start


def times(row: str, rounds: int) -> dict[str, float | None]:
    """Median seconds of each tool, None for one that fails; the first round is a warm-up."""
    build, shape = ROWS[row]
    models = {tool: build() for tool in TOOLS}
    taken: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    for _ in range(rounds + 1):
        for tool in list(models):
            try:
                taken[tool].append(run(tool, models[tool], shape))
            except Exception as error:
                print(
                    f"{row}: {tool} fails: {type(error).__name__}: {str(error).strip()[:80]}",
                    file=sys.stderr,
                )
                # YOLO shares its activation among all models
                for module in models.pop(tool).modules():
                    module._forward_hooks.clear()
    return {tool: statistics.median(taken[tool][1:]) if tool in models else None for tool in TOOLS}


def in_fresh_process(measure: Callable[..., object], *args: object) -> Any:
    """What a function of this file returns in a process of its own; None where it fails."""
    command = [sys.executable, __file__, "--alone", json.dumps([measure.__name__, *args])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def peak_extra_memory(row: str, tool: str) -> float:
    """MiB that one analysis adds to the most this process held before it."""
    # what a tool imports and prepares is not the model's
    run(tool, nn.Sequential(nn.Conv2d(3, 4, 3)), (1, 3, 8, 8))
    build, shape = ROWS[row]
    model = build()
    return extra_memory(lambda: run(tool, model, shape))


def extra_memory(work: Callable[[], object]) -> float:
    """MiB that the work adds, at its most, to what this process holds."""
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as reset:
        # the high-water mark starts anew; that of getrusage is the parent's at first
        reset.write("5")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))


def compare(rows: list[str], rounds: int) -> None:
    table, memory = [], []
    for row in rows:
        seconds: dict[str, float | None] = in_fresh_process(times, row, rounds)
        peers = {
            tool: value for tool, value in seconds.items() if tool != OURS and value is not None
        }
        fastest = min(peers, key=lambda tool: peers[tool]) if peers else ""
        share = seconds[OURS] / peers[fastest] if fastest and seconds[OURS] else None  # type: ignore[operator]
        table.append([row, share, fastest, *(value and value * 1e3 for value in seconds.values())])
        memory.append([row, *(in_fresh_process(peak_extra_memory, row, tool) for tool in TOOLS)])
    print("\nMedian time, ms; share is this project's time over the fastest peer's")
    print(
        tabulate(
            table,
            ["model", "share", "fastest peer", *TOOLS],
            floatfmt=("", ".3f", "", *[".1f"] * 7),
        )
    )
    print("\nPeak extra memory, MiB")
    print(tabulate(memory, ["model", *TOOLS], floatfmt=".1f"))


def growth(rounds: int) -> None:
    """The cost of a layer in nets of more and more layers."""
    table: list[list[Any]] = []
    for layers in (10, 100, 1000, 10_000):
        with torch.device("meta"):
            model = stack(layers)
        seconds = statistics.median(run(OURS, model, (1, 8, 32, 32)) for _ in range(rounds))
        table.append([layers, seconds * 1e3, seconds / layers * 1e6])
    print("\nStacks of convolution, normalisation, activation")
    print(tabulate(table, ["layers", "ms", "µs a layer"], floatfmt=".1f"))


def advice() -> None:
    """What it takes to tell which of many convolutions would meet a budget of two limits."""
    random = Random(0)
    table: list[list[Any]] = []
    for layers in (200, 2000, 20_000):
        findings = tuple(candidate(f"layer{number}", random) for number in range(layers))
        params, macs = sum(f.params or 0 for f in findings), sum(f.macs or 0 for f in findings)
        report = Report("Stack", findings, params, macs, Origin.META)
        budget = Budget(params=params // 2, macs=macs // 2)
        start = time.perf_counter()
        sentences = [str(check) for check in check_limits(report, budget)]
        chosen = enough(report, check_limits(report, budget))
        seconds = time.perf_counter() - start
        table.append([layers, seconds * 1e3, seconds / layers * 1e6, len(sentences), len(chosen)])
    print("\nAdvice for a budget of parameters and MACs")
    headers = ["candidates", "ms", "µs per candidate", "sentences", "needed"]
    print(tabulate(table, headers, floatfmt=".1f"))


def candidate(name: str, random: Random) -> Finding:
    """A convolution of any size, of which the replacement keeps at most four fifths."""
    before, after = random.randint(500, 1000), random.randint(1, 400)
    macs_before, macs_after = random.randint(500, 1000), random.randint(1, 400)
    return Finding(
        name=name,
        spec=ConvSpec(2, 64, 64, (3, 3)),
        verdict=Verdict.CANDIDATE,
        code=CANDIDATE_CODE,
        reason="",
        params=before * 100,
        macs=macs_before * 1000,
        separable_params=after * 100,
        separable_macs=macs_after * 1000,
        origin=Origin.META,
        type_name="Conv2d",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=ROWS, help="one row; may be repeated")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        name, *args = json.loads(options.alone)
        return print(json.dumps(globals()[name](*args)))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    compare(options.only or list(ROWS), options.rounds)
    growth(options.rounds)
    advice()
    return None


if __name__ == "__main__":
    main()
