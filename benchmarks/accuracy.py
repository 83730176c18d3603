"""Tables of what a trained network keeps when its convolutions are made depthwise separable.

Needs the images of Debian's package dataset-fashion-mnist, and a network for them with its
weights::

    python benchmarks/accuracy.py fashion --network fashion_resnet.py --weights fashion_resnet.pt
    python benchmarks/accuracy.py plans --network fashion_resnet.py --weights fashion_resnet.pt
    python benchmarks/accuracy.py peers --network fashion_resnet.py --weights fashion_resnet.pt

    pip install facenet-pytorch scikit-image scikit-learn   # their weights and photographs
    python benchmarks/accuracy.py mtcnn

    pip install nudenet ddddocr onnx onnx2torch matplotlib pillow scikit-image scikit-learn
    python benchmarks/accuracy.py packaged   # a detector and a recogniser of text

    pip install torchvision
    python benchmarks/accuracy.py svd
    python benchmarks/accuracy.py resnet50   # what the fit of a large network costs

    python benchmarks/accuracy.py memory

Calibration data are 1,024 training images without labels. Accuracy is on the first 4,000 test
images, agreement with the original on these and on 6,000 training images that no method saw. A row
whose package is missing says so.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from analyze import extra_memory
from factored import (
    Form,
    blueprint_replaced,
    canonical,
    decomposed,
    groups,
    tensorly_torch,
    tucker,
)
from packaged import mtcnn_table, packaged_table
from tabulate import tabulate
from torch import Tensor, nn

from pytest_dwsconv import analyze, distill, rewrite
from pytest_dwsconv.core.conv import ORDERS, Order
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit.calibration import Preparation, calibrate
from pytest_dwsconv.fit.planning import estimate
from pytest_dwsconv.separable.exchange import swap
from pytest_dwsconv.tracing.preserving import as_found

IMAGES = Path("/usr/share/datasets/fashion-mnist")
CALIBRATION, TESTED, SHAPE = 1024, 4000, (1, 1, 28, 28)
HEADERS, PLANS = ["", "parameters", "accuracy", "agreement", "on 6,000 more", "CPU s"], 40
STEM = ["stem.0"]
"""One input channel: separable at multiplier 1 it would be one filter, 24 times."""


def read(name: str, offset: int) -> Tensor:
    data = gzip.decompress((IMAGES / f"{name}.gz").read_bytes())
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=offset).copy())


def images(part: str) -> Tensor:
    pixels = read(f"{part}-images-idx3-ubyte", 16).view(-1, 1, 28, 28)
    return (pixels.float() / 255 - 0.286) / 0.353


@torch.no_grad()
def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([model.eval()(part) for part in inputs.split(500)])


def same_class(found: Tensor, wanted: Tensor) -> float:
    return (found.argmax(1) == wanted.argmax(1)).float().mean().item()


class Fashion:
    """The network, its calibration images, and how well a converted network does."""

    def __init__(self, network: Path, weights: Path) -> None:
        space: dict[str, Any] = {"__name__": network.stem}
        exec(compile(network.read_text(), network, "exec"), space)  # the caller's own file
        self.network: nn.Module = space["load"](weights)
        self.train = images("train")
        self.order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        self.calibration = list(self.train[self.order[:CALIBRATION]].split(64))
        self.test = images("t10k")[:TESTED]
        self.labels = read("t10k-labels-idx1-ubyte", 8)[:TESTED].long()
        self.wanted = outputs(self.network, self.test)
        self.more = self.train[self.order[-6000:]]  # which no method sees
        self.more_wanted = outputs(self.network, self.more)

    def row(self, name: str, make: Callable[[], nn.Module]) -> list[Any]:
        start = time.process_time()
        model = make()
        seconds = time.process_time() - start
        found = outputs(model, self.test)
        right = (found.argmax(1) == self.labels).float().mean().item()
        agree = [
            same_class(*pair)
            for pair in ((found, self.wanted), (outputs(model, self.more), self.more_wanted))
        ]
        size = sum(p.numel() for p in model.parameters())
        row = [name, size, f"{right:.2%}", *(f"{share:.2%}" for share in agree), f"{seconds:.1f}"]
        print(*row, sep=" | ", flush=True)
        return row

    def rewritten(self, **options: Any) -> nn.Module:
        if options.get("init") == "fit":
            options["calibration"] = self.calibration
        return rewrite(self.network, SHAPE, ignore=STEM, **options).model

    def distilled(self, **options: Any) -> nn.Module:
        student = self.rewritten(**options)
        pool = self.train[self.order[CALIBRATION:]]
        distill(student, self.network, pool.split(128), steps=400, learning_rate=1e-2)
        return student


def fashion_table(fashion: Fashion) -> None:
    rows = [fashion.row("original", lambda: fashion.network)]
    fits: dict[str, dict[str, Any]] = {
        "random weights, r = 1": {"init": "fresh"},
        "SVD, r = 1": {"init": "svd", "order": "depthwise_first"},
        "fit by layers, r = 1": {"init": "fit", "refine": 0},
        "fit, r = 1": {"init": "fit"},
        "fit by layers, r = 2": {"init": "fit", "refine": 0, "depth_multiplier": 2},
        "fit, r = 2": {"init": "fit", "depth_multiplier": 2},
        "fit, r = 2, 100 passes": {"init": "fit", "depth_multiplier": 2, "refine": 100},
        "fit, bottleneck of as many parameters": {"init": "fit", "form": "bottleneck"},
        "fit by layers, planned at 57.4k": {"init": "fit", "refine": 0, "budget": 57_400},
        "fit, planned at 57.4k": {"init": "fit", "budget": 57_400},
        "fit, planned at 100k": {"init": "fit", "budget": "100k"},
        "fit, planned at 105.5k": {"init": "fit", "budget": 105_500},
    }
    for name, options in fits.items():
        rows.append(fashion.row(name, partial(fashion.rewritten, **options)))
    rows.append(
        fashion.row(
            "SVD, r = 1, 400 steps", lambda: fashion.distilled(init="svd", order="depthwise_first")
        )
    )
    rows.append(fashion.row("fit, r = 1, 400 steps", lambda: fashion.distilled(init="fit")))
    rows.append(
        fashion.row(
            "fit, planned at 57.4k, 400 steps",
            lambda: fashion.distilled(init="fit", budget=57_400),
        )
    )
    print(tabulate(rows, HEADERS, intfmt=","))


def peers_table(fashion: Fashion) -> None:
    """Other methods with as many parameters as the fit, on the same images."""
    forms: dict[str, Callable[[nn.Conv2d, int], Form]] = {
        "CP": canonical,
        "Tucker-2": tucker,
        "filter groups": groups,
    }
    rows = []
    for multiplier in (1, 2):
        options: dict[str, Any] = {"order": "depthwise_first", "depth_multiplier": multiplier}
        entries = rewrite(fashion.network, SHAPE, ignore=STEM, **options).plan.entries
        sizes = {entry.name: entry.params_after for entry in entries}
        for name, form in forms.items():
            for how, batches in (("nearest", []), ("by inputs", fashion.calibration)):
                make = partial(decomposed, fashion.network, sizes, form, batches)
                rows.append(fashion.row(f"{name}, {how}, as large as r = {multiplier}", make))
        package = partial(tensorly_torch, fashion.network, sizes)
        title = f"CP by tensorly-torch, as large as r = {multiplier}"
        rows.append(_if_installed(fashion, title, package))
    random_start = partial(fashion.distilled, init="fresh")
    rows.append(fashion.row("random weights, r = 1, 400 steps", random_start))
    replacer = partial(blueprint_replaced, fashion.network)
    rows.append(_if_installed(fashion, "BSConv's replacer, r = 1", replacer))
    print(tabulate(rows, HEADERS, intfmt=","))


def _if_installed(fashion: Fashion, name: str, make: Callable[[], nn.Module]) -> list[Any]:
    try:
        return fashion.row(name, make)
    except Exception as error:  # a peer that does not run is a result too
        reason = f"did not run: {type(error).__name__}: {str(error)[:60]}"
        return [name, None, reason, None, None, None]


def plans_table(fashion: Fashion) -> None:
    """Predicted against real loss over random plans, and planned against uniform multipliers."""
    from scipy.stats import spearmanr

    report = analyze(fashion.network, SHAPE)
    findings = [finding for finding in report.candidates if finding.name not in STEM]
    with as_found(list(fashion.network.modules())):
        options = estimate(Preparation(fashion.network, fashion.calibration), findings, ORDERS)
    draw, pairs = random.Random(0), []
    for _ in range(PLANS):
        share = draw.uniform(0.1, 1)
        chosen = [draw.choice(its[1:]) for its in options.values() if draw.random() < share]
        entries = {
            option.entry.name: [option.entry] for option in chosen if option.entry is not None
        }
        model = fitted_with(fashion.network, entries, fashion.calibration[:4])
        real = (outputs(model, fashion.test[:1000]) - fashion.wanted[:1000]).square().mean().item()
        pairs.append((sum(option.loss for option in chosen), real))
    predicted, real_losses = (list(column) for column in zip(*pairs, strict=True))
    print(
        f"rank correlation over {PLANS} random plans: "
        f"{spearmanr(predicted, real_losses).statistic:.3f}"
    )
    rows = []
    for multiplier in (1, 2, 3):
        uniform = fashion.rewritten(init="fit", depth_multiplier=multiplier, refine=0)
        params = sum(parameter.numel() for parameter in uniform.parameters())
        rows.append(fashion.row(f"uniform, r = {multiplier}", partial(copy.deepcopy, uniform)))
        rows.append(
            fashion.row("planned", partial(fashion.rewritten, init="fit", budget=params, refine=0))
        )
    print(tabulate(rows, HEADERS, intfmt=","))


def fitted_with(
    network: nn.Module, entries: dict[str, list[PlanEntry]], batches: list[Any]
) -> nn.Module:
    """The network with just these replacements, fitted by layers."""
    model = copy.deepcopy(network)
    if not entries:
        return model
    with as_found(list(model.modules())):
        found = calibrate(Preparation(model, batches), entries).fitted
    swap(model, {model.get_submodule(name): fitted.module for name, fitted in found.items()})
    for fitted in found.values():
        fitted.settle()
    return model


def svd_table() -> None:
    from torchvision import models

    rows = []
    for name in ("resnet50", "vgg16"):
        network = models.get_model(name, weights=None)
        start = time.perf_counter()
        result = rewrite(network, order="depthwise_first", inplace=True)
        rows.append([name, len(result.plan.entries), f"{time.perf_counter() - start:.2f}"])
    print(tabulate(rows, ["network", "layers", "s, analysis included"]))


def resnet50_row() -> None:
    """CPU seconds and peak memory of the fit of ResNet-50, on 64 inputs of 224 x 224 pixels."""
    from torchvision import models

    torch.manual_seed(0)
    network = models.resnet50(weights=None).eval()
    batches = list(torch.randn(64, 3, 224, 224).split(8))
    options: dict[str, Any] = {"init": "fit", "calibration": batches, "inplace": True}
    start = time.process_time()
    extra = extra_memory(lambda: rewrite(network, batches[0].shape, **options))
    print(f"{time.process_time() - start:.0f} CPU s, {extra:.0f} MiB more at the peak")


def memory_table() -> None:
    """Peak extra memory of the fit of one wide convolution, each in a process of its own."""
    rows = []
    for channels, side in ((128, 8), (512, 3)):
        for order in Order:
            command = [
                sys.executable,
                __file__,
                "memory",
                "--conv",
                str(channels),
                str(side),
                order.value,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append([channels, f"{side} x {side}", order.value, *done.stdout.split()])
            print(*rows[-1], sep=" | ", flush=True)
    print(tabulate(rows, ["channels", "taps", "order", "extra MiB", "CPU s"], intfmt=","))


def memory_of(channels: int, side: int, order: str) -> None:
    """Print the extra peak memory (MiB) and the CPU seconds of one fit, on 64 maps of 14 x 14."""
    torch.manual_seed(0)
    warm, batch = nn.Conv2d(8, 8, 3), torch.randn(2, 8, 8, 8)
    # what is loaded on first use
    rewrite(nn.Sequential(warm), batch.shape, init="fit", calibration=[batch, batch])
    network = nn.Sequential(
        nn.Conv2d(channels, channels, side, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )
    batches = [torch.randn(16, channels, 14, 14) for _ in range(4)]
    start = time.process_time()
    options: dict[str, Any] = {"init": "fit", "calibration": batches, "order": order, "refine": 0}
    extra = extra_memory(lambda: rewrite(network, batches[0].shape, **options))
    print(f"{extra:.0f} {time.process_time() - start:.1f}")


ALONE = {
    "mtcnn": mtcnn_table,
    "packaged": packaged_table,
    "svd": svd_table,
    "resnet50": resnet50_row,
    "memory": memory_table,
}
ON_FASHION = {"fashion": fashion_table, "plans": plans_table, "peers": peers_table}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="accuracy kept by depthwise separable rewrites, by method"
    )
    parser.add_argument("table", choices=[*ALONE, *ON_FASHION])
    parser.add_argument("--network", type=Path, help="a file with load(weights) -> network")
    parser.add_argument("--weights", type=Path)
    parser.add_argument(
        "--conv", nargs=3, metavar=("CHANNELS", "SIDE", "ORDER"), help="one row of memory alone"
    )
    arguments = parser.parse_args()
    if arguments.conv:
        channels, side, order = arguments.conv
        return memory_of(int(channels), int(side), order)
    if arguments.table in ALONE:
        return ALONE[arguments.table]()
    if arguments.network is None or arguments.weights is None:
        parser.error(f"{arguments.table} needs --network and --weights")
    return ON_FASHION[arguments.table](Fashion(arguments.network, arguments.weights))


if __name__ == "__main__":
    main()
