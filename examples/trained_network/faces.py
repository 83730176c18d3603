"""R-Net, a published network that tells faces from other patches, made separable and fitted.

The weights come with the package facenet-pytorch, the images with scikit-image.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv import analyze, measure_agreement, rewrite

SIDE = 24


class RNet(nn.Module):
    """The second network of MTCNN (Zhang et al. 2016), for patches of 3 x 24 x 24.

    It gives the scores of "no face" and "face", and the offsets of the face's box.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x))
        x = self.prelu4(self.dense4(x.permute(0, 3, 2, 1).flatten(1)))
        return self.dense5_1(x), self.dense5_2(x)


def trained() -> RNet:
    """R-Net with its published weights."""
    package = find_spec("facenet_pytorch")
    if package is None or package.origin is None:
        raise SystemExit("the weights are in a package: pip install --no-deps facenet-pytorch")
    network = RNet()
    network.load_state_dict(torch.load(Path(package.origin).parent / "data" / "rnet.pt"))
    return network.eval()


def patches() -> tuple[Tensor, Tensor]:
    """200 patches as R-Net takes them, and which of them are faces: every other one."""
    grey = torch.from_numpy(data.lfw_subset()).float().unsqueeze(1)
    images = F.interpolate(grey, (SIDE, SIDE), mode="bilinear").expand(-1, 3, -1, -1)
    mixed = torch.stack([torch.arange(100), torch.arange(100, 200)], dim=1).flatten()
    return ((images * 255 - 127.5) / 128)[mixed], mixed < 100


def crops(count: int, seed: int) -> Tensor:
    """Squares cut at random from photographs."""
    generator = torch.Generator().manual_seed(seed)
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    found = []
    for number in range(count):
        photograph = torch.from_numpy(photographs[number % 4].copy()).permute(2, 0, 1).float()
        height, width = photograph.shape[1:]
        side = int(torch.randint(SIDE, height // 2, (), generator=generator))
        top = int(torch.randint(0, height - side, (), generator=generator))
        left = int(torch.randint(0, width - side, (), generator=generator))
        square = photograph[None, :, top : top + side, left : left + side]
        found.append(F.interpolate(square, (SIDE, SIDE), mode="area"))
    return (torch.cat(found) - 127.5) / 128


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, faces: Tensor) -> float:
    scores: Tensor = network.eval()(images)[0]
    return (scores.argmax(1).bool() == faces).float().mean().item()


def main() -> None:
    network = trained()
    images, faces = patches()
    unseen, labels = images[100:], faces[100:]
    print(analyze(network, (1, 3, SIDE, SIDE)).tree(depth=1))
    print(f"original: {accuracy(network, unseen, labels):.0%} right")

    calibration = torch.cat([images[:100], crops(412, seed=0)])  # no labels
    calibration = calibration[torch.randperm(512, generator=torch.Generator().manual_seed(0))]
    for multiplier in (1, 2):
        nearest = rewrite(network, init="svd", depth_multiplier=multiplier)
        fitted = rewrite(
            network, init="fit", depth_multiplier=multiplier, calibration=calibration.split(64)
        )
        print(f"multiplier {multiplier}, {fitted.report_after.params:,} parameters")
        for name, model in (("nearest kernels", nearest.model), ("fitted", fitted.model)):
            error = measure_agreement(model, network, unseen.split(50)).error
            print(
                f"  {name}: {accuracy(model, unseen, labels):.0%} right, output error {error:.2f}"
            )


if __name__ == "__main__":
    main()
