"""The package inside a compiled Edge TPU operator: which parameters stay on the chip, what crosses
the bus.

Layout: the operator's custom options are a flexbuffer map, whose key "4" holds a flatbuffer that
    the vendor's runtime
describes in ``executable/executable.fbs``. Fields are addressed here by their number in that
schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flatbuffers import encode, flexbuffers, number_types, packer
from flatbuffers.table import Table

_PACKAGE_KEY = "4"
# ExecutableType: its parameters are uploaded once, those of the others at every inference
_PARAMETER_CACHING = 1


@dataclass(frozen=True)
class Package:
    """One compiled Edge TPU operator, as its compiler wrote it. Sizes are in bytes.

    ``input_bytes`` and ``output_bytes`` are what one inference moves to and from the device,
    padding included.
    """

    min_runtime_version: int
    compiler_version: str
    parameters_cached: int
    parameters_streamed: int
    input_bytes: int
    output_bytes: int


def read_package(custom_options: bytes) -> Package:
    """The package in the custom options of an operator; whatever flatbuffers raises where there is
    none.
    """
    options = flexbuffers.GetRoot(custom_options).AsMap
    package = _Record(options[_PACKAGE_KEY].AsStringBytes)
    executables = [_Record(text) for text in _Record(package.vector(1)).strings(0)]
    caching = [
        e for e in executables if e.number(13, number_types.Int16Flags) == _PARAMETER_CACHING
    ]
    running = [e for e in executables if e not in caching]
    return Package(
        min_runtime_version=package.number(0, number_types.Int32Flags),
        compiler_version=package.vector(4).decode(),
        parameters_cached=sum(len(executable.vector(6)) for executable in caching),
        parameters_streamed=sum(len(executable.vector(6)) for executable in running),
        input_bytes=sum(
            layer.number(1, number_types.Int32Flags) for e in running for layer in e.records(8)
        ),
        output_bytes=sum(
            layer.number(1, number_types.Int32Flags) for e in running for layer in e.records(9)
        ),
    )


class _Record:
    """A flatbuffer table read by field number; an absent field is 0 or empty, as in every
    flatbuffer.
    """

    def __init__(self, data: bytes, position: int | None = None) -> None:
        self._table = Table(
            data, encode.Get(packer.uoffset, data, 0) if position is None else position
        )

    def number(self, field: int, flags: type) -> int:
        offset = self._offset(field)
        return int(self._table.Get(flags, offset + self._table.Pos)) if offset else 0

    def vector(self, field: int) -> bytes:
        """The bytes of a string or of a vector of bytes."""
        offset = self._offset(field)
        if not offset:
            return b""
        start = self._table.Vector(offset)
        return bytes(self._table.Bytes[start : start + self._table.VectorLen(offset)])

    def strings(self, field: int) -> Iterator[bytes]:
        return (self._table.String(position) for position in self._elements(field))

    def records(self, field: int) -> Iterator[_Record]:
        return (
            _Record(self._table.Bytes, self._table.Indirect(position))
            for position in self._elements(field)
        )

    def _elements(self, field: int) -> Iterator[int]:
        offset = self._offset(field)
        if offset:
            start = self._table.Vector(offset)
            yield from (start + 4 * index for index in range(self._table.VectorLen(offset)))

    def _offset(self, field: int) -> int:
        return int(self._table.Offset(4 + 2 * field))
