"""Several processes: the same output in the same order, and Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from pytest_dwsconv.command.cli import main

TEXT = "from torch import nn\n\nconv = nn.Conv2d(32, 64, 3)\n"
Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        # the first takes longest, and is told first all the same
        (tmp_path / f"m{number}.py").write_text(TEXT + "x = 1\n" * 400 * (number == 0))
    (tmp_path / "bad.py").write_text("import torch.conv2d\nprint 'old'\n")
    return tmp_path


def test_processes_say_what_one_does_in_the_same_order(folder: Path, capsys: Output) -> None:
    arguments = ["--statistics", "m4.py", ".", "missing.py"]
    assert main(["--check", *arguments]) == 2
    expected = capsys.readouterr()
    assert main(["--check", "--jobs", "2", *arguments]) == 2
    assert capsys.readouterr() == expected


def test_ctrl_c_ends_the_processes_and_lists_what_was_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    rename = os.replace

    def replace(old: str, new: str) -> None:
        rename(old, new)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "replace", replace)
    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        main(["-j", "2", "."])
    assert set(multiprocessing.active_children()) <= before
    out = capsys.readouterr().out
    assert out.startswith("m0.py:3:8: ")
    assert "1 convolution rewritten in 1 file" in out
    assert [path.name for path in sorted(folder.glob("m*.py")) if path.read_text() != TEXT][
        1:
    ] == []


def test_a_number_of_processes_that_is_not_one_is_bad_usage(capsys: Output) -> None:
    assert main(["--jobs", "many", "m.py"]) == 2
    assert "'many' is not a number of processes" in capsys.readouterr().err
