"""Read a ``.tflite`` file, compiled for the Edge TPU or not, into plain data: no device, no
interpreter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dwsconv.errors import FormatError, InputError, MissingDependencyError

if TYPE_CHECKING:
    from pytest_dwsconv.edgetpu.package import Package

CUSTOM_OPERATOR = "edgetpu-custom-op"
"""The operator that stands for everything the Edge TPU executes."""

LAYER_MARK = "InterpreterModule_"
"""Stands before the name of each layer in the name of a tensor that ``export_int8`` has written."""

_IDENTIFIER = b"TFL3"
_FEW = 64  # elements: axes, paddings, strides and target sizes are shorter, weights are longer

# Per operator: the table of its options, and the fields that decide where it can run.
_OPTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "AVERAGE_POOL_2D": ("Pool2DOptions", {"activation": "FusedActivationFunction"}),
    "CONCATENATION": ("ConcatenationOptions", {"activation": "FusedActivationFunction"}),
    "CONV_2D": (
        "Conv2DOptions",
        {"dilation_h": "DilationHFactor", "dilation_w": "DilationWFactor"},
    ),
    "DEPTHWISE_CONV_2D": (
        "DepthwiseConv2DOptions",
        {"dilation_h": "DilationHFactor", "dilation_w": "DilationWFactor"},
    ),
    "FULLY_CONNECTED": ("FullyConnectedOptions", {"weights_format": "WeightsFormat"}),
    "MAX_POOL_2D": ("Pool2DOptions", {"activation": "FusedActivationFunction"}),
}


@dataclass(frozen=True)
class Quantization:
    """real = scale * (integer - zero point); one scale for the tensor, or one per index of
    dimension ``axis``.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int

    @property
    def per_channel(self) -> bool:
        return len(self.scales) > 1


@dataclass(frozen=True)
class Tensor:
    """One tensor of the graph.

    ``values`` holds a constant of at most 64 integers (axes, paddings), else nothing. ``outside``
    says that the constant lies behind the flatbuffer instead of in it: runtimes before 2.14 (seen:
    2.7) take such a tensor for one without data, and some compute nonsense from it without a word.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    constant: bool = False
    variable: bool = False
    dynamic: bool = False
    quantization: Quantization | None = None
    values: tuple[int, ...] | None = None
    outside: bool = False


@dataclass(frozen=True)
class Operator:
    """One operator in order of execution: TFLite's own name for it, or the name of a custom
    operator.
    """

    name: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    custom: bool = False
    options: Mapping[str, int] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """The PyTorch layer it came from where the file tells, else a tensor's name."""
        return self.module or (self.outputs[0].name if self.outputs else "")

    @property
    def module(self) -> str:
        """The PyTorch layer it came from where the file tells (``export_int8`` writes it), else
        nothing.
        """
        parameters = [tensor for tensor in self.inputs if tensor is not None and tensor.constant]
        # reason: a fused tensor is named after all its layers, the last one first
        which = -1 if any(len(tensor.shape) > 1 for tensor in parameters) else 0
        layers = (_layer(tensor.name, which) for tensor in (*self.outputs, *parameters))
        return next(filter(None, layers), "")

    @property
    def activations(self) -> tuple[Tensor, ...]:
        """The inputs and outputs that one inference computes: no parameter, no state kept between
        inferences.
        """
        tensors = [tensor for tensor in (*self.inputs, *self.outputs) if tensor is not None]
        return tuple(tensor for tensor in tensors if not tensor.constant and not tensor.variable)


@dataclass(frozen=True)
class ModelFile:
    """What a ``.tflite`` file holds. Sizes are in bytes."""

    operators: tuple[Operator, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    subgraphs: int
    size: int
    packages: tuple[Package, ...] = ()

    @property
    def compiled(self) -> bool:
        """Whether the Edge TPU has a part in it: a file without the custom operator runs on the CPU
        alone.
        """
        return bool(self.packages)

    @property
    def on_cpu(self) -> tuple[Operator, ...]:
        """The operators that are not inside a compiled one."""
        return tuple(operator for operator in self.operators if operator.name != CUSTOM_OPERATOR)

    @property
    def min_runtime_version(self) -> int:
        """The lowest version of the Edge TPU runtime that runs it; 0 for a file that is not
        compiled.
        """
        return max((package.min_runtime_version for package in self.packages), default=0)

    @property
    def parameters_cached(self) -> int:
        """Parameters uploaded once and kept on the chip."""
        return sum(package.parameters_cached for package in self.packages)

    @property
    def parameters_streamed(self) -> int:
        """Parameters that cross the bus at every inference."""
        return sum(package.parameters_streamed for package in self.packages)

    @property
    def input_bytes(self) -> int:
        """What one inference sends to the device, parameters apart and padding included."""
        return sum(package.input_bytes for package in self.packages)

    @property
    def output_bytes(self) -> int:
        """What one inference brings back from the device, padding included."""
        return sum(package.output_bytes for package in self.packages)


def read_model(model: bytes | str | Path) -> ModelFile:
    """Read a ``.tflite`` file, given as its path or its content.

    Raises:
        InputError: there is no such file, or it cannot be opened.
        FormatError: it is not a TFLite model, or is damaged.
        MissingDependencyError: the packages of the extra ``edgetpu`` are not installed.
    """
    content, name = content_of(model)
    if content[4:8] != _IDENTIFIER:
        raise FormatError(
            f"{name} is not a TFLite model: it lacks the mark {_IDENTIFIER.decode()}; give a "
            ".tflite file"
        )
    try:
        import tflite
    except ImportError as error:
        raise MissingDependencyError("reading a model file", "tflite", "edgetpu") from error
    try:
        return _model(tflite, content)
    except (
        Exception
    ) as error:  # flatbuffers checks nothing: what a damaged file raises is anyone's guess
        raise FormatError(
            f"{name} is damaged ({type(error).__name__}: {error}); write it again"
        ) from error


def content_of(model: bytes | str | Path) -> tuple[bytes, str]:
    """The bytes of a model given as its path or its content, and what to call it in an error.

    Raises:
        InputError: there is no such file, or it cannot be opened.
    """
    if isinstance(model, bytes):
        return model, "the model"
    try:
        return Path(model).read_bytes(), str(model)
    except (TypeError, ValueError) as error:  # not a path
        raise InputError(
            f"{model!r:.80} is not a model file; give the path or the bytes of a .tflite file"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{model} cannot be read: {reason}; give the path of a .tflite file"
        ) from error


def _model(tflite: Any, content: bytes) -> ModelFile:
    model = tflite.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    tensors = [
        _tensor(tflite, content, model, graph.Tensors(index))
        for index in range(graph.TensorsLength())
    ]
    raw = [graph.Operators(index) for index in range(graph.OperatorsLength())]
    operators = tuple(_operator(tflite, model, operator, tensors) for operator in raw)
    return ModelFile(
        operators=operators,
        inputs=tuple(tensors[graph.Inputs(index)] for index in range(graph.InputsLength())),
        outputs=tuple(tensors[graph.Outputs(index)] for index in range(graph.OutputsLength())),
        subgraphs=model.SubgraphsLength(),
        size=len(content),
        packages=tuple(
            _package(source)
            for source, operator in zip(raw, operators, strict=True)
            if operator.name == CUSTOM_OPERATOR and operator.custom
        ),
    )


def _package(operator: Any) -> Package:
    from pytest_dwsconv.edgetpu.package import read_package

    return read_package(operator.CustomOptionsAsNumpy().tobytes())


def _operator(tflite: Any, model: Any, operator: Any, tensors: list[Tensor]) -> Operator:
    code = model.OperatorCodes(operator.OpcodeIndex())
    number = _builtin(code)
    custom = number == tflite.BuiltinOperator.CUSTOM
    name = code.CustomCode().decode() if custom else _name_of(tflite.BuiltinOperator, number)
    inputs = (operator.Inputs(index) for index in range(operator.InputsLength()))
    return Operator(
        name=name,
        version=code.Version(),
        inputs=tuple(tensors[index] if index >= 0 else None for index in inputs),
        outputs=tuple(
            tensors[operator.Outputs(index)] for index in range(operator.OutputsLength())
        ),
        custom=custom,
        options=_options(tflite, operator, name),
    )


def _builtin(code: Any) -> int:
    """Which operator a code declares: of the old field and the one that 2.4 added a file may have
    either, or both.

    The accessor of that name is not used: it looks at the new field only where its number is too
    large for the old.
    """
    from flatbuffers import number_types

    table = code._tab
    offset = table.Offset(10)
    added = int(table.Get(number_types.Int32Flags, offset + table.Pos)) if offset else 0
    return max(added, int(code.DeprecatedBuiltinCode()))


def _options(tflite: Any, operator: Any, name: str) -> dict[str, int]:
    table = operator.BuiltinOptions()
    if name not in _OPTIONS or table is None:
        return {}
    kind, fields = _OPTIONS[name]
    options = getattr(tflite, kind)()
    options.Init(table.Bytes, table.Pos)
    return {key: getattr(options, accessor)() for key, accessor in fields.items()}


def _tensor(tflite: Any, content: bytes, model: Any, tensor: Any) -> Tensor:
    buffer = model.Buffers(tensor.Buffer())
    outside = buffer.Size() > 0
    if outside:
        data = content[buffer.Offset() : buffer.Offset() + buffer.Size()]
    else:
        data = buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""
    dtype = _name_of(tflite.TensorType, tensor.Type())
    return Tensor(
        name=(tensor.Name() or b"").decode(),
        dtype=dtype,
        shape=tuple(tensor.Shape(index) for index in range(tensor.ShapeLength())),
        constant=bool(data),
        variable=tensor.IsVariable(),
        dynamic=any(
            tensor.ShapeSignature(index) < 0 for index in range(tensor.ShapeSignatureLength())
        ),
        quantization=_quantization(tensor.Quantization()),
        values=_integers(dtype, data),
        outside=outside,
    )


def _quantization(parameters: Any) -> Quantization | None:
    if parameters is None or not parameters.ScaleLength():
        return None
    return Quantization(
        scales=tuple(parameters.Scale(index) for index in range(parameters.ScaleLength())),
        zero_points=tuple(
            parameters.ZeroPoint(index) for index in range(parameters.ZeroPointLength())
        ),
        axis=parameters.QuantizedDimension(),
    )


def _integers(dtype: str, data: bytes) -> tuple[int, ...] | None:
    width = {"INT8": 1, "INT32": 4, "INT64": 8}.get(dtype)
    if not data or width is None or len(data) > _FEW * width:
        return None
    return tuple(
        int.from_bytes(data[at : at + width], "little", signed=True)
        for at in range(0, len(data), width)
    )


def _name_of(table: Any, number: int) -> str:
    names = (
        name for name, value in vars(table).items() if isinstance(value, int) and value == number
    )
    return next(
        names, f"operator {number}" if table.__name__ == "BuiltinOperator" else f"type {number}"
    )


def _layer(tensor: str, which: int) -> str:
    """The name of a layer in the name that ``export_int8`` gives a tensor, nothing in any other
    name.
    """
    return ".".join(re.findall(rf"{LAYER_MARK}([^/;]+)", tensor.rstrip(";").split(";;")[which]))
