"""What every fit to some calibration batches starts from, whichever plan it is for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pytest_dwsconv.fit.error_points import sensitivities
from pytest_dwsconv.fit.moments import all_reduce, place_in_group
from pytest_dwsconv.fit.observations import Layer
from pytest_dwsconv.fit.preconditions import check_calibration
from pytest_dwsconv.fit.replay import CalibrationData


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
