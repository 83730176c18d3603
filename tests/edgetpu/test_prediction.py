from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from external_files import vendor_model
from torch import nn

from pytest_dwsconv import analyze
from pytest_dwsconv.edgetpu import LatencyFeatures, judge_model, predict_latency, read_model
from pytest_dwsconv.edgetpu.modelfile import ModelFile, Operator, Quantization, Tensor
from pytest_dwsconv.errors import InputError

MIB = 2**20
EMPTY = LatencyFeatures(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def features(
    off_chip: float, std: float, pointwise: float, depthwise: float, activations: float
) -> LatencyFeatures:
    """Those of a classifier of 224 x 224 images; bytes in MiB and MACs in billions."""
    return LatencyFeatures(
        params_bytes=8 * MIB,
        off_chip_bytes=off_chip * MIB,
        standard_macs=std * 1e9,
        pointwise_macs=pointwise * 1e9,
        depthwise_macs=depthwise * 1e9,
        linear_macs=1e6,
        activation_bytes=activations * MIB,
        input_bytes=0.1436 * MIB,
        output_bytes=0.001 * MIB,
        layers=50,
    )


MOBILENET_V1 = features(0, 0.0108, 0.5395, 0.0174, 4.809)
INCEPTION_V1 = features(0, 1.1282, 0.3691, 0, 3.077)
VGG16 = features(124.3, 15.3466, 0, 0, 12.92)

# Latencies that the vendor and others have published.
PUBLISHED = [
    (MOBILENET_V1, "desktop_usb3", 2.4),
    (MOBILENET_V1, "dev_board_pcie", 2.4),
    (MOBILENET_V1, "rpi4_usb3", 4.204),
    (INCEPTION_V1, "desktop_usb3", 3.4),
    (INCEPTION_V1, "dev_board_pcie", 4.1),
    (INCEPTION_V1, "rpi4_usb3", 6.213),
    (VGG16, "desktop_usb3", 296),
    (VGG16, "dev_board_pcie", 343),
]


@pytest.mark.parametrize(("known", "host", "published"), PUBLISHED)
def test_a_published_latency_lies_in_the_interval(
    known: LatencyFeatures, host: str, published: float
) -> None:
    predicted = predict_latency(known, host)
    assert predicted.low <= published <= predicted.high
    assert predicted.lower_bound_ms <= predicted.low <= predicted.ms <= predicted.high
    assert predicted.lower_bound_ms <= published


def test_parameters_that_stream_take_the_time_of_the_bus() -> None:
    streaming = replace(EMPTY, off_chip_bytes=10 * MIB)
    more = predict_latency(streaming).ms - predict_latency(EMPTY).ms
    assert more == pytest.approx(32.5)
    assert predict_latency(streaming).lower_bound_ms == pytest.approx(0.55 + 32.5)


def test_an_interval_is_wider_for_networks_that_concatenate_or_may() -> None:
    plain, mixed = replace(VGG16, concatenations=0), replace(VGG16, concatenations=9)
    widths = [predict_latency(known).high for known in (plain, VGG16, mixed)]
    assert widths[0] == pytest.approx(predict_latency(VGG16).ms * 1.5)
    assert widths[1] == widths[2] == pytest.approx(predict_latency(VGG16).ms * 2)


def test_the_reason_names_the_parts_and_the_host() -> None:
    text = str(predict_latency(replace(VGG16, concatenations=0), "desktop_usb3"))
    assert text.startswith("predicted ")
    assert "bus 248." in text
    assert "(249.14 to" in text
    assert " on desktop_usb3: floor 0.26, " in text
    assert text.endswith(" ms; fitted to published latencies of other networks")


def test_the_interval_of_a_small_network_reaches_to_the_shortest_published_latency() -> None:
    small = replace(EMPTY, output_bytes=1000)
    predicted = predict_latency(small, "dev_board_pcie")
    assert (round(predicted.ms, 2), predicted.high) == (0.03, 2.0)
    assert predicted.reason.endswith(
        "; it is smaller than every network whose latency there was published"
    )
    assert predict_latency(small, "rpi4_usb3").high == 2 * predict_latency(small, "rpi4_usb3").ms


def test_a_prediction_without_the_outputs_says_so() -> None:
    known = "; its outputs are not known, and count as 0 bytes"
    assert predict_latency(EMPTY).reason.endswith(known)
    assert known not in predict_latency(VGG16).reason


@pytest.mark.parametrize("host", ["", "rpi5_usb3", "desktop_usb2", "x" * 500, ["rpi4_usb3"]])
def test_a_host_of_which_nothing_is_known_is_refused(host: Any) -> None:
    with pytest.raises(InputError, match="give rpi4_usb3, desktop_usb3 or dev_board_pcie"):
        predict_latency(EMPTY, host)


@pytest.mark.parametrize("value", [-1, math.inf, math.nan, 10**400, "5", None])
@pytest.mark.parametrize("name", ["params_bytes", "standard_macs", "layers", "output_bytes"])
def test_what_is_not_a_feature_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} is not a number from 0"):
        replace(EMPTY, **{name: value})


# --------------------------------------------------------------------------- features of a file


def tensor(name: str, *shape: int, constant: bool = False) -> Tensor:
    return Tensor(name, "INT8", shape, constant, quantization=Quantization((1.0,), (0,), 0))


IMAGE, FEATURES = tensor("image", 1, 8, 8, 3), tensor("features", 1, 6, 6, 4)
DEPTHWISE, MIXED = tensor("depthwise", 1, 4, 4, 4), tensor("mixed", 1, 4, 4, 5)
SCORES, CHOSEN = tensor("scores", 1, 10), Tensor("chosen", "INT64", (1,))
NETWORK = (
    Operator("CONV_2D", 1, (IMAGE, tensor("a", 4, 3, 3, 3, constant=True)), (FEATURES,)),
    Operator(
        "DEPTHWISE_CONV_2D", 1, (FEATURES, tensor("b", 1, 3, 3, 4, constant=True)), (DEPTHWISE,)
    ),
    Operator("CONV_2D", 1, (DEPTHWISE, tensor("c", 5, 1, 1, 4, constant=True)), (MIXED,)),
    Operator("FULLY_CONNECTED", 1, (MIXED, tensor("d", 10, 80, constant=True)), (SCORES,)),
)


def test_the_features_of_a_file() -> None:
    assert LatencyFeatures.of(ModelFile(NETWORK, (IMAGE,), (SCORES,), 1, 0)) == LatencyFeatures(
        params_bytes=4 * 27 + 36 + 20 + 800,
        off_chip_bytes=0,
        standard_macs=36 * 4 * 27,
        pointwise_macs=16 * 5 * 4,
        depthwise_macs=16 * 4 * 9,
        linear_macs=800,
        activation_bytes=144 + 64 + 80 + 10,
        input_bytes=192,
        output_bytes=10,
        layers=4,
        concatenations=0,
    )


def test_only_what_maps_counts_and_what_crosses_its_border() -> None:
    last = Operator("ARG_MAX", 1, (SCORES,), (CHOSEN,))
    whole = ModelFile((*NETWORK, last), (IMAGE,), (CHOSEN,), 1, 0)
    known = LatencyFeatures.of(whole)
    assert (known.output_bytes, known.on_cpu) == (10, 1)
    left_out = "; not counted is what stays on the CPU, or may: 1 operators"
    assert predict_latency(known).reason.endswith(left_out)
    with pytest.raises(InputError, match="no operator of the model is known to map"):
        LatencyFeatures.of(replace(whole, operators=(last,)))


def test_a_file_that_is_at_fault_as_a_whole_is_refused() -> None:
    newer = replace(NETWORK[-1], name="CONV_2D", version=6)
    file = ModelFile((*NETWORK[:-1], newer), (IMAGE,), (SCORES,), 1, 0)
    with pytest.raises(InputError, match="nothing of the model may map: CONV_2D version 6 "):
        LatencyFeatures.of(file)


@pytest.mark.parametrize("wrong", ["net.tflite", Path("net.tflite"), b"", None, nn.ReLU()])
def test_what_tells_no_latency_is_refused(wrong: Any) -> None:
    name = type(wrong).__name__
    with pytest.raises(InputError, match=f"^{name} .* give what read_model or analyze returns$"):
        LatencyFeatures.of(wrong)
    with pytest.raises(InputError, match=f"^{name} .* give LatencyFeatures.of"):
        predict_latency(wrong)
    with pytest.raises(InputError, match=f"what read_model returns, not {name}"):
        judge_model(wrong)


def test_parameters_beyond_the_chip_stream() -> None:
    large = tensor("d", 128_000, 100, constant=True)
    operator = Operator("FULLY_CONNECTED", 1, (tensor("x", 1, 100), large), (SCORES,))
    known = LatencyFeatures.of(ModelFile((operator,), (IMAGE,), (SCORES,), 1, 0))
    assert known.off_chip_bytes == 12_800_000 - int(7.65 * MIB)


def test_parameters_of_few_channels_take_more_of_the_chip() -> None:
    """So half as many of them fit; a compiler reported 2.25 MiB of these 4.8 to stream."""
    weight = tensor("w", 32, 7, 7, 32, constant=True)
    operators = (Operator("CONV_2D", 1, (IMAGE, weight), (FEATURES,)),) * 100
    known = LatencyFeatures.of(ModelFile(operators, (IMAGE,), (FEATURES,), 1, 0))
    assert known.off_chip_bytes / MIB == pytest.approx(4.785 - 7.65 / 2, abs=0.001)
    network = nn.Sequential(*(nn.Conv2d(32, 32, 7, bias=False) for _ in range(100)))
    report = analyze(network.to("meta"), (1, 32, 608, 608))
    assert LatencyFeatures.of(report).off_chip_bytes == known.off_chip_bytes


def test_a_transposed_convolution_multiplies_at_its_input() -> None:
    weight, upsampled = tensor("w", 6, 2, 2, 4, constant=True), tensor("up", 1, 12, 12, 6)
    sizes = Tensor("sizes", "INT32", (4,), constant=True, values=(1, 12, 12, 6))
    operator = Operator("TRANSPOSE_CONV", 1, (sizes, weight, FEATURES), (upsampled,))
    known = LatencyFeatures.of(ModelFile((operator,), (FEATURES,), (upsampled,), 1, 0))
    assert known.standard_macs == 36 * 4 * 4 * 6


def test_a_compiled_file_tells_what_crosses_the_bus_and_no_macs() -> None:
    name = "mobilenet_v1_0.25_128_quant_cocompiled_with_3quant_edgetpu"
    known = LatencyFeatures.of(read_model(vendor_model(name)))
    assert (known.off_chip_bytes, known.input_bytes, known.macs) == (251_072, 49_152, 0)
    assert (known.instruction_bytes, known.params_bytes) == (182_928, 251_072 + 315_840)
    predicted = predict_latency(known)
    without = predict_latency(replace(known, instruction_bytes=0))
    assert predicted.ms - without.ms == pytest.approx(3.25 * 182_928 / MIB)
    assert predicted.high == pytest.approx(3 * predicted.ms)
    assert "a compiled file does not tell its MACs" in predicted.reason


def test_the_features_of_a_report() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 5, 1), nn.Flatten(),
        nn.Linear(80, 10),
    )  # fmt: skip
    known = LatencyFeatures.of(analyze(network, (1, 3, 8, 8)))
    assert (known.standard_macs, known.depthwise_macs, known.pointwise_macs) == (3888, 576, 320)
    assert (known.linear_macs, known.activation_bytes, known.input_bytes) == (800, 288, 192)
    assert (known.layers, known.output_bytes, known.instruction_bytes) == (3, 10, None)
    assert known.params_bytes == sum(parameter.numel() for parameter in network.parameters())


def test_a_large_output_of_a_report_takes_time() -> None:
    network = nn.Conv2d(3, 64, 1)
    known = LatencyFeatures.of(analyze(network, (1, 3, 128, 128)))
    assert known.output_bytes == MIB
    assert predict_latency(known).ms > 32.5
    assert "not known" not in predict_latency(known).reason


@pytest.mark.parametrize(
    ("shape", "message"),
    [((8, 3, 8, 8), "is for a batch of 8, and the Edge TPU takes 1"), (None, "has no MACs")],
)
def test_a_report_that_does_not_tell_a_latency_is_refused(
    shape: tuple[int, ...] | None, message: str
) -> None:
    report = analyze(nn.Conv2d(3, 4, 3), *[shape] if shape else [])
    with pytest.raises(InputError, match=message):
        LatencyFeatures.of(report)
