"""The command on torchvision's own files: the result builds, runs, and is as small as predicted."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dwsconv.command.cli import main
from pytest_dwsconv.command.trial.evidence import model_of_file
from pytest_dwsconv.report import Report
from pytest_dwsconv.source.edit import rewrite_text
from pytest_dwsconv.source.sites import BuildEvidence

torchvision = pytest.importorskip("torchvision")
MODELS = Path(torchvision.__file__).parent / "models"


@pytest.fixture
def copied(tmp_path: Path) -> Any:
    """Copies one of torchvision's files so that it can be imported beside torchvision itself."""

    def copy(name: str) -> Path:
        text = (MODELS / name).read_text()
        text = re.sub(r"^from \.\.", "from torchvision.", text, flags=re.MULTILINE)
        text = re.sub(r"^from \.", "from torchvision.models.", text, flags=re.MULTILINE)
        # torchvision has these names
        text = re.sub(r"^@register_model\(\)\n", "", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return copy


def load(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"rewritten_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def predicted(path: Path, model: str, settle: bool) -> Report:
    """The model's report with the verdicts of its file, or with those of the run if ``settle``."""
    built = model_of_file(path, model)
    return built.report_after_rewrite(
        rewrite_text(path.read_text(), evidence=built.evidence if settle else BuildEvidence()).sites
    )


@pytest.mark.parametrize(
    ("file", "model", "settle", "candidates"),
    [
        ("resnet.py", "resnet18", True, 16),
        ("vgg.py", "vgg11", False, 7),
    ],
)
def test_the_result_builds_runs_and_has_the_size_predicted(
    copied: Any, file: str, model: str, settle: bool, candidates: int
) -> None:
    path = copied(file)
    with torch.device("meta"):  # reason: VGG's linear layers take seconds to initialise
        report = predicted(path, model, settle)
        assert len(report.candidates) == candidates
        assert main([str(path), *(["--model", model] if settle else [])]) == 0
        rewritten = getattr(load(path), model)()
        assert params(rewritten) == report.separable_params < report.params
        assert rewritten(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ([], 1, "for 1 of the 8 built here: decided when it runs"),
        (["--no-guards"], 0, "(1 of the 8 built here)"),
    ],
)
def test_a_call_that_also_builds_the_stem_is_not_just_replaced(
    copied: Any,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    words: str,
) -> None:
    """All eight convolutions of a VGG come from one call; the first of them sees three channels."""
    arguments = ["--check", str(copied("vgg.py")), "--model", "vgg11", *options]
    assert main(arguments) == status
    printed = " ".join(capsys.readouterr().out.split())
    assert "with so few input channels the class that is inserted" in printed
    assert words in printed


def test_resnet_18_becomes_six_times_smaller_and_runs_for_real(copied: Any) -> None:
    path = copied("resnet.py")
    assert main([str(path), "--model", "resnet18", "--input-size", "1,3,64,64"]) == 0
    module = load(path)
    rewritten = module.resnet18().eval()
    assert 5.9 < params(torchvision.models.resnet18()) / params(rewritten) < 6.1
    assert rewritten(torch.randn(2, 3, 64, 64)).isfinite().all()
    assert module.resnext50_32x4d()(torch.randn(2, 3, 64, 64)).shape == (2, 1000), "groups are kept"


@pytest.mark.parametrize(
    "name",
    [
        "alexnet.py",
        "densenet.py",
        "mnasnet.py",
        "shufflenetv2.py",
        "detection/fcos.py",
        "detection/ssd.py",
        "segmentation/deeplabv3.py",
        "video/resnet.py",
    ],
)
def test_a_second_rewrite_changes_nothing(name: str) -> None:
    once = rewrite_text((MODELS / name).read_text())
    twice = rewrite_text(once.text)
    assert twice.text == once.text
    assert not any(site.is_candidate for site in twice.sites)


def test_convolutions_that_a_loop_over_children_initialises_are_left_alone() -> None:
    text = (MODELS / "detection/fcos.py").read_text()
    result = rewrite_text(text)
    assert result.text == text
    assert {site.judgement.code for site in result.sites} == {"DWS110"}
