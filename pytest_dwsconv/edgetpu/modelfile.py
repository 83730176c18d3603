"""Read a ``.tflite`` file, compiled for the Edge TPU or not, into plain data.

Neither a device nor an interpreter is needed. Tables are read by the number of their fields in
TFLite's schema, ``schema.fbs``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from pytest_dwsconv.edgetpu.flatbuffer import Content, DamagedError, Table
from pytest_dwsconv.edgetpu.package import NoPackageError, Package, read_package
from pytest_dwsconv.errors import FormatError, InputError, require

CUSTOM_OPERATOR = "edgetpu-custom-op"
"""The operator that stands for everything the Edge TPU executes."""

LAYER_MARK = "InterpreterModule_"
"""Stands before the name of each layer in the name of a tensor that ``export_int8`` has written."""

_NETWORK_MARK = "UnflattenedModule_network"  # stands there alone for what the model itself calls

T = TypeVar("T")

_IDENTIFIER = b"TFL3"
_CUSTOM = 32  # the number of operators that are known by their name only
_FEW = 64  # elements: axes, paddings, strides and target sizes are shorter, weights are longer
_WIDTHS = {"INT8": 1, "INT32": 4, "INT64": 8}  # bytes of the integers that are kept

# Per operator: the options that decide where it can run, each as its field in the table of the
# operator's options, its bytes and its default.
_OPTIONS: dict[str, dict[str, tuple[int, int, int]]] = {
    "AVERAGE_POOL_2D": {"activation": (5, 1, 0)},
    "CONCATENATION": {"activation": (1, 1, 0)},
    "CONV_2D": {"dilation_w": (4, 4, 1), "dilation_h": (5, 4, 1)},
    "DEPTHWISE_CONV_2D": {"dilation_w": (5, 4, 1), "dilation_h": (6, 4, 1)},
    "FULLY_CONNECTED": {"weights_format": (1, 1, 0)},
    "MAX_POOL_2D": {"activation": (5, 1, 0)},
    "RESIZE_BILINEAR": {"align_corners": (2, 1, 0)},
}


@dataclass(frozen=True)
class Quantization:
    """real = scale * (integer - zero point).

    There is one scale for the tensor, or one per index of dimension ``axis``.
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
    """One operator: ``name`` is TFLite's own, or that of a custom operator."""

    name: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    custom: bool = False
    options: Mapping[str, int] = field(default_factory=dict)

    def input(self, place: int) -> Tensor | None:
        """The input at a place; None where there is none."""
        return self.inputs[place] if place < len(self.inputs) else None

    @property
    def layer(self) -> str:
        """The PyTorch layer it came from if the file names it, else the first output's name."""
        if self.module:
            return self.module
        name = self.outputs[0].name if self.outputs else ""
        return "the model's own forward" if _NETWORK_MARK in name else name

    @property
    def module(self) -> str:
        """The PyTorch layer it came from if the file names it, as those of ``export_int8`` do."""
        parameters = [tensor for tensor in self.inputs if tensor is not None and tensor.constant]
        # reason: a fused tensor is named after all its layers, the last one first
        which = -1 if any(len(tensor.shape) > 1 for tensor in parameters) else 0
        for tensor in (*self.outputs, *parameters):
            name = tensor.name.rstrip(";").split(";;")[which]
            parts = re.findall(rf"{LAYER_MARK}([^/;]+)", name)
            if parts:
                return ".".join(parts)
        return ""

    @property
    def activations(self) -> tuple[Tensor, ...]:
        """The inputs and outputs that one inference computes, without parameters and states."""
        tensors = [tensor for tensor in (*self.inputs, *self.outputs) if tensor is not None]
        return tuple(tensor for tensor in tensors if not tensor.constant and not tensor.variable)


@dataclass(frozen=True)
class ModelFile:
    """What a ``.tflite`` file holds. Operators are in order of execution, sizes in bytes."""

    operators: tuple[Operator, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    subgraphs: int
    size: int
    packages: tuple[Package, ...] = ()

    @property
    def compiled(self) -> bool:
        """Whether the Edge TPU has a part in it; otherwise all of it runs on the CPU."""
        return bool(self.packages)

    @property
    def on_cpu(self) -> tuple[Operator, ...]:
        """The operators that are not inside a compiled one."""
        return tuple(operator for operator in self.operators if operator.name != CUSTOM_OPERATOR)

    @property
    def min_runtime_version(self) -> int:
        """The lowest version of the Edge TPU runtime that runs it; 0 if it is not compiled."""
        return max((package.min_runtime_version for package in self.packages), default=0)

    @property
    def parameters_cached(self) -> int:
        """Bytes of parameters that are uploaded once and kept on the chip.

        The chip needs this much memory for them or more: it rounds up by layer, to twice as much
        in a published network with layers of 32 filters. The compiler's log has what it needs.
        """
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

    @property
    def instruction_bytes(self) -> int:
        """Instructions that are sent to the device at every inference."""
        return sum(package.instruction_bytes for package in self.packages)


def read_model(model: bytes | str | Path) -> ModelFile:
    """Read a ``.tflite`` file, given as its path or its content.

    Raises:
        InputError: there is no such file, or it cannot be opened.
        FormatError: it is not a TFLite model, is damaged, or is compiled by one of the first Edge
            TPU compilers, of which not all is known.
        MissingDependencyError: the packages of the extra ``measure`` are not installed.
    """
    content, name = content_of(model)
    if content[4:8] != _IDENTIFIER:
        raise FormatError(
            f"{name} is not a TFLite model: it lacks the mark {_IDENTIFIER.decode()}; give a "
            ".tflite file"
        )
    try:
        return _Reader(content).model()
    except DamagedError as error:
        raise FormatError(f"{name} is damaged ({error}); write it again") from error
    except NoPackageError as error:
        raise FormatError(
            f"{name} is compiled for the Edge TPU in a form that is not known, as the first "
            "compilers had it; compile it again with a newer one"
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


class _Reader:
    """Reads one file. Tensors that are one entry of the file are one object."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._root = Content(content).root()
        self._codes = self._root.tables(1)
        self._buffers = self._root.tables(4)
        self._tensors: list[Tensor] = []
        self._references = 0  # to tensors

    def model(self) -> ModelFile:
        graphs = self._root.tables(2)
        if not graphs:
            raise DamagedError("it holds no graph")
        self._tensors = _each(graphs[0].tables(0), self._tensor)
        tables = graphs[0].tables(3)
        operators = [self._operator(table) for table in tables]
        compiled = [
            table
            for table, operator in zip(tables, operators, strict=True)
            if operator.custom and operator.name == CUSTOM_OPERATOR
        ]
        return ModelFile(
            operators=tuple(operators),
            inputs=tuple(filter(None, self._listed(graphs[0].integers(1)))),
            outputs=tuple(filter(None, self._listed(graphs[0].integers(2)))),
            subgraphs=len(graphs),
            size=len(self._content),
            packages=tuple(_each(compiled, lambda table: read_package(table.text(5)))),
        )

    def _listed(self, indices: tuple[int, ...]) -> list[Tensor | None]:
        """The tensors of these indices; -1 is an optional one that is left out."""
        self._references += len(indices)
        # reason: where no two operators share a list, each reference takes four bytes of the file
        if 4 * self._references > len(self._content):
            raise DamagedError("its operators share their lists of tensors")
        return [None if i == -1 else _at(self._tensors, i, "tensor") for i in indices]

    def _operator(self, table: Table) -> Operator:
        code = _at(self._codes, table.unsigned(0, 4), "kind of operator")
        number = operator_number(code)
        custom = number == _CUSTOM
        name = _text(code.text(1)) if custom else _names("BuiltinOperator").get(number, "")
        return Operator(
            name=name or f"operator {number}",
            version=code.signed(2, 4, default=1),
            inputs=tuple(self._listed(table.integers(1))),
            outputs=tuple(filter(None, self._listed(table.integers(2)))),
            custom=custom,
            options=_options(table.table(4), name),
        )

    def _tensor(self, table: Table) -> Tensor:
        number = table.signed(1, 1)
        dtype = _names("TensorType").get(number, f"type {number}")
        shape = table.integers(0)
        start, length, outside = self._constant(table.unsigned(2, 4))
        return Tensor(
            name=_text(table.text(3)),
            dtype=dtype,
            shape=shape,
            constant=length > 0,
            variable=table.unsigned(5, 1) != 0,
            dynamic=_is_dynamic(shape, table.integers(7)),
            quantization=_quantization(table.table(4)),
            values=self._values(dtype, start, length),
            outside=outside,
        )

    def _constant(self, index: int) -> tuple[int, int, bool]:
        """Where the data of a constant begin, how long they are, and whether they lie outside."""
        if index == 0:  # by convention the buffer of no data, also where there is no list of them
            return 0, 0, False
        buffer = _at(self._buffers, index, "buffer")
        offset, size = buffer.unsigned(1, 8), buffer.unsigned(2, 8)
        if size == 0:
            return *buffer.extent(0), False
        if offset + size > len(self._content):
            raise DamagedError("it ends before a constant")
        return offset, size, True

    def _values(self, dtype: str, start: int, length: int) -> tuple[int, ...] | None:
        width = _WIDTHS.get(dtype)
        if width is None or not 0 < length <= _FEW * width:
            return None
        data = self._content[start : start + length]
        return tuple(
            int.from_bytes(data[at : at + width], "little", signed=True)
            for at in range(0, len(data), width)
        )


def _each(tables: list[Table], read: Callable[[Table], T]) -> list[T]:
    """What each table reads as; one that is listed several times is read once."""
    found: dict[int, T] = {}
    for table in tables:
        if table.position not in found:
            found[table.position] = read(table)
    return [found[table.position] for table in tables]


def _at(items: list[T], index: int, kind: str) -> T:
    if not 0 <= index < len(items):
        raise DamagedError(f"it refers to {kind} {index} of {len(items)}")
    return items[index]


def operator_number(code: Table) -> int:
    """Which operator a code declares.

    TFLite 2.4 added a second field for numbers above 127: a file may have either, or both.
    """
    return max(code.signed(3, 4), code.signed(0, 1))


def _options(table: Table | None, name: str) -> dict[str, int]:
    if table is None:
        return {}
    fields = _OPTIONS.get(name, {})
    return {key: table.signed(*place) for key, place in fields.items()}


def _is_dynamic(shape: tuple[int, ...], signature: tuple[int, ...]) -> bool:
    """Whether a side is not known before the model runs.

    A side that the signature leaves open and the shape has as 1 counts as known: Keras leaves the
    batch open, and the Edge TPU compiler takes its models.
    """
    sides = zip_longest(signature, shape, fillvalue=0)
    return any(wanted < 0 and side != 1 for wanted, side in sides)


def _quantization(table: Table | None) -> Quantization | None:
    scales = table.floats(2) if table is not None else ()
    if table is None or not scales:
        return None
    return Quantization(scales, table.integers(3, 8), axis=table.signed(6, 4))


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


@cache
def _names(enumeration: str) -> dict[int, str]:
    """The names in one of TFLite's enumerations, by number."""
    require("reading a model file", "tflite", "measure")
    import tflite

    values = vars(getattr(tflite, enumeration)).items()
    return {number: name for name, number in values if isinstance(number, int)}
