"""``export_int8``: a PyTorch model as an int8 TFLite file that runtimes of 2021 compute right."""

from __future__ import annotations

import copy
import io
import math
import operator
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.edgetpu.modelfile import read_model
from pytest_dwsconv.edgetpu.process import check_seconds, last_line, run_within
from pytest_dwsconv.edgetpu.support import judge_model
from pytest_dwsconv.errors import EdgeTpuWarning, ExportError, InputError, first_line, require
from pytest_dwsconv.tracing.preserving import as_found

PROGRAM, SAMPLES, RESULT, REFUSAL = "program.pt2", "samples.pt", "model.tflite", "refusal.txt"
"""What passes between this process and the one that converts, in a folder for each network."""

INT8, FLOAT = "int8", "float"
"""Which file is made; said to that process."""

_NEEDED = ("litert-torch", "ai-edge-quantizer", "ai-edge-litert", "tflite")
_NOISE = 8  # samples that stand in for a calibration
_MOST_ELEMENTS = 2**31 - 1  # TFLite counts them in 32 bits


def export_int8(
    model: nn.Module,
    shape: Sequence[int],
    *,
    calibration: Tensor | Iterable[Tensor] | None = None,
    timeout: float = 600,
) -> bytes:
    """Export a model as a ``.tflite`` file, all in int8, for the Edge TPU or any TFLite runtime.

    Inputs and outputs of four dimensions become channels-last, as TFLite has them: ``(1, 3, 224,
    224)`` is exported as ``(1, 224, 224, 3)``. Convolutions have a scale per output channel, fully
    connected layers one for the whole weight. The model is converted by litert-torch and quantised
    by ai-edge-quantizer in a process of its own, in a temporary folder that is gone afterwards. The
    model is left as found; a copy is made only of one that is not in float32 on the CPU.

    Args:
        model: a network of one input; evaluation mode is meant, whatever mode it is in.
        shape: the shape of the input in PyTorch's order, with batch size 1.
        calibration: one batch of inputs, ``(N, *shape[1:])``, or several, such as the network will
            see; a few hundred inputs fix the scales. Without them noise does, which is good enough
            to measure latency, and for nothing else.
        timeout: seconds the conversion may take.

    Raises:
        InputError: an argument cannot be used.
        ExportError: the model cannot be exported, or not in int8; names the layer at fault if it
            is in one.
        MissingDependencyError: the packages of the extra ``export`` are not installed.

    Warns:
        EdgeTpuWarning: some operators will stay on the CPU, or it is not known whether they map; as
            ``judge_model`` says, with every cause.
    """
    _check(model, timeout)
    [content] = _exported([(model, checked_samples(shape, calibration))], timeout, INT8)
    complaints = judge_model(read_model(content)).complaints
    if complaints:
        name = type(model).__name__
        warnings.warn(f"{name}: {'; '.join(complaints)}", EdgeTpuWarning, stacklevel=2)
    return content


def export_float(model: nn.Module, shape: Sequence[int], *, timeout: float = 600) -> bytes:
    """Export a model as a ``.tflite`` file in float32, for a CPU.

    As ``export_int8``, with the layers as they are: grouped convolutions are not split.

    Raises:
        InputError: an argument cannot be used.
        ExportError: the model cannot be exported.
        MissingDependencyError: the packages of the extra ``export`` are not installed.
    """
    _check(model, timeout)
    [content] = _exported([(model, checked_samples(shape, None))], timeout, FLOAT)
    return content


def export_for_timing(
    networks: Sequence[tuple[nn.Module, Sequence[int]]], *, int8: bool, timeout: float = 600
) -> list[bytes]:
    """Export networks, each with its input shape, in one process; in int8 calibrated on noise.

    That process takes seconds to begin, and then less than that for a layer. Each network may take
    as long as ``timeout`` on average.

    Raises:
        InputError, ExportError, MissingDependencyError: as ``export_int8`` does.
    """
    recorded = []
    for network, shape in networks:
        _check(network, timeout)
        recorded.append((network, checked_samples(shape, None)))
    return _exported(recorded, timeout * len(recorded), INT8 if int8 else FLOAT)


_Given = tuple[nn.Module, Tensor]
"""A network, and samples of its input."""


def _exported(given: Sequence[_Given], timeout: float, kind: str) -> list[bytes]:
    for model, _ in given:
        _check_values(model)
    check_installed()
    name = type(given[0][0]).__name__
    try:
        with tempfile.TemporaryDirectory(prefix="dwsconv-export-") as folder:
            return _converted(given, Path(folder), timeout, kind)
    except TimeoutError as error:
        raise ExportError(
            f"exporting {name} was stopped: {error}; give it a longer timeout"
        ) from error
    except OSError as error:
        raise ExportError(
            f"{name} cannot be exported: {error}; check the space in the temporary folder"
        ) from error


def _check(model: nn.Module, timeout: float) -> None:
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"an export takes a torch.nn.Module, not {type(model).__name__}; build the model first"
        )
    check_seconds(timeout, "timeout", "exporting may take")


def _sides(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        sides = tuple(map(operator.index, shape))  # NumPy's numbers too
    except TypeError:
        sides = ()
    if len(sides) < 2 or min(sides) < 1:
        raise InputError(
            f"{quoted(shape)} is not an input shape; give whole numbers such as (1, 3, 224, 224)"
        )
    if math.prod(sides) > _MOST_ELEMENTS:
        raise InputError(
            f"the input has more than the {_MOST_ELEMENTS:,} elements that a TFLite tensor can "
            "have; give a smaller shape"
        )
    if sides[0] != 1:
        raise InputError(
            f"the batch size in {sides} is {sides[0]}, and the Edge TPU takes 1; begin with 1"
        )
    return sides


def _check_values(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            raise InputError(
                f"{name} of {type(model).__name__} has no values yet; initialise or load the model "
                "first"
            )
        if not tensor.isfinite().all():
            raise InputError(f"{name} of {type(model).__name__} is not finite; it has no int8 form")


def channels_last(tensor: Tensor) -> Tensor:
    """A batch of images as TFLite has it; other tensors as they are."""
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor


def check_installed() -> None:
    for package in _NEEDED:
        require("exporting to TFLite", package, "export")


def checked_samples(shape: Sequence[int], calibration: Tensor | Iterable[Tensor] | None) -> Tensor:
    """All calibration inputs as one tensor; without any, noise.

    Raises:
        InputError: the shape or an input cannot be used.
    """
    sides = _sides(shape)
    if calibration is None:
        return torch.randn(_NOISE, *sides[1:], generator=torch.Generator().manual_seed(0))
    try:
        batches = iter([calibration] if isinstance(calibration, Tensor) else calibration)
    except TypeError as error:
        raise InputError(
            f"calibration is of type {type(calibration).__name__}; give tensors"
        ) from error
    inputs = [_input(batch, sides) for batch in batches]
    if not sum(map(len, inputs)):
        raise InputError(
            "calibration holds no input; give some, or leave it out to calibrate on noise"
        )
    samples = torch.cat(inputs)
    if not samples.isfinite().all():
        raise InputError("a calibration input is not finite; give inputs without nan and inf")
    return samples


def _input(batch: object, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(batch, Tensor):
        raise InputError(
            f"calibration holds a {type(batch).__name__}; give tensors: (x for x, label in loader)"
        )
    if batch.ndim != len(shape) or batch.shape[1:] != shape[1:]:
        wanted = ", ".join(map(str, shape[1:]))
        raise InputError(
            f"a calibration batch is {tuple(batch.shape)}; give inputs of (N, {wanted})"
        )
    return batch.detach().to("cpu", torch.float32)


def _converted(given: Sequence[_Given], folder: Path, timeout: float, kind: str) -> list[bytes]:
    folders = []
    for number, (model, samples) in enumerate(given):
        own = folder / str(number)
        own.mkdir()
        _save(model, samples, own)
        folders.append(own)
    command = [sys.executable, "-m", "pytest_dwsconv.edgetpu.export.converter", kind]
    finished = run_within(timeout, [*command, *map(str, folders)], folder)
    if finished.status == 0:
        return [(own / RESULT).read_bytes() for own in folders]
    failed = next(place for place, own in enumerate(folders) if not (own / RESULT).exists())
    reason = f"the converter failed ({finished.ending}): {last_line(finished.stderr)}"
    if (folders[failed] / REFUSAL).is_file():
        reason = (folders[failed] / REFUSAL).read_text(encoding="utf-8")
    raise ExportError(f"{type(given[failed][0]).__name__} cannot be exported: {reason}")


def _save(model: nn.Module, samples: Tensor, folder: Path) -> None:
    """Write the forward as torch.export records it, and the calibration inputs."""
    plain = _float_on_cpu(model)
    try:
        with as_found([*plain.modules()]), torch.no_grad():
            program = torch.export.export(plain, (samples[:1].clone(),))
    except Exception as error:  # whatever the user's forward or torch's exporter raises
        message = (
            f"torch.export cannot record the forward of {type(model).__name__}: {first_line(error)}"
        )
        step = (
            f"make it run on one tensor of {tuple(samples[:1].shape)}, without a branch on what is "
            "in a tensor"
        )
        raise ExportError(f"{message}; {step}") from error
    # reason: torch's own writer ends the whole process where the disk is full
    recorded, stacked = io.BytesIO(), io.BytesIO()
    torch.export.save(program, recorded)
    torch.save(samples, stacked)
    (folder / PROGRAM).write_bytes(recorded.getbuffer())
    (folder / SAMPLES).write_bytes(stacked.getbuffer())


def _float_on_cpu(model: nn.Module) -> nn.Module:
    tensors = [*model.parameters(), *model.buffers()]
    if all(
        t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point())
        for t in tensors
    ):
        return model
    return float_copy(model)


def float_copy(model: nn.Module) -> nn.Module:
    """A copy of a model in float32 on the CPU.

    Raises:
        InputError: it cannot be copied.
    """
    try:
        return copy.deepcopy(model).to("cpu", torch.float32)
    # whatever a user's __deepcopy__ raises, or a part that cannot be copied
    except Exception as error:
        reason = first_line(error)
        raise InputError(
            f"{type(model).__name__} cannot be copied ({reason}); move it to the CPU in float32"
        ) from error
