"""The compiler's runner, with a stand-in for the compiler, which is not free."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from compiler_standin import SUCCESS, CompilerStandIn

from pytest_dwsconv.edgetpu.compiler import (
    OperatorCount,
    compile_model,
    compile_segments,
    parse_output,
)
from pytest_dwsconv.errors import CompilerError, FormatError, InputError

PARTLY = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 2006 ms.

Input model: model.tflite
Input size: 4.17MiB
Output model: model_edgetpu.tflite
Output size: 4.75MiB
On-chip memory used for caching model parameters: 6.86MiB
On-chip memory remaining for caching model parameters: 512.00B
Off-chip memory used for streaming uncached model parameters: 24.50KiB
Number of Edge TPU subgraphs: 1
Total number of operations: 161
Operation log: model_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU. A percentage of the model will instead run on the CPU, which is slower. If possible, consider updating your model to use only operations supported by the Edge TPU. For details, visit g.co/coral/model-reqs.
Number of operations that will run on Edge TPU: 112
Number of operations that will run on CPU: 49

Operator                       Count      Status

DEQUANTIZE                     1          Operation is working on an unsupported data type
RESHAPE                        6          Operation is otherwise supported, but not mapped due to some unspecified limitation
RESHAPE                        6          Mapped to Edge TPU
CUSTOM                         1          Operation is working on an unsupported data type
CONV_2D                        19         More than one subgraph is not supported
CONV_2D                        96         Mapped to Edge TPU
ADD                            10         Mapped to Edge TPU
PACK                           4          Tensor has unsupported rank (up to 3 innermost dimensions mapped)
HARD_SWISH                     18         Operation not supported
Compilation child process completed within timeout period.
Compilation succeeded! 
"""  # noqa: E501, W291  # as printed

NOTHING = """\
Edge TPU Compiler version 14.1.317412892

Model compiled successfully in 98 ms.

Input model: model.tflite
Input size: 4.92MiB
Output model: model_edgetpu.tflite
Output size: 4.88MiB
On-chip memory used for caching model parameters: 0.00B
On-chip memory remaining for caching model parameters: 0.00B
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 0
Total number of operations: 74
Operation log: model_edgetpu.log
Number of operations that will run on Edge TPU: 0
Number of operations that will run on CPU: 74

Operator                       Count      Status

CONV_2D                        70         Operation is working on an unsupported data type
TRANSPOSE_CONV                 4          Operation version not supported
"""

# What the compiler prints of a refusal, and what becomes of it.
REFUSALS = [
    (
        "Invalid model: model.tflite\nModel not quantized\n",
        "Model not quantized; export it as int8",
    ),
    (
        "ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'\n\nERROR: Registration "
        "failed.\n\n"
        "Invalid model: model.tflite\nModel could not be parsed\n",
        "Didn't find op for builtin opcode 'CONV_2D' version '6'; that version of the operator is "
        "newer",
    ),
    (
        "ERROR: Attempting to use a delegate that only supports static-sized tensors with a graph "
        "that has "
        "dynamic-sized tensors.\nCompilation failed: Model failed in Tflite interpreter.\n",
        "only supports static-sized tensors with a graph that has dynamic-sized tensors.; export "
        "it with static",
    ),
    (
        "Invalid model: model.tflite\nModel could not be parsed\n",
        "Model could not be parsed; check it with read_model",
    ),
    (
        "Internal compiler error. Aborting! \n",
        "Internal compiler error. Aborting!; have it try ever smaller parts with options",
    ),
    (
        "Compilation failed: Compilation failed due to large activation tensors in model.\n",
        "Compilation failed: Compilation failed due to large activation tensors in model.; use a "
        "smaller input, or fewer channels early",
    ),
    (
        "Did not get operators or tensors in subgraph 1\n",
        "Did not get operators or tensors in subgraph 1; export the model as a single graph",
    ),
    (
        "libc++abi: terminating with uncaught exception of type std::out_of_range: absl::at\n",
        "terminating with uncaught exception of type std::out_of_range: absl::at; have it try ever",
    ),
    (
        "/usr/bin/edgetpu_compiler: line 3:  7056 Segmentation fault      (core dumped) ${d}/x\n",
        "Segmentation fault; have it try ever smaller parts",
    ),
    ("Invalid model: model.tflite\n", "Invalid model: model.tflite; check it with judge_model"),
    ("Something never seen before\n\n", "Something never seen before; run it by hand"),
]

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="the stand-in is a script with an interpreter line"
)


@pytest.fixture(scope="module")
def contents() -> tuple[bytes, bytes]:
    """A file, and one that is compiled."""
    pytest.importorskip("tflite", exc_type=ImportError)
    from tflite_files import COMPILED, PLAIN, pack

    return pack(PLAIN), pack(COMPILED)


@pytest.fixture
def stand_in(
    tmp_path: Path, contents: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> CompilerStandIn:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    home = tmp_path / "bin"
    home.mkdir()
    monkeypatch.setenv("PATH", str(home), prepend=os.pathsep)
    return CompilerStandIn(home, contents[1])


@pytest.fixture
def plain(contents: tuple[bytes, bytes]) -> bytes:
    return contents[0]


def left_behind(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "tmp")


def test_a_success(
    stand_in: CompilerStandIn, plain: bytes, contents: tuple[bytes, bytes], tmp_path: Path
) -> None:
    result = compile_model(plain)
    assert result.content == contents[1]
    assert (result.file.parameters_cached, result.file.min_runtime_version) == (640, 14)
    assert (result.report.mapped, result.report.on_cpu, result.report.subgraphs) == (31, (), 1)
    assert stand_in.seen["arguments"] == ["-s", "-t", "180", "model.tflite"]
    assert stand_in.seen["files"] == ["model.tflite"]
    assert Path(stand_in.seen["folder"]).parent == tmp_path / "tmp"
    assert left_behind(tmp_path) == []


def test_a_path_and_the_options(stand_in: CompilerStandIn, plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(plain)
    elsewhere = stand_in.program.rename(tmp_path / "other-name")
    for name in ("plan.json", "compiled.tflite"):
        (stand_in.folder / name).rename(tmp_path / name)
    compile_model(path, compiler=elsewhere, timeout=0.5 + 29, min_runtime_version=13)
    arguments = json.loads((tmp_path / "seen.json").read_text())["arguments"]
    assert arguments == ["-s", "-t", "30", "-m", "13", "model.tflite"]
    assert path.read_bytes() == plain
    assert left_behind(tmp_path) == []


def test_a_model_that_is_mapped_in_part(stand_in: CompilerStandIn, plain: bytes) -> None:
    stand_in.does(PARTLY)
    report = compile_model(plain).report
    assert (report.mapped, sum(row.count for row in report.on_cpu)) == (112, 49)
    assert OperatorCount("CONV_2D", 19, "More than one subgraph is not supported") in report.on_cpu


@pytest.mark.parametrize("status", [1, 0])
@pytest.mark.parametrize(("prints", "message"), REFUSALS)
def test_a_refusal(
    prints: str, message: str, status: int, stand_in: CompilerStandIn, plain: bytes, tmp_path: Path
) -> None:
    stand_in.does(f"Edge TPU Compiler version 16.0.384591198\n{prints}", writes=[], status=status)
    with pytest.raises(CompilerError) as caught:
        compile_model(plain)
    how = "exit code 1" if status else "it wrote no model"
    assert str(caught.value).startswith(f"edgetpu_compiler failed ({how}): {message}")
    assert prints in caught.value.output
    assert left_behind(tmp_path) == []


def test_an_internal_error_of_the_compiler_is_tried_once_more(
    stand_in: CompilerStandIn, plain: bytes
) -> None:
    stand_in.program.write_text(
        f"#!/bin/sh\ncd {stand_in.folder}; echo once >>runs\n"
        "if [ $(wc -l <runs) = 1 ]; then echo Internal compiler error. Aborting!; exit 1; fi\n"
        'cp compiled.tflite "$OLDPWD/model_edgetpu.tflite"\n'
        "echo Edge TPU Compiler version 16.0\n"
    )
    assert compile_model(plain).report.version == "16.0"
    assert (stand_in.folder / "runs").read_text() == "once\nonce\n"


def test_a_search_that_succeeds_in_the_end_is_not_run_again(
    stand_in: CompilerStandIn, plain: bytes
) -> None:
    header, _, rest = SUCCESS.partition("\n")
    stand_in.does(
        f"{header}\nTry to compile segment with 500 ops\nInternal compiler error.\n{rest}"
    )
    assert compile_model(plain, options=["-d", "-k", "30", "-a"]).report.mapped == 31
    assert stand_in.seen["runs"] == 1
    arguments = ["-s", "-t", "180", "-d", "-k", "30", "-a", "model.tflite"]
    assert stand_in.seen["arguments"] == arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-n", "2"], "-n is not one of the options that can be added; see timeout, min_runtime_v"),
        (["--out_dir=/tmp"], "--out_dir=/tmp is not one of the options that can be added"),
        (["-h"], "-h is not one of the options"),
        ("-d", "options is '-d'; give a list with each word by itself"),
        (["-i", "a\0b"], r"options is .*; give a list with each word by itself"),
        (None, "options is None; give a list"),
        (["-k", 30], r"options is \['-k', 30\]; give a list"),
    ],
)
def test_an_option_that_cannot_be_added(options: Any, message: str, plain: bytes) -> None:
    with pytest.raises(InputError, match=message):
        compile_model(plain, options=options)


# --------------------------------------------------------------------------- segments


def test_each_segment_has_its_own_file_and_report(stand_in: CompilerStandIn, plain: bytes) -> None:
    names = [f"model_segment_{number}_of_2_edgetpu.tflite" for number in range(2)]
    header, _, rest = SUCCESS.partition("\n")
    first = rest.replace("model_edgetpu.tflite", names[0])
    second = rest.replace("model_edgetpu.tflite", names[1]).replace("4.21MiB", "1.00MiB")
    stand_in.does(f"{header}\n{first}{second}", writes=names)
    segments = compile_segments(plain, 2)
    assert stand_in.seen["arguments"] == ["-s", "-t", "180", "-n", "2", "model.tflite"]
    assert [segment.report.on_chip_used for segment in segments] == [round(4.21 * 2**20), 2**20]
    assert [segment.report.mapped for segment in segments] == [31, 31]
    assert [segment.file.compiled for segment in segments] == [True, True]


def test_a_segment_that_is_missing_fails(stand_in: CompilerStandIn, plain: bytes) -> None:
    """Compiler 15 has been seen to print its version alone, and to end as after a success."""
    stand_in.does(
        "Edge TPU Compiler version 15.0.340273435\n", writes=["model_segment_0_of_2_edgetpu.tflite"]
    )
    with pytest.raises(CompilerError, match=r"failed \(it wrote no model\): Edge TPU Compiler"):
        compile_segments(plain, 2)


@pytest.mark.parametrize("count", [1, 0, 65, 2.0, "2", True])
def test_a_number_of_segments_that_cannot_be_used(count: Any, plain: bytes) -> None:
    with pytest.raises(InputError, match="is not a number of segments: give 2 to 64, or use"):
        compile_segments(plain, count)


def test_what_compiler_2_prints_of_the_memory() -> None:
    report = parse_output(
        "Edge TPU Compiler version 2.0.267685300\n"
        "On-chip memory available for caching model parameters: 6.00MiB\n"
        "On-chip memory used for caching model parameters: 4.00MiB\n"
    )
    assert (report.on_chip_used, report.on_chip_remaining) == (4 * 2**20, 2 * 2**20)


def test_a_failure_after_the_file_was_written(stand_in: CompilerStandIn, plain: bytes) -> None:
    stand_in.does(SUCCESS, status=3)
    with pytest.raises(CompilerError, match=r"failed \(exit code 3\): Compilation succeeded!"):
        compile_model(plain)


def test_nothing_mapped(stand_in: CompilerStandIn, plain: bytes, tmp_path: Path) -> None:
    stand_in.does(NOTHING)
    (stand_in.folder / "compiled.tflite").write_bytes(plain)
    with pytest.raises(
        CompilerError,
        match=r"mapped nothing to the Edge TPU \(CONV_2D: Operation is working on an un",
    ):
        compile_model(plain)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0TFL3 cut"])
def test_a_file_that_cannot_be_read(
    content: bytes, stand_in: CompilerStandIn, plain: bytes
) -> None:
    (stand_in.folder / "compiled.tflite").write_bytes(content)
    with pytest.raises(CompilerError, match="wrote a file that cannot be read: the model is"):
        compile_model(plain)


def test_a_program_that_is_another(stand_in: CompilerStandIn, plain: bytes) -> None:
    stand_in.does("done\n")
    with pytest.raises(
        CompilerError, match=r"/edgetpu_compiler did not print what .* see that it is the"
    ) as caught:
        compile_model(plain)
    assert caught.value.output == "done\n"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (9, r"SIGKILL\): it printed nothing"),
        (11, r"SIGSEGV\): Segmentation fault; have it try ever smaller parts with options"),
    ],
)
def test_a_crash(
    number: int, told: str, stand_in: CompilerStandIn, plain: bytes, tmp_path: Path
) -> None:
    stand_in.does("", writes=[], signal=number)
    with pytest.raises(CompilerError, match=rf"failed \(ended by {told}"):
        compile_model(plain)
    assert left_behind(tmp_path) == []


def test_a_hang_ends_in_time_with_all_its_processes(
    stand_in: CompilerStandIn, plain: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_dwsconv.edgetpu.compiler._GRACE", 1)
    stand_in.does("", sleeps=True)
    start = time.monotonic()
    with pytest.raises(
        CompilerError,
        match=r"edgetpu_compiler was killed: not done after 2 s; give it a longer time",
    ):
        compile_model(plain, timeout=1)
    assert time.monotonic() - start < 20
    assert left_behind(tmp_path) == []
    child = int((stand_in.folder / "child").read_text())
    assert _gone(child)


def test_a_process_that_outlives_the_compiler_is_ended(
    stand_in: CompilerStandIn, plain: bytes
) -> None:
    (stand_in.folder / "edgetpu_compiler").write_text(
        f"#!/bin/sh\nsleep 60 >/dev/null 2>&1 & echo $! >{stand_in.folder}/child\n"
        f"cp {stand_in.folder}/compiled.tflite model_edgetpu.tflite\necho Edge TPU Compiler "
        "version 16.0\n"
    )
    assert compile_model(plain).report.version == "16.0"
    assert _gone(int((stand_in.folder / "child").read_text()))


def _gone(process: int) -> bool:
    """Whether no process of that number runs any more; a dead one may not be collected yet."""
    for _ in range(50):
        try:
            os.kill(process, 0)
            state = (
                Path(f"/proc/{process}/stat").read_text()
                if Path("/proc/self/stat").exists()
                else ""
            )
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state.rpartition(")")[2].split()[:1] == ["Z"]:
            return True
        time.sleep(0.1)
    return False


def test_there_is_no_compiler(
    plain: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(CompilerError) as caught:
        compile_model(plain)
    assert str(caught.value) == (
        "edgetpu_compiler is not on PATH; install the package edgetpu-compiler from the vendor's "
        "apt repository, "
        "or give a model that is compiled already"
    )
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(
        CompilerError,
        match="it exists for x86-64 Linux only and this is Linux aarch64, so compile th",
    ):
        compile_model(plain)
    with pytest.raises(CompilerError, match="'/absent' is not a program that can be run"):
        compile_model(plain, compiler="/absent")


def test_a_program_that_the_system_refuses(
    plain: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF and no more")
    broken.chmod(0o755)
    # as a Raspberry Pi refuses the vendor's program
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(
        CompilerError,
        match=r"cannot be run: .*broken'; it exists for x86-64 Linux only and this is",
    ):
        compile_model(plain, compiler=broken)


def test_a_temporary_folder_that_cannot_be_written(
    stand_in: CompilerStandIn, plain: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(
        CompilerError, match=r"cannot be run: .*No such file.*; check .* and the temporary folder"
    ):
        compile_model(plain)


@pytest.mark.parametrize("version", [0, 9, 15, 10**400])
def test_a_runtime_version_that_the_compiler_does_not_know(version: int, plain: bytes) -> None:
    with pytest.raises(InputError, match="give a whole number from 10 to 14"):
        compile_model(plain, min_runtime_version=version)


def test_a_compiler_whose_path_holds_a_nul(plain: bytes) -> None:
    with pytest.raises(CompilerError, match=r"'/opt/edgetpu\\x00compiler' is not a program that"):
        compile_model(plain, compiler="/opt/edgetpu\0compiler")


def test_figures_of_thousands_of_digits_are_not_read() -> None:
    many = "9" * 5000
    text = f"Edge TPU Compiler version 16.0\nNumber of Edge TPU subgraphs: {many}\n"
    text += f"On-chip memory used for caching model parameters: {many}MiB\n"
    report = parse_output(f"{text}Operator  Count  Status\nADD  {many}  Mapped to Edge TPU\n")
    assert (report.subgraphs, report.on_chip_used, report.operators) == (None, None, ())


def test_a_timeout_of_thousands_of_digits(plain: bytes) -> None:
    with pytest.raises(InputError, match="timeout is a number of over 40 digits; give the"):
        compile_model(plain, timeout=10**5000)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), 1e9])
def test_a_timeout_that_cannot_be_used(timeout: float, plain: bytes) -> None:
    with pytest.raises(InputError, match=f"timeout is {timeout}; give the seconds"):
        compile_model(plain, timeout=timeout)


def test_what_cannot_be_compiled(
    stand_in: CompilerStandIn, contents: tuple[bytes, bytes], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the model is compiled already; use it as it is"):
        compile_model(contents[1])
    with pytest.raises(FormatError, match="not a TFLite model"):
        compile_model(b"something else")
    with pytest.raises(InputError, match="cannot be read"):
        compile_model(tmp_path / "absent.tflite")


def test_what_the_compiler_prints_as_data() -> None:
    report = parse_output(PARTLY)
    assert report.version == "16.0.384591198"
    assert (report.on_chip_used, report.on_chip_remaining, report.off_chip_used) == (
        7_193_231,
        512,
        25_088,
    )
    assert (report.subgraphs, report.total_operators, len(report.operators)) == (1, 161, 9)
    assert sum(row.count for row in report.operators) == 161
    assert report.operators[0] == OperatorCount(
        "DEQUANTIZE", 1, "Operation is working on an unsupported data type"
    )
    assert report.operators[-1] == OperatorCount("HARD_SWISH", 18, "Operation not supported")
    assert parse_output(SUCCESS).on_chip_used == round(4.21 * 2**20)
    assert parse_output(SUCCESS).off_chip_used == 0
    assert parse_output(SUCCESS.replace("4.21MiB", "4.2.1MiB")).on_chip_used is None


def test_the_log_file_has_the_operators_alone() -> None:
    log = "Edge TPU Compiler version 15.0.340273435\nInput: m.tflite\nOutput: m_edgetpu.tflite\n\n"
    log += "Operator                       Count      Status\n\n"
    log += "MAX_POOL_2D                    2          Mapped to Edge TPU\n"
    report = parse_output(log)
    assert report.operators == (OperatorCount("MAX_POOL_2D", 2, "Mapped to Edge TPU"),)
    assert (
        report.on_chip_used,
        report.off_chip_used,
        report.subgraphs,
        report.total_operators,
    ) == (None,) * 4


def test_text_that_is_not_the_compilers() -> None:
    with pytest.raises(FormatError, match="does not name the Edge TPU compiler's version"):
        parse_output("bash: edgetpu_compiler: command not found")
