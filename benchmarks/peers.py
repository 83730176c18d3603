"""What other tools say of a network, and make of it, beside this project::

    pip install torchinfo fvcore bsconv torch-pruning
    python benchmarks/peers.py

The first table counts the network of ``examples/classifier.py``. The second takes the trained
network of ``examples/over_budget``: its accuracy right after each tool has made it smaller, before
any training. A row whose package is missing says so.
"""

from __future__ import annotations

import copy
import runpy
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import chdir
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from pytest_dwsconv import __version__, analyze, rewrite

EXAMPLES = Path(__file__).parents[1] / "examples"
SHAPE = (1, 3, 64, 64)


def torchinfo_counts(model: nn.Module) -> tuple[int, int]:
    from torchinfo import summary

    found = summary(model, input_size=SHAPE, verbose=0)
    return found.total_params, found.total_mult_adds


def fvcore_counts(model: nn.Module) -> tuple[int, int]:
    from fvcore.nn import FlopCountAnalysis, parameter_count

    counter = FlopCountAnalysis(model, torch.rand(SHAPE)).unsupported_ops_warnings(False)
    return parameter_count(model)[""], int(counter.total())


def own_counts(model: nn.Module) -> tuple[int, int]:
    report = analyze(model, SHAPE)
    return report.params, report.macs or 0


def with_bsconv(model: nn.Module, images: torch.Tensor) -> nn.Module:
    from bsconv.pytorch import BSConvU_Replacer

    replaced: nn.Module = BSConvU_Replacer().apply(model)
    return replaced


def with_pruning(model: Any, images: torch.Tensor) -> nn.Module:
    import torch_pruning

    # the ratio of channels that leaves about as many parameters as the other rows have
    torch_pruning.pruner.MetaPruner(
        model,
        images[:1],
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.63,
        ignored_layers=[model.head],
    ).step()
    return model


def nearest(model: nn.Module, images: torch.Tensor) -> nn.Module:
    return rewrite(model, init="svd").model


def fitted(model: nn.Module, images: torch.Tensor) -> nn.Module:
    return rewrite(model, init="fit", calibration=images.split(32)).model


COUNTERS: dict[str, Callable[[nn.Module], tuple[int, int]]] = {
    "torchinfo": torchinfo_counts,
    "fvcore": fvcore_counts,
    "pytest-dwsconv": own_counts,
}
REWRITERS: dict[str, tuple[str, Callable[[nn.Module, torch.Tensor], nn.Module]]] = {
    "bsconv": ("random blueprint convolutions", with_bsconv),
    "torch-pruning": ("channels of small magnitude removed", with_pruning),
    "pytest-dwsconv, svd": ("nearest separable kernels", nearest),
    "pytest-dwsconv, fit": ("fitted on 256 images, no labels", fitted),
}


def named(tool: str) -> str:
    name = tool.partition(",")[0]
    return f"{tool} {__version__ if name == 'pytest-dwsconv' else version(name)}"


def count_table() -> list[list[object]]:
    model = runpy.run_path(str(EXAMPLES / "classifier.py"))["classifier"]().eval()
    rows: list[list[object]] = []
    for tool, count in COUNTERS.items():
        try:
            params, macs = count(copy.deepcopy(model))
            rows.append([named(tool), f"{params:,}", f"{macs:,}"])
        except (ImportError, PackageNotFoundError):
            rows.append([tool, "not installed", ""])
    return rows


def accuracy_table() -> list[list[object]]:
    sys.path.insert(0, str(EXAMPLES / "over_budget"))
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        runpy.run_path(str(EXAMPLES / "over_budget" / "train.py"))
        weights = torch.load("shapes.pt")
    from shapes import ShapeNet, accuracy, pictures

    model = ShapeNet()
    model.load_state_dict(weights)
    images, _ = pictures(256, seed=2)
    params = sum(p.numel() for p in model.parameters())
    rows: list[list[object]] = [["", "original", f"{params:,}", f"{accuracy(model):.1%}"]]
    for tool, (what, make) in REWRITERS.items():
        try:
            torch.manual_seed(0)
            smaller = make(copy.deepcopy(model), images)
            params = sum(p.numel() for p in smaller.parameters())
            rows.append([named(tool), what, f"{params:,}", f"{accuracy(smaller):.1%}"])
        except (ImportError, PackageNotFoundError):
            rows.append([tool, "not installed", "", ""])
    return rows


def main() -> None:
    warnings.simplefilter("ignore")  # of the other tools
    style = {"tablefmt": "github", "disable_numparse": True}
    print(tabulate(count_table(), ["", "parameters", "MACs"], **style), "\n")
    print(tabulate(accuracy_table(), ["", "", "parameters", "accuracy"], **style))


if __name__ == "__main__":
    main()
