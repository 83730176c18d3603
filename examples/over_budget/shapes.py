"""Small pictures of discs, squares, crosses and rings, and a network that tells them apart."""

import torch
from torch import Tensor, nn

CLASSES = ("disc", "square", "cross", "ring")
SIDE = 20


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures, of shape (count, 1, 20, 20), and their classes."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    classes = torch.randint(len(CLASSES), (count,), generator=generator)
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    x, y = x - uniform(-0.4, 0.4), y - uniform(-0.4, 0.4)
    angle, radius = uniform(0, 1.57), uniform(0.3, 0.6)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    distance, edge = (x**2 + y**2).sqrt(), torch.maximum(u.abs(), v.abs())
    disc = distance < radius
    square = edge < radius
    cross = square & (torch.minimum(u.abs(), v.abs()) < radius / 3)
    ring = disc & (distance > radius * 0.6)
    shapes = torch.stack([disc, square, cross, ring])[classes, torch.arange(count)]
    noise = torch.randn(count, SIDE, SIDE, generator=generator)
    return (shapes * uniform(0.5, 1.5) + 0.2 * noise).unsqueeze(1), classes


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution with its normalisation and activation."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class ShapeNet(nn.Module):
    """Five convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(1, 16), block(16, 32, 2), block(32, 64), block(64, 64, 2), block(64, 64)
        )
        self.head = nn.Linear(64, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(x).mean((2, 3)))
        return scores


@torch.no_grad()
def accuracy(network: nn.Module) -> float:
    """The share of 2,000 pictures, which no training saw, that the network gets right."""
    images, classes = pictures(2000, seed=1)
    scores = torch.cat([network.eval()(batch) for batch in images.split(500)])
    return (scores.argmax(1) == classes).float().mean().item()
