"""The process in which a recorded forward becomes an int8 TFLite file: ``python -m ... FOLDER``.

It is a process of its own because the converter may crash or hang, takes seconds to import, and prints.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pytest_dwsconv.edgetpu.export import PROGRAM, REFUSAL, RESULT, SAMPLES
from pytest_dwsconv.edgetpu.repairs import repair
from pytest_dwsconv.errors import ExportError


class ChannelsLast(nn.Module):
    """A network whose input and outputs are channels-last where they have four dimensions.

    With this no TRANSPOSE stands before the first convolution.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> object:
        outputs = self.network(images.permute(0, 3, 1, 2) if images.ndim == 4 else images)
        return tree_map(_to_channels_last, outputs)


def _to_channels_last(value: object) -> object:
    return value.permute(0, 2, 3, 1) if isinstance(value, Tensor) and value.ndim == 4 else value


def convert(folder: Path) -> bytes:
    """Convert, quantise and repair what ``export_int8`` left in the folder.

    Raises:
        ExportError: one of the steps failed; says which and why.
    """
    samples = torch.load(folder / SAMPLES, weights_only=True)
    samples = samples.permute(0, 2, 3, 1).contiguous() if samples.ndim == 4 else samples
    # reason: unflattened, it keeps the names of its layers, and the names of the tensors are made from them
    network = torch.export.unflatten(torch.export.load(folder / PROGRAM))
    try:
        plain = _floating(ChannelsLast(network).eval(), samples[:1])
    except Exception as error:  # a converter of many layers, each with errors of its own
        raise ExportError(f"litert-torch failed ({type(error).__name__}: {error})") from error
    try:
        quantized = _quantized(plain, samples)
    except Exception as error:  # likewise
        raise ExportError(f"ai-edge-quantizer failed ({type(error).__name__}: {error})") from error
    return repair(quantized, plain)


def _floating(network: nn.Module, sample: Tensor) -> bytes:
    import litert_torch

    content: bytes = litert_torch.convert(network, (sample,)).model_content()
    return content


def _quantized(plain: bytes, samples: Tensor) -> bytes:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import qtyping, quantizer

    names = qtyping.TFLOperationName
    chosen = quantizer.Quantizer(plain)
    chosen.add_static_config(".*", names.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    # reason: with a scale per channel in fully connected layers old runtimes compute something else without a word
    whole = qtyping.QuantGranularity.TENSORWISE
    chosen.add_static_config(".*", names.FULLY_CONNECTED, 8, 8, weight_granularity=whole)
    ((signature, names_of),) = Interpreter(model_content=plain).get_signature_list().items()
    (argument,) = names_of["inputs"]
    inputs = [{argument: sample[None].numpy()} for sample in samples]
    statistics = chosen.calibrate({signature: inputs}, num_threads=torch.get_num_threads())
    return bytes(chosen.quantize(statistics, enable_progress_report=False).quantized_model)


def main(folder: Path) -> int:
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    try:
        (folder / RESULT).write_bytes(convert(folder))
    except ExportError as error:
        (folder / REFUSAL).write_text(str(error), encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
