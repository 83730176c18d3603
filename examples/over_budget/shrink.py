"""Carry out the plan, fit the new weights, train them further, and save the result."""

from pathlib import Path

import torch
from shapes import ShapeNet, accuracy, pictures

from pytest_dwsconv import Plan, distill, rewrite

network = ShapeNet()
network.load_state_dict(torch.load("shapes.pt"))
print(f"original: accuracy {accuracy(network):.1%}")

plan = Plan.from_json(Path("plan.json").read_text())
nearest = rewrite(network, plan=plan, init="svd")
print(f"nearest kernels: accuracy {accuracy(nearest.model):.1%}")

calibration, _ = pictures(256, seed=2)  # the labels are not used
result = rewrite(network, plan=plan, init="fit", calibration=calibration.split(32))
print(f"fitted: accuracy {accuracy(result.model):.1%}")

more, _ = pictures(3200, seed=3)
unseen, _ = pictures(256, seed=4)
distill(
    result.model,
    network,
    more.split(16),
    steps=200,
    learning_rate=0.01,
    held_out=unseen.split(64),
)
print(f"distilled: accuracy {accuracy(result.model):.1%}")

torch.save(result.model.state_dict(), "small.pt")
