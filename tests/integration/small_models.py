"""Small TFLite models, built with the schema that ai_edge_litert ships."""

from __future__ import annotations

from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

SHAPE = (1, 8, 8, 4)


def relu_model() -> bytes:
    """One RELU on an int8 input."""
    return _model(_operator_code(builtin=schema.BuiltinOperator.RELU))


def edgetpu_model() -> bytes:
    """One operator that only the Edge TPU's delegate knows, as edgetpu_compiler leaves it."""
    code = _operator_code(builtin=schema.BuiltinOperator.CUSTOM)
    code.customCode = "edgetpu-custom-op"
    return _model(code)


def _operator_code(builtin: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = builtin
    code.deprecatedBuiltinCode = builtin
    code.version = 1
    return code


def _tensor(name: str) -> Any:
    tensor = schema.TensorT()
    tensor.shape = list(SHAPE)
    tensor.type = schema.TensorType.INT8
    tensor.name = name
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [0.1], [0]
    return tensor


def _model(code: Any) -> bytes:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor("input"), _tensor("output")]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
