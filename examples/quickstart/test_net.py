import torch
from net import Net


def test_ten_scores_for_each_image() -> None:
    assert Net()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
