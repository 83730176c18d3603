"""The tests of a small network: it works, and it is quick enough."""

import pytest
import torch
from torch import nn


class Net(nn.Module):
    """A stem and two layers, for images of 3 x 32 x 32."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.body = nn.Conv2d(8, 16, 3)
        self.head = nn.Conv2d(16, 28, 1)

    def forward(self, x):
        return self.head(torch.relu(self.body(torch.relu(self.stem(x))))).mean((2, 3))


@pytest.fixture
def net():
    return Net().eval()


def test_forward(net):
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 28)


@pytest.mark.dws_budget(params="2k", latency="1s", target="bfloat16", input_size="1,3,32,32")
def test_is_quick_enough(net):
    pass
