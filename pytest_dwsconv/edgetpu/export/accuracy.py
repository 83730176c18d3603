"""How far an int8 file is from the float network it was exported from, as LiteRT computes it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.edgetpu.export.exporter import (
    channels_last,
    check_installed,
    checked_samples,
    export_int8,
    float_copy,
)
from pytest_dwsconv.edgetpu.modelfile import Operator, read_model
from pytest_dwsconv.errors import ExportError, InputError, first_line

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

_STEPS = 256  # of int8: a range from the lowest to the highest is one less
_NARROW = 16  # steps: a channel that uses fewer has less than four of its eight bits
_NAMED = 5  # layers that a text names


@dataclass(frozen=True)
class ChannelRanges:
    """How much of int8 the channels of a depthwise convolution's output use, in steps of its scale.

    All channels share one scale. The narrower a channel's range beside the ``widest``, the coarser
    it is computed. ``narrowest`` is that of the channels that vary at all, and ``constant`` counts
    those that do not: in float they may still vary, by less than a step.
    """

    layer: str
    widest: int
    narrowest: int
    constant: int

    def __str__(self) -> str:
        used = f"{self.layer}: channels use {self.narrowest} to {self.widest} of {_STEPS} steps"
        return plain(f"{used}, {self.constant} are constant" if self.constant else used)


@dataclass(frozen=True)
class Int8Accuracy:
    """How far an int8 file is from its float network, measured on ``samples`` inputs.

    ``error`` is the root of the summed squared differences of all outputs over that of the
    float outputs: 0 is exact. ``within_one_step`` is the share of outputs that are at most one step
    of their scale away. ``depthwise`` has the depthwise layers, the coarsest first.
    """

    model: str
    samples: int
    error: float
    within_one_step: float
    depthwise: tuple[ChannelRanges, ...]

    @property
    def narrow(self) -> tuple[ChannelRanges, ...]:
        """The depthwise layers in which a channel has less than four of its eight bits."""
        return tuple(one for one in self.depthwise if one.constant or one.narrowest < _NARROW)

    def __str__(self) -> str:
        head = f"{self.model}: int8 is {self.error:.2%} from float on {self.samples} inputs, "
        lines = [plain(f"{head}{self.within_one_step:.1%} of outputs within one step")]
        if self.narrow:
            lines.append(
                "depthwise layers with channels of few steps, which int8 computes coarsely:"
            )
            lines += [f"  {one}" for one in self.narrow[:_NAMED]]
            if len(self.narrow) > _NAMED:
                lines.append(f"  and {len(self.narrow) - _NAMED} more layers")
        return "\n".join(lines)


@dataclass(frozen=True)
class Int8Comparison:
    """What int8 costs a network and its rewrite, each against its own float outputs."""

    original: Int8Accuracy
    rewritten: Int8Accuracy

    def __str__(self) -> str:
        from tabulate import tabulate

        pairs = [("original", self.original), ("rewritten", self.rewritten)]
        rows = []
        for name, one in pairs:
            figures = f"{one.error:.2%}", f"{one.within_one_step:.1%}"
            rows.append([name, *figures, f"{len(one.narrow)} of {len(one.depthwise)}"])
        headers = ["", "int8 error", "within one step", "coarse depthwise layers"]
        table = tabulate(rows, headers, disable_numparse=True)
        return f"{table}\n\noriginal: {self.original}\nrewritten: {self.rewritten}"


def compare_int8(
    original: nn.Module,
    rewritten: nn.Module,
    shape: Sequence[int],
    *,
    calibration: Tensor | Iterable[Tensor] | None = None,
    timeout: float = 600,
) -> Int8Comparison:
    """Export a network and its rewrite, and measure on the calibration data what int8 costs each.

    Each is compared with its own float outputs: what the rewrite itself changes is not counted.

    Args:
        original: the network.
        rewritten: the same with replacements.
        shape: the shape of their input, with batch size 1.
        calibration: as ``export_int8`` takes it. Noise says little: give inputs like those the
            networks will see.
        timeout: seconds that each conversion may take.

    Raises:
        InputError: an argument cannot be used.
        ExportError: one of them cannot be exported or run.
        MissingDependencyError: the packages of the extra ``export`` are not installed.
    """
    inputs = checked_samples(shape, calibration)
    found = []
    for model in (original, rewritten):
        content = export_int8(model, shape, calibration=inputs, timeout=timeout)
        found.append(int8_accuracy(model, content, inputs))
    return Int8Comparison(*found)


def int8_accuracy(model: nn.Module, content: bytes, inputs: Tensor) -> Int8Accuracy:
    """Measure with LiteRT how far the int8 file of a model is from the model in float.

    The network runs as a copy, in evaluation mode, in float32 on the CPU.

    Args:
        model: the network in float.
        content: what ``export_int8`` made of it.
        inputs: ``(N, ...)``, such as those it was calibrated on.

    Raises:
        InputError: the network cannot be copied, or the inputs or outputs of the two differ.
        ExportError: LiteRT does not run the file, or torch the network.
        FormatError: ``content`` is not a TFLite model.
        MissingDependencyError: the packages of the extra ``export`` are not installed.
    """
    if not len(inputs):
        raise InputError("there is no input to measure on; give some")
    check_installed()
    name = type(model).__name__
    operators = read_model(content).operators
    network = float_copy(model).eval()
    runtime = _File(content, [one for one in operators if one.name == "DEPTHWISE_CONV_2D"])
    differences = total = 0.0
    near = outputs = 0
    for sample in inputs.detach().to("cpu", torch.float32).split(1):
        expected = _outputs(network, sample, name)
        found = runtime.run(channels_last(sample).contiguous().numpy())
        if [one.shape for one in expected] != [one.integers.shape for one in found]:
            raise InputError(f"the file does not have the outputs of {name}; export it again")
        for reference, output in zip(expected, found, strict=True):
            differences += float(np.square(output.real - reference).sum())
            total += float(np.square(reference).sum())
            near += int((np.abs(output.integers - output.scale.integers(reference)) <= 1).sum())
            outputs += reference.size
    error = math.sqrt(differences / (total or 1))
    return Int8Accuracy(name, len(inputs), error, near / outputs, runtime.ranges())


def _outputs(network: nn.Module, sample: Tensor, name: str) -> list[Any]:
    try:
        with torch.no_grad():
            leaves = tree_leaves(network(sample))
    except Exception as error:  # whatever the user's forward raises
        shape = tuple(sample.shape)
        raise ExportError(
            f"{name} does not run on an input of {shape}: {first_line(error)}; give inputs of the "
            "shape it was exported with"
        ) from error
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return [channels_last(tensor).double().numpy() for tensor in tensors]


class _Scale(NamedTuple):
    """real = step * (integer - zero point)"""

    step: float
    zero: int

    @classmethod
    def of(cls, tensor: dict[str, Any]) -> _Scale:
        """That of an input or output, as LiteRT describes it."""
        if tensor["dtype"] != np.int8:
            raise InputError(
                f"{tensor['name']} of the file is not int8; give a file that export_int8 has made"
            )
        return cls(*tensor["quantization"])

    def integers(self, real: Any) -> Any:
        return np.clip(np.rint(real / self.step) + self.zero, -128, 127)


class _Output(NamedTuple):
    integers: Any
    scale: _Scale

    @property
    def real(self) -> Any:
        return (self.integers - self.scale.zero) * self.scale.step


class _File:
    """An int8 file in LiteRT, and what of int8 its depthwise convolutions have used so far."""

    def __init__(self, content: bytes, depthwise: Sequence[Operator]) -> None:
        self._runtime = _interpreter(content)
        self._source, *others = self._runtime.get_input_details()
        if others:
            raise InputError("the file has several inputs; give one that export_int8 has made")
        # reason: the names of outputs are numbered in PyTorch's order, their places are not
        self._targets = sorted(self._runtime.get_output_details(), key=_number)
        places = {one["name"]: one["index"] for one in self._runtime.get_tensor_details()}
        self._depthwise = [(one.layer, places[one.outputs[0].name]) for one in depthwise]
        self._lowest: dict[str, Any] = {}
        self._highest: dict[str, Any] = {}

    def run(self, values: Any) -> list[_Output]:
        """The outputs for one input."""
        if values.shape != tuple(self._source["shape"]):
            raise InputError(
                f"the file takes an input of {tuple(map(int, self._source['shape']))}, not of "
                f"{values.shape}, channels last; give inputs of the shape it was exported with"
            )
        integers = _Scale.of(self._source).integers(values)
        self._runtime.set_tensor(self._source["index"], integers.astype(np.int8))
        self._runtime.invoke()
        for layer, place in self._depthwise:
            used = self._runtime.get_tensor(place).astype(int)
            used = used.reshape(-1, used.shape[-1])
            low, high = used.min(0), used.max(0)
            self._lowest[layer] = np.minimum(low, self._lowest.get(layer, low))
            self._highest[layer] = np.maximum(high, self._highest.get(layer, high))
        found = []
        for target in self._targets:
            integers = self._runtime.get_tensor(target["index"]).astype(np.float64)
            found.append(_Output(integers, _Scale.of(target)))
        return found

    def ranges(self) -> tuple[ChannelRanges, ...]:
        found = []
        for layer, lowest in self._lowest.items():
            used = self._highest[layer] - lowest
            narrowest = int(min(used[used > 0], default=0))
            constant = int((used == 0).sum())
            found.append(ChannelRanges(layer, int(used.max()), narrowest, constant))
        return tuple(sorted(found, key=lambda one: (one.constant == 0, one.narrowest)))


def _number(target: dict[str, Any]) -> int:
    match = re.search(r"output_(\d+)", target["name"])
    return int(match[1]) if match else target["index"]


def _interpreter(content: bytes) -> Interpreter:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        found = Interpreter(
            model_content=content,
            # reason: delegates keep the tensors between layers to themselves
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        found.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"LiteRT does not run the file: {first_line(error)}") from error
    return found
