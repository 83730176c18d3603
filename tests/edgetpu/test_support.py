from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_dwsconv.edgetpu.modelfile import ModelFile, Operator, Quantization, Tensor, read_model
from pytest_dwsconv.edgetpu.operators import REFUSED, SUPPORTED
from pytest_dwsconv.edgetpu.support import Status, judge_model
from pytest_dwsconv.errors import InputError

MODELS = Path(__file__).parents[3] / "shared" / "edgetpu" / "models"
MAPS, CPU, UNKNOWN = Status.MAPS, Status.CPU, Status.UNKNOWN


def tensor(
    *shape: int,
    dtype: str = "INT8",
    constant: bool = False,
    variable: bool = False,
    dynamic: bool = False,
) -> Tensor:
    return Tensor(f"{dtype.lower()}{shape}", dtype, shape, constant, variable, dynamic)


def constant(*values: int) -> Tensor:
    return Tensor("values", "INT32", (len(values),), constant=True, values=values)


IMAGE = tensor(1, 8, 8, 4)
WEIGHT = tensor(4, 3, 3, 4, constant=True)
PER_CHANNEL = replace(WEIGHT, quantization=Quantization((1.0, 2.0), (0, 0), 0))
PER_TENSOR = replace(WEIGHT, quantization=Quantization((1.0,), (0,), 0))


def op(
    name: str, *inputs: Tensor | None, output: Tensor = IMAGE, version: int = 1, **options: int
) -> Operator:
    return Operator(name, version, inputs or (IMAGE,), (output,), options=options)


def file(*operators: Operator, **more: int) -> ModelFile:
    return ModelFile(operators, (IMAGE,), (IMAGE,), subgraphs=more.get("subgraphs", 1), size=0)


ADD, CONV, FLAT = op("ADD"), op("CONV_2D", IMAGE, WEIGHT), tensor(1, 10)

# One operator alone: how it is judged, and what the reason says. Each limit has a row on either
# side of it.
JUDGED = [
    (ADD, MAPS, ""),
    (op("CONV_2D", IMAGE, PER_CHANNEL, version=5, dilation_w=2, dilation_h=2), MAPS, ""),
    (
        op("CONV_2D", IMAGE, WEIGHT, version=6),
        CPU,
        "version 6 of it, and the compiler knows versions up to 5",
    ),
    (
        op("CONV_2D", IMAGE, WEIGHT, dilation_w=2, dilation_h=1),
        CPU,
        "its dilation differs in x and y (2 and 1)",
    ),
    (
        op("DEPTHWISE_CONV_2D", IMAGE, WEIGHT, dilation_w=1, dilation_h=4),
        CPU,
        "its dilation differs in x and y",
    ),
    (op("MAX_POOL_2D", activation=0), MAPS, ""),
    (op("MAX_POOL_2D", activation=1), CPU, "it has a fused activation function"),
    (op("AVERAGE_POOL_2D", activation=3), CPU, "it has a fused activation function"),
    (op("CONCATENATION", activation=1), CPU, "it has a fused activation function"),
    (op("FULLY_CONNECTED", FLAT, PER_TENSOR, weights_format=0), MAPS, ""),
    (
        op("FULLY_CONNECTED", FLAT, PER_TENSOR, weights_format=1),
        CPU,
        "its weights are not in the default format",
    ),
    (op("FULLY_CONNECTED", FLAT, PER_CHANNEL), CPU, "its weights are quantised per channel"),
    (op("QUANTIZE", version=2), MAPS, ""),
    (op("QUANTIZE", version=3), CPU, "version 3"),
    (op("TRANSPOSE_CONV", constant(1, 2), WEIGHT, IMAGE, version=3), MAPS, ""),
    (op("TRANSPOSE_CONV", constant(1, 2), WEIGHT, IMAGE, version=4), CPU, "version 4"),
    (op("MEAN", IMAGE, constant(1, 2)), MAPS, ""),
    (op("MEAN", IMAGE, constant(-3)), MAPS, ""),
    (op("MEAN", IMAGE, constant(0, 1)), CPU, "it reduces the batch"),
    (op("MEAN", IMAGE, constant(-4)), CPU, "it reduces the batch"),
    (op("PAD", IMAGE, constant(0, 0, 1, 1, 1, 1, 0, 0)), MAPS, ""),
    (op("PAD", IMAGE, constant(0, 1, 0, 0, 0, 0, 0, 0)), CPU, "it pads the batch"),
    (op("PRELU", IMAGE, tensor(1, 1, 4, constant=True)), MAPS, ""),
    (
        op("PRELU", IMAGE, tensor(8, 8, 4, constant=True)),
        CPU,
        "its alpha has more than one dimension",
    ),
    (op("SOFTMAX", FLAT, output=tensor(1, 16_000)), MAPS, ""),
    (
        op("SOFTMAX", FLAT, output=tensor(1, 16_001)),
        CPU,
        "it has 16,001 elements, and 16,000 is the most",
    ),
    (op("SOFTMAX", FLAT, output=tensor(1, 8, 8, 4)), CPU, "its input has more than one dimension"),
    (op("STRIDED_SLICE", IMAGE, constant(0), constant(1), constant(1, 1)), MAPS, ""),
    (
        op("STRIDED_SLICE", IMAGE, constant(0), constant(1), constant(1, 2)),
        CPU,
        "its strides are not all 1",
    ),
    (op("RESHAPE"), MAPS, "a large one may stay on the CPU"),
    (
        op("RESIZE_BILINEAR"),
        UNKNOWN,
        "the vendor says that it may stay on the CPU, depending on its sizes",
    ),
    (op("TRANSPOSE"), UNKNOWN, "not verified"),
    (op("HARD_SWISH"), UNKNOWN, "seen left on the CPU, not verified"),
    (op("EXP", version=2), CPU, "version 2"),
    (op("PADV2"), CPU, "the Edge TPU does not support it"),
    (op("GELU"), CPU, "not among the operators the vendor lists as supported"),
    (replace(op("Mine"), custom=True), CPU, "a custom operator"),
    (
        replace(op("TFLite_Detection_PostProcess"), custom=True),
        CPU,
        "the Edge TPU does not support it",
    ),
    (replace(ADD, custom=True), CPU, "a custom operator"),
    (op("ADD", tensor(1, 8, dtype="FLOAT32")), CPU, "it works on float32, not on int8 or uint8"),
    (op("ADD", tensor(1, 8, dtype="INT16")), CPU, "it works on int16"),
    (op("ADD", tensor(1, 8, dtype="UINT8"), output=tensor(1, 8, dtype="UINT8")), MAPS, ""),
    (op("ADD", tensor(1, 8, dynamic=True)), CPU, "the shape of a tensor is not static"),
    (
        op("ADD", tensor(2, 8, 8, 4)),
        CPU,
        "more than the 3 innermost dimensions of (2, 8, 8, 4) are larger than 1",
    ),
    (op("ADD", tensor(2, 8, 4)), MAPS, ""),
    (
        op("UNIDIRECTIONAL_SEQUENCE_LSTM", IMAGE, tensor(1, 8, dtype="INT16", variable=True), None),
        MAPS,
        "",
    ),
]


@pytest.mark.parametrize(("operator", "status", "reason"), JUDGED)
def test_an_operator_alone(operator: Operator, status: Status, reason: str) -> None:
    (judgement,) = judge_model(file(operator)).operators
    assert (judgement.operator, judgement.status) == (operator.name, status)
    assert judgement.reason.startswith(reason) if reason else judgement.reason == ""


def test_the_documented_runtime_goes_with_the_judgement() -> None:
    assert [j.runtime for j in judge_model(file(ADD, op("SUM"), op("REDUCE_MAX"))).operators] == [
        0,
        13,
        14,
    ]


@pytest.mark.parametrize(
    "name", ["GATHER", "LEAKY_RELU", "PADV2", "ARG_MAX", "CAST", "DIV", "FLOOR_DIV", "UNPACK"]
)
def test_no_operator_is_in_both_lists(name: str) -> None:
    assert name in REFUSED
    assert not REFUSED & SUPPORTED.keys()


def test_all_after_the_first_that_stays_on_the_cpu_stays_there() -> None:
    support = judge_model(file(CONV, op("PADV2"), CONV, op("HARD_SWISH"), op("CAST")))
    assert [j.status for j in support.operators] == [MAPS, CPU, CPU, CPU, CPU]
    assert [j.reason for j in support.operators[2:]] == [
        f"after PADV2 ({IMAGE.name}), which stays there",
        f"after PADV2 ({IMAGE.name}), which stays there",
        "the Edge TPU does not support it",
    ]
    assert (len(support.on_cpu), support.unknown, support.maps) == (4, (), False)


def test_all_after_the_first_that_is_unknown_is_unknown() -> None:
    support = judge_model(file(CONV, op("RESIZE_BILINEAR"), ADD, op("HARD_SWISH"), op("CAST"), ADD))
    assert [j.status for j in support.operators] == [MAPS, UNKNOWN, UNKNOWN, UNKNOWN, CPU, CPU]
    assert support.operators[2].reason == f"after RESIZE_BILINEAR ({IMAGE.name}), which is unknown"
    assert support.operators[3].reason == "seen left on the CPU, not verified"
    assert support.operators[5].reason == f"after CAST ({IMAGE.name}), which stays there"


def test_the_quantize_of_a_float_input_ends_nothing() -> None:
    entry = op("QUANTIZE", tensor(1, 8, dtype="FLOAT32"))
    assert [j.status for j in judge_model(file(entry, CONV)).operators] == [CPU, MAPS]
    assert [j.status for j in judge_model(file(CONV, entry, CONV)).operators] == [MAPS, CPU, CPU]


OUTSIDE = op("CONV_2D", IMAGE, replace(WEIGHT, outside=True))
FLOAT = op("ADD", tensor(1, 8, dtype="FLOAT32"), output=tensor(1, 8, dtype="FLOAT32"))


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (file(FLOAT), "the model is not quantised"),
        (file(op("ADD", tensor(1, 8, dynamic=True))), "a tensor has no static shape"),
        (
            file(op("CONV_2D", IMAGE, WEIGHT, version=6)),
            f"CONV_2D version 6 ({IMAGE.name}) is newer than the compiler",
        ),
        (
            file(OUTSIDE, OUTSIDE),
            "the parameters of 2 operators lie behind the flatbuffer, where old runtimes see none",
        ),
        (file(ADD, subgraphs=2), "it has 2 subgraphs, and only one is compiled"),
    ],
)
def test_what_is_wrong_with_a_file_as_a_whole(model: ModelFile, problem: str) -> None:
    support = judge_model(model)
    assert support.problems == (problem,)
    assert not support.maps
    assert f"the file as a whole: {problem}" in str(support)


def test_a_file_that_maps_as_a_whole() -> None:
    support = judge_model(file(CONV, ADD, op("RESHAPE")))
    assert (support.problems, support.maps) == ((), True)
    assert str(support) == (
        "3 operators: 3 map, 0 stay on the CPU, 0 unknown (by the documentation, nothing was "
        "compiled)"
    )


def test_the_text_names_each_operator_that_does_not_map() -> None:
    lines = str(judge_model(file(CONV, op("RESIZE_BILINEAR"), op("CAST")))).splitlines()
    assert lines == [
        "3 operators: 1 map, 1 stay on the CPU, 1 unknown (by the documentation, nothing was "
        "compiled)",
        f"CAST ({IMAGE.name}): stays on the CPU: the Edge TPU does not support it",
        f"RESIZE_BILINEAR ({IMAGE.name}): unknown: the vendor says that it may stay on the CPU, "
        "depending on its sizes",
    ]


def vendor_model(name: str) -> ModelFile:
    if not MODELS.is_dir():
        pytest.skip("the vendor's model files are not here")
    pytest.importorskip("tflite", exc_type=ImportError)
    return read_model(MODELS / f"{name}.tflite")


def test_a_compiled_file_is_not_judged() -> None:
    package = pytest.importorskip("pytest_dwsconv.edgetpu.package", exc_type=ImportError)
    compiled = replace(file(ADD), packages=(package.Package(14, "", 0, 0, 0, 0),))
    with pytest.raises(
        InputError, match="the model is compiled already; read its packages and on_cpu"
    ):
        judge_model(compiled)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v1_0.25_128_quant",
        "deeplabv3_mnv2_dm05_pascal_quant",
        "keras_lstm_mnist_ptq",
        "split_concat",
    ],
)
def test_the_vendors_compiler_agrees(name: str) -> None:
    """What is judged to map the compiler mapped, and what it left on the CPU is not judged to map."""
    plain, compiled = vendor_model(name), vendor_model(f"{name}_edgetpu")
    judged = judge_model(plain).operators
    mapped = [judgement for judgement in judged if judgement.status is MAPS]
    assert [j.operator for j in judged if j.status is not MAPS] == [o.name for o in compiled.on_cpu]
    assert len(mapped) == len(plain.operators) - len(compiled.on_cpu) > 0
