"""The files that other people wrote, rewritten: they compile, and their networks build and run."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_dwsconv.command.cli import main
from pytest_dwsconv.core.conv import ConvSpec, cost, separable_cost
from pytest_dwsconv.source.edit import Rewrite, rewrite_text
from pytest_dwsconv.source.files import read
from pytest_dwsconv.source.reading.syntax import MARK
from pytest_dwsconv.targets import load_target

LIBRARIES = (
    "torchvision",
    "timm",
    "segmentation_models_pytorch",
    "ultralytics",
    "transformers",
    "diffusers",
    "monai",
)
STEPS = {"transformers": 40}
"""Of such a library every so manieth file is in the default run."""

CONVOLUTION = re.compile(r"\b(?:Lazy)?Conv(?:Transpose)?[123]d\b")
TESTS = Path(__file__).parents[1]


def folder_of(library: str) -> Path:
    spec = find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{library} is not installed")
    return Path(spec.submodule_search_locations[0])


def files(library: str) -> list[Path]:
    found = sorted(folder_of(library).rglob("*.py"))
    return [path for path in found if CONVOLUTION.search(path.read_text(errors="replace"))]


def parameters() -> Iterator[Any]:
    for library in LIBRARIES:
        step = STEPS.get(library, 1)
        yield pytest.param(library, slice(0, None, step), id=library)
        if step > 1:
            yield pytest.param(
                library, slice(None), id=f"all of {library}", marks=pytest.mark.nightly
            )


@pytest.mark.parametrize(("library", "some"), list(parameters()))
def test_every_file_is_the_same_but_for_the_calls_and_a_second_run_changes_nothing(
    library: str, some: slice
) -> None:
    changed = 0
    for path in files(library)[some]:
        old = read(path).text
        new = rewrite_text(old, path=path)
        if new.text == old:
            continue
        changed += 1
        compile(new.text, str(path), "exec")
        replaced = {
            (site.place.line, site.place.column - 1) for site in new.sites if site.is_candidate
        }
        assert outside(new.text, new, set()) == outside(old, new, replaced), path
        assert comments(old) == [each for each in comments(new.text) if each in comments(old)], path
        again = rewrite_text(new.text, path=path)
        assert again.text == new.text, path
        assert not any(site.is_candidate for site in again.sites), path
    assert changed > 0


_REPLACED = ast.Name("REPLACED")


class _AsBefore(ast.NodeTransformer):
    """Takes out what a rewrite puts in: classes, guards, and its names for the called class."""

    def __init__(self, names: set[str], calls: set[tuple[int, int]]) -> None:
        self._names, self._calls = names, calls

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST | None:
        return None if MARK in (ast.get_docstring(node) or "") else self.generic_visit(node)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        return None  # one may be added, and those that nothing needs any more go

    visit_ImportFrom = visit_Import  # noqa: N815  # the name that ast looks for

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if ast.unparse(node.func).endswith(".where_it_saves"):
            (node,) = node.args  # type: ignore[assignment]  # the call that it decides on
            node.func = _REPLACED
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name | ast.Attribute) -> ast.AST:
        if node is _REPLACED:
            return node
        name = ast.unparse(node)
        is_called = (node.lineno, node.col_offset) in self._calls
        if name in self._names or (is_called and CONVOLUTION.search(name)):
            return _REPLACED
        return self.generic_visit(node)

    visit_Attribute = visit_Name  # noqa: N815  # the name that ast looks for


def outside(text: str, rewrite: Rewrite, calls: set[tuple[int, int]]) -> str:
    """What the text says besides the calls at these places, and those of inserted classes."""
    names = set(rewrite.class_names.values())
    return ast.dump(_AsBefore(names, calls).visit(ast.parse(text)))


def comments(text: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [each.string for each in tokens if each.type == tokenize.COMMENT]


def families(library: str, step: int, folder: Path | None) -> dict[str, Any]:
    """What ``families.py`` says of a library's models, as installed or as copied to a folder."""
    paths = [str(each) for each in (folder, TESTS, TESTS.parent) if each is not None]
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("families.py")), library, str(step)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {found["name"]: found for found in map(json.loads, run.stdout.splitlines())}


def rewritten(library: str, folder: Path) -> Path:
    """A rewritten copy of a library."""
    home = folder_of(library)
    shutil.copytree(home, folder / library, ignore=shutil.ignore_patterns("__pycache__"))
    if home.with_name(f"{library}.libs").is_dir():
        (folder / f"{library}.libs").symlink_to(home.with_name(f"{library}.libs"))
    assert main(["-q", str(folder / library)]) == 0
    return folder


@pytest.mark.parametrize(
    ("library", "step", "fewest"),
    [
        ("torchvision", 1, 9),
        ("timm", 4, 5),
        pytest.param("timm", 1, 35, marks=pytest.mark.nightly),
    ],
)
def test_a_model_of_each_family_builds_and_runs_with_the_parameters_predicted(
    library: str, step: int, fewest: int, tmp_path: Path
) -> None:
    copy = rewritten(library, tmp_path)
    before, after = families(library, step, None), families(library, step, copy)
    assert before.keys() == after.keys()
    smaller = 0
    for name, found in after.items():
        saved = 0
        for arguments in found["separable"]:
            spec = ConvSpec(**{**arguments, "kernel_size": tuple(arguments["kernel_size"])})
            standard, separable = cost(spec), separable_cost(spec)
            assert standard is not None
            assert separable is not None
            saved += standard.params - separable.params
        assert found["params"] == before[name]["params"] - saved, name
        assert found["failure"] == before[name]["failure"], name
        if found["is_meta"]:  # what a detector selects depends on its weights
            assert found["shapes"] == before[name]["shapes"], name
        smaller += saved > 0
    assert smaller >= fewest


@pytest.mark.parametrize(
    ("library", "file", "model"),
    [
        ("timm", "models/resnet.py", "resnet18"),
        ("timm", "models/dla.py", "dla34"),
        ("torchvision", "models/densenet.py", "densenet121"),
    ],
)
def test_a_checkpoint_becomes_one_that_the_rewritten_network_loads_strictly(
    library: str, file: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder_of(library), tmp_path / library)
    network = load_target(f"{library}.models:{model}")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "in.pt")
    command = [str(tmp_path / library / file), "--model", model, "--input-size", "1,3,64,64"]
    weights = ["--weights", str(tmp_path / "in.pt"), "--weights-out", str(tmp_path / "out.pt")]
    assert main([*command, *weights]) == 0
    assert "out.pt: state_dict loads strictly; on random input" in capsys.readouterr().out
