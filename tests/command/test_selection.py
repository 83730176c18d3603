"""What is listed and rewritten: codes, comments, forms of output, and how much is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_dwsconv.command.cli import FORMATS, main

TEXT = """\
from torch import nn

a = nn.Conv2d(32, 64, 3)
b = nn.Conv2d(32, 64, 1)
c = nn.Conv2d(3, 64, k)
"""
CANDIDATE, POINTWISE, UNKNOWN = "m.py:3:5", "m.py:4:5", "m.py:5:5"
Output = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("m.py")
    path.write_text(TEXT)
    return path


def listed(output: str) -> list[str]:
    return [line.partition(": ")[0] for line in output.splitlines() if line.startswith("m.py")]


@pytest.mark.parametrize(
    ("arguments", "places", "changed"),
    [
        ([], [CANDIDATE, UNKNOWN], True),
        (["--verbose"], [CANDIDATE, POINTWISE, UNKNOWN], True),
        (["--quiet"], [], True),
        (["--select", "DWS001"], [CANDIDATE], True),
        (["--select", "DWS2"], [UNKNOWN], False),
        (["--select", "dws104"], [POINTWISE], False),
        (["--select", "DWS001,DWS203"], [CANDIDATE, UNKNOWN], True),
        (["--select", "DWS001", "--select", "DWS203"], [CANDIDATE, UNKNOWN], True),
        (["--ignore", "DWS001"], [UNKNOWN], False),
        (["--select", "DWS", "--ignore", "DWS2"], [CANDIDATE], True),
    ],
)
def test_codes_choose_what_is_listed_and_whether_it_is_rewritten(
    file: Path, capsys: Output, arguments: list[str], places: list[str], changed: bool
) -> None:
    assert main([*arguments, "m.py"]) == 0
    assert listed(capsys.readouterr().out) == places
    assert (file.read_text() != TEXT) is changed


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ('select = ["DWS001"]', [CANDIDATE]),
        ('ignore = ["DWS2"]', [CANDIDATE]),
        ('per-file-ignores = {"m.*" = ["DWS001"]}', [UNKNOWN]),
        ('per-file-ignores = {"other.py" = ["DWS001"]}', [CANDIDATE, UNKNOWN]),
        ('ignore = ["DWS001"]\nper-file-ignores = {"m.py" = ["DWS203"]}', []),
    ],
)
def test_settings_choose_codes_too(
    file: Path, capsys: Output, settings: str, places: list[str]
) -> None:
    Path("pyproject.toml").write_text(f"[tool.dwsconv]\n{settings}\n")
    main(["--check", "m.py"])
    assert listed(capsys.readouterr().out) == places


def test_the_command_line_goes_before_the_settings(file: Path, capsys: Output) -> None:
    Path("pyproject.toml").write_text('[tool.dwsconv]\nselect = ["DWS203"]\n')
    assert main(["--check", "--select", "DWS001", "m.py"]) == 1
    assert listed(capsys.readouterr().out) == [CANDIDATE]


def test_a_file_gets_the_settings_nearest_to_it(file: Path, capsys: Output) -> None:
    Path("pyproject.toml").write_text("[tool.dwsconv]\nmin-saving = 9\n")
    Path("inner").mkdir()
    Path("inner/pyproject.toml").write_text("[tool.dwsconv]\n")
    Path("inner/m.py").write_text(TEXT)
    assert main(["."]) == 0
    assert Path("inner/m.py").read_text() != TEXT
    assert file.read_text() == TEXT


def test_noqa_is_left_alone_without_a_word(file: Path, capsys: Output) -> None:
    text = TEXT.replace("3)", "3)  # noqa: DWS001").replace("k)", "k)  # noqa: DWS203")
    file.write_text(text)
    assert main(["m.py"]) == 0
    assert listed(capsys.readouterr().out) == []
    assert main(["--verbose", "m.py"]) == 0
    assert listed(capsys.readouterr().out) == [CANDIDATE, POINTWISE, UNKNOWN]
    assert file.read_text() == text


def test_an_unknown_code_is_one_sentence(file: Path, capsys: Output) -> None:
    assert main(["--select", "E501", "m.py"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("dwsconv-rewrite: --select: there is no code 'E501'; there are DWS001, ")
    assert file.read_text() == TEXT


# -- forms


def test_json_is_one_document(file: Path, capsys: Output) -> None:
    assert main(["--check", "--output-format", "json", "--statistics", "m.py"]) == 1
    out, err = capsys.readouterr()
    first, second = json.loads(out)
    assert {key: first[key] for key in ("filename", "line", "column", "code", "replacement")} == {
        "filename": "m.py",
        "line": 3,
        "column": 5,
        "code": "DWS001",
        "replacement": "DepthwiseSeparableConv2d",
    }
    assert (first["call"], first["saving_is_exact"]) == ("nn.Conv2d(32, 64, 3)", True)
    assert (second["code"], second["replacement"], second["saving"]) == ("DWS203", None, None)
    assert second["explain"] == "dwsconv-rewrite explain DWS203"
    assert "1 convolution would be rewritten" in err


@pytest.mark.parametrize("arguments", [["--diff", "m.py"], ["-o", "-", "m.py"], ["-"]])
def test_json_is_refused_where_a_result_goes(
    file: Path, capsys: Output, arguments: list[str]
) -> None:
    assert main(["--output-format", "json", *arguments]) == 2
    assert "is written to standard output, where the result goes" in capsys.readouterr().err


def test_quiet_json_is_the_document_alone(file: Path, capsys: Output) -> None:
    assert main(["--check", "--quiet", "--output-format", "json", "m.py"]) == 1
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 2
    assert err == ""


def test_json_of_nothing_is_an_empty_list(file: Path, capsys: Output) -> None:
    file.write_text("x = 1\n")
    assert main(["--output-format", "json", "m.py"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_full_shows_the_line_and_where_to_read_on(file: Path, capsys: Output) -> None:
    indented = TEXT.replace("a = nn", "if 1:\n\ta = nn").replace("64, 3)", "64, 3)  # as is")
    file.write_text(indented)
    assert main(["--check", "--output-format", "full", "m.py"]) == 1
    assert capsys.readouterr().out.splitlines()[1:5] == [
        "  |",
        "4 |     a = nn.Conv2d(32, 64, 3)  # as is",
        "  |         ^^^^^^^^^^^^^^^^^^^^",
        "  = dwsconv-rewrite explain DWS001",
    ]


def test_github_annotates_each_convolution(file: Path, capsys: Output) -> None:
    assert main(["--check", "--output-format", "github", "m.py"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "::warning file=m.py,line=3,col=5,title=DWS001::nn.Conv2d(32, 64, 3) -> Depthwise"
    )
    assert lines[1].startswith("::notice file=m.py,line=5,col=5,title=DWS203::")


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_spells_out_what_a_terminal_or_a_runner_would_obey(
    tmp_path: Path, capsys: Output, form: str
) -> None:
    path = tmp_path / "a\x1b[31m::error::b.py"
    path.write_text("from torch import nn\nx = nn.Conv2d(32, 64, 3)  # \x1b[31m ::error::x\n")
    main(["--check", "--output-format", form, str(path)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert " ::error" not in out
    assert "::error" not in [line[:7] for line in out.splitlines()]


def test_statistics_count_each_code(file: Path, capsys: Output) -> None:
    file.write_text(f"{TEXT}d = nn.Conv2d(3, 64, k)\n")
    assert main(["--check", "--quiet", "--statistics", "m.py"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "2  DWS203  kernel size not known",
        "1  DWS001  could be depthwise separable",
        "1  DWS104  pointwise",
    ]


@pytest.mark.parametrize("action", ["--check", "--diff"])
def test_exit_zero(file: Path, action: str) -> None:
    assert main([action, "--exit-zero", "m.py"]) == 0
    assert main([action, "--exit-zero", "missing.py"]) == 2


# -- explain


def test_explain_says_what_a_code_means(capsys: Output) -> None:
    assert main(["explain", "DWS203", "dws104"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("DWS203: kernel size not known (cannot tell)\n")
    assert "    nn.Conv2d(64, 128, kernel_size)\n" in out
    assert "DWS104: pointwise (ineligible)\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain"], "explain takes a code: DWS001, DWS101, "),
        (["explain", "DWS999"], "there is no code DWS999; there are DWS001, "),
    ],
)
def test_explain_without_a_code_that_there_is(
    capsys: Output, arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["explain"], ["explain", "m.py"], ["--check", "explain"]])
def test_a_folder_called_explain_is_rewritten_like_any_other(
    file: Path, capsys: Output, arguments: list[str]
) -> None:
    Path("explain").mkdir()
    Path("explain/n.py").write_text(TEXT)
    assert main(arguments) == ("--check" in arguments)
    assert "explain/n.py:3:5" in capsys.readouterr().out
