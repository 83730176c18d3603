"""A small image classifier to try the command on: a stem, three stages, a head.

Build it with ``classifier()``; it takes batches of 3 x 64 x 64 images.
"""

import torch
from torch import nn


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut, as in ResNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(out)) + x)


def downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    """Halve the resolution."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class Classifier(nn.Module):
    """About two million parameters, nearly all of them in 3 x 3 convolutions."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),  # dws: skip - it sees only three channels
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        )
        self.stages = nn.Sequential(
            Block(64),
            downsample(64, 128),
            Block(128),
            downsample(128, 256),
            Block(256),
        )
        self.mix = nn.Sequential(
            nn.Conv2d(256, 256, 5, padding=2, groups=256),  # depthwise already
            nn.Conv2d(256, 384, 1),
            nn.ReLU(),
        )
        self.head = nn.Linear(384, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mix(self.stages(self.stem(x)))
        scores: torch.Tensor = self.head(x.mean((2, 3)))
        return scores


def classifier() -> Classifier:
    """The model for ten classes."""
    return Classifier(num_classes=10)
