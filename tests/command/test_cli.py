"""The command: what it writes, what it prints where, and its exit status."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dwsconv import __version__
from pytest_dwsconv.command.cli import main

BEFORE = """\
from torch import nn


class Net(nn.Sequential):
    def __init__(self, width=64):
        super().__init__(
            nn.Conv2d(9, 64, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3),
            nn.Conv2d(128, 10, 1),
            nn.Conv1d(width, width, 5),
        )
"""
CLEAN = "from torch import nn\n\nconv = nn.Conv2d(9, 64, 1)\n"
MODEL = """\
from torch import nn


def conv3x3(inputs, outputs, groups=1):
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


def plain():
    return nn.Sequential(conv3x3(8, 16), nn.ReLU(), conv3x3(16, 32))


def mixed():
    return nn.Sequential(conv3x3(8, 16), conv3x3(16, 16, groups=16))


def broken():
    raise RuntimeError("no such luck")
"""
Output = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """model.py in an own working folder."""
    monkeypatch.chdir(tmp_path)
    path = Path("model.py")
    path.write_text(BEFORE)
    return path


def give_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_file_is_rewritten_in_place_and_says_so(model: Path, capsys: Output) -> None:
    assert main(["model.py"]) == 0
    assert "            DepthwiseSeparableConv2d(64, 128, 3),\n" in model.read_text()
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "model.py:7:13: nn.Conv2d(9, 64, 3, padding=1, bias=False) -> DepthwiseSeparableConv2d, "
        "standard convolution, saves 7.9x",
        "model.py:9:13: nn.Conv2d(64, 128, 3) -> DepthwiseSeparableConv2d, standard convolution, "
        "saves 8.3x",
        "model.py:11:13: nn.Conv1d(width, width, 5) -> DepthwiseSeparableConv1d.where_it_saves, "
        "its channels are not constants here, and may be too few: decided when it runs, saves at "
        "most 5.0x",
        "3 convolutions rewritten in 1 file, 1 left alone, 1 of them pointwise (listed with "
        "--verbose)",
    ]
    assert err == ""


def test_a_second_run_changes_nothing(model: Path, capsys: Output) -> None:
    main(["model.py"])
    once = model.read_bytes()
    capsys.readouterr()
    assert main(["--check", "model.py"]) == 0
    assert main(["model.py"]) == 0
    assert model.read_bytes() == once
    assert capsys.readouterr().out.startswith("nothing to rewrite, 1 left alone, 1 of them")


@pytest.mark.parametrize("option", ["--check", "--diff"])
def test_check_and_diff_write_nothing(model: Path, option: str) -> None:
    assert main([option, "model.py"]) == 1
    assert model.read_text() == BEFORE
    model.write_text(CLEAN)
    assert main([option, "model.py"]) == 0


def test_a_diff_alone_is_on_standard_output(
    model: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    model.write_bytes(BEFORE.replace("\n", "\r\n").encode())
    assert main(["--diff", "model.py"]) == 1
    out, err = capsysbinary.readouterr()
    assert out.startswith(b"--- model.py\n+++ model.py\n@@ ")
    assert b"\n-            nn.Conv2d(64, 128, 3),\r\n" in out
    assert b"\n+            DepthwiseSeparableConv2d(64, 128, 3),\r\n" in out
    assert b"model.py:9:13" not in out
    assert b"3 convolutions would be rewritten in 1 file, 1 left alone" in err


@pytest.mark.parametrize("name", ["model.py", "my model.py"])
def test_the_diff_makes_the_file(
    model: Path, capsysbinary: pytest.CaptureFixture[bytes], name: str
) -> None:
    model = model.rename(name)
    main(["--diff", name])
    subprocess.run(
        ["patch", "-p0"], input=capsysbinary.readouterr().out, check=True, capture_output=True
    )
    patched = model.read_bytes()
    model.write_text(BEFORE)
    main([name])
    assert patched == model.read_bytes()


def test_output_goes_to_another_file(model: Path, capsys: Output) -> None:
    assert main(["-o", "new.py", "model.py"]) == 0
    assert model.read_text() == BEFORE
    new = Path("new.py").read_text()
    assert main(["-o", "-", "model.py"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith(new)
    assert "3 convolutions rewritten" in err


def test_output_to_a_device_leaves_the_device(model: Path) -> None:
    """As a null device: one of our own, since a fault would replace that of the machine."""
    device = model.absolute().parent / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_bytes(b"")
    except (AttributeError, OSError):
        pytest.skip("this user may make no devices")
    assert main(["-o", str(device), "model.py"]) == 0
    assert device.is_char_device()


def test_output_to_the_name_of_standard_output(model: Path, capsys: Output) -> None:
    assert main(["-o", "/dev/stdout", "model.py"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("from torch import nn")
    assert "3 convolutions rewritten" in err


def test_output_without_a_change_is_a_copy(model: Path) -> None:
    model.write_text(CLEAN)
    assert main(["-o", "new.py", "model.py"]) == 0
    assert Path("new.py").read_text() == CLEAN


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_standard_input_comes_out_of_standard_output(
    end: str,
    mark: bytes,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    data = mark + BEFORE.replace("\n", end).encode()
    give_stdin(monkeypatch, data)
    assert main(["-"]) == 0
    out, err = capsysbinary.readouterr()
    model.write_bytes(data)
    main(["model.py"])
    assert out == model.read_bytes()
    assert out.startswith(mark)
    assert b"<stdin>:9:13: nn.Conv2d(64, 128, 3) -> " in err


def test_standard_input_that_is_no_python_gives_no_output(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    give_stdin(monkeypatch, b"torch.conv2d = (\n")
    assert main(["-"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "<stdin>: syntax error in line 1" in err


def test_options_may_stand_between_paths(model: Path) -> None:
    Path("other.py").write_text(CLEAN)
    assert main(["model.py", "--check", "other.py"]) == 1
    assert model.read_text() == BEFORE


def test_a_path_may_look_like_an_option(model: Path) -> None:
    model.rename("-o.py")
    assert main(["--check", "--", "-o.py"]) == 1


def test_folders_are_walked_and_files_taken_once(model: Path, capsys: Output) -> None:
    Path("pyproject.toml").write_text("[tool.dwsconv]\nexclude = ['old']\n")
    for name in ("pkg/a.py", "pkg/old/b.py", "pkg/.venv/c.py"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(BEFORE)
    assert main([".", "model.py", "./pkg/a.py"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("6 convolutions rewritten in 2 files, 2 left alone, 2 of them")
    assert Path("pkg/old/b.py").read_text() == BEFORE
    assert main(["pkg/old/b.py"]) == 0
    assert Path("pkg/old/b.py").read_text() != BEFORE, "a file that is named is taken"


def test_settings_that_leave_nothing_to_look_at_are_told(model: Path, capsys: Output) -> None:
    Path("pyproject.toml").write_text("[tool.dwsconv]\nexclude = ['*.py']\n")
    assert main(["--check", "."]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(".: nothing to look at, exclude in ")
    assert out.endswith("pyproject.toml leaves out every file\n")
    assert err == ""


def test_the_saving_asked_for_comes_from_the_settings(model: Path, capsys: Output) -> None:
    Path("pyproject.toml").write_text("[tool.dwsconv]\nmin-saving = 8\n")
    assert main(["--check", "model.py"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("1 convolution would be rewritten in 1 file, 3 left alone, 1 of them")


def test_a_bad_file_does_not_keep_the_others(model: Path, capsys: Output) -> None:
    Path("bad.py").write_text("import torch.conv2d\nconv2d = = 2\n")
    assert main(["bad.py", "model.py", "missing.py"]) == 2
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "dwsconv-rewrite: bad.py: syntax error in line 2, column 10: invalid syntax; "
        "correct it, or run the command with the Python that the file is written for",
        "dwsconv-rewrite: missing.py: there is no such file",
    ]
    assert "3 convolutions rewritten in 1 file" in out
    assert Path("bad.py").read_text() == "import torch.conv2d\nconv2d = = 2\n"


@pytest.mark.parametrize("path", ["loop.py", ".", "loop.py/x.py"])
def test_a_loop_of_links_does_not_keep_the_others(model: Path, capsys: Output, path: str) -> None:
    Path("loop.py").symlink_to("loop.py")
    assert main([path, "model.py"]) == 2
    out, err = capsys.readouterr()
    assert "loop.py" in err
    assert "it cannot be read: Too many levels of symbolic links" in err
    assert "3 convolutions rewritten in 1 file" in out


def test_a_loop_of_links_has_no_model(model: Path, capsys: Output) -> None:
    Path("loop.py").symlink_to("loop.py")
    assert main(["--model", "Net", "loop.py"]) == 2
    assert (
        "file loop.py cannot be read: Too many levels of symbolic links" in capsys.readouterr().err
    )


def folder_without_python(folder: Path) -> None:
    (folder / "docs").mkdir()


def latin_1(folder: Path) -> None:
    (folder / "latin.py").write_bytes(b"from torch import nn\n\n# \xe4\n")


def read_only(folder: Path) -> None:
    (folder / "ro.py").write_text(BEFORE)
    (folder / "ro.py").chmod(0o444)


def bad_settings(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.dwsconv]\nselects = []\n")


def nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (nothing, ["missing.py"], "missing.py: there is no such file"),
        (folder_without_python, ["docs"], "docs: there are no Python files in this folder"),
        (
            latin_1,
            ["latin.py"],
            "latin.py: it is not utf-8 text (byte 24); name its encoding in a coding comment",
        ),
        (read_only, ["ro.py"], "ro.py: it cannot be written: it is read-only"),
        (bad_settings, ["model.py"], "[tool.dwsconv] has no setting 'selects'"),
        (
            nothing,
            ["-o", "new.py", "model.py", "other.py"],
            "-o takes the result of one file, and there are 2",
        ),
        (nothing, ["-o", "", "model.py"], "-o is given an empty name"),
        (
            nothing,
            ["-o", "no/new.py", "model.py"],
            "-o no/new.py: it cannot be written: No such file or directory",
        ),
        (nothing, ["--input-size", "1,3,8,8", "model.py"], "--input-size is the input of a model"),
        (nothing, ["--model", "Net", "-"], "--model names something in a file"),
        (nothing, ["--model", "Net", "model.py", "other.py"], "--model names something in a file"),
        (nothing, ["--model", "Nut", "model.py"], "did you mean Net?"),
        (nothing, ["--model", "Net", "--input-size", "1,3", "model.py"], "input"),
        (
            nothing,
            ["--model", "Net", "--input-size", "a", "model.py"],
            "input size 'a' is not a shape",
        ),
    ],
)
def test_bad_input_is_one_sentence(
    model: Path, capsys: Output, prepare: object, arguments: list[str], message: str
) -> None:
    assert callable(prepare)
    prepare(model.absolute().parent)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("dwsconv-rewrite: ")
    assert err.count("\n") == 1
    assert model.read_text() == BEFORE


@pytest.mark.parametrize(
    "arguments",
    [[], ["--check", "--diff", "x.py"], ["--nonsense", "x.py"], ["--diff", "-o", "x", "y"]],
)
def test_bad_usage(arguments: list[str], capsys: Output) -> None:
    assert main(arguments) == 2
    assert "usage: dwsconv-rewrite" in capsys.readouterr().err


def test_help_and_version(capsys: Output) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dwsconv-rewrite {__version__}\n"
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in (
        "--diff",
        "--check",
        "--output",
        "--model",
        "--input-size",
        "dws: skip",
        "[tool.dwsconv]",
    ):
        assert word in out


def test_a_model_settles_what_the_text_leaves_open(model: Path, capsys: Output) -> None:
    model.write_text(MODEL)
    assert main(["--check", "--no-guards", "model.py"]) == 0
    assert "DWS204" in capsys.readouterr().out
    arguments = ["--no-guards", "--model", "plain", "--input-size", "1,8,12,12", "model.py"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "16 x 12 x 12" in out
    assert (
        "5:12: nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups) -> DepthwiseSeparableConv2d"
        in out
    )
    assert (
        "return DepthwiseSeparableConv2d(inputs, outputs, 3, padding=1, groups=groups)"
        in model.read_text()
    )


def test_layers_from_a_configuration_are_told_once_for_each_file(
    model: Path, capsys: Output
) -> None:
    model.write_text("from mmcv.cnn import ConvModule\n\nx = ConvModule(8, 8), ConvModule(8, 1)\n")
    assert main(["model.py"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("model.py:3: ConvModule() makes layers from a configuration, so no")
    assert out.count("configuration") == 1


GUARDED = (
    "DepthwiseSeparableConv2d.where_it_saves(nn.Conv2d(inputs, outputs, 3, padding=1, "
    "groups=groups))"
)


def test_what_the_text_leaves_open_is_decided_when_it_runs(model: Path, capsys: Output) -> None:
    model.write_text(MODEL)
    assert main(["model.py"]) == 0
    reason = "groups is not a constant here, so this may be depthwise already: decided when it runs"
    assert f"-> DepthwiseSeparableConv2d.where_it_saves, {reason}\n" in capsys.readouterr().out
    assert f"return {GUARDED}\n" in model.read_text()


@pytest.mark.parametrize(("name", "saving"), [("plain", "6.4x"), ("mixed", "5.4x")])
def test_a_model_tells_what_a_guard_saves(
    model: Path, capsys: Output, name: str, saving: str
) -> None:
    model.write_text(MODEL)
    assert main(["--model", name, "model.py"]) == 0
    assert f"decided when it runs, saves {saving}\n" in capsys.readouterr().out
    assert f"return {GUARDED}\n" in model.read_text()


def test_without_guards_a_model_that_builds_several_kinds_settles_nothing(
    model: Path, capsys: Output
) -> None:
    model.write_text(MODEL)
    assert main(["--no-guards", "--model", "mixed", "model.py"]) == 0
    assert "left alone, DWS204" in capsys.readouterr().out
    assert model.read_text() == MODEL


def test_a_model_leaves_torch_as_it_was(model: Path, capsys: Output) -> None:
    from torch.nn.modules.conv import _ConvNd

    before = _ConvNd.__init__
    model.write_text(MODEL)
    assert main(["--model", "plain", "model.py"]) == 0
    assert _ConvNd.__init__ is before
    assert main(["--model", "broken", "model.py"]) == 2
    assert _ConvNd.__init__ is before
    assert "RuntimeError: no such luck" in capsys.readouterr().err


def test_without_a_model_no_code_of_the_user_runs(model: Path) -> None:
    model.write_text(f"{BEFORE}\nraise SystemExit('ran')\n")
    assert main(["model.py"]) == 0


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_dwsconv", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_as_a_process(model: Path) -> None:
    folder = model.absolute().parent
    result = run("--check", "model.py", folder=folder)
    assert (result.returncode, result.stderr) == (1, "")
    assert "3 convolutions would be rewritten" in result.stdout
    result = run("missing.py", folder=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "dwsconv-rewrite: missing.py: there is no such file\n"


def test_a_reader_that_leaves_early_sees_no_traceback(model: Path) -> None:
    command = [sys.executable, "-m", "pytest_dwsconv", "--check", "model.py"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device to write to")
def test_a_full_disk_behind_standard_output_is_one_sentence(model: Path) -> None:
    command = [sys.executable, "-m", "pytest_dwsconv", "--diff", "model.py"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 2
    assert result.stderr.endswith(
        "dwsconv-rewrite: standard output cannot be written: No space left on device\n"
    )
    assert "Traceback" not in result.stderr
    assert model.read_text() == BEFORE


def test_a_rewrite_imports_no_torch(model: Path) -> None:
    code = (
        "import sys; from pytest_dwsconv.command.cli import main; main(['model.py']); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert "DepthwiseSeparableConv2d(64" in model.read_text()
