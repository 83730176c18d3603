"""The process in which a recorded forward becomes a TFLite file: ``python -m ... KIND FOLDER...``.

It is a process of its own because the converter may crash or hang, takes seconds to import, and
prints.
"""

from __future__ import annotations

import os
import sys
from operator import attrgetter, getitem
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export.unflatten import InterpreterModule
from torch.utils._pytree import tree_map_only

from pytest_dwsconv.edgetpu.export.exporter import (
    FLOAT,
    INT8,
    PROGRAM,
    REFUSAL,
    RESULT,
    SAMPLES,
    channels_last,
)
from pytest_dwsconv.edgetpu.export.repairs import repair
from pytest_dwsconv.errors import ExportError, first_line

_ATEN = torch.ops.aten
_CONVOLUTIONS = [
    overload
    for operator in (_ATEN.conv1d, _ATEN.conv2d, _ATEN.conv3d)
    for overload in (operator.default, operator.padding)
]
_GROUPS = 6  # the place of this argument

_FIND_IT = "export parts of the network to find the layer at fault"


class ChannelsLast(nn.Module):
    """A network whose input and outputs are channels-last where they have four dimensions.

    With this no TRANSPOSE stands before the first convolution.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> object:
        outputs = self.network(images.permute(0, 3, 1, 2) if images.ndim == 4 else images)
        return tree_map_only(Tensor, channels_last, outputs)


def convert(folder: Path, kind: str = INT8) -> bytes:
    """Convert what an export left in the folder; for int8, quantise and repair it.

    Raises:
        ExportError: one of the steps failed; says which and why.
    """
    samples = torch.load(folder / SAMPLES, weights_only=True)
    samples = channels_last(samples).contiguous()
    program = torch.export.load(folder / PROGRAM)
    try:
        import litert_torch

        network = ChannelsLast(_network(program, kind)).eval()
        plain: bytes = litert_torch.convert(network, (samples[:1],)).model_content()
    except Exception as error:  # a converter of many layers, each with errors of its own
        raise ExportError(f"litert-torch failed: {first_line(error)}; {_FIND_IT}") from error
    if kind == FLOAT:
        return plain
    try:
        quantized = _quantized(plain, samples)
    except Exception as error:  # likewise
        raise ExportError(f"ai-edge-quantizer failed: {first_line(error)}; {_FIND_IT}") from error
    return repair(quantized, plain, _last_layers(program))


def _network(program: torch.export.ExportedProgram, kind: str) -> nn.Module:
    """The network as modules, which keep the names of its layers.

    The names of the tensors in the file are made from these.
    """
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        if node.op == "call_function" and next(iter(stack.values()), ("root",))[0]:
            # reason: of a GraphModule torch records its layers without the network that they are in
            node.meta["nn_module_stack"] = {"": ("", "network"), **stack}
    network = torch.export.unflatten(program)
    if kind == FLOAT:  # a CPU runs grouped convolutions as they are, and in less time
        return network
    for module in network.modules():
        if isinstance(module, InterpreterModule):
            _split_grouped(module)
    return network


def _split_grouped(module: InterpreterModule) -> None:
    """Replace each grouped convolution by one per group, between a split and a concatenation.

    TFLite has a version of CONV_2D of its own for grouped ones, which the Edge TPU compiler and old
    runtimes refuse with the whole file. A depthwise convolution is another operator.
    """
    grouped = [node for node in module.graph.nodes if _is_grouped(module, node)]
    if not grouped:
        return
    # reason: its owner is a module made of it before, which does not get the new parameters
    module.graph.owning_module = None
    for node in grouped:
        _split(module, node)
    module.finalize()


def _is_grouped(module: InterpreterModule, node: fx.Node) -> bool:
    if node.target not in _CONVOLUTIONS or len(node.args) <= _GROUPS or node.args[_GROUPS] == 1:
        return False
    # one with weights that the forward computes stays, and is refused once it is converted
    stored = all(source.op == "get_attr" for source in _sources(node))
    return stored and _parameter(module, _sources(node)[0]).shape[1] > 1


def _sources(node: fx.Node) -> list[fx.Node]:
    """Where a convolution has its weight from, and its bias, if it has one."""
    return [source for source in node.args[1:3] if isinstance(source, fx.Node)]


def _parameter(module: InterpreterModule, source: fx.Node) -> Tensor:
    parameter: Tensor = attrgetter(str(source.target))(module)
    return parameter.detach()


def _split(module: InterpreterModule, node: fx.Node) -> None:
    """Replace one grouped convolution whose parameters are stored."""
    graph, sources, groups = module.graph, _sources(node), node.args[_GROUPS]
    parameters = [_parameter(module, source) for source in sources]
    inputs = parameters[0].shape[1]
    channels = -(parameters[0].ndim - 1)  # the dimension from the end: with a batch or without
    convolution, settings = node.target, node.args[3:_GROUPS]
    assert callable(convolution)
    assert isinstance(groups, int)
    joined = []
    with graph.inserting_before(node):
        data = graph.call_function(_ATEN.split.Tensor, (node.args[0], inputs, channels))
        for group in range(groups):
            part: list[fx.Node | None] = [graph.call_function(getitem, (data, group)), None, None]
            for position, parameter in enumerate(parameters, 1):
                name = f"{node.name}_{position}_{group}"
                values = nn.Parameter(parameter.chunk(groups)[group], requires_grad=False)
                module.register_parameter(name, values)
                part[position] = graph.get_attr(name)
            joined.append(graph.call_function(convolution, (*part, *settings)))
        node.replace_all_uses_with(graph.call_function(_ATEN.cat.default, (joined, channels)))
    graph.erase_node(node)
    for source in sources:
        if not source.users:
            graph.erase_node(source)


def _last_layers(program: torch.export.ExportedProgram) -> list[str]:
    """The layer that computes each output; empty for an output that no layer computes."""
    outputs = [node for node in program.graph.output_node().args[0] if isinstance(node, fx.Node)]
    stacks = [node.meta.get("nn_module_stack") or {"": ("", None)} for node in outputs]
    return [list(stack.values())[-1][0] for stack in stacks]


def _quantized(plain: bytes, samples: Tensor) -> bytes:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    names, whole = qtyping.TFLOperationName, qtyping.QuantGranularity.TENSORWISE
    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(".*", names.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    # reason: with a scale per channel in fully connected layers old runtimes compute something else
    # without a word
    recipe.add_static_config(".*", names.FULLY_CONNECTED, 8, 8, whole)
    ((signature, arguments),) = Interpreter(model_content=plain).get_signature_list().items()
    inputs = [{arguments["inputs"][0]: sample[None].numpy()} for sample in samples]
    # reason: the default averages the ranges of the inputs, and so clips about every second one
    ranges = calibrator.Calibrator(
        plain, torch.get_num_threads(), qsv_update_func=qsv_utils.min_max_update
    )
    ranges.calibrate({signature: inputs}, recipe)
    chosen = quantizer.Quantizer(plain, recipe.get_quantization_recipe())
    return bytes(
        chosen.quantize(ranges.get_model_qsvs(), enable_progress_report=False).quantized_model
    )


def main(kind: str, *folders: str) -> int:
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    for folder in map(Path, folders):
        try:
            (folder / RESULT).write_bytes(convert(folder, kind))
        except ExportError as error:
            (folder / REFUSAL).write_text(str(error), encoding="utf-8")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
