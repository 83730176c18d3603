"""Networks made at random, of layers and of what people write between them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Does(nn.Module):
    """A piece of a forward, with the modules and parameters that it uses."""

    def __init__(self, forward: Callable[..., Tensor], *used: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.does = forward
        self.parts = nn.ModuleList([one for one in used if isinstance(one, nn.Module)])
        self.kernels = nn.ParameterList([one for one in used if isinstance(one, nn.Parameter)])

    def forward(self, x: Tensor) -> Tensor:
        return self.does(x, *self.parts, *self.kernels)


class Maker:
    """Makes pieces that fit one after the other, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.channels = self.random.choice([1, 3, 4, 8])
        self.shape = (self.random.choice([1, 2, 3]), self.channels, 17, 17)
        kinds = [self.random.choice(_KINDS) for _ in range(self.random.randint(2, 9))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(*(kind(self) for kind in kinds)).eval()

    def conv(self, channels: int, *, stride: int = 1) -> nn.Conv2d:
        """A convolution of random settings that keeps the sides, but for the stride."""
        kernel = self.random.choice([(1, 1), (3, 3), (3, 3), (5, 5), (1, 3), (3, 1)])
        dilation = self.random.choice([1, 1, 2])
        modes: list[Any] = (
            ["zeros", "zeros", "reflect", "circular"] if stride == dilation == 1 else ["zeros"]
        )
        divisors = [g for g in (1, 1, 2, 4) if channels % g == self.channels % g == 0]
        conv = nn.Conv2d(
            self.channels,
            channels,
            kernel,
            stride=stride,
            padding=(dilation * (kernel[0] - 1) // 2, dilation * (kernel[1] - 1) // 2),
            dilation=dilation,
            groups=self.random.choice(divisors),
            bias=self.random.random() < 0.5,
            padding_mode=self.random.choice(modes),
        )
        self.channels = channels
        return conv


def _convolution(maker: Maker) -> nn.Module:
    channels, stride = maker.random.choice([4, 8, 12, 16]), maker.random.choice([1, 1, 2])
    return maker.conv(channels, stride=stride)


def _block(maker: Maker) -> nn.Module:
    """A residual block, of which the activation may write in place."""
    act = nn.ReLU(inplace=maker.random.random() < 0.5)
    conv, norm = maker.conv(maker.channels), nn.BatchNorm2d(maker.channels)
    return Does(lambda x, conv, norm, act: act(norm(conv(x)) + x), conv, norm, act)


def _called_twice(maker: Maker) -> nn.Module:
    return Does(lambda x, conv: conv(conv(x)), maker.conv(maker.channels))


def _branches(maker: Maker) -> nn.Module:
    before = maker.channels
    a = maker.conv(4)
    maker.channels = before
    b = maker.conv(8)
    maker.channels = 12
    return Does(lambda x, a, b: torch.cat([a(x), F.silu(b(x))], dim=1), a, b)


def _functional(maker: Maker) -> nn.Module:
    kernel = nn.Parameter(torch.randn(8, maker.channels, 3, 3) / 9)
    maker.channels = 8
    return Does(lambda x, kernel: F.conv2d(x, kernel, padding=1), kernel)


def _transposed(maker: Maker) -> nn.Module:
    conv = nn.ConvTranspose2d(maker.channels, 4, 2, stride=2)
    maker.channels = 4
    return Does(lambda x, conv: F.max_pool2d(conv(x), 2), conv)


def _written_into(maker: Maker) -> nn.Module:
    place = maker.random.randrange(maker.channels)

    def step(x: Tensor, conv: nn.Module) -> Tensor:
        x = x.clone()
        x[:, place] = (x[:, place] - 0.5) / 2
        x[:, :, ::2] *= 0.5
        x[x < -1] = 0
        y: Tensor = conv(x)
        y[:, :1] += x[:, :1]
        return y

    return Does(step, maker.conv(maker.channels))


def _writing_into_its_input(maker: Maker) -> nn.Module:
    place = maker.random.randrange(maker.channels)

    def step(x: Tensor, conv: nn.Module) -> Any:
        x[:, place] -= 0.25
        torch.mul(x, 0.5, out=x)
        x.clamp_(-1, 1)
        return conv(x)

    return Does(step, maker.conv(maker.channels))


def _conditional(maker: Maker) -> nn.Module:
    """Asks for a value, so that the forward has to run on real tensors."""

    def step(x: Tensor, conv: nn.Module) -> Any:
        return conv(x) if x.abs().mean().item() < 1e9 else x

    return Does(step, maker.conv(maker.channels))


def _attention(maker: Maker) -> nn.Module:
    def step(x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)[:, :32]
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
        scale = (tokens @ mixed.transpose(1, 2)).mean(dim=(1, 2)).sigmoid()
        return x * scale[:, None, None, None]

    return Does(step)


def _one_dimension(maker: Maker) -> nn.Module:
    conv = nn.Conv1d(maker.channels, maker.channels, 3, padding=1)
    return Does(lambda x, conv: conv(x.flatten(2)).reshape(x.shape), conv)


def _squeeze(maker: Maker) -> nn.Module:
    linear = nn.Linear(maker.channels, maker.channels)

    def step(x: Tensor, linear: nn.Module) -> Tensor:
        return x * torch.sigmoid(linear(x.mean((2, 3))))[:, :, None, None]

    return Does(step, linear)


def _resized(maker: Maker) -> nn.Module:
    def step(x: Tensor) -> Tensor:
        return F.interpolate(x, size=x.shape[2:], mode="nearest") + F.avg_pool2d(x, 3, 1, 1)

    return Does(step)


def _double(maker: Maker) -> nn.Module:
    conv = maker.conv(maker.channels).double()
    return Does(lambda x, conv: conv(x.double()).float(), conv)


def _normalised(maker: Maker) -> nn.Module:
    def step(x: Tensor, norm: nn.Module) -> Tensor:
        return F.gelu(norm(x)).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)

    return Does(step, nn.GroupNorm(1, maker.channels))


_KINDS: tuple[Callable[[Maker], nn.Module], ...] = (
    _convolution,
    _convolution,
    _block,
    _called_twice,
    _branches,
    _functional,
    _transposed,
    _written_into,
    _writing_into_its_input,
    _conditional,
    _attention,
    _one_dimension,
    _squeeze,
    _resized,
    _double,
    _normalised,
)
