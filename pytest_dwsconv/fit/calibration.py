"""The calibrated fit: inputs from the network converted so far, targets from the original.

Per layer the moments of its inputs are summed once; alternating least squares then needs no data.
Where a rectifier follows, the targets below its threshold are relaxed a few times to what the
fitted layer gives, because errors down there do no harm; each time only the moments with the
targets are summed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.core.progress import Progress
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.fit.error_points import sensitivities
from pytest_dwsconv.fit.held_out import HeldOutLayers, Reference, own_variation
from pytest_dwsconv.fit.least_squares import Problem, fit
from pytest_dwsconv.fit.moments import Cross, Moments, all_reduce, place_in_group
from pytest_dwsconv.fit.nearest import Nearest, nearest_kernels
from pytest_dwsconv.fit.observations import Layer, Observation, PairedRun, layers_of
from pytest_dwsconv.fit.preconditions import check_calibration
from pytest_dwsconv.fit.replay import CalibrationData, Override
from pytest_dwsconv.separable.factorize import Factors, decompose, dense_kernel
from pytest_dwsconv.separable.modules import SeparableConvNd
from pytest_dwsconv.separable.replacement import replacement

CONTIGUOUS = torch.contiguous_format
FIRST_ROUNDS, LATER_ROUNDS, RELAXATIONS = 10, 3, 2
RIDGE = 1e-4
"""White noise assumed on the inputs, in units of their mean power.

It ties a fit of few data to the kernel itself.
"""


@dataclass
class Fitted:
    """A layer's replacement, the constant to add to its outputs, and its relative output errors."""

    layer: Layer
    entry: PlanEntry
    module: SeparableConvNd
    offset: Tensor | None
    weight_error: float
    error: float | None = None
    held_out_error: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self.module.forward(x)  # reason: hooks are nodes of the record already
        if self.offset is None:
            return out
        return out + self.offset.to(out.dtype).view(-1, *(1,) * (len(self.entry.kernel_size)))

    @torch.no_grad()
    def settle(self) -> None:
        """Move the constant into the bias, or out of the mean that a normalisation takes off."""
        if self.offset is None:
            return
        bias = self.module.bias
        if bias is not None:
            bias.add_(self.offset)
        else:
            for norm in {call.norm for call in self.layer.calls}:
                norm.running_mean.sub_(self.offset)
        self.offset = None


@dataclass(frozen=True)
class Calibration:
    """Every layer's fit, what the original gives for the batches, and what it is compared with."""

    fitted: Mapping[str, Fitted]
    reference: Reference
    layers: HeldOutLayers
    nearest: Nearest


@torch.no_grad()
def calibrate(
    model: nn.Module, choices: Mapping[str, Sequence[PlanEntry]], batches: Sequence[Any]
) -> Calibration:
    """Fit a replacement for each convolution of ``choices`` that the forward calls.

    The model must be in evaluation mode and is left as found.

    Raises:
        InputError: the batches cannot be used, or a layer cannot be fitted.
        TracingError: the forward fails on a batch.
    """
    check_calibration(model, batches)
    data = CalibrationData(model, batches)
    layers = layers_of(model, choices, data)
    fitting, held = split(len(data.batches))
    fitting_run = PairedRun(data, fitting, layers)
    held_out_run = PairedRun(data, held, layers)
    weights = sensitivities(data, fitting, [call for layer in layers for call in layer.calls])
    fitted: dict[str, Fitted] = {}
    overrides: dict[int, Override] = {}
    judged = HeldOutLayers(data, held)
    with Progress("fitting", len(layers), "layer") as progress:
        for layer in layers:
            progress.at(layer.name)
            new = fitted[layer.name] = fit_layer(
                layer, fitting_run.observe(layer, overrides), weights
            )
            held_out = held_out_run.observe(layer, overrides)
            new.held_out_error = relative_error(held_out, new)
            judged.note(layer, held_out)
            fitting_run.done(layer)
            held_out_run.done(layer)
            for call in layer.calls:
                overrides.update(call.overrides(new))
            progress.advance(error=new.error)
    reference = Reference(
        model, list(fitted), [batches[i] for i in fitting], [batches[i] for i in held]
    )
    return Calibration(fitted, reference, judged, nearest_kernels(data, held, layers, reference))


def split(count: int) -> tuple[list[int], list[int]]:
    """Which of this process's batches to fit on, and which to hold out.

    Counting the batches of all processes, in turn one of each, every eighth is held out; of two to
    seven the last; a single one is not.
    """
    rank, world = place_in_group()
    total = torch.tensor(float(count), device="cpu")
    all_reduce(total)
    last = int(total) - 1
    held = [i for i in range(count) if (o := i * world + rank) % 8 == 7 or 0 < o == last < 7]
    return [i for i in range(count) if i not in held], held


def fit_layer(layer: Layer, seen: Sequence[Observation], weights: Mapping[int, Tensor]) -> Fitted:
    """The best of the layer's possible replacements on these observations."""
    moments = LayerMoments(layer, seen, output_weight(layer, weights))
    best: tuple[float, Fitted] | None = None
    for entry in layer.entries:
        fitted = _fit_entry(moments, entry, seen)
        loss = weighted_loss(seen, fitted, weights)
        if best is None or loss < best[0]:
            best = loss, fitted
    assert best is not None
    best[1].error = relative_error(seen, best[1])
    return best[1]


def _check_moments(name: str, moments: Moments) -> None:
    if not bool(torch.isfinite(moments.gram.diagonal(dim1=1, dim2=2)).all()):
        raise InputError(
            f"{name} gets NaN or infinite inputs from the calibration batches; leave it out with "
            "ignore"
        )


def output_weight(layer: Layer, weights: Mapping[int, Tensor]) -> Tensor:
    """How much errors of the convolution's outputs matter, (G, M/G, M/G), summed over its calls."""
    groups = layer.conv.groups
    total = sum(
        weights[call.reference] * torch.outer(call.scale, call.scale) for call in layer.calls
    )
    assert isinstance(total, Tensor)
    size = layer.conv.out_channels // groups
    blocks = total.view(groups, size, groups, size)
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


class LayerMoments:
    """A layer's fixed moments, tied to the kernel by a ridge.

    They are central if the layer can move its outputs.
    """

    def __init__(self, layer: Layer, seen: Sequence[Observation], weight: Tensor) -> None:
        moments = Moments(layer.conv)
        for one in seen:
            moments.add(one.x)
        moments.finish()
        _check_moments(layer.name, moments)
        self.layer, self.weight, self.count = layer, weight, moments.count
        self.mean_x, self.gram = moments.mean_x, moments.gram
        power = self.gram.diagonal(dim1=1, dim2=2)
        # reason: what is left of constant inputs, once centred, is rounding
        least = 1e-8 * power.mean()
        if layer.movable:
            self.gram.baddbmm_(self.mean_x[:, :, None], self.mean_x[:, None, :], alpha=-1)
        level = torch.maximum(RIDGE * power.mean(), least)
        self.ridge = torch.where(level > 0, level, 1.0)
        power += self.ridge
        self.kernel = (
            layer.conv.weight.detach().double().reshape(layer.conv.groups, -1, self.gram.shape[1])
        )

    def problem(
        self, seen: Sequence[Observation], wanted: Callable[[Observation], Tensor]
    ) -> tuple[Problem, Tensor]:
        """The least-squares problem for these targets, and the targets' means (M)."""
        sums = Cross(self.layer.conv)
        for one in seen:
            sums.add(one.x, wanted(one))
        sums.finish(self.count)
        cross = sums.cross.view(self.kernel.shape)
        mean_y = sums.mean_y.view(self.kernel.shape[:2])
        if self.layer.movable:
            cross -= mean_y[:, :, None] * self.mean_x[:, None, :]
        return Problem(self.gram, cross + self.ridge * self.kernel, self.weight), mean_y

    def offset(self, kernel: Tensor, mean_y: Tensor) -> Tensor | None:
        if not self.layer.movable:
            return None
        return (mean_y - (kernel @ self.mean_x[:, :, None])[:, :, 0]).flatten()


def _fit_entry(moments: LayerMoments, entry: PlanEntry, seen: Sequence[Observation]) -> Fitted:
    conv = moments.layer.conv
    start = decompose(conv.weight, entry.groups, entry.form).factors(entry.size)
    problem, mean_y = moments.problem(seen, lambda one: one.wanted(one.target))
    factors = fit(problem, entry, start, FIRST_ROUNDS)
    fitted = _fitted(moments, entry, factors, mean_y)
    if all(call.clip is None for call in moments.layer.calls):
        return fitted
    for _ in range(RELAXATIONS):

        def wanted(one: Observation, current: Fitted = fitted) -> Tensor:
            reached = one.reached(current(one.x))
            return one.wanted(one.target if one.call.clip is None else one.relaxed(reached))

        problem, mean_y = moments.problem(seen, wanted)
        factors = fit(problem, entry, factors, LATER_ROUNDS)
        fitted = _fitted(moments, entry, factors, mean_y)
    return fitted


def _fitted(moments: LayerMoments, entry: PlanEntry, factors: Factors, mean_y: Tensor) -> Fitted:
    conv = moments.layer.conv
    kernel = dense_kernel(factors, entry).reshape(moments.kernel.shape)
    # reason: a 1 x 1 kernel passes for contiguous with any strides, by which a convolution chooses
    # the layout of its outputs; a forward may use ``view`` on them
    own = Factors(
        **{
            name: part.to(conv.weight.dtype).clone(memory_format=CONTIGUOUS)
            for name, part in factors.by_part().items()
        }
    )
    module = replacement(conv, entry, own)
    offset = moments.offset(kernel, mean_y)
    if offset is not None and conv.bias is not None:
        offset = offset - conv.bias.detach().double()
    size = float(moments.kernel.norm())
    error = float((kernel - moments.kernel).norm()) / size if size else 0.0
    return Fitted(moments.layer, entry, module, offset, error)


def weighted_loss(
    seen: Sequence[Observation], fitted: Fitted, weights: Mapping[int, Tensor]
) -> float:
    """Sum over positions of e^T H e, where e is the error at the reference after the rectifier."""
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    for one in seen:
        error = _seen_through(one, one.reached(fitted(one.x))) - _seen_through(one, one.target)
        flat = error.movedim(-len(fitted.entry.kernel_size) - 1, 0).flatten(1).double()
        total += ((weights[one.call.reference] @ flat) * flat).sum().cpu()
    all_reduce(total)
    return float(total)


def relative_error(seen: Sequence[Observation], fitted: Fitted) -> float | None:
    """Root of the squared error over the squared variation of the layer's own part.

    Both are taken at the reference.

    None where there is no data, or nothing varies.
    """
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    for one in seen:
        error = one.reached(fitted(one.x)) - one.target
        total += error.double().square().sum().cpu()
    all_reduce(total)
    variation = float(own_variation(seen))
    return sqrt(float(total) / variation) if variation > 0 else None


def _seen_through(one: Observation, value: Tensor) -> Tensor:
    return value if one.call.clip is None else value.clamp(*one.call.clip)
