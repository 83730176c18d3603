"""Standard streams that are closed or full, and names and numbers that nothing is ready for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dwsconv.command.cli import main

BEFORE = "from torch import nn\n\nconv = nn.Conv2d(32, 64, 3)\n"
LISTED = "m.py:3:8: nn.Conv2d(32, 64, 3) -> DepthwiseSeparableConv2d, standard convolution"
Output = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(BEFORE)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "out", "err"),
    [
        ("m.py >&-", 2, "", "standard output is closed: send it to a file, or to /dev/null"),
        ("--diff m.py >&-", 2, "", "standard output is closed"),
        ("--version >&-", 0, "", "dwsconv-rewrite "),
        ("m.py 2>&-", 0, LISTED, ""),
        ("--check m.py 2>&-", 1, LISTED, ""),
        ("--diff m.py 2>&-", 1, "--- m.py\n+++ m.py\n@@", ""),
        ("missing.py 2>&-", 2, "", ""),
        ("m.py >&- 2>&-", 2, "", ""),
        ("- <&-", 2, "", "<stdin>: standard input is closed: give the path of a file"),
        ("m.py <&-", 0, LISTED, ""),
        ("--diff m.py 1</dev/null", 2, "", "standard output cannot be written: Bad file desc"),
        ("--check m.py >/dev/full", 2, "", "standard output cannot be written: No space left"),
        ("--diff m.py 2>/dev/full", 2, "--- m.py\n+++ m.py\n@@", ""),
    ],
)
def test_a_stream_that_cannot_be_used_is_one_sentence_and_a_status(
    folder: Path, arguments: str, status: int, out: str, err: str
) -> None:
    if "/dev/full" in arguments and not Path("/dev/full").exists():
        pytest.skip("no full device to write to")
    command = f"exec {sys.executable} -m pytest_dwsconv {arguments}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stdout.startswith(out)
    assert bool(done.stdout) is bool(out)
    assert err in done.stderr
    assert done.stderr.count("\n") == bool(err)
    if status == 2:
        assert (folder / "m.py").read_text() == BEFORE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device to write to")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("m.py n.py", ["m.py", "n.py"]),
        ("- n.py", ["n.py"]),
        ("-o new.py m.py", ["new.py"]),
        ("--check m.py n.py", []),
    ],
)
def test_where_nothing_can_be_listed_every_file_is_done_and_named_as_an_error(
    folder: Path, unbuffered: str, arguments: str, written: list[str]
) -> None:
    (folder / "n.py").write_text(BEFORE)
    command = f"exec {sys.executable} -m pytest_dwsconv {arguments} <m.py >/dev/full"
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["sh", "-c", command], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    complaints = [line for line in done.stderr.splitlines() if line.startswith("dwsconv-rewrite: ")]
    assert "standard output cannot be written: No space left" in complaints[0]
    assert complaints[1:] == [f"dwsconv-rewrite: {name} was written" for name in written]
    changed = [file.name for file in sorted(folder.glob("*.py")) if file.read_text() != BEFORE]
    assert changed == written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a\0b.py"], r"a\x00b.py cannot be a file: there is a NUL in its name"),
        (["-o", "a\0b.py", "m.py"], r"a\x00b.py cannot be a file: there is a NUL in its name"),
        (["\ud800.py"], r"\ud800.py cannot be a file: its name cannot be encoded"),
        ([f"{'n' * 300}.py"], ".py: it cannot be read: File name too long"),
        ([f"{'n' * 300}/m.py"], "m.py: it cannot be read: File name too long"),
        (["-o", f"{'n' * 300}.py", "m.py"], ".py: it cannot be written: File name too long"),
    ],
)
def test_a_name_that_cannot_be_one_is_one_sentence(
    folder: Path, capsys: Output, arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert (folder / "m.py").read_text() == BEFORE


def test_the_longest_name_there_is_can_be_rewritten(folder: Path) -> None:
    path = folder / f"{'n' * 252}.py"
    path.write_text(BEFORE)
    assert main([str(path)]) == 0
    assert "DepthwiseSeparableConv2d(32" in path.read_text()


NASTY = "::error ::\x1b[31m\u202e\n.py"
SPELLED_OUT = r"\x3a:error \x3a:\x1b[31m\u202e\n.py"


def test_what_a_terminal_or_a_runner_obeys_is_spelled_out_in_names_and_code(
    folder: Path, capsys: Output
) -> None:
    source = f"{BEFORE}nn.Conv2d(8, 8, 3, padding_mode='\x1b[31m\u202e')\nf\u0130(nn.Conv2d)\n"
    Path(NASTY).write_text(source)
    assert main([NASTY, f"missing{NASTY}"]) == 2
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"{SPELLED_OUT}:") for line in lines[:-1])
    assert r"padding_mode='\x1b[31m\u202e')" in lines[1]
    assert err == f"dwsconv-rewrite: missing{SPELLED_OUT}: there is no such file\n".replace(
        r"missing\x3a:", "missing::"
    )
    Path(NASTY).write_text(f"{BEFORE}\x1b = 1\n")
    main([NASTY])
    assert "\x1b" not in capsys.readouterr().err


def test_what_a_terminal_obeys_is_spelled_out_in_wrong_usage(capsys: Output) -> None:
    assert main(["--no\x1b[31m", "m.py"]) == 2
    assert r"unrecognized arguments: --no\x1b[31m" in capsys.readouterr().err


def test_what_a_terminal_obeys_is_spelled_out_in_the_table_of_a_model(
    folder: Path, capsys: Output
) -> None:
    (folder / "m.py").write_text(
        "from torch import nn\n\n\ndef net():\n    model = nn.Sequential()\n"
        "    model.add_module('::error ::\\x1b[31m', nn.Conv2d(32, 64, 3))\n    return model\n"
    )
    assert main(["--model", "net", "m.py"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert not any(line.startswith("::") for line in out.splitlines())
    assert r"\x1b[31m" in out
