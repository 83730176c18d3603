"""``export_int8`` with the real converter: what it cures, warns of, and refuses by name."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv import rewrite
from pytest_dwsconv.edgetpu import (
    compare_int8,
    export_float,
    export_int8,
    int8_accuracy,
    judge_model,
    read_model,
)
from pytest_dwsconv.errors import EdgeTpuWarning, ExportError

# not imported: it takes seconds, and is another process's
if importlib.util.find_spec("litert_torch") is None:
    pytest.skip("litert-torch is not installed", allow_module_level=True)

SHAPE = (1, 3, 16, 16)


class Odd(nn.Module):
    """A layer that applies a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Classes(nn.Module):
    """A network that does more than its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv(x)
        return features.argmax(1)


def conv(inputs: int = 3, outputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EdgeTpuWarning)
        yield


def outputs(content: bytes, image: Tensor) -> Any:
    """What LiteRT makes of one image, and the scale of a step."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    runtime = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    runtime.allocate_tensors()
    (source,), (target,) = runtime.get_input_details(), runtime.get_output_details()
    scale, zero = source["quantization"]
    values = np.clip(np.rint(image.permute(0, 2, 3, 1).numpy() / scale) + zero, -128, 127).astype(
        np.int8
    )
    runtime.set_tensor(source["index"], values)
    runtime.invoke()
    step, zero = target["quantization"]
    return (runtime.get_tensor(target["index"]).astype(float) - zero) * step, step


def test_a_padded_pooling_after_a_relu_maps_as_a_whole() -> None:
    network = nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(3, 2, 1)).eval()
    content = export_int8(network, SHAPE)
    file = read_model(content)
    assert [operator.name for operator in file.operators] == ["CONV_2D", "PAD", "MAX_POOL_2D"]
    assert [operator.layer for operator in file.operators] == ["0", "2", "2"]
    assert judge_model(file).maps
    image = torch.randn(SHAPE)
    found, step = outputs(content, image)
    with torch.no_grad():
        # an output of four dimensions is channels-last too
        expected = network(image).permute(0, 2, 3, 1).numpy()
    assert found.shape == expected.shape == (1, 8, 8, 4)
    assert np.mean(np.abs(found - expected) <= 1.5 * step) > 0.9


GROUPED = [
    nn.Conv2d(8, 12, 3, padding=1, groups=2),
    nn.Conv2d(8, 8, 3, padding="same", groups=4, bias=False),
    nn.Conv2d(8, 4, 1, stride=2, groups=2),
]


@pytest.mark.parametrize("grouped", GROUPED)
def test_a_grouped_convolution_becomes_one_per_group(grouped: nn.Conv2d) -> None:
    """Grouped ones are a version of CONV_2D that the compiler refuses with the whole file."""
    network = nn.Sequential(conv(3, 8), nn.ReLU(), grouped).eval()
    content = export_int8(network, SHAPE)
    file = read_model(content)
    names = [operator.name for operator in file.operators]
    assert names.count("CONV_2D") == 1 + grouped.groups
    assert set(names) == {"CONV_2D", "SLICE", "CONCATENATION"}
    assert {operator.layer for operator in file.operators[1:]} == {"2"}
    assert judge_model(file).maps
    image = torch.randn(SHAPE)
    found, step = outputs(content, image)
    with torch.no_grad():
        expected = network(image).permute(0, 2, 3, 1).numpy()
    assert np.mean(np.abs(found - expected) <= 1.5 * step) > 0.9


def test_a_grouped_convolution_with_computed_weights_is_named() -> None:
    grouped = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ExportError, match="in the layer 1 is a grouped convolution with"):
        export_int8(nn.Sequential(conv(), grouped), SHAPE)


def test_a_padded_pooling_that_cannot_be_cured_is_named() -> None:
    network = nn.Sequential(conv(), nn.Sequential(nn.MaxPool2d(3, 2, 1)), conv(4))
    with pytest.warns(EdgeTpuWarning) as caught:
        content = export_int8(network, SHAPE)
    assert str(caught[0].message) == (
        "Sequential: PADV2 (1.0): stays on the CPU: the Edge TPU does not support it; 2 of 4 "
        "operators depend on these and may not map"
    )
    assert [judgement.layer for judgement in judge_model(read_model(content)).on_cpu] == [
        "1.0",
        "1.0",
        "2",
    ]


def test_a_bias_beyond_32_bits_keeps_its_value() -> None:
    """At the scale of weights so small it overflows, and the quantizer alone turns its sign."""
    network = nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    last = network[2]
    assert isinstance(last, nn.Conv2d)
    with torch.no_grad():
        last.weight[:2] *= 1e-12
        assert last.bias is not None
        last.bias.copy_(torch.tensor([2.0, -3.0, 0.5, 0.25]))
    image = torch.randn(SHAPE)
    found, step = outputs(export_int8(network, SHAPE), image)
    assert np.abs(found[..., 0] - 2).max() <= step
    assert np.abs(found[..., 1] + 3).max() <= step
    with torch.no_grad():
        expected = network(image).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - expected).max() <= 4 * step


def test_channels_of_narrow_ranges_are_named_and_cost_accuracy() -> None:
    """A depthwise layer of which one channel is a thousand times as large as the others."""
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    network = nn.Sequential(conv(3, 8), nn.ReLU(), depthwise, nn.ReLU(), nn.Conv2d(8, 4, 1))
    images = torch.randn(8, 3, 16, 16)
    even = int8_accuracy(network, export_int8(network, SHAPE, calibration=images), images)
    with torch.no_grad():
        depthwise.weight[0] *= 1000
    wide = int8_accuracy(network, export_int8(network, SHAPE, calibration=images), images)
    assert (even.narrow, [one.layer for one in wide.narrow]) == ((), ["2"])
    assert even.error < 0.02
    assert even.within_one_step > 0.95
    assert wide.narrow[0].widest > 200
    assert wide.narrow[0].narrowest < 16 or wide.narrow[0].constant
    assert "  2: channels use " in str(wide)


def test_a_network_and_its_rewrite_are_compared_in_int8() -> None:
    pool = nn.AdaptiveAvgPool2d(2)
    network = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 32), nn.ReLU(), pool)
    replaced = rewrite(network.eval(), SHAPE).model
    found = compare_int8(network, replaced, SHAPE, calibration=torch.randn(4, 3, 16, 16))
    assert (found.original.depthwise, len(found.rewritten.depthwise)) == ((), 2)
    for one in (found.original, found.rewritten):
        assert one.samples == 4
        assert one.error < 0.05
        assert one.within_one_step > 0.9


def test_a_mean_over_the_sides_needs_no_transpose() -> None:
    network = nn.Sequential(
        conv(), nn.ReLU(), Odd(lambda x: x.mean((2, 3))), nn.Linear(4, 2)
    ).eval()
    content = export_int8(network, SHAPE)
    names = [operator.name for operator in read_model(content).operators]
    assert names == ["CONV_2D", "MEAN", "FULLY_CONNECTED"]
    image = torch.randn(SHAPE)
    with torch.no_grad():
        expected = network(image).numpy()
    from_image = outputs(content, image)
    assert np.abs(from_image[0] - expected).max() <= 3 * from_image[1]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            torch.sin,
            "SIN in the layer 2.0 has no int8 form, it works on float32; replace the layer",
        ),
        (
            lambda x: x / (x - x),
            "DIV in the layer 2.0 computes values without a finite range; look for nan and inf",
        ),
        (
            lambda x: torch.fft.rfft2(x).abs(),
            r"litert-torch failed: \w+: .*; export parts of the network to",
        ),
    ],
)
def test_what_cannot_be_exported_is_named(
    function: Callable[[Tensor], Tensor], message: str
) -> None:
    network = nn.Sequential(conv(), nn.ReLU(), nn.Sequential(Odd(function)), conv(4))
    with pytest.raises(ExportError, match=f"Sequential cannot be exported: {message}"):
        export_int8(network, SHAPE)


def test_an_operator_of_no_layer_is_named() -> None:
    """Such as a segmentation network that ends in the class of each pixel."""
    message = (
        "ARG_MAX in the forward of the network itself has no int8 form, it works on float32; "
        "leave that to the"
    )
    with pytest.raises(ExportError, match=message):
        export_int8(Classes(), SHAPE)


def test_a_graph_module_and_one_batch_of_inputs() -> None:
    network = torch.fx.symbolic_trace(
        nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 2))
    )
    images = torch.rand(5, 3, 16, 16)
    content = export_int8(network, list(np.array(SHAPE)), calibration=images)
    file = read_model(content)
    assert [operator.name for operator in file.operators][:2] == ["CONV_2D", "MAX_POOL_2D"]
    assert [operator.layer for operator in file.operators][:2] == ["0", "2"]
    quantization = file.inputs[0].quantization
    assert quantization is not None
    # of the inputs, not of noise
    assert quantization.scales[0] == pytest.approx(float(images.max()) / 255, rel=0.02)
    with torch.no_grad():
        expected = network(images[:1]).numpy()
    found, step = outputs(content, images[:1])
    assert np.abs(found - expected).max() <= 3 * step


def test_a_half_precision_network_in_training_is_left_as_it_was() -> None:
    network = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU()).half().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    content = export_int8(
        network, SHAPE, calibration=(torch.rand(3, 3, 16, 16).half() for _ in range(2))
    )
    assert [operator.name for operator in read_model(content).operators] == ["CONV_2D"]
    assert network.training
    assert {value.dtype for value in network.parameters()} == {torch.float16}
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_the_converter_is_stopped_in_time() -> None:
    start = time.monotonic()
    with pytest.raises(
        ExportError, match=r"exporting Sequential was stopped: not done after 0\.5 s"
    ):
        export_int8(nn.Sequential(conv()), SHAPE, timeout=0.5)
    assert time.monotonic() - start < 20


def test_a_float_file_computes_the_same_and_keeps_groups() -> None:
    from ai_edge_litert.interpreter import Interpreter

    network = nn.Sequential(conv(3, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2))
    content = export_float(network, SHAPE)
    assert [each.name for each in read_model(content).operators].count("CONV_2D") == 2
    runtime = Interpreter(model_content=content)
    runtime.allocate_tensors()
    image = torch.rand(SHAPE)
    runtime.set_tensor(runtime.get_input_details()[0]["index"], image.permute(0, 2, 3, 1).numpy())
    runtime.invoke()
    found = runtime.get_tensor(runtime.get_output_details()[0]["index"])
    expected = network(image).permute(0, 2, 3, 1).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("target", ["litert", "litert_int8"])
def test_layers_and_the_whole_network_are_timed_for_a_plan(target: str) -> None:
    model = nn.Sequential(conv(32, 32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 24 * 24, 4)).eval()
    result = rewrite(model, (1, 32, 24, 24), target=target)
    [whole] = result.report_before.evidence
    [layer] = result.report_before.candidates[0].evidence
    assert (whole.target, layer.target) == (target, target)
    assert layer.before_ms or layer.reason
