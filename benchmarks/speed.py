"""How fast networks are on this CPU: before, all replaced, and planned for it; and mobile networks.

Run it on a machine that does nothing else, in an environment with torchvision::

    pip install torchvision bsconv ultralytics   # what is missing is left out, and said so
    python benchmarks/speed.py --yardstick fashion_resnet.py

It prints the tables of ``docs/targets.md``, and how far it is on stderr. All of it takes about half
an hour on two cores. For less::

    python benchmarks/speed.py --networks resnet18 --batches 1 --threads 1 --formats contiguous

Each network is timed in turns with all that is made of it, so that a busy moment affects all of
them. A figure says how many times as fast as the original something is, and half the interval in
which that is expected (95 %). Rounds end when all are known to 5 %, or ``--seconds`` for each are
over and there were six. "Claimed" is what ``rewrite`` says of its plan. Weights are random, but for
the small network's, whose file lies beside its module: they make no difference to the time. What is
measured of layers is kept for this run alone. Predictions for the Edge TPU are compared with
published figures by ``edgetpu_latency.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_dwsconv import RewriteResult, analyze, rewrite
from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.latency.comparison import Comparison, Conditions, MemoryFormat
from pytest_dwsconv.errors import DwsconvError
from pytest_dwsconv.latency import time_layers
from pytest_dwsconv.latency.machine import this_machine
from pytest_dwsconv.latency.runs import Run, ready
from pytest_dwsconv.latency.turns import compare, time_in_turns
from pytest_dwsconv.separable.replacement import possible

NETWORKS = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "vgg16": "VGG-16",
    "googlenet": "GoogLeNet",
    "yardstick": "the small network of [the fit](fitting.md#measured)",
    "yolov8n": "YOLOv8n",
}
"""What tables call them."""
ARGUMENTS: dict[str, dict[str, Any]] = {"googlenet": {"aux_logits": False, "init_weights": False}}
BESIDE_MOBILE = "resnet18"
MOBILE = {
    "mobilenet_v2": "MobileNetV2",
    "mobilenetv1_w1_bsconvu": "MobileNetV1 with BSConv-U",
    "mobilenetv2_w1_bsconvs_p1d6": "MobileNetV2 with BSConv-S",
}
SIDES = {"yardstick": (1, 28, 28), "yolov8n": (3, 640, 640)}
IMAGE = (3, 224, 224)
FORMS = tuple(form for form in Form if form is not Form.BOTTLENECK)
"""What is tried without calibration data."""
HERE = "threads, memory format"
TITLES = [
    *("network", HERE, "original", "all, r = 1", "all, r = 2", "planned", "claimed"),
    "planned within the parameters of r = 2",
]


class Times:
    """Where the time goes, by network and stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    @contextmanager
    def spent(self, network: str, stage: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[network, stage] += perf_counter() - start

    def table(self) -> None:
        names, stages = (list(dict.fromkeys(each)) for each in zip(*self.seconds, strict=True))
        heading("Where the time went, in seconds", ["network", *stages, "all"])
        for name in names:
            own = [self.seconds[name, stage] for stage in stages]
            row(name, *(f"{seconds:.0f}" for seconds in (*own, sum(own))))
        print(f"\nAll of it took {sum(self.seconds.values()) / 60:.1f} minutes.")


class Uniform(NamedTuple):
    """A network, and all its candidates replaced at the multipliers 1 and 2."""

    network: nn.Module
    once: nn.Module
    twice: nn.Module
    twice_params: int


class Row(NamedTuple):
    """A network under certain conditions: what was planned, and each beside the original.

    Of what cannot be planned there is the reason. ``seconds`` were spent on measuring the layers,
    the first time and once they were known.
    """

    name: str
    conditions: Conditions
    batch: int
    seconds: tuple[float, float]
    plans: dict[str, RewriteResult | str]
    found: dict[str, Comparison]

    @property
    def here(self) -> str:
        return f"{self.conditions.threads}, {self.conditions.memory_format.value}"

    @property
    def is_replaced(self) -> bool:
        free = self.plans["planned"]
        return not isinstance(free, str) and bool(free.plan.entries)

    @property
    def claimed(self) -> float | None:
        """How many times as fast the rewrite says that its network is."""
        free = self.plans["planned"]
        if isinstance(free, str) or not free.plan.entries:
            return None
        [known] = free.report_before.evidence
        return known.before_ms / known.after_ms if known.before_ms and known.after_ms else None

    def cells(self) -> list[str]:
        labels = ("once", "twice", "planned", "equal")
        *before, equal = map(self._cell, labels)
        claimed = f"{self.claimed:.2f}" if self.claimed else ""
        original = f"{self.found['original'].first_ms:.1f} ms"
        return [NETWORKS[self.name], self.here, original, *before, claimed, equal]

    def _cell(self, label: str) -> str:
        plan = self.plans.get(label)
        if isinstance(plan, str):
            return "cannot be kept"
        if plan is not None and not plan.plan.entries:
            return "unchanged"
        one = self.found[label]
        return f"{one.ratio:.2f} ± {(one.high - one.low) / 2:.2f}"

    def mobile_cells(self, names: Sequence[str]) -> list[str]:
        found = [self.found.get(name) for name in names]
        return [self.here, *(f"{one.second_ms:.1f} ms" if one else "" for one in found)]


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

    made: nn.Module = torchvision.models.get_model(name, weights=None, **ARGUMENTS.get(name, {}))
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


def loaded(names: Sequence[str], yardstick: Path | None) -> dict[str, nn.Module]:
    """The networks that can be made here."""
    found = {}
    for name in names:
        try:
            found[name] = load(name, yardstick)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


def uniform(network: nn.Module, shape: tuple[int, ...]) -> Uniform:
    once, twice = (rewrite(network, shape, depth_multiplier=size).model for size in (1, 2))
    return Uniform(network, once, twice, analyze(twice, shape).params)


def measure_candidates(network: nn.Module, shape: tuple[int, ...], conditions: Conditions) -> float:
    """Seconds to measure what ``rewrite(target="cpu")`` asks of the layers, as far as not known."""
    pairs = []
    for finding in analyze(network, shape).candidates:
        entries = possible(finding.name, finding.spec, FORMS, 1, finding.order)
        pairs += [(finding.spec, entry) for entry in entries]
    start = perf_counter()
    time_layers(pairs, conditions)
    return perf_counter() - start


def planned(network: nn.Module, shape: tuple[int, ...], **arguments: Any) -> RewriteResult | str:
    """A planned network, or why there is none."""
    try:
        return rewrite(network, shape, target="cpu", form="auto", **arguments)
    except DwsconvError as error:
        return str(error)


def timed(
    networks: Sequence[nn.Module], shape: tuple[int, ...], conditions: Conditions, seconds: float
) -> list[Comparison]:
    """Each beside the first, all in turns; the first itself is timed twice in each round."""
    image = torch.rand(shape)
    with ready([Run(network, [image]) for network in networks], conditions) as calls:
        first, *others, again = time_in_turns([*calls, calls[0]], seconds * len(calls))
    return [compare(first, times, conditions, shape[0], again) for times in (first, *others)]


def row_of(
    name: str,
    made: Uniform,
    beside: dict[str, nn.Module],
    conditions: Conditions,
    batch: int,
    seconds: float,
    times: Times,
) -> Row:
    shape = (batch, *SIDES.get(name, IMAGE))
    network = made.network
    if conditions.memory_format is MemoryFormat.CHANNELS_LAST:
        network = deepcopy(network)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with times.spent(name, "candidates"):
        first, again = (measure_candidates(network, shape, conditions) for _ in range(2))
    note(f"{name}, {conditions}, batch {batch}: layers in {first:.1f} s, again {again:.1f} s")
    with times.spent(name, "plans"):
        limit = {"params": made.twice_params}
        plans = {
            "planned": planned(network, shape),
            "equal": planned(network, shape, objective="latency", budget=limit),
        }
    networks = {"original": network, "once": made.once, "twice": made.twice}
    for label, result in plans.items():
        if isinstance(result, str):
            note(f"{name}, {label}: {result}")
        else:
            networks[label] = result.model
    networks |= beside
    with times.spent(name, "networks"):
        comparisons = timed([*networks.values()], shape, conditions, seconds)
    return Row(
        name,
        conditions,
        batch,
        (first, again),
        plans,
        dict(zip(networks, comparisons, strict=True)),
    )


def summary(rows: Sequence[Row]) -> None:
    """The worst of what is to hold of all rows."""
    kept: list[tuple[str, float, float, str]] = []
    for each in rows:
        found, where = each.found, f"{each.name}, {each.here}, batch {each.batch}"
        for when, seconds in zip(("", " again"), each.seconds, strict=True):
            kept.append(
                (f"seconds to measure the layers of {each.name}{when}", seconds, seconds, where)
            )
        if each.is_replaced:
            ratio = found["planned"].ratio
            kept.append(("planned, slowest", -ratio, ratio, where))
            if each.claimed:
                off = each.claimed / ratio
                kept.append(
                    ("claimed over measured, furthest from 1", max(off, 1 / off), off, where)
                )
        if "equal" in found:
            beside = found["equal"].ratio / found["twice"].ratio
            kept.append(
                (
                    "planned within the parameters of r = 2 beside it, slowest",
                    -beside,
                    beside,
                    where,
                )
            )
    heading("In short", ["", "", "where"])
    for title in dict.fromkeys(title for title, *_ in kept):
        _, _, figure, where = max(each for each in kept if each[0] == title)
        row(title, f"{figure:.2f}", where)
    busy = sum(each.found["original"].is_busy for each in rows)
    print(f"\nThe machine was busy in {busy} of {len(rows)} rows.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    formats = [each.value for each in MemoryFormat]
    parser.add_argument("--formats", nargs="+", choices=formats, default=formats)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each network of a row")
    parser.add_argument("--yardstick", type=Path, help="a module with load(path of its weights)")
    chosen = parser.parse_args()
    with TemporaryDirectory() as folder:
        # reason: or layers that are known would not be measured for the first time
        os.environ["XDG_CACHE_HOME"] = folder
        _print(chosen)


def _print(chosen: argparse.Namespace) -> None:
    times, rows = Times(), []
    made = {}
    for name, network in loaded(chosen.networks, chosen.yardstick).items():
        with times.spent(name, "replaced"):
            made[name] = uniform(network, (1, *SIDES.get(name, IMAGE)))
    mobile = loaded([*MOBILE], None) if BESIDE_MOBILE in made else {}
    print(f"On {this_machine()}.")
    for batch in chosen.batches:
        heading(f"Times as fast as the original, batch {batch}", TITLES)
        for name, own in made.items():
            beside = mobile if name == BESIDE_MOBILE else {}
            for threads, each in product(chosen.threads, map(MemoryFormat, chosen.formats)):
                torch.set_num_threads(threads)
                conditions = Conditions(threads, each)
                rows.append(row_of(name, own, beside, conditions, batch, chosen.seconds, times))
                row(*rows[-1].cells())
    for batch in chosen.batches:
        heading(
            f"Beside mobile networks, batch {batch}",
            [HERE, NETWORKS[BESIDE_MOBILE], "planned", *MOBILE.values()],
        )
        for one in rows:
            if (one.name, one.batch) == (BESIDE_MOBILE, batch):
                row(*one.mobile_cells(["original", "planned", *MOBILE]))
    summary(rows)
    times.table()


def heading(title: str, titles: Sequence[str]) -> None:
    print(f"\n## {title}\n")
    row(*titles)
    row(*("---" for _ in titles))


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
