"""The calibrated fit: inputs from the network converted so far, targets from the original.

Per layer the moments of its inputs are summed once; alternating least squares then needs no data.
Where a rectifier follows, the targets below its threshold are relaxed a few times to what the
fitted layer gives, because errors down there do no harm; each time only the moments with the
targets are summed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit.error_points import sensitivities
from pytest_dwsconv.fit.held_out import HeldOutLayers, Nearest, Reference, nearest_kernels
from pytest_dwsconv.fit.layers.choice import fit_layer
from pytest_dwsconv.fit.layers.fitted import Fitted, relative_error
from pytest_dwsconv.fit.moments import all_reduce, place_in_group
from pytest_dwsconv.fit.observations import Layer, PairedRun, layers_of
from pytest_dwsconv.fit.preconditions import check_calibration
from pytest_dwsconv.fit.replay import CalibrationData, Override
from pytest_dwsconv.progress import Progress
from pytest_dwsconv.tracing.preserving import as_found


class Preparation:
    """A network with its calibration batches, run when first asked for, and then known."""

    def __init__(self, model: nn.Module, batches: Sequence[Any]) -> None:
        self.model, self.batches = model, batches
        self._sensitivities: dict[int, Tensor] = {}

    @cached_property
    def data(self) -> CalibrationData:
        """The batches with a record of the forward, for a model in evaluation mode.

        Raises:
            InputError: the batches cannot be used.
            TracingError: the forward fails on a batch.
        """
        check_calibration(self.model, self.batches)
        return CalibrationData(self.model, self.batches)

    @property
    def fitting(self) -> list[int]:
        """Which of this process's batches to fit on."""
        return [index for index in range(len(self.batches)) if index not in self.held_out]

    @cached_property
    def held_out(self) -> list[int]:
        """Which of this process's batches to judge on.

        Counting the batches of all processes, in turn one of each, it is every eighth; of two to
        seven the last; a single one is not held out.
        """
        rank, world = place_in_group()
        total = torch.tensor(float(len(self.batches)), device="cpu")
        all_reduce(total)
        last = int(total) - 1
        places = [index * world + rank for index in range(len(self.batches))]
        return [i for i, place in enumerate(places) if place % 8 == 7 or 0 < place == last < 7]

    def sensitivities(self, layers: Iterable[Layer]) -> dict[int, Tensor]:
        """How much the outputs depend on these layers, where their errors are measured."""
        calls = [call for layer in layers for call in layer.calls]
        new = [call for call in calls if call.reference not in self._sensitivities]
        self._sensitivities |= sensitivities(self.data, self.fitting, new) if new else {}
        return self._sensitivities


@dataclass(frozen=True)
class Calibration:
    """Every layer's fit, what the original gives for the batches, and what it is compared with."""

    fitted: Mapping[str, Fitted]
    reference: Reference
    layers: HeldOutLayers
    nearest: Nearest


@torch.no_grad()
def calibrate(preparation: Preparation, choices: Mapping[str, Sequence[PlanEntry]]) -> Calibration:
    """Fit a replacement for each convolution of ``choices`` that the forward calls.

    The model is left as found.

    Raises:
        InputError: the batches cannot be used, or a layer cannot be fitted.
        TracingError: the forward fails on a batch.
    """
    with as_found(list(preparation.model.modules())):
        return _calibrated(preparation, choices)


def _calibrated(
    preparation: Preparation, choices: Mapping[str, Sequence[PlanEntry]]
) -> Calibration:
    model, data, batches = preparation.model, preparation.data, preparation.batches
    layers = layers_of(model, choices, data)
    fitting, held = preparation.fitting, preparation.held_out
    fitting_run = PairedRun(data, fitting, layers)
    held_out_run = PairedRun(data, held, layers)
    count = torch.tensor(float(len(held)), device="cpu")
    all_reduce(count)
    any_held_out = bool(count)
    weights = preparation.sensitivities(layers)
    fitted: dict[str, Fitted] = {}
    overrides: dict[int, Override] = {}
    judged = HeldOutLayers(data, held)
    with Progress("fitting", len(layers), "layer") as progress:
        for layer in layers:
            progress.at(layer.name)
            seen = fitting_run.observe(layer, overrides)
            held_out = held_out_run.observe(layer, overrides)
            new = fitted[layer.name] = fit_layer(
                layer, seen, held_out if any_held_out else seen, weights
            )
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
