"""How good a fitted network is, on batches that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves

from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit.comparison import compared, outputs_of, seen, variation
from pytest_dwsconv.fit.moments import all_reduce
from pytest_dwsconv.fit.observations import Layer, Observation
from pytest_dwsconv.fit.quality import FEW
from pytest_dwsconv.fit.replay import BatchRun, CalibrationData, Override, arguments
from pytest_dwsconv.fit.variation import ROUNDING, Variation
from pytest_dwsconv.separable.replacement import choose, initial, replacement

EVEN = 1e-4
"""Relative errors that differ by less do so by rounding, as where both are exact."""
LOST = 1.05
"""No output may have so many times its error for the gain of others."""


class Scores(NamedTuple):
    """What the held-out outputs say: squared relative errors, and samples of the same class.

    There is one error per output, or two where it holds numbers of two units.
    """

    squares: tuple[float, ...]
    agreeing: int = 0
    samples: int = 0
    of_means: tuple[float, ...] = ()
    """The squared errors of the mean output over the samples, which knows nothing of an input."""

    @property
    def mean(self) -> float:
        """Each output counts the same."""
        return sum(self.squares) / len(self.squares)

    @property
    def error(self) -> float:
        """The largest relative error."""
        return sqrt(max(self.squares))

    def better_than(self, other: Scores) -> bool:
        """Whether the mean error is smaller, and no output pays for it."""
        pairs = zip(self.squares, other.squares, strict=True)
        return self.mean < other.mean and all(own <= LOST**2 * its for own, its in pairs)


def scores(
    pairs: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]], varying: Variation
) -> Scores | None:
    """Compare outputs with those wanted, over the batches of all processes; None without any."""
    parts = [(index, part) for index in range(varying.outputs) for part in varying.parts(index)]
    sums = torch.zeros(len(parts), 4, dtype=torch.float64, device="cpu")
    classes = torch.zeros(3, dtype=torch.float64, device="cpu")
    within = [_Within() for _ in parts]
    for found, wanted in pairs:
        for row, (index, part) in enumerate(parts):
            sums[row] += _compared(part.of(found[index]), part.of(wanted[index]))
            within[row].add(part.of(wanted[index]))
        classes += _agreeing(found, wanted)
    around_means = torch.tensor(
        [one.variation() for one in within], dtype=torch.float64, device="cpu"
    )
    all_reduce(sums, classes, around_means)
    if not parts or not bool(sums[:, 1].any()):
        return None
    squares = tuple(_relative(*row.tolist()) for row in sums)
    of_means = tuple(
        min(1.0, _relative(own, *row[1:].tolist()))
        for own, row in zip(around_means.tolist(), sums, strict=True)
    )
    agreeing, samples, others = map(int, classes.tolist())
    return Scores(squares, *((0, 0) if others else (agreeing, samples)), of_means)


class _Within:
    """How much each number of an output varies from sample to sample."""

    def __init__(self) -> None:
        self.count, self.squares = 0, 0.0
        self.total: Tensor | None = None

    def add(self, wanted: Tensor) -> None:
        values = wanted.detach().double().nan_to_num(0.0, 0.0, 0.0)
        if not values.dim() or (self.total is not None and self.total.shape != values.shape[1:]):
            self.squares = inf  # samples of several shapes have no mean
            return
        self.total = values.sum(0) + (0.0 if self.total is None else self.total)
        self.count, self.squares = (
            self.count + len(values),
            self.squares + float(values.square().sum()),
        )

    def variation(self) -> float:
        """About the mean sample, without its bias; infinite where that says nothing."""
        if self.total is None:
            return inf if self.count else 0.0
        around = self.squares - float(self.total.square().sum()) / self.count
        if self.count > 1 and around <= ROUNDING * self.squares < inf:
            return 0.0  # all alike, which is not by chance
        if self.count < FEW:
            return inf
        return around * self.count / (self.count - 1)


def _compared(found: Tensor, wanted: Tensor) -> Tensor:
    """The squared error, and count, sum and sum of squares of what was wanted, where finite."""
    finite = torch.isfinite(wanted)
    wanted, found = wanted[finite].double(), found[finite].double()
    error = (found - wanted).square().sum()
    count = torch.tensor(float(wanted.numel()), dtype=torch.float64, device=error.device)
    return torch.stack([error, count, wanted.sum(), wanted.square().sum()]).cpu()


def _relative(error: float, count: float, total: float, squares: float) -> float:
    """Over the squared variation; over the square where nothing varies, and over 1 for zeros."""
    if not isfinite(error):
        return inf
    variation = squares - total**2 / count if count else 0.0
    return error / (variation if variation > ROUNDING * squares else squares or count or 1.0)


def _agreeing(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Samples that both give the same class, samples, and whether these are no class scores."""
    if len(wanted) != 1 or wanted[0].dim() != 2 or wanted[0].shape[1] < 2:
        return torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device="cpu")
    same = (found[0].argmax(1) == wanted[0].argmax(1)) & torch.isfinite(found[0]).all(1)
    counts = [float(same.sum()), float(len(same)), 0.0]
    return torch.tensor(counts, dtype=torch.float64, device="cpu")


def output_names(model: nn.Module, batch: Any, varying: Variation) -> list[str]:
    """What to call each error of ``Scores``: ``output['boxes']``, say, or ``output[:, 0:4]``."""
    args, kwargs = arguments(batch)
    out = model(*args, **kwargs)
    try:
        places = [
            keystr(path)
            for path, leaf in tree_flatten_with_path(out)[0]
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        ]
    except ValueError:  # a class that is registered without names of what it holds
        places = [f"[{index}]" for index in range(varying.outputs)]
    return [
        f"output{place}{part}"
        for index, place in enumerate(places)
        for part in varying.parts(index)
    ]


def samples(leaves: Sequence[Any]) -> int | None:
    """The first dimension that all have in common; None where there is none."""
    sizes = {leaf.shape[0] if isinstance(leaf, Tensor) and leaf.dim() else None for leaf in leaves}
    return sizes.pop() if len(sizes) == 1 else None


def samples_of(batches: Sequence[Any]) -> int:
    """Those of all processes; a batch whose samples cannot be told apart counts as one."""
    counts = [samples(tree_leaves(batch)) or 1 for batch in batches]
    total = torch.tensor(float(sum(counts)), device="cpu")
    all_reduce(total)
    return int(total)


class Reference:
    """What the original gives for the calibration batches, noted before its layers are replaced."""

    def __init__(
        self,
        model: nn.Module,
        replaced: Sequence[str],
        batches: Sequence[Any],
        held_out: Sequence[Any],
    ) -> None:
        self.names, self.replaced = compared(model, replaced), replaced
        self.batches, self.held_out = batches, held_out
        self.held_out_samples = samples_of(held_out)
        self.wanted = seen(model, self.names, batches)
        self.held_wanted = seen(model, self.names, held_out)
        self.varying = variation((*self.wanted, *self.held_wanted))
        first = [*batches, *held_out][:1]
        self.output_names = output_names(model, first[0], self.varying) if first else []

    def scores(self, model: nn.Module) -> Scores | None:
        """How near the model's held-out outputs are; None where nothing is held out."""
        wanted = [one.outputs for one in self.held_wanted]
        return scores(zip(outputs_of(model, self.held_out), wanted, strict=True), self.varying)


class HeldOutLayers:
    """Where each layer's error is measured: what the original gives there for held-out batches."""

    def __init__(self, data: CalibrationData, indices: Sequence[int]) -> None:
        self.data, self.indices = data, indices
        self._layers: list[Layer] = []
        self._targets: dict[int, list[Tensor]] = {}
        self._variation: dict[str, Tensor] = {}

    def note(self, layer: Layer, seen: Sequence[Observation]) -> None:
        self._layers.append(layer)
        self._variation[layer.name] = own_variation(seen)
        for call in layer.calls:
            self._targets[call.reference] = [one.target for one in seen if one.call is call]

    @torch.no_grad()
    def errors(self, replacements: Mapping[str, Override]) -> dict[str, float]:
        """The relative error of each layer with all replacements in place."""
        overrides: dict[int, Override] = {}
        for layer in self._layers:
            for call in layer.calls:
                overrides.update(call.overrides(replacements[layer.name]))
        run = BatchRun(self.data, self.indices, self._targets)
        run.advance(max(self._targets, default=-1) + 1, overrides)
        errors = {}
        for layer in self._layers:
            total = torch.zeros((), dtype=torch.float64, device="cpu")
            for call in layer.calls:
                for kept, target in zip(run.kept, self._targets[call.reference], strict=True):
                    found = kept[call.reference]
                    total += (found.double() - target.double()).square().sum().cpu()
            all_reduce(total)
            variation = float(self._variation[layer.name])
            if variation > 0:
                errors[layer.name] = sqrt(float(total) / variation)
        return errors


def own_variation(seen: Sequence[Observation]) -> Tensor:
    """The squared variation of what a layer itself contributes, per channel, in all processes."""
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    for one in seen:
        own = one.target - one.rest
        channel = own.dim() - one.call.rank - 1
        axes = [axis for axis in range(own.dim()) if axis != channel]
        total += (own - own.mean(axes, keepdim=True)).double().square().sum().cpu()
    all_reduce(total)
    return total


class Nearest(NamedTuple):
    """By layer the choice whose kernel is nearest, and how all of them do on held-out batches."""

    entries: Mapping[str, PlanEntry]
    scores: Scores | None

    def better_than(self, fitted: Scores | None) -> bool:
        """Whether they err less at the output where the two err most."""
        if self.scores is None or fitted is None:
            return False
        return self.scores.error + EVEN < fitted.error


def nearest_kernels(
    data: CalibrationData, held: Sequence[int], layers: Sequence[Layer], reference: Reference
) -> Nearest:
    entries: dict[str, PlanEntry] = {}
    overrides: dict[int, Override] = {}
    for layer in layers:
        weight = layer.conv.weight
        entry = entries[layer.name] = choose(layer.name, weight, layer.entries, "svd")
        module = replacement(layer.conv, entry, initial(weight, entry, "svd")[0])
        for call in layer.calls:
            overrides.update(call.overrides(module.forward))
    wanted = [one.outputs for one in reference.held_wanted]
    pairs = [(data.outputs(index, overrides), w) for index, w in zip(held, wanted, strict=True)]
    return Nearest(entries, scores(pairs, reference.varying))
