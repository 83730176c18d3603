"""A small image classifier."""

import torch
from torch import nn


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution, its normalisation and its activation."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    """Four convolutions and a linear layer, for images of 3 x 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(3, 16, stride=2), block(16, 32), block(32, 64, stride=2), block(64, 64)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.features(x).mean((2, 3)))
        return scores
