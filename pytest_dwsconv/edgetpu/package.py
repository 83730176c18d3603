"""The package inside a compiled Edge TPU operator: what stays on the chip, what crosses the bus.

Layout: the operator's custom options hold a flatbuffer that the vendor's runtime describes in
``executable/executable.fbs``. Fields are addressed here by their number in that schema.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_dwsconv.edgetpu.flatbuffer import Content, Table

_MARK = b"DWN1"
# ExecutableType: its parameters are uploaded once, those of the others at every inference
_PARAMETER_CACHING = 1


class NoPackageError(ValueError):
    """The operator holds nothing that this reads: the first compilers wrote something else."""


@dataclass(frozen=True)
class Package:
    """One compiled Edge TPU operator, as its compiler wrote it. Sizes are in bytes.

    ``input_bytes`` and ``output_bytes`` are what one inference moves to and from the device,
    padding included. ``instruction_bytes`` are the instructions, which are sent at every inference.
    """

    min_runtime_version: int
    compiler_version: str
    parameters_cached: int
    parameters_streamed: int
    input_bytes: int
    output_bytes: int
    instruction_bytes: int = 0


def read_package(custom_options: bytes) -> Package:
    """The package in the custom options of an operator.

    Raises:
        NoPackageError: there is none.
        DamagedError: it is damaged.
    """
    mark = custom_options.find(_MARK)
    if mark < 4:
        raise NoPackageError
    package = Content(custom_options[mark - 4 :]).root()
    executables = [Content(text).root() for text in Content(package.text(1)).root().texts(0)]
    if not executables:
        raise NoPackageError
    caching = [e for e in executables if e.signed(13, 2) == _PARAMETER_CACHING]
    running = [e for e in executables if e.signed(13, 2) != _PARAMETER_CACHING]
    return Package(
        min_runtime_version=package.signed(0, 4),
        compiler_version=package.text(4).decode(errors="backslashreplace"),
        parameters_cached=sum(len(executable.text(6)) for executable in caching),
        parameters_streamed=sum(len(executable.text(6)) for executable in running),
        input_bytes=sum(_layer_bytes(executable, 8) for executable in running),
        output_bytes=sum(_layer_bytes(executable, 9) for executable in running),
        instruction_bytes=sum(len(part.text(0)) for one in running for part in one.tables(5)),
    )


def _layer_bytes(executable: Table, field: int) -> int:
    """The sizes of the layers, inputs or outputs, that a field of an executable lists."""
    return sum(layer.signed(1, 4) for layer in executable.tables(field))
