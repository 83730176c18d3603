"""The command on torchvision's own model files: the result imports, builds, runs, and is as small as foretold."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dwsconv.cli import main
from pytest_dwsconv.evidence import recording
from pytest_dwsconv.source.edit import rewrite_text
from pytest_dwsconv.source.sites import Site
from pytest_dwsconv.targets import build_from_file

torchvision = pytest.importorskip("torchvision")
MODELS = Path(torchvision.__file__).parent / "models"


@pytest.fixture
def copied(tmp_path: Path) -> Any:
    """Copies one of torchvision's files so that it can be imported from anywhere, beside torchvision itself."""

    def copy(name: str) -> Path:
        text = (MODELS / name).read_text()
        text = re.sub(r"^from \.\.", "from torchvision.", text, flags=re.MULTILINE)
        text = re.sub(r"^from \.", "from torchvision.models.", text, flags=re.MULTILINE)
        text = re.sub(r"^@register_model\(\)\n", "", text, flags=re.MULTILINE)  # torchvision has these names
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


def foretold(path: Path, model: str, settle: bool) -> tuple[list[Site], int]:
    """The sites to be changed, and the parameters that this takes off one model, by what each call builds."""
    with recording(path) as built:
        build_from_file(path, model)
    text = path.read_text()
    static = {site.place for site in rewrite_text(text).sites if site.is_candidate}
    changed = [
        site
        for site in rewrite_text(text, evidence=built).sites
        if site.is_candidate and (settle or site.place in static)
    ]
    findings = [site.finding(path.name) for site in changed]
    return changed, sum((finding.params or 0) - (finding.separable_params or 0) for finding in findings)


@pytest.mark.parametrize(
    ("file", "model", "settle", "sites"),
    [
        ("resnet.py", "resnet18", False, 1),
        ("resnet.py", "resnet18", True, 2),
        ("vgg.py", "vgg11", False, 1),
        ("vgg.py", "vgg11", True, 1),
    ],
)
def test_the_result_builds_runs_and_has_the_size_foretold(
    copied: Any, file: str, model: str, settle: bool, sites: int
) -> None:
    path = copied(file)
    with torch.device("meta"):  # reason: VGG's linear layers take seconds to initialise
        before = params(build_from_file(path, model))
        changed, saved = foretold(path, model, settle)
        assert len(changed) == sites
        assert main([str(path), *(["--model", model] if settle else [])]) == 0
        rewritten = getattr(load(path), model)()
        assert params(rewritten) == before - saved
        assert saved > 0
        assert rewritten(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_resnet_18_becomes_six_times_smaller_and_runs_for_real(copied: Any) -> None:
    path = copied("resnet.py")
    assert main([str(path), "--model", "resnet18", "--input-size", "1,3,64,64"]) == 0
    module = load(path)
    rewritten = module.resnet18().eval()
    assert 6.0 < params(torchvision.models.resnet18()) / params(rewritten) < 6.4
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


def test_a_loop_that_needs_every_bias_keeps_its_convolutions() -> None:
    text = (MODELS / "detection/fcos.py").read_text()
    result = rewrite_text(text)
    assert result.text == text
    assert {site.judgement.code for site in result.sites} == {"DWS110"}
