from __future__ import annotations

from dataclasses import replace

import pytest
from external_files import vendor_model

from pytest_dwsconv.edgetpu.modelfile import ModelFile, Operator, Quantization, Tensor, read_model
from pytest_dwsconv.edgetpu.operators import REFUSED, SUPPORTED
from pytest_dwsconv.edgetpu.support import Status, judge_model
from pytest_dwsconv.errors import InputError

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


def resize(before: int, after: int, **options: int) -> Operator:
    data, result = tensor(1, before, before, 4), tensor(1, after, after, 4)
    return op("RESIZE_BILINEAR", data, output=result, **options)


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
    (op("CONV_2D", IMAGE, tensor(4, 3, 1, 4, constant=True), dilation_w=1, dilation_h=2), MAPS, ""),
    (op("CONV_2D", IMAGE, tensor(4, 1, 3, 4, constant=True), dilation_w=1, dilation_h=2), MAPS, ""),
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
    (op("FULLY_CONNECTED", FLAT, PER_CHANNEL), MAPS, ""),
    (
        op("FULLY_CONNECTED", FLAT, PER_CHANNEL, weights_format=1),
        CPU,
        "its weights are not in the default format",
    ),
    (op("QUANTIZE", version=2), MAPS, ""),
    (op("QUANTIZE", version=3), CPU, "version 3"),
    (op("TRANSPOSE_CONV", constant(1, 2), WEIGHT, IMAGE, version=3), MAPS, ""),
    (op("TRANSPOSE_CONV", constant(1, 2), WEIGHT, IMAGE, version=4), CPU, "version 4"),
    (op("MEAN", IMAGE, constant(1, 2)), MAPS, ""),
    (op("MEAN", IMAGE, constant(-3)), MAPS, ""),
    (op("MEAN", IMAGE, constant(0, 1)), CPU, "it reduces the batch"),
    (op("MEAN", IMAGE, constant(-4)), CPU, "it reduces the batch"),
    (op("REDUCE_MAX", IMAGE, constant(0)), CPU, "it reduces the batch"),
    (op("MEAN", IMAGE, constant(3)), MAPS, ""),
    (op("MEAN", tensor(1, 8, 8, 6), constant(-1)), UNKNOWN, "it reduces 6 channels"),
    (op("MEAN", tensor(1, 8, 8, 6), constant(1, 2)), MAPS, ""),
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
        UNKNOWN,
        "it has 16,001 elements: the vendor says that 16,000 is the most, and compiler 16",
    ),
    (op("SOFTMAX", FLAT, output=tensor(1, 8, 8, 4)), CPU, "its input has more than one dimension"),
    (op("STRIDED_SLICE", IMAGE, constant(0), constant(1), constant(1, 1)), MAPS, ""),
    (
        op("STRIDED_SLICE", IMAGE, constant(0), constant(1), constant(1, 2)),
        UNKNOWN,
        "its strides are not all 1, which compiler 15 refused and 16 may map",
    ),
    (op("RESHAPE"), MAPS, "a large one may stay on the CPU"),
    (resize(64, 128), MAPS, ""),
    (resize(128, 256), UNKNOWN, "the compiler maps it or not by its sizes: to 128 a side was seen"),
    (
        resize(8, 16, align_corners=1),
        UNKNOWN,
        "the compiler maps it or not by its sizes, and was seen",
    ),
    (resize(8, 15), UNKNOWN, "the compiler maps it or not by its sizes"),
    (resize(8, 8), UNKNOWN, "the compiler maps it or not by its sizes"),
    (resize(1, 2), CPU, "it enlarges a single pixel"),
    (op("RESIZE_BILINEAR", FLAT, output=FLAT), UNKNOWN, "the compiler maps it or not by its sizes"),
    (op("RESIZE_NEAREST_NEIGHBOR"), MAPS, ""),
    (op("TRANSPOSE"), MAPS, ""),
    (op("RSQRT"), UNKNOWN, "not verified"),
    (op("HARD_SWISH"), CPU, "the Edge TPU does not support it"),
    (op("EXP", version=2), CPU, "version 2"),
    (op("PADV2"), CPU, "the Edge TPU does not support it"),
    (op("GELU"), UNKNOWN, "not among the operators that are known to map or not to map"),
    (op("TILE", IMAGE, constant(1, 2, 2, 1)), UNKNOWN, "not among the operators that are known"),
    (op("SQRT", tensor(1, 8, dtype="FLOAT32")), CPU, "it works on float32, not on int8 or uint8"),
    (op("GATHER_ND", IMAGE, tensor(1, 3, dtype="INT32")), CPU, "it works on int32"),
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


@pytest.mark.parametrize(
    ("operator", "runtime", "basis"),
    [
        (ADD, 0, "documented by the vendor"),
        (op("SUM"), 13, "documented by the vendor"),
        (op("QUANTIZE"), 12, "mapped in 19 files of runtime 12"),
        (op("TRANSPOSE"), 14, "compiler 16 mapped 24 of 24"),
        (op("CAST"), 0, "seen left on the CPU"),
    ],
)
def test_the_runtime_and_what_a_claim_rests_on(
    operator: Operator, runtime: int, basis: str
) -> None:
    (judgement,) = judge_model(file(operator)).operators
    assert (judgement.runtime, judgement.basis) == (runtime, basis)


@pytest.mark.parametrize(
    "operator",
    [
        op("TRANSPOSE"),
        op("RESIZE_NEAREST_NEIGHBOR"),
        resize(8, 16),
        op("FULLY_CONNECTED", FLAT, PER_CHANNEL),
    ],
)
def test_what_only_the_newest_compiler_was_seen_to_map(operator: Operator) -> None:
    (judgement,) = judge_model(file(operator), compiler=15).operators
    assert judgement.status is UNKNOWN
    assert judgement.reason == "seen to map with compiler 16, not verified with 15"


@pytest.mark.parametrize("compiler", [0, -1, 10**400])
def test_what_is_not_a_version_of_the_compiler_is_refused(compiler: int) -> None:
    with pytest.raises(InputError, match="compiler is the major version of the Edge TPU compiler"):
        judge_model(file(ADD), compiler=compiler)


@pytest.mark.parametrize(
    "name", ["GATHER", "LEAKY_RELU", "PADV2", "ARG_MAX", "CAST", "DIV", "FLOOR_DIV", "UNPACK"]
)
def test_no_operator_is_in_both_lists(name: str) -> None:
    assert name in REFUSED
    assert not REFUSED & SUPPORTED.keys()


def test_all_after_the_first_that_stays_on_the_cpu_stays_there() -> None:
    support = judge_model(file(CONV, op("PADV2"), CONV, op("RSQRT"), op("CAST")))
    assert [j.status for j in support.operators] == [MAPS, CPU, CPU, CPU, CPU]
    assert [j.reason for j in support.operators[2:]] == [
        f"after PADV2 ({IMAGE.name}), which stays there",
        f"after PADV2 ({IMAGE.name}), which stays there",
        "the Edge TPU does not support it",
    ]
    assert (len(support.on_cpu), support.unknown, support.maps) == (4, (), False)


def test_all_after_the_first_that_is_unknown_is_unknown() -> None:
    support = judge_model(file(CONV, op("RESIZE_BILINEAR"), ADD, op("RSQRT"), op("CAST"), ADD))
    assert [j.status for j in support.operators] == [MAPS, UNKNOWN, UNKNOWN, UNKNOWN, CPU, CPU]
    assert support.operators[2].reason == f"after RESIZE_BILINEAR ({IMAGE.name}), which is unknown"
    assert support.operators[3].reason == "not verified that the compiler maps it"
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
        f"compiled)\n{support.caveat}"
    )


def test_what_maps_has_the_caveat_of_large_activations() -> None:
    """The compiler refuses them, from a size that is not published, although each operator maps."""
    large = replace(tensor(1, 513, 513, 32), name="stem")
    caveat = judge_model(file(op("ADD", IMAGE, output=large))).caveat
    assert caveat.startswith("the largest activation is stem, (1, 513, 513, 32), 8,421,408 bytes")
    assert "use a smaller input, or fewer channels early" in caveat
    assert judge_model(file(op("CAST"))).caveat == ""


def test_a_complaint_names_each_cause_once_with_its_layers() -> None:
    slow = [op("HARD_SWISH", output=replace(IMAGE, name=f"act{i}")) for i in range(7)]
    support = judge_model(file(CONV, *slow, op("TILE"), ADD, subgraphs=2))
    assert support.complaints == (
        "it has 2 subgraphs, and only one is compiled",
        "HARD_SWISH (act0, act1, act2, act3, act4 and 2 more): stays on the CPU: the Edge TPU does "
        "not support it",
        f"TILE ({IMAGE.name}): unknown: not among the operators that are known to map or not to "
        "map",
        "1 of 10 operators depend on these and may not map",
    )
    assert judge_model(file(CONV)).complaints == ()


# --------------------------------------------------------------------------- the one part


def chain(*names: str) -> list[Operator]:
    """Operators of which each works on what the one before it computes."""
    sides = [replace(IMAGE, name=str(number)) for number in range(len(names) + 1)]
    return [op(name, sides[i], output=sides[i + 1]) for i, name in enumerate(names)]


def statuses(*operators: Operator) -> list[Status]:
    return [judgement.status for judgement in judge_model(file(*operators)).operators]


def test_what_stays_on_the_cpu_at_the_entry_ends_nothing() -> None:
    assert statuses(*chain("CAST", "CAST", "ADD", "CAST", "ADD")) == [CPU, CPU, MAPS, CPU, CPU]


def test_a_branch_that_does_not_depend_on_what_stays_maps() -> None:
    first, on_cpu, after = chain("ADD", "ARG_MAX", "ADD")
    branch = op("SUB", first.outputs[0], output=replace(IMAGE, name="branch"))
    assert statuses(first, on_cpu, after, branch) == [MAPS, CPU, CPU, MAPS]
    join = op("MUL", branch.outputs[0], after.outputs[0])
    (*_, judgement) = judge_model(file(first, on_cpu, after, branch, join)).operators
    assert str(judgement).endswith("stays on the CPU: after ARG_MAX (2), which stays there")


def test_a_branch_that_does_not_depend_on_what_is_unknown_maps() -> None:
    first, unknown, after = chain("ADD", "RESIZE_BILINEAR", "ADD")
    branch = op("SUB", first.outputs[0], output=replace(IMAGE, name="branch"))
    assert statuses(first, unknown, after, branch) == [MAPS, UNKNOWN, UNKNOWN, MAPS]


def test_the_part_that_is_mapped_is_the_first() -> None:
    """Once the device has begun, what the CPU has to compute first belongs to a second part."""
    first = op("ADD", IMAGE, output=replace(IMAGE, name="first"))
    assert statuses(first, *chain("CAST", "ADD")) == [MAPS, CPU, CPU]


def test_an_unknown_operator_may_decide_which_part_is_the_first() -> None:
    first = op("RSQRT", IMAGE, output=replace(IMAGE, name="first"))
    support = judge_model(file(first, *chain("CAST", "ADD")))
    assert [judgement.status for judgement in support.operators] == [UNKNOWN, CPU, UNKNOWN]
    assert support.operators[2].reason == "after RSQRT (first), which is unknown"


def test_the_text_names_each_operator_that_does_not_map() -> None:
    lines = str(judge_model(file(CONV, op("RESIZE_BILINEAR"), op("CAST")))).splitlines()
    assert lines == [
        "3 operators: 1 map, 1 stay on the CPU, 1 unknown (by the documentation, nothing was "
        "compiled)",
        f"the largest activation is {IMAGE.name}, (1, 8, 8, 4), 256 bytes: the compiler refuses a "
        "file with activations that are too large, at a limit that is not published; then use a "
        "smaller input, or fewer channels early",
        f"CAST ({IMAGE.name}): stays on the CPU: the Edge TPU does not support it",
        f"RESIZE_BILINEAR ({IMAGE.name}): unknown: the compiler maps it or not by its sizes, and "
        "was seen to map an exact doubling",
    ]


def read_vendor_model(name: str) -> ModelFile:
    pytest.importorskip("tflite", exc_type=ImportError)
    return read_model(vendor_model(name))


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
        "movenet_single_pose_lightning_ptq",
    ],
)
def test_the_vendors_compiler_agrees(name: str) -> None:
    """It mapped what is judged to map, and left what is judged to stay."""
    plain, compiled = read_vendor_model(name), read_vendor_model(f"{name}_edgetpu")
    left = {output.name for operator in compiled.on_cpu for output in operator.outputs}
    support = judge_model(plain)
    for operator, judgement in zip(plain.operators, support.operators, strict=True):
        stayed = any(output.name in left for output in operator.outputs)
        assert judgement.status is (CPU if stayed else MAPS), str(judgement)
    assert (support.problems, support.caveat != "") == ((), True)
