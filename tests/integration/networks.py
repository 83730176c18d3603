"""Two networks of the literature, for environments without torchvision.

They have the layers, and so the number of parameters, of torchvision's; the weights are random.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2015, figure 5, left)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """18 layers for images of any size (He et al. 2015, table 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = (64, 64, 128, 256, 512)
        pairs = pairwise(widths)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    BasicBlock(channels, width, 1 if width == 64 else 2),
                    BasicBlock(width, width, 1),
                )
                for channels, width in pairs
            )
        )
        self.fc = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.maxpool(F.relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _conv(
    channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project (Sandler et al. 2018, table 1)."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = nn.Identity() if expansion == 1 else _conv(channels, hidden, 1)
        self.filter = _conv(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width))
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.filter(self.expand(x)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Inverted residuals (Sandler et al. 2018, table 2): expansion, width, repeats, stride."""

    ROWS = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 32, 3, 2)
        blocks, channels = [], 32
        for expansion, width, repeats, stride in self.ROWS:
            for index in range(repeats):
                blocks.append(
                    InvertedResidual(channels, width, stride if index == 0 else 1, expansion)
                )
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv(channels, 1280, 1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def alive(model: nn.Module, images: Tensor) -> nn.Module:
    """Make every normalisation layer hand on what these images give it at variance one.

    Untrained, with the statistics they are made with, the layers let a signal die on its way
    through; with the mean taken off as well a deep network blows up the smallest rounding, as one
    that has learnt something does not.
    """
    handles = [
        module.register_forward_pre_hook(_scale_to_one)
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model.eval()(images)
    for handle in handles:
        handle.remove()
    return model


def _scale_to_one(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean = torch.zeros(norm.num_features)
    norm.running_var = inputs[0].square().mean((0, 2, 3))
