"""The settings in pyproject.toml: where they are found, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_dwsconv.configuration import load_config
from pytest_dwsconv.errors import InputError


def settings(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(text)


def test_settings_come_from_the_nearest_pyproject(tmp_path: Path) -> None:
    inner = tmp_path / "inner" / "deep"
    inner.mkdir(parents=True)
    settings(
        tmp_path, "[tool.dwsconv]\nmin-saving = 3\nexclude = ['old', 'vendor/*', '*_pb2.py']\n"
    )
    settings(tmp_path / "inner", "[tool.other]\n")
    config = load_config(inner)
    assert (config.root, config.min_saving, config.policy.min_saving) == (tmp_path, 3.0, 3.0)
    settings(tmp_path / "inner", "[tool.dwsconv]\n")
    assert load_config(inner).min_saving == 1.0


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("old/a.py", True),
        ("x/old/a.py", True),
        ("vendor/x/a.py", True),
        ("x/a_pb2.py", True),
        ("older/a.py", False),
        ("x/vendor/a.py", False),
        ("../old/a.py", False),
    ],
)
def test_excluded_paths(tmp_path: Path, path: str, excluded: bool) -> None:
    project = tmp_path / "project"
    project.mkdir()
    settings(project, "[tool.dwsconv]\nexclude = ['old/', 'vendor/*', '*_pb2.py']\n")
    assert load_config(project).excludes(project / path) is excluded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[tool.dwsconv]\nminsaving = 3\n",
            "no setting 'minsaving'; there are class-from, exclude, few-channels, ignore, "
            "min-saving, per-file-ignores and select",
        ),
        ("[tool.dwsconv]\nexclude = 'a'\n", "exclude must be a list of strings, not 'a'"),
        ("[tool.dwsconv]\nexclude = [1]\n", "exclude must be a list of strings"),
        ("[tool.dwsconv]\nexclude = ['!']\n", "'!' is not a pattern: "),
        ("[tool.dwsconv]\nselect = 'DWS001'\n", "select must be a list of strings"),
        ("[tool.dwsconv]\nignore = ['E501']\n", "ignore: there is no code 'E501'; there are DWS0"),
        ("[tool.dwsconv]\nper-file-ignores = ['a']\n", "per-file-ignores must be a table such as"),
        ("[tool.dwsconv]\nper-file-ignores = {a = 1}\n", "per-file-ignores must be a list"),
        ("[tool.dwsconv]\nper-file-ignores = {'!' = []}\n", "'!' is not a pattern: "),
        ("[tool.dwsconv]\nclass-from = ['a']\n", "pyproject.toml: class-from takes a module and"),
        ("[tool.dwsconv]\nmin-saving = '3'\n", "min-saving must be a number from 1, not '3'"),
        ("[tool.dwsconv]\nmin-saving = true\n", "min-saving must be a number"),
        ("[tool.dwsconv]\nmin-saving = 0\n", "min-saving must be a number from 1"),
        (
            "[tool.dwsconv]\nmin-saving = 0.5\n",
            "pyproject.toml: min-saving must be a number from 1, not 0.5",
        ),
        ("[tool.dwsconv]\nmin-saving = inf\n", "min-saving must be a number from 1, not inf"),
        ("[tool.dwsconv]\nmin-saving = nan\n", "min-saving must be a number from 1"),
        ("[tool]\ndwsconv = 3\n", "must be a table"),
        ("[tool.dwsconv]\nmin-saving = 0x" + "9" * 5000, "not a number of over 40 digits"),
        ("[tool.dwsconv]\nexclude = [0x" + "9" * 5000 + "]", "not .a number of over 40 digits."),
        ("x = " + "9" * 5000, "cannot be read: .* value has 5000 digits$"),
        ("x = " + "[" * 100_000, "cannot be read: its brackets are nested too deeply"),
        ("[tool", "cannot be read"),
        pytest.param("x = " + "[" * 100_000, "cannot be read", id="100000 brackets"),
        pytest.param("x = " + "9" * 5000, "cannot be read", id="5000 digits"),
        ("x = \0", "cannot be read"),
        ("[tool.dwsconv]\nmin-saving = " + "9" * 400, "not a number of over 40 digits: less is no"),
        ("x = '\udce4'", "cannot be read"),
        ("[tool.dwsconv]\n" + "9" * 4000 + " = 1", r"no setting '9+\.\.\.9+'; there are"),
        ("[tool.dwsconv]\nfew-channels = " + "9" * 4000, "not a number of over 40 digits$"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pyproject.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message) as caught:
        load_config(tmp_path)
    assert "\n" not in str(caught.value)
