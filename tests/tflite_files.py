"""Write small ``.tflite`` files, also compiled ones, from what ``read_model`` reads them into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import tflite
from flatbuffers import flexbuffers

from pytest_dwsconv.edgetpu.modelfile import ModelFile, Operator, Quantization, Tensor
from pytest_dwsconv.edgetpu.package import Package

WIDTHS = {"INT8": 1, "UINT8": 1, "INT16": 2, "FLOAT32": 4, "INT32": 4, "INT64": 8}
MANY = 65  # elements: one more than read_model keeps
OPTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "AVERAGE_POOL_2D": ("Pool2DOptions", {"activation": "FusedActivationFunction"}),
    "CONCATENATION": ("ConcatenationOptions", {"activation": "FusedActivationFunction"}),
    "CONV_2D": (
        "Conv2DOptions",
        {"dilation_h": "DilationHFactor", "dilation_w": "DilationWFactor"},
    ),
    "FULLY_CONNECTED": ("FullyConnectedOptions", {"weights_format": "WeightsFormat"}),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", {"align_corners": "AlignCorners"}),
}

PER_TENSOR = Quantization((0.5,), (-3,), 0)
PER_CHANNEL = Quantization((0.5, 0.25), (0, 0), 3)
IMAGE = Tensor("image", "INT8", (1, 8, 8, 4), quantization=PER_TENSOR)
FEATURES = Tensor("features", "INT8", (1, 8, 8, 2), quantization=PER_TENSOR)
WEIGHT = Tensor("weight", "INT8", (2, 3, 3, 4), constant=True, quantization=PER_CHANNEL)
AXES = Tensor("axes", "INT32", (2,), constant=True, values=(1, -2))
POOLED = Tensor("pooled", "INT8", (1, 2), quantization=PER_TENSOR)
CONV = Operator(
    "CONV_2D", 5, (IMAGE, WEIGHT, None), (FEATURES,), options={"dilation_h": 2, "dilation_w": 3}
)
MEAN = Operator("MEAN", 2, (FEATURES, AXES), (POOLED,))
PLAIN = ModelFile((CONV, MEAN), (IMAGE,), (POOLED,), subgraphs=1, size=0)
PACKAGE = Package(
    14,
    "cl/1",
    parameters_cached=640,
    parameters_streamed=128,
    input_bytes=256,
    output_bytes=8,
    instruction_bytes=48,
)
COMPILED = ModelFile(
    (Operator("edgetpu-custom-op", 1, (IMAGE,), (FEATURES,), custom=True), MEAN),
    (IMAGE,),
    (POOLED,),
    subgraphs=1,
    size=0,
    packages=(PACKAGE,),
)


def pack(model: ModelFile, *, share_inputs: bool = False) -> bytes:
    """The ``.tflite`` file that holds this model, with the packages of its compiled operators.

    With ``share_inputs`` all operators refer to the list of inputs of the first one.
    """
    writer = _Writer(model)
    writer.share_inputs = share_inputs
    content = writer.finish()
    # the second time with the places behind the flatbuffer, now that its length is known
    for _ in range(2):
        writer = _Writer(model, behind=len(content))
        writer.share_inputs = share_inputs
        content = writer.finish()
    return content + b"".join(writer.outside)


def with_one_tensor_listed(
    times: int,
    name: str,
    shape: Sequence[int],
    *,
    apart: bool = False,
    buffers: bool = True,
    inputs: Sequence[int] | None = None,
) -> bytes:
    """A file that lists one tensor, without data, many times; each is an input.

    With ``apart`` each is a table of its own, whose shape begins within the one of all.
    """
    writer = _Writer(ModelFile((), (), (), 1, 0))
    builder = writer.builder
    text, sides = builder.CreateString(name), writer.ints(shape)
    tensors = []
    for number in range(times if apart else 1):
        tflite.TensorStart(builder)
        tflite.TensorAddName(builder, text)
        tflite.TensorAddShape(builder, sides - 4 * number)
        tensors.append(tflite.TensorEnd(builder))
    listed = writer.offsets(tensors if apart else tensors * times)
    indices = writer.ints(range(times) if inputs is None else inputs)
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, listed)
    tflite.SubGraphAddInputs(builder, indices)
    graphs = writer.offsets([tflite.SubGraphEnd(builder)])
    listed_buffers = writer.tables([None] if buffers else [], writer.buffer)
    tflite.ModelStart(builder)
    tflite.ModelAddSubgraphs(builder, graphs)
    tflite.ModelAddBuffers(builder, listed_buffers)
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


class _Raw(bytes):
    """Bytes that the flexbuffer writer stores as a string, as the vendor's compiler does."""

    def encode(self, encoding: str) -> bytes:
        return bytes(self)


class _Writer:
    def __init__(self, model: ModelFile, behind: int = 1) -> None:
        self.builder = flatbuffers.Builder(1024)
        self.model, self.behind = model, behind
        self.outside: list[bytes] = []
        self.share_inputs = False
        self.shared: int | None = None
        everything = [*model.inputs, *model.outputs]
        for operator in model.operators:
            everything += [
                tensor for tensor in (*operator.inputs, *operator.outputs) if tensor is not None
            ]
        self.tensors = list(dict.fromkeys(everything))
        self.codes = list(dict.fromkeys((o.name, o.version, o.custom) for o in model.operators))

    def finish(self) -> bytes:
        codes = self.tables(self.codes, self.code)
        graphs = self.offsets([self.graph()] * self.model.subgraphs)
        buffers = self.tables([None, *self.tensors], self.buffer)
        tflite.ModelStart(self.builder)
        tflite.ModelAddVersion(self.builder, 3)
        tflite.ModelAddOperatorCodes(self.builder, codes)
        tflite.ModelAddSubgraphs(self.builder, graphs)
        tflite.ModelAddBuffers(self.builder, buffers)
        self.builder.Finish(tflite.ModelEnd(self.builder), b"TFL3")
        return bytes(self.builder.Output())

    def tables(self, items: Sequence[Any], write: Callable[[Any], int]) -> int:
        return self.offsets([write(item) for item in items])

    def offsets(self, positions: Sequence[int]) -> int:
        self.builder.StartVector(4, len(positions), 4)
        for position in reversed(positions):
            self.builder.PrependUOffsetTRelative(position)
        return int(self.builder.EndVector())

    def ints(self, values: Sequence[int], width: int = 4) -> int:
        self.builder.StartVector(width, len(values), width)
        for value in reversed(values):
            (self.builder.PrependInt64 if width == 8 else self.builder.PrependInt32)(value)
        return int(self.builder.EndVector())

    def code(self, code: tuple[str, int, bool]) -> int:
        name, version, custom = code
        text = self.builder.CreateString(name) if custom else None
        number = tflite.BuiltinOperator.CUSTOM if custom else getattr(tflite.BuiltinOperator, name)
        tflite.OperatorCodeStart(self.builder)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(self.builder, min(number, 127))
        if number > 127:  # files from before 2.4 have the old field alone
            tflite.OperatorCodeAddBuiltinCode(self.builder, number)
        if text is not None:
            tflite.OperatorCodeAddCustomCode(self.builder, text)
        tflite.OperatorCodeAddVersion(self.builder, version)
        return int(tflite.OperatorCodeEnd(self.builder))

    def graph(self) -> int:
        packages = iter(self.model.packages)
        tensors = self.tables(self.tensors, self.tensor)
        compiled = [
            next(packages) if o.name == "edgetpu-custom-op" else None for o in self.model.operators
        ]
        pairs = list(zip(self.model.operators, compiled, strict=True))
        operators = self.tables(pairs, self.operator)
        inputs = self.ints([self.tensors.index(tensor) for tensor in self.model.inputs])
        outputs = self.ints([self.tensors.index(tensor) for tensor in self.model.outputs])
        tflite.SubGraphStart(self.builder)
        tflite.SubGraphAddTensors(self.builder, tensors)
        tflite.SubGraphAddInputs(self.builder, inputs)
        tflite.SubGraphAddOutputs(self.builder, outputs)
        tflite.SubGraphAddOperators(self.builder, operators)
        return int(tflite.SubGraphEnd(self.builder))

    def operator(self, pair: tuple[Operator, Package | None]) -> int:
        operator, package = pair
        inputs = self.shared
        if inputs is None:
            inputs = self.ints(
                [-1 if tensor is None else self.tensors.index(tensor) for tensor in operator.inputs]
            )
        if self.share_inputs:
            self.shared = inputs
        outputs = self.ints([self.tensors.index(tensor) for tensor in operator.outputs])
        custom = self.builder.CreateByteVector(custom_options(package)) if package else None
        kind, fields = OPTIONS.get(operator.name, ("", {}))
        options = self.options(kind, fields, operator) if operator.options else None
        tflite.OperatorStart(self.builder)
        tflite.OperatorAddOpcodeIndex(
            self.builder, self.codes.index((operator.name, operator.version, operator.custom))
        )
        tflite.OperatorAddInputs(self.builder, inputs)
        tflite.OperatorAddOutputs(self.builder, outputs)
        if options is not None:
            tflite.OperatorAddBuiltinOptionsType(self.builder, getattr(tflite.BuiltinOptions, kind))
            tflite.OperatorAddBuiltinOptions(self.builder, options)
        if custom is not None:
            tflite.OperatorAddCustomOptions(self.builder, custom)
        return int(tflite.OperatorEnd(self.builder))

    def options(self, kind: str, fields: dict[str, str], operator: Operator) -> int:
        getattr(tflite, f"{kind}Start")(self.builder)
        for key, value in operator.options.items():
            getattr(tflite, f"{kind}Add{fields[key]}")(self.builder, value)
        return int(getattr(tflite, f"{kind}End")(self.builder))

    def tensor(self, tensor: Tensor) -> int:
        name, shape = self.builder.CreateString(tensor.name), self.ints(tensor.shape)
        signature = self.ints([-1, *tensor.shape[1:]]) if tensor.dynamic else None
        quantization = self.quantization(tensor)
        tflite.TensorStart(self.builder)
        tflite.TensorAddName(self.builder, name)
        tflite.TensorAddShape(self.builder, shape)
        tflite.TensorAddType(self.builder, getattr(tflite.TensorType, tensor.dtype))
        tflite.TensorAddBuffer(self.builder, self.tensors.index(tensor) + 1)
        tflite.TensorAddIsVariable(self.builder, tensor.variable)
        if signature is not None:
            tflite.TensorAddShapeSignature(self.builder, signature)
        if quantization is not None:
            tflite.TensorAddQuantization(self.builder, quantization)
        return int(tflite.TensorEnd(self.builder))

    def quantization(self, tensor: Tensor) -> int | None:
        if tensor.quantization is None:
            return None
        scales = self.builder.CreateNumpyVector(_float32(tensor.quantization.scales))
        zeros = self.ints(tensor.quantization.zero_points, 8)
        tflite.QuantizationParametersStart(self.builder)
        tflite.QuantizationParametersAddScale(self.builder, scales)
        tflite.QuantizationParametersAddZeroPoint(self.builder, zeros)
        tflite.QuantizationParametersAddQuantizedDimension(self.builder, tensor.quantization.axis)
        return int(tflite.QuantizationParametersEnd(self.builder))

    def buffer(self, tensor: Tensor | None) -> int:
        data = _data(tensor) if tensor is not None and tensor.constant else b""
        outside = tensor is not None and tensor.outside
        vector = self.builder.CreateByteVector(data) if data and not outside else None
        tflite.BufferStart(self.builder)
        if vector is not None:
            tflite.BufferAddData(self.builder, vector)
        if outside:
            tflite.BufferAddOffset(self.builder, self.behind + sum(map(len, self.outside)))
            tflite.BufferAddSize(self.builder, len(data))
            self.outside.append(data)
        return int(tflite.BufferEnd(self.builder))


def _float32(values: Sequence[float]) -> Any:
    import numpy as np

    return np.array(values, np.float32)


def _data(tensor: Tensor) -> bytes:
    width = WIDTHS[tensor.dtype]
    if tensor.values is None:
        return bytes(width * MANY)
    return b"".join(value.to_bytes(width, "little", signed=True) for value in tensor.values)


def custom_options(package: Package) -> bytes:
    """The options of a compiled operator, laid out as the vendor's compiler lays them out."""
    running = _executable(
        2,
        package.parameters_streamed,
        package.input_bytes,
        package.output_bytes,
        package.instruction_bytes,
    )
    caching = _executable(1, package.parameters_cached)
    builder = flatbuffers.Builder(64)
    texts = [builder.CreateString(executable) for executable in (running, caching)]
    builder.StartVector(4, len(texts), 4)
    for text in reversed(texts):
        builder.PrependUOffsetTRelative(text)
    executables = builder.EndVector()
    many = _finished(builder, {0: executables})
    builder = flatbuffers.Builder(64)
    fields = {1: builder.CreateByteVector(many), 4: builder.CreateString(package.compiler_version)}
    content = _finished(builder, fields, {0: package.min_runtime_version}, b"DWN1")
    options = flexbuffers.Builder()
    with options.Map():
        options.Int("1", 0)
        options.String("4", _Raw(content))
    return bytes(options.Finish())


def _executable(
    kind: int, parameters: int, inputs: int = 0, outputs: int = 0, instructions: int = 0
) -> bytes:
    builder = flatbuffers.Builder(64)
    fields = {6: builder.CreateByteVector(bytes(parameters))}
    bitstream = builder.CreateByteVector(bytes(instructions))
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, bitstream, 0)
    stream = builder.EndObject()
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(stream)
    fields[5] = builder.EndVector()
    for field, size in ((8, inputs), (9, outputs)):
        builder.StartObject(2)
        builder.PrependInt32Slot(1, size, 0)
        layer = builder.EndObject()
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(layer)
        fields[field] = builder.EndVector()
    return _finished(builder, fields, {13: kind})


def _finished(
    builder: Any,
    offsets: dict[int, int],
    numbers: dict[int, int] | None = None,
    mark: bytes | None = None,
) -> bytes:
    builder.StartObject(17)
    for field, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    for field, number in (numbers or {}).items():
        (builder.PrependInt16Slot if field == 13 else builder.PrependInt32Slot)(field, number, 0)
    builder.Finish(builder.EndObject(), mark)
    return bytes(builder.Output())
