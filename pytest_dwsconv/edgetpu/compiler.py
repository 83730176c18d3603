"""Run the vendor's ``edgetpu_compiler`` within a time limit, and read what it prints into data."""

from __future__ import annotations

import errno
import math
import platform
import re
import shutil
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_dwsconv.core.plaintext import quoted
from pytest_dwsconv.edgetpu.modelfile import ModelFile, content_of, read_model
from pytest_dwsconv.edgetpu.process import Finished, check_seconds, last_line, run_within
from pytest_dwsconv.errors import CompilerError, FormatError, InputError

_PROGRAM = "edgetpu_compiler"
_GRACE = 10  # seconds after the compiler's own time limit
_RUNTIME_VERSIONS = range(10, 15)
_MAPPED = "Mapped to Edge TPU"
_MOST_SEGMENTS = 64
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

# Options that compile_model sets itself, and those that print and compile nothing.
_OURS = frozenset(
    "-o --out_dir -s --show_operations -t --timeout_sec -m --min_runtime_version -n --num_segments "
    "-h --help -v --version".split()
)

_FIND_LAYER = (
    "have it try ever smaller parts with options=['--search_delegate'], or compile parts of the "
    "model to find the layer at fault"
)

# What the compiler prints when it refuses a model, and the next step. The first one found counts.
_REFUSALS = (
    (r"Model not quantized", "export it as int8, as export_int8 does"),
    (
        r"Didn't find op for builtin opcode .*",
        "that version of the operator is newer than the compiler",
    ),
    (r"only supports static-sized tensors.*", "export it with static shapes"),
    (r"Model could not be parsed", "check it with read_model and judge_model"),
    (r"Internal compiler error.*", _FIND_LAYER),
    (r"Segmentation fault", _FIND_LAYER),
    (r".*large activation tensors.*", "use a smaller input, or fewer channels early"),
    (r"Did not get operators or tensors in subgraph.*", "export the model as a single graph"),
    (r"terminating .*std::out_of_range.*", _FIND_LAYER),
    (r"Compilation failed.*", "check it with judge_model"),
    (r"Invalid model.*", "check it with judge_model"),
)


@dataclass(frozen=True)
class OperatorCount:
    """How many operators of one kind have one status; a kind may have several such rows."""

    operator: str
    count: int
    status: str

    @property
    def mapped(self) -> bool:
        return self.status == _MAPPED


@dataclass(frozen=True)
class CompilerReport:
    """What the compiler printed about one model.

    Sizes are in bytes, as exact as the two decimals it prints. What it did not print is None.
    """

    version: str
    on_chip_used: int | None
    on_chip_remaining: int | None
    off_chip_used: int | None
    subgraphs: int | None
    total_operators: int | None
    operators: tuple[OperatorCount, ...]

    @property
    def mapped(self) -> int:
        """Operators that run on the Edge TPU, as the compiler reported."""
        return sum(row.count for row in self.operators if row.mapped)

    @property
    def on_cpu(self) -> tuple[OperatorCount, ...]:
        return tuple(row for row in self.operators if not row.mapped)


@dataclass(frozen=True)
class Compilation:
    """A compiled model, what the compiler reported, and what the compiled file holds."""

    content: bytes
    report: CompilerReport
    file: ModelFile


def compile_model(
    model: bytes | str | Path,
    *,
    compiler: str | Path | None = None,
    timeout: float = 180,
    min_runtime_version: int | None = None,
    options: Sequence[str] = (),
) -> Compilation:
    """Compile a quantised ``.tflite`` file, given as its path or content, for the Edge TPU.

    The compiler works in a temporary folder that is gone afterwards. It has succeeded only if it
    ended with exit code 0, wrote the compiled file, and that file holds a part for the Edge TPU.

    Args:
        model: the file to compile.
        compiler: the program, if it is not ``edgetpu_compiler`` on PATH.
        timeout: seconds it may take; it is told so, and killed ten seconds later.
        min_runtime_version: the lowest runtime version to compile for, 10 to 14; the compiler's
            newest by default.
        options: more options of the compiler, each word by itself, as in
            ``["--search_delegate", "--delegate_search_step", "30"]`` or ``["-a"]``. A search
            compiles many times, and needs a longer timeout.

    Raises:
        CompilerError: there is no compiler, or it failed; ``output`` is what it printed.
        InputError: the file cannot be read, is compiled already, or an argument cannot be used.
        FormatError: it is not a TFLite model.
    """
    (compilation,) = _compile(
        model, ["model_edgetpu.tflite"], compiler, timeout, min_runtime_version, options
    )
    return compilation


def compile_segments(
    model: bytes | str | Path,
    count: int,
    *,
    compiler: str | Path | None = None,
    timeout: float = 180,
    min_runtime_version: int | None = None,
    options: Sequence[str] = (),
) -> tuple[Compilation, ...]:
    """Compile a model as ``count`` segments that follow each other, one per Edge TPU of a pipeline.

    The arguments and errors are those of ``compile_model``; ``timeout`` is for all segments.
    """
    if not isinstance(count, int) or not 2 <= count <= _MOST_SEGMENTS:
        raise InputError(
            f"{quoted(count)} is not a number of segments: give 2 to {_MOST_SEGMENTS}, or use "
            "compile_model"
        )
    names = [f"model_segment_{number}_of_{count}_edgetpu.tflite" for number in range(count)]
    return _compile(model, names, compiler, timeout, min_runtime_version, options)


def _compile(
    model: bytes | str | Path,
    names: list[str],
    compiler: str | Path | None,
    timeout: float,
    min_runtime_version: int | None,
    options: Sequence[str],
) -> tuple[Compilation, ...]:
    """The files of these names that the compiler writes."""
    check_seconds(timeout, "timeout", "the compiler may take")
    _check_options(options)
    if min_runtime_version is not None and min_runtime_version not in _RUNTIME_VERSIONS:
        raise InputError(
            "min_runtime_version is not one that the compiler knows; give a whole number from "
            f"{_RUNTIME_VERSIONS[0]} to {_RUNTIME_VERSIONS[-1]}"
        )
    program = _program(compiler)
    content, name = content_of(model)
    if read_model(content).compiled:
        raise InputError(f"{name} is compiled already; use it as it is")
    command = [program, "-s", "-t", str(math.ceil(timeout)), *options]
    if min_runtime_version is not None:
        command += ["-m", str(min_runtime_version)]
    if len(names) > 1:
        command += ["-n", str(len(names))]
    command.append("model.tflite")
    try:
        with tempfile.TemporaryDirectory(prefix="dwsconv-compile-") as folder:
            return _compiled(command, content, Path(folder), names, timeout + _GRACE)
    except TimeoutError as error:
        raise CompilerError(f"{_PROGRAM} was killed: {error}; give it a longer timeout") from error
    except OSError as error:
        step = "check that program and the temporary folder"
        if error.errno == errno.ENOEXEC:  # a program for another machine
            step = _where_to_compile()
        raise CompilerError(f"{_PROGRAM} cannot be run: {error}; {step}") from error


def _check_options(options: Sequence[str]) -> None:
    words = isinstance(options, (list, tuple))
    # a NUL cannot be in a command
    if not words or not all(isinstance(word, str) and "\0" not in word for word in options):
        raise InputError(
            f"options is {quoted(options)}; give a list with each word by itself, as in "
            "['--search_delegate']"
        )
    for option in options:
        if option.partition("=")[0] in _OURS:
            raise InputError(
                f"{option} is not one of the options that can be added; see timeout, "
                "min_runtime_version and compile_segments"
            )


def _program(compiler: str | Path | None) -> str:
    found = shutil.which(compiler or _PROGRAM)
    if found is not None:
        return str(Path(found).absolute())
    missing = f"{_PROGRAM} is not on PATH"
    if compiler:
        missing = f"{str(compiler)!r} is not a program that can be run"
    raise CompilerError(
        f"{missing}; {_where_to_compile()}, or give a model that is compiled already"
    )


def _where_to_compile() -> str:
    here = (platform.system(), platform.machine())
    if here == ("Linux", "x86_64"):
        return "install the package edgetpu-compiler from the vendor's apt repository"
    return f"it exists for x86-64 Linux only and this is {' '.join(here)}, so compile there"


def _compiled(
    command: list[str], content: bytes, folder: Path, names: list[str], limit: float
) -> tuple[Compilation, ...]:
    (folder / "model.tflite").write_bytes(content)
    targets = [folder / name for name in names]
    for _ in range(2):
        finished = run_within(limit, command, folder)
        written = all(target.is_file() for target in targets)
        if (finished.status == 0 and written) or "Internal compiler error" not in finished.printed:
            break  # users report that this error goes away when the same file is compiled again
    output = finished.printed
    if finished.status != 0 or not written:
        raise CompilerError(_failure(finished, output), output)
    return tuple(_compilation(target, output, command[0]) for target in targets)


def _compilation(target: Path, output: str, program: str) -> Compilation:
    compiled = target.read_bytes()
    try:
        file = read_model(compiled)
    except FormatError as error:
        raise CompilerError(
            f"{_PROGRAM} wrote a file that cannot be read: {error}", output
        ) from error
    try:
        report = parse_output(_part_about(target.name, output))
    except FormatError as error:
        raise CompilerError(
            f"{program} did not print what {_PROGRAM} prints; see that it is the vendor's",
            output,
        ) from error
    if not file.compiled:
        reasons = ", ".join(f"{row.operator}: {row.status}" for row in report.on_cpu[:3])
        reasons = reasons or "no reason printed"
        raise CompilerError(
            f"{_PROGRAM} mapped nothing to the Edge TPU ({reasons}); see judge_model", output
        )
    return Compilation(compiled, report, file)


def _part_about(name: str, output: str) -> str:
    """What is printed about one of several files that are written: all lines from its input on."""
    head, *parts = re.split(r"^(?=Input model: )", output, flags=re.MULTILINE)
    if len(parts) < 2:
        return output
    return head + next((part for part in parts if name in part), "")


def _failure(finished: Finished, output: str) -> str:
    how = finished.ending if finished.status else "it wrote no model"
    if finished.status == -signal.SIGSEGV:  # where no shell has printed it
        output += "\nSegmentation fault"
    for pattern, step in _REFUSALS:
        found = re.search(pattern, output)
        if found:
            return f"{_PROGRAM} failed ({how}): {found.group().strip()}; {step}"
    step = "run it by hand on the file that export_int8 returns"
    return f"{_PROGRAM} failed ({how}): {last_line(output)}; {step}"


def parse_output(text: str) -> CompilerReport:
    """Read what ``edgetpu_compiler -s`` printed, or the log file it wrote.

    Raises:
        FormatError: nothing in the text is the compiler's.
    """
    version = re.search(r"^Edge TPU Compiler version (\S+)", text, re.MULTILINE)
    if version is None:
        raise FormatError(
            "the text does not name the Edge TPU compiler's version; give all that it printed"
        )
    used = _size(text, "On-chip memory used for caching model parameters")
    remaining = _size(text, "On-chip memory remaining for caching model parameters")
    available = _size(text, "On-chip memory available for caching model parameters")
    if remaining is None and available is not None and used is not None:
        remaining = available - used  # as compiler 2.0 prints it
    return CompilerReport(
        version=version.group(1),
        on_chip_used=used,
        on_chip_remaining=remaining,
        off_chip_used=_size(text, "Off-chip memory used for streaming uncached model parameters"),
        subgraphs=_number(text, "Number of Edge TPU subgraphs"),
        total_operators=_number(text, "Total number of operations"),
        operators=_rows(text),
    )


def _size(text: str, label: str) -> int | None:
    units = "|".join(_UNITS)
    found = re.search(rf"^{label}: (\d{{1,9}}(?:\.\d+)?)({units})\b", text, re.MULTILINE)
    if found is None:
        return None
    return round(float(found.group(1)) * _UNITS[found.group(2)])


def _number(text: str, label: str) -> int | None:
    found = re.search(rf"^{label}: (\d{{1,9}})\b", text, re.MULTILINE)
    return int(found.group(1)) if found else None


def _rows(text: str) -> tuple[OperatorCount, ...]:
    table = re.split(r"^Operator +Count +Status *$", text, maxsplit=1, flags=re.MULTILINE)
    if len(table) == 1:
        return ()
    found = re.findall(r"^(\w+) +(\d{1,9}) +(\S.*?) *$", table[1], re.MULTILINE)
    return tuple(OperatorCount(operator, int(count), status) for operator, count, status in found)
