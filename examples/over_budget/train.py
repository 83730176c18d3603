"""Train the network with labels, as you did with yours long ago."""

import torch
from shapes import ShapeNet, accuracy, pictures
from torch.nn import functional as F

torch.manual_seed(0)
network = ShapeNet()
optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
STEPS = 300
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=STEPS)
for step in range(STEPS):
    images, classes = pictures(64, seed=1000 + step)
    loss = F.cross_entropy(network(images), classes)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
torch.save(network.state_dict(), "shapes.pt")
print(f"accuracy {accuracy(network):.1%}")
