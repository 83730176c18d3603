"""Trained networks that Python packages ship: a detector and a recogniser of text in ONNX, MTCNN.

They are parts of ``benchmarks/accuracy.py``, ``packaged`` and ``mtcnn``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv import analyze, rewrite

BATCH = 8
SHARES = 0.44, 0.62
"""What a budget leaves of the parameters, or of those of the candidates where few others are."""
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghkmnpqrstuvwxyz23456789"
FACES = 1024
"""Crops that the fit of MTCNN's networks is calibrated on."""


class Packaged(NamedTuple):
    """A network, inputs of a count and a seed, budgets, and how a rewritten one is judged.

    ``calibration`` and ``unseen`` are how many inputs it is fitted to, and judged on.
    """

    name: str
    network: nn.Module
    inputs: Callable[[int, int], Tensor]
    calibration: int
    unseen: int
    budgets: Sequence[int]
    judge: Callable[[Tensor, Tensor], Sequence[str]]


def packaged_table() -> None:
    """Uniform multipliers and plans of each network, with what is left of its outputs."""
    for packaged in (detector(), recogniser()):
        rows = list(_rows(packaged))
        print(tabulate(rows, ["", "parameters", "error by output", "lines", "CPU s"], intfmt=","))


def _rows(packaged: Packaged) -> Any:
    network = packaged.network
    batches = list(packaged.inputs(packaged.calibration, 0).split(BATCH))
    unseen = packaged.inputs(packaged.unseen, 1)
    wanted = outputs(network, unseen)
    methods: dict[str, dict[str, Any]] = {"SVD, r = 2": {"depth_multiplier": 2}}
    fits: dict[str, dict[str, Any]] = {
        "fit, r = 1": {},
        "fit, r = 2": {"depth_multiplier": 2},
        **{f"fit, planned at {budget:,}": {"budget": budget} for budget in packaged.budgets},
    }
    for name, options in fits.items():
        methods[name] = {**options, "init": "fit", "calibration": batches}
    for name, options in methods.items():
        start = time.process_time()
        model = rewrite(network, batches[0].shape, **options).model
        seconds = time.process_time() - start
        found = outputs(model, unseen)
        judged = packaged.judge(found, wanted)
        row = [f"{packaged.name}, {name}", params(model), *judged, f"{seconds:.0f}"]
        print(*row, sep=" | ", flush=True)
        yield row


@torch.no_grad()
def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([model.eval()(part) for part in inputs.split(BATCH)])


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def error(found: Tensor, wanted: Tensor) -> float:
    """Root of the squared error over the squared variation."""
    return float((found - wanted).norm() / (wanted - wanted.mean()).norm())


def folder(package: str) -> Path:
    """Where a package lies; it is not imported, for that may need others."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"pip install {package}")
    return Path(found.origin).parent


def model_of(package: str, name: str) -> Any:
    import onnx  # type: ignore[import-not-found]  # not among our dependencies

    return onnx.load(str(folder(package) / name))


def detector(side: int = 160) -> Packaged:
    """A YOLOv8 of 3.0M parameters; its output has boxes in pixels, then scores of 18 classes."""
    from onnx2torch import convert  # type: ignore[import-not-found]  # not among our dependencies

    def inputs(count: int, seed: int) -> Tensor:
        return (crops(side, count, seed) * 128 + 127.5) / 255

    def judge(found: Tensor, wanted: Tensor) -> list[str]:
        boxes, scores = (error(found[:, part], wanted[:, part]) for part in (BOXES, SCORES))
        return [f"boxes {boxes:.3f}, classes {scores:.3f}", "-"]

    network = convert(model_of("nudenet", "320n.onnx")).eval()
    budgets = [int(share * params(network)) for share in SHARES]
    return Packaged("detector", network, inputs, 128, 512, budgets, judge)


BOXES, SCORES = slice(0, 4), slice(4, None)


class Recogniser(nn.Module):
    """Convolutions, a bidirectional LSTM and a linear layer: scores (N, places, characters)."""

    def __init__(self, model: Any) -> None:
        from onnx import helper, numpy_helper
        from onnx2torch import convert

        super().__init__()
        nodes, outputs = model.graph.node, model.graph.output
        lstm = next(node for node in nodes if node.op_type == "LSTM")
        gemm = next(node for node in nodes if node.op_type == "Gemm")
        weights = {
            each.name: torch.from_numpy(numpy_helper.to_array(each).copy())
            for each in model.graph.initializer
        }
        # reason: onnx2torch has no LSTM, so all from the transposition before it on is built here
        end = next(place for place, node in enumerate(nodes) if node.op_type == "Transpose")
        last = nodes[end].input[0]
        del nodes[end:], outputs[:]
        outputs.append(helper.make_tensor_value_info(last, 1, ["N", "C", "H", "W"]))
        self.features = convert(model)
        own, state, biases = (weights[name] for name in lstm.input[1:4])
        hidden = state.shape[2]
        self.lstm = nn.LSTM(own.shape[2], hidden, bidirectional=True)
        for way, suffix in enumerate(("", "_reverse")):
            parts = own[way], state[way], *biases[way].split(4 * hidden)
            for name, part in zip(
                ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), parts, strict=True
            ):
                # reason: ONNX has the gates in the order input, output, forget, cell
                i, o, f, c = part.split(hidden)
                getattr(self.lstm, f"{name}_l0{suffix}").data = torch.cat([i, f, c, o])
        self.linear = nn.Linear(2 * hidden, weights[gemm.input[1]].shape[0])
        self.linear.weight.data, self.linear.bias.data = (weights[n] for n in gemm.input[1:3])

    def forward(self, x: Tensor) -> Tensor:
        places: Tensor = self.features(x).permute(3, 0, 1, 2).flatten(2)
        scores: Tensor = self.linear(self.lstm(places)[0])
        return scores.transpose(0, 1)


def recogniser() -> Packaged:
    """A text recogniser of 13.5M parameters, 0.9M of which are those of its convolutions."""
    network = Recogniser(model_of("ddddocr", "common.onnx")).eval()
    report = analyze(network, (1, 1, 64, 192))
    replaceable = sum(finding.params for finding in report.candidates)
    budgets = [params(network) - int((1 - share) * replaceable) for share in SHARES]

    def judge(found: Tensor, wanted: Tensor) -> list[str]:
        same = sum(_read(one) == _read(other) for one, other in zip(found, wanted, strict=True))
        return [f"{error(found, wanted):.3f}", f"{same / len(wanted):.1%}"]

    return Packaged("recogniser", network, text_lines, 96, 256, budgets, judge)


def _read(scores: Tensor) -> list[int]:
    """The characters of a line: the best of each place, without repeats and blanks (0)."""
    best = torch.unique_consecutive(scores.argmax(1)).tolist()
    return [character for character in best if character]


def text_lines(count: int, seed: int) -> Tensor:
    """Lines of 4 to 6 characters in several fonts, sizes and greys, (N, 1, 64, 192) from 0 to 1."""
    from PIL import Image, ImageDraw  # type: ignore[import-not-found]  # not among our dependencies

    draw, lines = random.Random(seed), []
    for _ in range(count):
        ground, ink = draw.randint(180, 255), draw.randint(0, 110)
        image = Image.new("L", (192, 64), ground)
        pen, left = ImageDraw.Draw(image), draw.randint(4, 20)
        font = _font(draw.randrange(len(FONTS)), draw.randint(30, 44))
        for _ in range(draw.randint(4, 6)):
            letter = draw.choice(LETTERS)
            pen.text((left, draw.randint(2, 14)), letter, ink, font)
            left += int(pen.textlength(letter, font)) + draw.randint(-1, 4)
        image = image.rotate(draw.uniform(-4, 4), fillcolor=ground)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, 64, 192)
        lines.append(pixels.float() / 255)
    return torch.stack(lines)


FONTS = "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "cmss10"


@cache
def _font(number: int, size: int) -> Any:
    from PIL import ImageFont

    fonts = folder("matplotlib") / "mpl-data/fonts/ttf"
    return ImageFont.truetype(str(fonts / f"{FONTS[number]}.ttf"), size)


def crops(side: int, count: int, seed: int) -> Tensor:
    """Pieces of real photographs at several scales, as the cascade of MTCNN would hand them on."""
    from skimage import data
    from sklearn.datasets import load_sample_images  # type: ignore[import-not-found]  # not among our dependencies

    photographs = [data.astronaut(), data.coffee(), data.chelsea(), *load_sample_images().images]
    draw, pieces = random.Random(seed), []
    for _ in range(count):
        photograph = draw.choice(photographs)
        size = draw.randint(side, min(200, *photograph.shape[:2]))
        top, left = (draw.randint(0, full - size) for full in photograph.shape[:2])
        piece = torch.from_numpy(photograph[top : top + size, left : left + size].copy()).permute(
            2, 0, 1
        )[None]
        pieces.append((F.interpolate(piece.float(), (side, side), mode="area") - 127.5) / 128)
    return torch.cat(pieces)


def mtcnn_table() -> None:
    from facenet_pytorch.models.mtcnn import ONet, RNet  # type: ignore[import-not-found]  # not among our dependencies

    rows = []
    for make, side in ((RNet, 24), (ONet, 48)):
        network = make().eval()
        calibration, unseen = list(crops(side, FACES, 0).split(64)), crops(side, 1000, 1)
        shape, fit = (1, 3, side, side), {"init": "fit", "calibration": calibration}
        for multiplier in (1, 2, 4):
            size = params(rewrite(network, shape, depth_multiplier=multiplier).model)
            methods: dict[str, dict[str, Any]] = {
                "SVD": {"depth_multiplier": multiplier},
                "fit": {"depth_multiplier": multiplier, **fit},
                "fit, planned": {"budget": size, **fit},
            }
            for name, options in methods.items():
                start = time.process_time()
                model = rewrite(network, shape, **options).model
                seconds = f"{time.process_time() - start:.0f}"
                left = [params(network), params(model), *agreement(model, network, unseen)]
                rows.append([make.__name__, name, multiplier, *left, seconds])
                print(*rows[-1], sep=" | ", flush=True)
    heads = [
        "network",
        "method",
        "r",
        "parameters",
        "then",
        "same decision",
        "face score, mean difference",
        "box error",
        "CPU s",
    ]
    print(tabulate(rows, heads, intfmt=","))


@torch.no_grad()
def agreement(model: nn.Module, network: nn.Module, unseen: Tensor) -> list[str]:
    """Same face or no face at 0.6; difference of its probability; box offsets' relative error."""
    found, wanted = model(unseen), network(unseen)
    score, target = found[-1][:, 1], wanted[-1][:, 1]
    same = ((score > 0.6) == (target > 0.6)).float().mean().item()
    box = ((found[0] - wanted[0]).norm() / (wanted[0] - wanted[0].mean(0)).norm()).item()
    return [f"{same:.1%}", f"{(score - target).abs().mean().item():.4f}", f"{box:.3f}"]
