"""What the layers to be replaced get on calibration batches, and what the original gives there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.plan import PlanEntry
from pytest_dwsconv.fit.error_points import Call, calls
from pytest_dwsconv.fit.moments import UnstridedConv, turned
from pytest_dwsconv.fit.replay import BatchRun, CalibrationData, Override
from pytest_dwsconv.separable.factorize import Decomposition, Factors, decompose
from pytest_dwsconv.separable.replacement import naming


@dataclass
class Layer:
    """A convolution to be replaced, the replacements to choose from, and its calls."""

    name: str
    conv: Any
    entries: Sequence[PlanEntry]
    calls: tuple[Call, ...]

    @cached_property
    def plain(self) -> Any:
        """The convolution, or what a transposed one is as a convolution of stride 1."""
        return UnstridedConv(self.conv) if self.conv.transposed else self.conv

    def nearest(self, form: Form) -> Decomposition:
        """Of the kernel, by size.

        Raises:
            InputError: it cannot be factorised.
        """
        with naming(self.name):
            return decompose(self.plain.weight, self.conv.groups, form)

    def own_taps(self, factors: Factors) -> Factors:
        """A replacement of ``plain`` as one of the convolution itself."""
        if not self.conv.transposed:
            return factors
        return factors._replace(depthwise=turned(factors.depthwise))

    @property
    def movable(self) -> bool:
        """Whether a constant can be added to each output channel.

        It goes into the bias, or into the normalisation after the layer.
        """
        return self.conv.bias is not None or all(call.norm is not None for call in self.calls)


class Observation(NamedTuple):
    """One batch at one call.

    It has the input, the original's value at the reference, and what is added to the output there.
    """

    call: Call
    x: Tensor
    target: Tensor
    rest: Tensor

    def reached(self, output: Tensor) -> Tensor:
        """The value at the reference for an output of the convolution."""
        return output * self._scale(output) + self.rest

    def wanted(self, at_reference: Tensor) -> Tensor:
        """The output of the convolution that gives this value at the reference.

        It is 0 for channels that are scaled by 0.
        """
        scale = self._scale(at_reference)
        return torch.where(
            scale == 0, 0.0, (at_reference - self.rest) / torch.where(scale == 0, 1.0, scale)
        )

    def _scale(self, like: Tensor) -> Tensor:
        return self.call.scale.to(like).view(-1, *(1,) * self.call.rank)

    def relaxed(self, reached: Tensor) -> Tensor:
        """The target, moved to what was reached where the rectifier hides the difference."""
        assert self.call.clip is not None
        low, high = self.call.clip
        target = torch.where(self.target <= low, reached.clamp(max=low), self.target)
        return torch.where(self.target >= high, reached.clamp(min=high), target)


class PairedRun:
    """The original and the partly converted network, both advanced over the same batches."""

    def __init__(
        self, data: CalibrationData, indices: Sequence[int], layers: Sequence[Layer]
    ) -> None:
        references = {call.reference for layer in layers for call in layer.calls}
        self.original = BatchRun(data, indices, references)
        self.converted = BatchRun(data, indices)
        self.data, self.indices, self.waiting = data, indices, list(layers)

    def observe(self, layer: Layer, overrides: Mapping[int, Override]) -> list[Observation]:
        """What the layer's calls see in the network as converted so far."""
        self.converted.advance(min(call.start for call in layer.calls), overrides)
        self.original.advance(max(call.reference for call in layer.calls) + 1, {})
        return [found for call in layer.calls for found in self._observe(call, overrides)]

    def _observe(self, call: Call, overrides: Mapping[int, Override]) -> Iterator[Observation]:
        for number, index in enumerate(self.indices):
            replay = self.data.replays[index]
            shape = replay.nodes[call.place].meta["tensor_meta"].shape
            silence = _Silence(shape)
            rest = self.converted.ahead(
                number, call.reference, {**overrides, **call.overrides(silence)}
            )
            target = self.original.kept[number][call.reference]
            yield Observation(call, silence.inputs[-1], target, rest)

    def done(self, layer: Layer) -> None:
        """Release what was kept for a layer that is fitted."""
        self.waiting.remove(layer)
        self.original.release(call.reference for other in self.waiting for call in other.calls)


class _Silence:
    """In a convolution's place: gives zeros, and notes the inputs that it was called with."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape
        self.inputs: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.inputs.append(x)
        return x.new_zeros(self.shape)


def layers_of(
    model: nn.Module, choices: Mapping[str, Sequence[PlanEntry]], data: CalibrationData
) -> list[Layer]:
    layers = []
    for name, entries in choices.items():
        conv: Any = model.get_submodule(name)
        found = calls(data.graph, name, conv)
        if found:
            layers.append(Layer(name, conv, entries, found))
    return sorted(layers, key=lambda layer: layer.calls[0].start)
