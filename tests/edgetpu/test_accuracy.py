"""What ``int8_accuracy`` reckons, with LiteRT replaced; tests/integration has the real one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tflite_files import pack
from torch import Tensor, nn

from pytest_dwsconv.edgetpu import int8_accuracy
from pytest_dwsconv.edgetpu.export import accuracy
from pytest_dwsconv.edgetpu.export.accuracy import ChannelRanges, Int8Accuracy, Int8Comparison
from pytest_dwsconv.edgetpu.modelfile import ModelFile, Operator, Quantization
from pytest_dwsconv.edgetpu.modelfile import Tensor as FileTensor
from pytest_dwsconv.errors import ExportError, InputError

STEP, ZERO = 0.5, 3


class Half(nn.Module):
    """Half of its input; the file of it is one step off where the input is negative."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)[..., :1] / 2 if x.ndim == 3 else x / 2


class Runtime:
    """Stands in for LiteRT's interpreter: one depthwise layer, which is the output too."""

    def __init__(self, dtype: Any = np.int8, sources: int = 1) -> None:
        detail = {"name": "depthwise_output_0", "index": 1, "dtype": dtype}
        self.target = {**detail, "shape": np.array([1, 1, 2, 3]), "quantization": (STEP, ZERO)}
        self.source = {**self.target, "name": "image", "index": 0}
        self.sources = sources
        self.values: dict[int, Any] = {}

    def get_input_details(self) -> list[dict[str, Any]]:
        return [self.source] * self.sources

    def get_output_details(self) -> list[dict[str, Any]]:
        return [self.target]

    def get_tensor_details(self) -> list[dict[str, Any]]:
        return [self.source, self.target]

    def set_tensor(self, index: int, values: Any) -> None:
        assert values.dtype == np.int8
        self.values[index] = values

    def get_tensor(self, index: int) -> Any:
        return self.values[index]

    def invoke(self) -> None:
        real = (self.values[0].astype(float) - ZERO) * STEP / 2
        exact = np.rint(real / STEP) + ZERO
        self.values[1] = (exact - 2 * (real < 0)).astype(np.int8)


def depthwise_file() -> bytes:
    scale = Quantization((STEP,), (ZERO,), 0)
    image, output, weight = (
        FileTensor(name, "INT8", (1, 1, 2, 3), constant=name == "weight", quantization=scale)
        for name in ("image", "depthwise_output_0", "weight")
    )
    operator = Operator("DEPTHWISE_CONV_2D", 1, (image, weight), (output,))
    return pack(ModelFile((operator,), (image,), (output,), 1, 0))


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    pytest.importorskip("tflite", exc_type=ImportError)
    found = Runtime()
    monkeypatch.setattr(accuracy, "check_installed", lambda: None)
    monkeypatch.setattr(accuracy, "_interpreter", lambda content: found)
    return found


# Two images of 3 channels and 1 x 2 pixels: the first channel spans 20 steps at the output, the
# second 2, and the last is constant. Two of twelve outputs are negative.
IMAGES = torch.tensor([[10.0, -10.0, 1.0, -1.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0, 4.0, 4.0]])
IMAGES = IMAGES.reshape(2, 3, 1, 2)


def test_the_error_is_relative_and_counts_steps(runtime: Runtime) -> None:
    model = Half().train()
    found = int8_accuracy(model, depthwise_file(), IMAGES)
    assert (found.model, found.samples, model.training) == ("Half", 2, True)
    # each of the two negative outputs is two steps, 1.0, too low; squares of the others sum to 66.5
    total = float((IMAGES / 2).square().sum())
    assert found.error == pytest.approx((2 * 1.0 / total) ** 0.5)
    assert found.within_one_step == pytest.approx(10 / 12)


def test_a_depthwise_layer_has_the_ranges_of_its_channels(runtime: Runtime) -> None:
    found = int8_accuracy(Half(), depthwise_file(), IMAGES)
    assert found.depthwise == (ChannelRanges("depthwise_output_0", 22, 4, 1),)
    assert found.narrow == found.depthwise
    assert str(found).splitlines()[1:] == [
        "depthwise layers with channels of few steps, which int8 computes coarsely:",
        "  depthwise_output_0: channels use 4 to 22 of 256 steps, 1 are constant",
    ]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (IMAGES[:0], "there is no input to measure on; give some"),
        (IMAGES[:, :, :, :1], r"the file takes an input of \(1, 1, 2, 3\), not of \(1, 1, 1, 3\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(runtime: Runtime, inputs: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        int8_accuracy(Half(), depthwise_file(), inputs)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Runtime(dtype=np.float32), "image of the file is not int8; give a file that export_int8"),
        (Runtime(sources=2), "the file has several inputs; give one that export_int8 has made"),
    ],
)
def test_a_file_that_export_int8_has_not_made_is_refused(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, other: Runtime, message: str
) -> None:
    monkeypatch.setattr(accuracy, "_interpreter", lambda content: other)
    with pytest.raises(InputError, match=message):
        int8_accuracy(Half(), depthwise_file(), IMAGES)


def test_the_file_of_another_network_is_refused(runtime: Runtime) -> None:
    with pytest.raises(InputError, match="the file does not have the outputs of Flatten"):
        int8_accuracy(nn.Flatten(), depthwise_file(), IMAGES)
    with pytest.raises(ExportError, match=r"Conv2d does not run on an input of \(1, 3, 1, 2\)"):
        int8_accuracy(nn.Conv2d(4, 4, 1), depthwise_file(), IMAGES)


EXACT = Int8Accuracy("Net", 9, 0.0123, 0.991, ())


def test_a_comparison_shows_both_side_by_side() -> None:
    coarse = tuple(ChannelRanges(f"block.{number}", 200, 3, 0) for number in range(7))
    fine = ChannelRanges("last", 255, 16, 0)
    rewritten = replace(EXACT, error=0.2, depthwise=(*coarse, fine))
    lines = str(Int8Comparison(EXACT, rewritten)).splitlines()
    rows = [line.split("  ") for line in lines]
    assert [cell.strip() for cell in rows[2] if cell] == ["original", "1.23%", "99.1%", "0 of 0"]
    assert [cell.strip() for cell in rows[3] if cell] == ["rewritten", "20.00%", "99.1%", "7 of 8"]
    assert (
        "original: Net: int8 is 1.23% from float on 9 inputs, 99.1% of outputs within" in lines[5]
    )
    assert lines[-2:] == ["  block.4: channels use 3 to 200 of 256 steps", "  and 2 more layers"]
