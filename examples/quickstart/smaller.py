import torch
from net import Net

from pytest_dwsconv import rewrite

network = Net()  # yours, with its trained weights
images = torch.rand(128, 3, 32, 32)  # inputs as it will see them; labels are not needed

result = rewrite(network, init="fit", calibration=images.split(16), budget="30k")
print(result)
torch.save(result.model, "smaller.pt")
