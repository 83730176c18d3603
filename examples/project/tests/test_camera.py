import torch
from edge_models import CameraNet


def test_five_scores_for_each_image() -> None:
    assert CameraNet()(torch.zeros(1, 3, 48, 48)).shape == (1, 5)
