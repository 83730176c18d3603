from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from pytest_dwsconv import __main__ as program
from pytest_dwsconv.command.report import main
from pytest_dwsconv.core.forms import FORMS

Output = pytest.CaptureFixture[str]
NET = """
from torch import nn

print("building")

class Net(nn.Sequential):
    def __init__(self, width=8):
        super().__init__(nn.Conv2d(3, width, 3), nn.Conv2d(width, 32, 3))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_a_model_is_reported_in_every_form_without_a_test(folder: Path, form: str) -> None:
    arguments = ["net.py:Net(width=16)", "--input-size", "1,3,8,8", "--format", form]
    assert main([*arguments, "--output", "out"]) == 0
    text = (folder / "out").read_text(encoding="utf-8")
    assert "Net" in text
    assert "4,640" in text or "4640" in text or "5,088" in text


def test_a_report_tells_what_is_gained_on_a_target(capsys: Output) -> None:
    arguments = ["net.py:Net(width=16)", "--input-size=1,3,8,8", "--target=edgetpu:desktop_usb3"]
    assert main(arguments) == 0
    assert "edgetpu: no gain (predicted, desktop_usb3): all param" in capsys.readouterr().out


def test_standard_output_has_the_report_alone(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest_dwsconv", "report", "net.py:Net", "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (model,) = json.loads(done.stdout)["models"]
    assert model["targets"] == ["net.py:Net"]
    assert done.stderr == "building\n"


def test_several_models_are_one_report(folder: Path) -> None:
    targets = ["net.py:Net", "net.py:Net(width=4)"]
    assert main([*targets, "--format", "csv", "--output", "out.csv"]) == 0
    rows = list(csv.DictReader(StringIO((folder / "out.csv").read_text())))
    assert [(row["model"], row["name"], row["params"]) for row in rows] == [
        ("Net", "0", "224"),
        ("Net", "1", "2336"),
        ("Net", "0", "112"),
        ("Net", "1", "1184"),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["net.py:Nett"], "there is no Nett there: did you mean Net?"),
        (["none.py:Net"], "file none.py cannot be read: No such file or directory"),
        (["net"], "model 'net' is not written module:factory"),
        (["net.py:Net", "--input-size=3"], "Net rejected inputs of shape (3,)"),
        (["net.py:Net", "--input-size=a"], "input size 'a' is not a shape"),
        (
            ["net.py:Net", "--target=gpu"],
            "target must be 'cpu', 'torch_compile', 'litert', 'litert_int8' or 'edgetpu', not",
        ),
        (["net.py:Net", "--format=html"], "html goes to a file: name it, as in --output"),
        (["net.py:Net", "--output=no/out"], "--output no/out cannot be written: No such file"),
    ],
)
def test_what_cannot_be_reported_is_one_sentence(
    capsys: Output, arguments: list[str], sentence: str
) -> None:
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line != "building"]
    assert line.startswith("python -m pytest_dwsconv report: ")
    assert sentence in line


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "usage: python -m pytest_dwsconv report TARGET ..."),
        (["--help"], 0, "usage: python -m pytest_dwsconv report TARGET ..."),
        (["rewrite", "--check", "net.py"], 1, "1 convolution would be rewritten"),
        (["--check", "net.py"], 1, "1 convolution would be rewritten"),
        (["report", "net.py:Net", "--output", os.devnull], 0, "building"),
        (["compare", "a", "b"], 2, "a cannot be compared"),
    ],
)
def test_the_first_argument_names_the_subcommand(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int, said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest_dwsconv", *arguments])
    assert program.main() == status
    printed = capsys.readouterr()
    assert said in printed.out + printed.err
