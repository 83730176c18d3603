"""A network for a camera: standard convolutions, 3.1 million parameters."""

import torch
from torch import nn


def block(inputs: int, outputs: int, stride: int = 2) -> nn.Sequential:
    """A 3 x 3 convolution and its activation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU6())


class Camera(nn.Module):
    """Ten scores for images of 3 x 96 x 96."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(3, 32), block(32, 64), block(64, 128), block(128, 256), block(256, 512, stride=1)
        )
        self.mix = nn.Sequential(nn.Conv2d(512, 320, 3, padding=1), nn.ReLU6())
        self.head = nn.Linear(320, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.mix(self.features(x)).mean((2, 3)))
        return scores
