"""Exported networks on TFLite runtimes of today and of 2021, against the float networks."""

from __future__ import annotations

import gzip
import importlib.util
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from external_files import fashion_resnet
from networks import MobileNetV2, ResNet18, alive
from torch import Tensor, nn

from pytest_dwsconv import rewrite
from pytest_dwsconv.edgetpu import export_int8, judge_model, read_model

# not imported: it takes seconds, and is another process's
if importlib.util.find_spec("litert_torch") is None:
    pytest.skip("litert-torch is not installed", allow_module_level=True)

IMAGES = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
RUNNER = Path(__file__).parent / "tflite_runner.py"
COLOUR, GREY = (1, 3, 96, 96), (1, 1, 28, 28)
REFERENCE = "BUILTIN_REF"  # TFLite's plainest kernels: the same arithmetic on every processor


def noise(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(count, *shape[1:], generator=torch.Generator().manual_seed(seed))


def separable(model: nn.Module, images: Tensor) -> nn.Module:
    return alive(rewrite(model, (1, *images.shape[1:]), init="fresh").model, images)


# Name, network, shape of the input, and what the int8 file must reach against the float network,
# measured on LiteRT 2.3 less a margin: the share of outputs within one step of the output's scale,
# and their correlation. Random deep networks blow up each rounding, MobileNetV2's 52 layers most:
# there LiteRT's optimised and reference kernels, on one file, are as far apart as either is from
# float. A network that has learnt something is not like that.
NETWORKS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], float, float]] = [
    ("MobileNetV2", lambda: alive(MobileNetV2(), noise(8, COLOUR, 1)), COLOUR, 0.05, 0.9),
    ("MobileNetV2 as initialised", lambda: MobileNetV2().eval(), COLOUR, 0.99, 0.99),
    (
        "MobileNetV2, separable",
        lambda: separable(MobileNetV2(), noise(8, COLOUR, 1)),
        COLOUR,
        0.05,
        0.9,
    ),
    ("ResNet-18", lambda: alive(ResNet18(), noise(8, COLOUR, 1)), COLOUR, 0.6, 0.99),
    ("ResNet-18, separable", lambda: separable(ResNet18(), noise(8, COLOUR, 1)), COLOUR, 0.4, 0.99),
    ("trained ResNet", fashion_resnet, GREY, 0.85, 0.99),
    (
        "trained ResNet, separable",
        lambda: separable(fashion_resnet(), fashion("train")[0][:64]),
        GREY,
        0.5,
        0.99,
    ),
]


@pytest.fixture(scope="module", params=NETWORKS, ids=[row[0] for row in NETWORKS])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network, its int8 file, inputs for it, and what it must reach."""
    _, build, shape, *reaches = request.param
    torch.manual_seed(0)
    model = build()
    calibration, images = (
        (noise(32, shape, 2), noise(4, shape, 3)) if shape == COLOUR else _fashion_inputs()
    )
    folder = tmp_path_factory.mktemp("exported")
    content = export_int8(model, shape, calibration=[calibration])
    (folder / "model.tflite").write_bytes(content)
    file = read_model(content)
    inputs = _quantized(images.permute(0, 2, 3, 1).numpy(), file.inputs[0])
    np.save(folder / "inputs.npy", inputs)
    return model, file, folder, inputs, reaches


def _fashion_inputs() -> tuple[Tensor, Tensor]:
    return fashion("train")[0][:256], fashion("t10k")[0][:64]


def _quantized(values: Any, tensor: Any) -> Any:
    scale, zero = tensor.quantization.scales[0], tensor.quantization.zero_points[0]
    return np.clip(np.rint(values / scale) + zero, -128, 127).astype(np.int8)


def run(python: str, folder: Path, kernels: str) -> Any:
    outputs = folder / "outputs.npy"
    outputs.unlink(missing_ok=True)
    command: list[str | Path] = [
        python,
        RUNNER,
        folder / "model.tflite",
        folder / "inputs.npy",
        outputs,
        kernels,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(outputs)


@pytest.fixture(scope="session")
def old_python() -> str:
    found = [
        shutil.which("python3.9"),
        *glob(os.path.expanduser("~/.pyenv/versions/3.9.*/bin/python")),
    ]
    for python in filter(None, found):
        shown = subprocess.run([python, "--version"], capture_output=True, text=True, check=False)
        if shown.stdout.startswith("Python 3.9"):
            return python
    pytest.skip("there is no Python 3.9, the newest that the old runtimes have")


@pytest.fixture(scope="session")
def old_runtimes(old_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An interpreter with tflite-runtime of each version."""
    pythons = {}
    for version in ("2.7.0", "2.14.0"):
        folder = tmp_path_factory.mktemp("runtime") / version
        subprocess.run([old_python, "-m", "venv", folder], check=True)
        python = str(folder / "bin" / "python")
        packages = [f"tflite-runtime=={version}", "numpy<2"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        pythons[version] = python
    return pythons


def test_the_networks_are_those_of_the_literature() -> None:
    """3,504,872 and 11,689,512 are the parameters that torchvision's have."""
    assert sum(parameter.numel() for parameter in MobileNetV2().parameters()) == 3_504_872
    assert sum(parameter.numel() for parameter in ResNet18().parameters()) == 11_689_512


def test_the_file_is_what_the_edge_tpu_asks_for(exported: Any) -> None:
    _, file, folder, _, _ = exported
    support = judge_model(file)
    assert support.maps, str(support)
    for tensor in (*file.inputs, *file.outputs):
        assert (tensor.dtype, tensor.shape[0], tensor.dynamic) == ("INT8", 1, False)
    assert file.inputs[0].shape[-1] in (1, 3)
    assert not any(
        tensor and tensor.outside for operator in file.operators for tensor in operator.inputs
    )
    read = {
        t
        for operator in file.operators
        for t in operator.inputs
        if t and t.constant and t.dtype == "INT8"
    }
    parameters = sum(math.prod(tensor.shape) for tensor in read)
    assert parameters < file.size < 1.2 * parameters + 300_000, (
        "the file holds constants that nothing reads"
    )
    assert file.size == (folder / "model.tflite").stat().st_size


def test_constants_are_aligned_as_the_schema_asks(exported: Any) -> None:
    tflite = pytest.importorskip("tflite")
    content = (exported[2] / "model.tflite").read_bytes()
    model = tflite.Model.GetRootAs(content)
    tables = [model.Buffers(index)._tab for index in range(model.BuffersLength())]
    starts = [table.Vector(table.Offset(4)) for table in tables if table.Offset(4)]
    assert len(starts) > 10
    assert {start % 16 for start in starts} == {0}


def test_it_computes_what_the_float_network_does(exported: Any) -> None:
    model, file, folder, inputs, (share, correlation) = exported
    outputs = run(sys.executable, folder, REFERENCE).astype(int)
    quantization = file.inputs[0].quantization
    real = (inputs.astype(np.float32) - quantization.zero_points[0]) * np.float32(
        quantization.scales[0]
    )
    with torch.no_grad():
        expected = _quantized(
            model(torch.from_numpy(real).permute(0, 3, 1, 2)).numpy(), file.outputs[0]
        )
    reached = float(np.mean(np.abs(outputs - expected) <= 1))
    similar = float(np.corrcoef(outputs.ravel(), expected.ravel())[0, 1])
    kernels = float(np.mean(np.abs(run(sys.executable, folder, "AUTO") - outputs) <= 1))
    sys.stdout.write(
        f"within one step: {reached:.3f} (two kernels: {kernels:.3f}), correlation {similar:.4f}\n"
    )
    assert len(np.unique(outputs)) > 20, "an output that says nothing"
    assert reached >= share
    assert similar >= correlation
    assert reached >= 0.7 * kernels, "farther from float than LiteRT's kernels are from each other"


def test_old_runtimes_compute_the_same(exported: Any, old_runtimes: dict[str, str]) -> None:
    """2.14 gives the bits of LiteRT 2.3; 2.7 rounds the sums of a mean the other way."""
    folder = exported[2]
    today = run(sys.executable, folder, REFERENCE).astype(int)
    newer = np.abs(run(old_runtimes["2.14.0"], folder, REFERENCE) - today)
    oldest = np.abs(run(old_runtimes["2.7.0"], folder, REFERENCE) - today)
    sys.stdout.write(
        f"the same on 2.14: {np.mean(newer == 0):.4f}, on 2.7: {np.mean(oldest == 0):.3f}\n"
    )
    assert np.mean(newer == 0) >= 0.99
    assert np.mean(oldest == 0) >= 0.7
    assert max(newer.max(), oldest.max()) <= 1


def fashion(part: str) -> tuple[Tensor, Tensor]:
    if not IMAGES.is_dir():
        pytest.skip("the images are not here; apt-get install dataset-fashion-mnist")
    images = np.frombuffer(
        gzip.decompress((IMAGES / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(
        gzip.decompress((IMAGES / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )
    pixels = torch.from_numpy(images.reshape(-1, 1, 28, 28).copy()).float() / 255
    return (pixels - 0.286) / 0.353, torch.from_numpy(labels.copy())


def test_the_trained_network_keeps_its_accuracy(tmp_path: Path) -> None:
    """92.41 % in float on the 10,000 test images; int8 must come within one point."""
    model = fashion_resnet()
    images, labels = fashion("t10k")
    with torch.no_grad():
        scores = torch.cat([model(batch) for batch in images.split(500)])
    in_float = (scores.argmax(1) == labels).double().mean().item()
    content = export_int8(model, GREY, calibration=fashion("train")[0][:256].split(32))
    (tmp_path / "model.tflite").write_bytes(content)
    pixels = images.permute(0, 2, 3, 1).numpy()
    np.save(tmp_path / "inputs.npy", _quantized(pixels, read_model(content).inputs[0]))
    outputs = torch.from_numpy(run(sys.executable, tmp_path, "AUTO"))
    in_int8 = (outputs.argmax(1) == labels).double().mean().item()
    sys.stdout.write(f"accuracy: {in_float:.4f} in float, {in_int8:.4f} in int8\n")
    assert in_float == pytest.approx(0.9241, abs=5e-4)
    assert in_int8 >= in_float - 0.01
