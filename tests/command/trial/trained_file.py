"""A file with a network, and what its checkpoint is to become."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv import rewrite
from pytest_dwsconv.targets import build_from_file

FILE = """\
from torch import nn


class Block(nn.Sequential):
    def __init__(self, inputs, outputs, groups=1):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=groups == 1)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(Block(8, 16), Block(16, 16, 16), Block(16, 32), nn.Conv2d(32, 4, 1))
"""
COMMAND = ["net.py", "--model", "Net", "--input-size", "2,8,12,12"]
WEIGHTS = ["--weights", "in.pt", "--weights-out", "out.pt"]
Output = pytest.CaptureFixture[str]
State = Mapping[str, Tensor]


def trained() -> nn.Module:
    """A trained network, whose file net.py is written into the working folder."""
    Path("net.py").write_text(FILE)
    torch.manual_seed(0)
    network = build_from_file(Path("net.py"), "Net")
    network(torch.randn(4, 8, 12, 12))  # statistics of batch normalisation
    return network.eval()


def nearest(model: nn.Module) -> nn.Module:
    """The network whose kernels are nearest, in the order of the inserted class."""
    return rewrite(model, order="depthwise_first").model.eval()


def loaded(state: State) -> nn.Module:
    network = build_from_file(Path("net.py"), "Net")
    network.load_state_dict(state, strict=True)
    return network.eval()


def check_alike(network: nn.Module, expected: nn.Module) -> None:
    x = torch.randn(2, 8, 12, 12)
    torch.testing.assert_close(network(x), expected(x))
