"""How fast networks are on this CPU: before, all replaced, and planned for it; and mobile networks.

Run it on a machine that does nothing else, in an environment with torchvision::

    pip install torchvision bsconv ultralytics   # what is missing is left out, and said so
    python benchmarks/speed.py --yardstick fashion_resnet.py

Every network of a row is timed in turns with the original, so that a busy moment affects all of
them. A ratio says how many times as fast as the original it is, with the interval in which it is
expected (95 %). "claimed" is what ``rewrite`` says of its plan. Weights are random, but for the
yardstick's, whose file lies beside its module: they make no difference to the time. The last table
has mobile networks beside the rewritten ones, as milliseconds.

All of it may take two hours. For less::

    python benchmarks/speed.py --networks resnet18 --batches 1 --threads 1 --formats contiguous
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_dwsconv import analyze, rewrite
from pytest_dwsconv.core.latency.comparison import Comparison, Conditions, MemoryFormat
from pytest_dwsconv.errors import DwsconvError
from pytest_dwsconv.latency.machine import this_machine
from pytest_dwsconv.latency.runs import Run, ready
from pytest_dwsconv.latency.turns import compare, time_in_turns

TORCHVISION: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnet50": {},
    "vgg16": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
}
NETWORKS = (*TORCHVISION, "yardstick", "yolov8n")
MOBILE = ("mobilenet_v2", "mobilenetv1_w1_bsconvu", "mobilenetv2_w1_bsconvs_p1d6")
SIDES = {"yardstick": (1, 28, 28), "yolov8n": (3, 640, 640)}
IMAGE = (3, 224, 224)


class Variant(NamedTuple):
    """A network to time: what it is called in the table, and what is claimed of it."""

    name: str
    network: nn.Module
    claimed: str = ""


def load(name: str, yardstick: Path | None) -> nn.Module:
    """A network by its name.

    Raises:
        ImportError: what it is from is not installed, or not given.
    """
    torch.manual_seed(0)
    if name == "yardstick":
        return _yardstick(yardstick)
    if name == "yolov8n":
        from ultralytics import YOLO

        network: nn.Module = YOLO("yolov8n.yaml").model
        return network.eval()
    if "bsconv" in name:
        from bsconv.pytorch import get_model

        mobile: nn.Module = get_model(name, num_classes=1000)
        return mobile.eval()
    import torchvision

    made: nn.Module = torchvision.models.get_model(name, weights=None, **TORCHVISION.get(name, {}))
    return made.eval()


def _yardstick(path: Path | None) -> nn.Module:
    if path is None or not path.exists():
        raise ImportError("give the yardstick's module with --yardstick")
    spec = importlib.util.spec_from_file_location("yardstick", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.load(path.with_suffix(".pt"))
    return network


def variants(network: nn.Module, shape: tuple[int, ...]) -> Iterator[Variant]:
    """The original first; a plan that cannot be made is left out, with the reason on stderr."""
    yield Variant("original", network)
    yield Variant("all, r=1", rewrite(network, shape).model)
    twice = rewrite(network, shape, depth_multiplier=2)
    yield Variant("all, r=2", twice.model)
    equal = {"params": analyze(twice.model, shape).params}
    for name, arguments in (
        ("planned", {}),
        ("planned, r=2's parameters", {"objective": "latency", "budget": equal}),
    ):
        try:
            result = rewrite(network, shape, target="cpu", form="auto", **arguments)
        except DwsconvError as error:
            print(f"{type(network).__name__}, {name}: {error}", file=sys.stderr)
            continue
        claimed = "; ".join(str(one) for one in result.report_before.evidence)
        yield Variant(f"{name}: {len(result.plan.entries)} layers", result.model, claimed)


def timed(
    networks: list[nn.Module], shape: tuple[int, ...], conditions: Conditions, seconds: float
) -> list[Comparison]:
    """The first beside itself and each of the others, all in turns."""
    image = torch.rand(shape)
    with ready([Run(network, [image]) for network in networks], conditions) as calls:
        first, *others = time_in_turns(calls, seconds * len(calls), rounds=12)
    return [compare(first, times, conditions, shape[0]) for times in (first, *others)]


def rows(
    name: str, network: nn.Module, shape: tuple[int, ...], conditions: Conditions, seconds: float
) -> Iterator[list[str]]:
    """One per variant."""
    found = list(variants(network, shape))
    comparisons = timed([one.network for one in found], shape, conditions, seconds)
    for variant, comparison in zip(found, comparisons, strict=True):
        yield [
            name,
            variant.name,
            f"{sum(p.numel() for p in variant.network.parameters()):,}",
            f"{comparison.second_ms:.2f}",
            f"{comparison.ratio:.2f} ({comparison.low:.2f} to {comparison.high:.2f})",
            comparison.verdict.value if variant.name != "original" else "",
            f"{comparison.spread:.0%}",
            variant.claimed,
        ]


def mobile_rows(
    shape: tuple[int, ...], conditions: Conditions, seconds: float
) -> Iterator[list[str]]:
    """Networks that were made for small machines, beside ResNet-18 and its replacements."""
    names, networks = [], []
    for name in ("resnet18", *MOBILE):
        try:
            networks.append(load(name, None))
            names.append(name)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    if not networks:
        return
    for variant in variants(networks[0], shape):
        if variant.name != "original":
            names.append(f"{names[0]}, {variant.name}")
            networks.append(variant.network)
    for name, network, found in zip(
        names, networks, timed(networks, shape, conditions, seconds), strict=True
    ):
        params = f"{sum(p.numel() for p in network.parameters()):,}"
        yield [name, params, f"{found.second_ms:.2f}", f"{found.ratio:.2f}", f"{found.spread:.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    formats = [each.value for each in MemoryFormat]
    parser.add_argument("--formats", nargs="+", choices=formats, default=formats)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each network of a row")
    parser.add_argument("--yardstick", type=Path, help="a module with load(path of its weights)")
    parser.add_argument("--no-mobile", action="store_true", help="without the mobile networks")
    chosen = parser.parse_args()
    print(f"On {this_machine()}.")
    for threads in chosen.threads:
        torch.set_num_threads(threads)
        for memory_format in map(MemoryFormat, chosen.formats):
            for batch in chosen.batches:
                _print(chosen, Conditions(threads, memory_format), batch)


def _print(chosen: argparse.Namespace, conditions: Conditions, batch: int) -> None:
    print(f"\n## {conditions}, batch {batch}\n")
    _table("network", "variant", "parameters", "ms", "times as fast", "", "spread", "claimed")
    for name in chosen.networks:
        try:
            network = load(name, chosen.yardstick)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        if conditions.memory_format is MemoryFormat.CHANNELS_LAST:
            network = network.to(memory_format=torch.channels_last)
        shape = (batch, *SIDES.get(name, IMAGE))
        for row in rows(name, network, shape, conditions, chosen.seconds):
            _row(*row)
    if not chosen.no_mobile:
        print()
        _table("network", "parameters", "ms", "times as fast as ResNet-18", "spread")
        for row in mobile_rows((batch, *IMAGE), conditions, chosen.seconds):
            _row(*row)


def _table(*titles: str) -> None:
    _row(*titles)
    _row(*("---" for _ in titles))


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
