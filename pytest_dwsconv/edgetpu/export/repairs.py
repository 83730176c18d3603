"""Change a quantised TFLite file so that the runtimes of 2021 compute it right.

Its results stay what they were. The quantizer writes for runtimes of today. What is cured here, the
rest being refused:

- operators declared only in a field that readers of old files skip;
- constants that lie behind the flatbuffer: old runtimes see a tensor without data;
- PADV2 that pads with what stands for zero, which is PAD, and PAD the Edge TPU has;
- TRANSPOSE before MEAN, which is MEAN over other dimensions;
- an upper clamp so far above what int8 can hold that old runtimes overflow reckoning it;
- a bias too large for 32 bits at the scale that its inputs and weights give it: the weights get a
  larger scale.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pytest_dwsconv.edgetpu.modelfile import LAYER_MARK, ModelFile, Operator, read_model
from pytest_dwsconv.errors import ExportError

_ALIGNMENT = 16  # bytes, as TFLite's schema asks of constants
_BIAS_LIMIT = 2.0**30  # half of what 32 bits hold: the sum of the products needs the other half
_CLAMP_LIMIT = 2.0**31  # steps of the output's scale
_OPERATORS = schema.BuiltinOperator
_WEIGHTED = {
    _OPERATORS.CONV_2D,
    _OPERATORS.DEPTHWISE_CONV_2D,
    _OPERATORS.FULLY_CONNECTED,
    _OPERATORS.TRANSPOSE_CONV,
}
_ACTIVATIONS = schema.ActivationFunctionType
_CLAMPS = {
    _ACTIVATIONS.RELU6: (6.0, _ACTIVATIONS.RELU),
    _ACTIVATIONS.RELU_N1_TO_1: (1.0, _ACTIVATIONS.NONE),
}


class _Weighted(NamedTuple):
    """The parameters of a weighted layer, as positions among the tensors of its graph."""

    operator: Any
    data: int
    weight: int
    bias: int


def repair(quantized: bytes, plain: bytes, last_layers: Sequence[str]) -> bytes:
    """The quantised file, cured; ``plain`` is the float file it was made from.

    ``last_layers`` are the layers that the outputs come from: their tensors have lost the name.

    Raises:
        ExportError: something cannot be cured; the operator and its layer are named.
    """
    model, source = _unpacked(quantized), _unpacked(plain)
    for code in model.operatorCodes:
        code.deprecatedBuiltinCode = min(
            code.builtinCode, _OPERATORS.PLACEHOLDER_FOR_GREATER_OP_CODES
        )
    _transposed_means(model)
    for operator in model.subgraphs[0].operators:
        _pad(model, operator)
        _clamp(model, operator)
    for target, original in zip(_weighted(model), _weighted(source), strict=True):
        _bias(model, target, source, original)
    _drop_unused(model)
    _name_outputs(model, last_layers)
    model.buffers = [_InlineBuffer(buffer.data) for buffer in model.buffers]
    builder = flatbuffers.Builder(2**20)
    builder.Finish(model.Pack(builder), b"TFL3")
    content = bytes(builder.Output())
    _check(read_model(content))
    return content


def _unpacked(content: bytes) -> Any:
    """The file as objects that can be changed, with all constants in it."""
    model = schema.ModelT.InitFromPackedBuf(content)
    for buffer in model.buffers:
        if buffer.size:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def _name_outputs(model: Any, layers: Sequence[str]) -> None:
    """Put the layer into the name of each output, and of what is converted into it at the end."""
    for position, layer in enumerate(layers):
        path = "/".join(f"{LAYER_MARK}{part}" for part in layer.split(".") if part)
        for tensor in model.subgraphs[0].tensors:
            if tensor.name.startswith(b"serving_default_output_%d_output" % position):
                tensor.name += f"/{path}".encode()


def _drop_unused(model: Any) -> None:
    """Empty the constants that no operator reads any more.

    Their places stay, so that the numbers of the others do.
    """
    graph = model.subgraphs[0]
    read = {int(index) for operator in graph.operators for index in operator.inputs}
    kept = {tensor.buffer for index, tensor in enumerate(graph.tensors) if index in read}
    for tensor in graph.tensors:
        if tensor.buffer not in kept:
            model.buffers[tensor.buffer].data = None


class _InlineBuffer:
    """A constant that is written into the flatbuffer itself, aligned as the schema asks."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def Pack(self, builder: Any) -> Any:  # noqa: N802  # called by the schema's own classes under this name
        content = b"" if self.data is None else bytes(self.data)
        builder.Prep(_ALIGNMENT, len(content))
        vector = builder.CreateByteVector(content)
        schema.BufferStart(builder)
        if content:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def _pad(model: Any, operator: Any) -> None:
    """PADV2 -> PAD where the value padded with is the zero point: PAD pads with that."""
    if _code(model, operator) != _OPERATORS.PADV2:
        return
    data, _, value = (model.subgraphs[0].tensors[index] for index in operator.inputs)
    stored = model.buffers[value.buffer].data
    if stored is None or _scales(data) is None:
        return
    if int(stored.view(np.int8)[0]) == int(data.quantization.zeroPoint[0]):
        operator.opcodeIndex = _code_index(model, _OPERATORS.PAD)
        operator.inputs = operator.inputs[:2]
        operator.builtinOptionsType = schema.BuiltinOptions.PadOptions
        operator.builtinOptions = schema.PadOptionsT()


def _code(model: Any, operator: Any) -> int:
    return int(model.operatorCodes[operator.opcodeIndex].builtinCode)


def _code_index(model: Any, builtin: int) -> int:
    """The place where the file declares this operator; it is declared now if it was not."""
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _transposed_means(model: Any) -> None:
    """MEAN of a transposed tensor -> MEAN of the tensor itself.

    Only where the dimensions that are left come in the same order.
    """
    graph = model.subgraphs[0]
    made_by = {int(index): operator for operator in graph.operators for index in operator.outputs}
    for mean in graph.operators:
        transpose = made_by.get(int(mean.inputs[0]))
        if _code(model, mean) != _OPERATORS.MEAN or transpose is None:
            continue
        if _code(model, transpose) != _OPERATORS.TRANSPOSE or mean.builtinOptions.keepDims:
            continue
        order, axes = _integers(model, transpose.inputs[1]), _integers(model, mean.inputs[1])
        left = [place for position, place in enumerate(order) if position not in axes % len(order)]
        if left == sorted(left):
            new = _added(model, graph.tensors[mean.inputs[1]], np.sort(order[axes]))
            mean.inputs = [transpose.inputs[0], new]
    read = {int(index) for operator in graph.operators for index in operator.inputs} | set(
        map(int, graph.outputs)
    )
    graph.operators = [
        o
        for o in graph.operators
        if _code(model, o) != _OPERATORS.TRANSPOSE or int(o.outputs[0]) in read
    ]


def _integers(model: Any, index: int) -> Any:
    return model.buffers[model.subgraphs[0].tensors[index].buffer].data.view(np.int32)


def _clamp(model: Any, operator: Any) -> None:
    """Drop an upper clamp that no int8 value reaches, and that old runtimes cannot compute."""
    kind = getattr(operator.builtinOptions, "fusedActivationFunction", _ACTIVATIONS.NONE)
    scales = _scales(model.subgraphs[0].tensors[operator.outputs[0]])
    if kind in _CLAMPS and scales is not None:
        bound, without = _CLAMPS[kind]
        if bound / scales[0] >= _CLAMP_LIMIT:
            operator.builtinOptions.fusedActivationFunction = without


def _scales(tensor: Any) -> Any:
    """The scales of a tensor in double precision, None for one that is not quantised."""
    stored = tensor.quantization.scale if tensor.quantization is not None else None
    return None if stored is None else np.asarray(stored, np.float64)


def _weighted(model: Any) -> list[_Weighted]:
    """The operators with a constant weight and a bias, in order of execution."""
    found = []
    for operator in model.subgraphs[0].operators:
        code = _code(model, operator)
        if code in _WEIGHTED:
            inputs = [int(index) for index in operator.inputs]
            data, weight = (2, 1) if code == _OPERATORS.TRANSPOSE_CONV else (0, 1)
            bias = data + 1 if code == _OPERATORS.TRANSPOSE_CONV else 2
            if len(inputs) > bias and inputs[bias] >= 0:
                found.append(_Weighted(operator, inputs[data], inputs[weight], inputs[bias]))
    return found


def _bias(model: Any, target: _Weighted, source: Any, original: _Weighted) -> None:
    """Requantise a bias that does not fit, and the weights of its channels, at a larger scale."""
    tensors = model.subgraphs[0].tensors
    weight = tensors[target.weight]
    incoming, scales = _scales(tensors[target.data]), _scales(weight)
    if incoming is None or scales is None:
        return
    bias, kernel = (_floats(source, index) for index in (original.bias, original.weight))
    needed = np.abs(bias) / (_BIAS_LIMIT * incoming[0])
    raised = np.maximum(scales, needed if len(scales) > 1 else needed.max(initial=0.0))
    if np.array_equal(raised, scales):
        return
    shape = [1] * kernel.ndim
    shape[weight.quantization.quantizedDimension if len(raised) > 1 else 0] = len(raised)
    integers = np.clip(np.rint(kernel / raised.reshape(shape)), -127, 127).astype(np.int8)
    product = raised * incoming[0]
    bias_tensor, sums = tensors[target.bias], np.rint(bias / product).astype(np.int32)
    places = {
        target.weight: _added(model, _scaled(weight, raised), integers),
        target.bias: _added(model, _scaled(bias_tensor, product), sums),
    }
    target.operator.inputs = [
        places.get(int(index), int(index)) for index in target.operator.inputs
    ]


def _floats(source: Any, index: int) -> Any:
    tensor = source.subgraphs[0].tensors[index]
    return (
        source.buffers[tensor.buffer].data.view(np.float32).reshape(tensor.shape).astype(np.float64)
    )


def _scaled(tensor: Any, scales: Any) -> Any:
    """The same tensor with other scales."""
    new = copy.copy(tensor)
    new.quantization = copy.copy(tensor.quantization)
    new.quantization.scale = scales.astype(np.float32)
    new.quantization.zeroPoint = np.zeros(len(scales), np.int64)
    return new


def _added(model: Any, tensor: Any, values: Any) -> int:
    """The place of a new constant like an old one, which other operators may share and keep."""
    buffer, new = schema.BufferT(), copy.copy(tensor)
    buffer.data = values.reshape(-1).view(np.uint8)
    model.buffers.append(buffer)
    new.buffer = len(model.buffers) - 1
    model.subgraphs[0].tensors.append(new)
    return len(model.subgraphs[0].tensors) - 1


def _check(model: ModelFile) -> None:
    converting = ("QUANTIZE", "DEQUANTIZE")  # what stands around an operator that has no int8 form
    for operator in sorted(model.operators, key=lambda operator: operator.name in converting):
        where, step = "the forward of the network itself", "leave that to the code that calls it"
        if operator.module:
            where, step = f"the layer {operator.module}", "replace the layer"
        if operator.name == "CONV_2D" and _is_grouped(operator):
            raise ExportError(
                f"{operator.name} in {where} is a grouped convolution with computed weights, which "
                "the Edge TPU compiler refuses; store its weights, as remove_parametrizations does"
            )
        for tensor in operator.activations:
            if tensor.dtype != "INT8":
                raise ExportError(
                    f"{operator.name} in {where} has no int8 form, it works on "
                    f"{tensor.dtype.lower()}; {step}"
                )
            scales = tensor.quantization.scales if tensor.quantization else ()
            if not all(0 < scale < float("inf") for scale in scales):
                raise ExportError(
                    f"{operator.name} in {where} computes values without a finite range; look for "
                    "nan and inf in it"
                )


def _is_grouped(operator: Operator) -> bool:
    data, weight = operator.inputs[0], operator.inputs[1]
    return data is not None and weight is not None and data.shape[-1] != weight.shape[-1]
