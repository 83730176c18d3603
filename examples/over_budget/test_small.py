"""The network that is shipped: small enough, and it does what the original does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import SIDE, ShapeNet, pictures
from torch import nn

from pytest_dwsconv import Plan, apply_plan


def small() -> nn.Module:
    """The rewritten network with its weights, as the program that uses it loads it."""
    network = apply_plan(ShapeNet(), Plan.from_json(Path("plan.json").read_text()))
    network.load_state_dict(torch.load("small.pt"))
    return network


@pytest.fixture
def original() -> nn.Module:
    network = ShapeNet()
    network.load_state_dict(torch.load("shapes.pt"))
    return network


def test_fits_the_device(dws_budget: Any) -> None:
    dws_budget(small(), (1, 1, SIDE, SIDE), params="16k")


def test_does_what_the_original_does(dws_agreement: Any, original: nn.Module) -> None:
    images, _ = pictures(500, seed=5)
    dws_agreement(small(), original, images.split(100), min_top1="95%", max_error=0.2)
