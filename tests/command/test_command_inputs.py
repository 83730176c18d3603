"""Files, folders and standard input: what is looked at, skipped, or refused."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dwsconv.command.cli import main

TEXT = "from torch import nn\n\nconv = nn.Conv2d(32, 64, 3)\n"
PYTHON_2 = "import torch.conv2d\nprint 'old'\n"
Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(TEXT)
    return tmp_path


def test_python_2_in_a_folder_is_told_and_does_not_fail_the_run(
    folder: Path, capsys: Output
) -> None:
    Path("old.py").write_text(PYTHON_2)
    assert main(["."]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("dwsconv-rewrite: old.py is skipped: syntax error in line 2")
    assert out.endswith("1 convolution rewritten in 1 file, 0 left alone, 1 skipped\n")
    assert main(["old.py"]) == 2


def test_a_named_file_that_is_not_python_is_reported_whatever_is_in_it(
    folder: Path, capsys: Output
) -> None:
    Path("plain.py").write_text("print 'no convolution'\n")
    assert main(["."]) == 0
    assert main(["plain.py"]) == 2
    assert "plain.py: syntax error in line 1" in capsys.readouterr().err


def test_a_link_to_nothing_in_a_folder_is_told_and_does_not_fail_the_run(
    folder: Path, capsys: Output
) -> None:
    Path("link.py").symlink_to("gone.py")
    assert main(["."]) == 0
    assert "link.py is skipped: there is no such file" in capsys.readouterr().err
    assert main(["link.py"]) == 2


def test_a_file_of_a_folder_that_cannot_be_written_fails_the_run(
    folder: Path, capsys: Output
) -> None:
    Path("m.py").chmod(0o444)
    assert main(["."]) == 2
    assert "m.py: it cannot be written: it is read-only" in capsys.readouterr().err


def test_pipes_in_a_folder_are_passed_over(folder: Path) -> None:
    os.mkfifo("pipe.py")
    assert main(["."]) == 0


def test_a_notebook_is_refused_with_what_to_do(folder: Path, capsys: Output) -> None:
    Path("n.ipynb").write_text("{}")
    assert main(["n.ipynb", "m.py"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("dwsconv-rewrite: n.ipynb: notebooks are not read: make a script of it")
    assert err.count("\n") == 1
    assert Path("m.py").read_text() != TEXT


def test_what_git_ignores_is_left_out_unless_it_is_named(folder: Path, capsys: Output) -> None:
    Path(".gitignore").write_text("gen/\n")
    Path("gen").mkdir()
    Path("gen/g.py").write_text(TEXT)
    assert main(["."]) == 0
    assert Path("gen/g.py").read_text() == TEXT
    assert main(["gen/g.py"]) == 0
    assert Path("gen/g.py").read_text() != TEXT


def give_stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_standard_input_is_reported_and_set_by_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    Path("pkg").mkdir()
    Path("pkg/pyproject.toml").write_text("[tool.dwsconv]\nmin-saving = 9\n")
    give_stdin(monkeypatch, TEXT)
    assert main(["--stdin-filename", "pkg/x.py", "-"]) == 0
    out, err = capsys.readouterr()
    assert out == TEXT
    assert err.startswith("pkg/x.py:3:8: nn.Conv2d(32, 64, 3) left alone, DWS111: ")


def test_a_class_of_the_users_own_is_imported_and_its_home_left_alone(
    folder: Path, capsys: Output
) -> None:
    Path("pkg").mkdir()
    Path("pkg/layers.py").write_text(TEXT)
    Path("pyproject.toml").write_text('[tool.dwsconv]\nclass-from = ["pkg.layers:Separable2d"]\n')
    assert main(["."]) == 0
    assert "-> Separable2d, " in capsys.readouterr().out
    assert Path("pkg/layers.py").read_text() == TEXT
    assert Path("m.py").read_text() == (
        "from pkg.layers import Separable2d\n\nconv = Separable2d(32, 64, 3)\n"
    )


def test_without_torch_the_text_is_rewritten_and_a_model_needs_it(folder: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'scipy', 'tabulate', 'jinja2', 'pytest', 'pluggy'):\n"
        "    sys.modules[name] = None\n"
        "from pytest_dwsconv.command.cli import main\n"
        "assert main(['--check', '.']) == 1\n"
        "assert main(['-j2', 'm.py']) == 0\n"
        "assert main(['--model', 'conv', 'm.py']) == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "needs the package torch: pip install" in done.stderr
    assert "conv = DepthwiseSeparableConv2d(32, 64, 3)" in Path("m.py").read_text()
