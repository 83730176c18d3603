from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from external_files import vendor_model
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_dwsconv.edgetpu import modelfile
from pytest_dwsconv.edgetpu.flatbuffer import Content
from pytest_dwsconv.edgetpu.modelfile import (
    ModelFile,
    Tensor,
    operator_number,
    read_model,
)
from pytest_dwsconv.edgetpu.package import NoPackageError, read_package
from pytest_dwsconv.edgetpu.support import judge_model
from pytest_dwsconv.errors import FormatError, InputError, MissingDependencyError

tflite = pytest.importorskip("tflite", exc_type=ImportError)
flatbuffers = pytest.importorskip("flatbuffers", exc_type=ImportError)

from tflite_files import (  # noqa: E402
    AXES,
    COMPILED,
    CONV,
    FEATURES,
    IMAGE,
    MEAN,
    PACKAGE,
    PLAIN,
    WEIGHT,
    custom_options,
    pack,
    with_one_tensor_listed,
)


def read(model: ModelFile) -> ModelFile:
    return replace(read_model(pack(model)), size=0)


@pytest.mark.parametrize("model", [PLAIN, COMPILED, replace(PLAIN, subgraphs=2)])
def test_a_file_reads_as_what_it_was_written_from(model: ModelFile) -> None:
    assert read(model) == model


@pytest.mark.parametrize(
    "changed",
    [
        replace(WEIGHT, outside=True),
        replace(WEIGHT, dtype="UINT8", quantization=None),
        replace(WEIGHT, constant=False, variable=True, dtype="INT16"),
        replace(WEIGHT, constant=False, dynamic=True),
        replace(WEIGHT, dtype="INT64", shape=(2,), values=(-1, 2**40)),
    ],
)
def test_what_a_tensor_can_be(changed: Tensor) -> None:
    model = replace(PLAIN, operators=(replace(CONV, inputs=(IMAGE, changed, None)), MEAN))
    assert read(model) == model


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AVERAGE_POOL_2D", {"activation": 3}),
        ("CONCATENATION", {"activation": 1}),
        ("FULLY_CONNECTED", {"weights_format": 1}),
        ("RESIZE_BILINEAR", {"align_corners": 1}),
        ("STABLEHLO_SCATTER", {}),  # its number is above 127, where the old field of the code ends
        ("ADD", {}),
    ],
)
def test_operators_and_their_options(name: str, options: dict[str, int]) -> None:
    model = replace(PLAIN, operators=(replace(CONV, name=name, options=options),))
    assert read(replace(model, outputs=(FEATURES,))).operators == model.operators


@pytest.mark.parametrize("old", [True, False])
def test_an_operator_declared_in_one_field_alone(old: bool) -> None:
    """Files from before 2.4 have the old field; ai-edge-quantizer 0.10 writes the new one alone."""
    number = tflite.BuiltinOperator.DEQUANTIZE
    builder = flatbuffers.Builder(64)
    tflite.OperatorCodeStart(builder)
    field = (
        tflite.OperatorCodeAddDeprecatedBuiltinCode if old else tflite.OperatorCodeAddBuiltinCode
    )
    field(builder, number)
    builder.Finish(tflite.OperatorCodeEnd(builder))
    assert operator_number(Content(bytes(builder.Output())).root()) == number


def test_only_a_few_integers_are_kept() -> None:
    assert all(
        tensor is None or tensor.values is None for tensor in read(PLAIN).operators[0].inputs
    )
    assert read(PLAIN).operators[1].inputs[1] == AXES


def test_the_size_is_that_of_the_file() -> None:
    content = pack(PLAIN)
    assert read_model(content).size == len(content)


def test_what_a_compiled_file_tells() -> None:
    model = read(COMPILED)
    assert (model.compiled, model.min_runtime_version, model.on_cpu) == (True, 14, (MEAN,))
    assert (model.parameters_cached, model.parameters_streamed) == (640, 128)
    assert (model.input_bytes, model.output_bytes, model.instruction_bytes) == (256, 8, 48)


def test_the_packages_of_a_segmented_file_add_up() -> None:
    first = COMPILED.operators[0]
    model = read(
        replace(
            COMPILED, operators=(first, first), outputs=(FEATURES,), packages=(PACKAGE, PACKAGE)
        )
    )
    assert (model.parameters_cached, model.input_bytes, model.min_runtime_version) == (
        1280,
        512,
        14,
    )


def test_a_file_that_is_not_compiled() -> None:
    model = read(PLAIN)
    assert (model.compiled, model.min_runtime_version, model.on_cpu) == (False, 0, (CONV, MEAN))
    assert (
        model.parameters_cached,
        model.parameters_streamed,
        model.input_bytes,
        model.output_bytes,
    ) == (0, 0, 0, 0)


def test_options_without_a_package() -> None:
    with pytest.raises(NoPackageError):
        read_package(b"\x00\x01\x01")
    assert read_package(custom_options(PACKAGE)) == PACKAGE


def test_a_file_of_the_first_compilers_is_named_as_that() -> None:
    """Its operator is there, and what it holds is in a form that nobody published."""
    content = pack(COMPILED).replace(b"DWN1", b"DWN0")
    with pytest.raises(FormatError, match="the model is compiled for the Edge TPU in a form that"):
        read_model(content)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"PK\x03\x04" * 9, b"\0\0\0\0TFL3"])
def test_bytes_that_are_no_model(content: bytes) -> None:
    with pytest.raises(FormatError, match=r"the model is (not a TFLite model|damaged)"):
        read_model(content)


@settings(max_examples=150, deadline=5000)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(pack(data.draw(st.sampled_from([PLAIN, COMPILED]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(FormatError, InputError):
        judge_model(read_model(bytes(content[: data.draw(st.integers(8, len(content)))])))


@pytest.mark.parametrize(("name", "sides"), [("n" * 20_000, 10), ("n", 4_000)])
def test_a_tensor_that_is_listed_very_often_is_read_once(name: str, sides: int) -> None:
    content = with_one_tensor_listed(4_000, name, (1,) * sides)
    start = time.process_time()
    model = read_model(content)
    assert time.process_time() - start < 0.5
    assert len(model.inputs) == 4_000
    assert all(tensor is model.inputs[0] for tensor in model.inputs)
    assert (model.inputs[0].name, len(model.inputs[0].shape)) == (name, sides)


def test_a_file_whose_parts_overlap_is_refused() -> None:
    """Thousands of tensors, each with a shape that begins one number after that of the last."""
    content = bytearray(with_one_tensor_listed(2_000, "n", (1_000,) * 4_000, apart=True))
    start = time.process_time()
    with pytest.raises(FormatError, match=r"the model is damaged \(its parts overlap\)"):
        read_model(bytes(content))
    assert time.process_time() - start < 0.5


def test_operators_that_share_a_list_of_tensors_very_often_are_refused() -> None:
    operators = (replace(CONV, inputs=(IMAGE,) * 500),) * 500
    content = pack(replace(PLAIN, operators=operators), share_inputs=True)
    start = time.process_time()
    with pytest.raises(FormatError, match="its operators share their lists of tensors"):
        read_model(content)
    assert time.process_time() - start < 0.5


def test_a_file_without_buffers_is_read() -> None:
    content = with_one_tensor_listed(1, "n", (1, 3), buffers=False)
    assert [tensor.shape for tensor in read_model(content).inputs] == [(1, 3)]


@pytest.mark.parametrize("index", [-2, 1, 2**31 - 1])
def test_a_tensor_that_is_not_there_is_refused(index: int) -> None:
    content = with_one_tensor_listed(1, "n", (1,), inputs=[index])
    with pytest.raises(FormatError, match=rf"damaged \(it refers to tensor {index} of 1"):
        read_model(content)


def test_a_path_and_the_errors_that_name_it(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(pack(PLAIN))
    assert read_model(path) == read_model(str(path)) == read_model(pack(PLAIN))
    path.write_bytes(b"no model")
    with pytest.raises(
        FormatError, match=r"m\.tflite is not a TFLite model: it lacks the mark TFL3"
    ):
        read_model(path)
    with pytest.raises(
        InputError, match=r"absent\.tflite cannot be read: No such file or directory; give the path"
    ):
        read_model(tmp_path / "absent.tflite")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_model(tmp_path)
    for other in (None, bytearray(b"TFL3"), "no\0path"):
        with pytest.raises(
            InputError, match=r"is not a model file; give the path or the bytes of a \.tflite file"
        ):
            read_model(other)  # type: ignore[arg-type]


def test_the_package_that_reads_is_named_when_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modelfile._names.cache_clear()
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(
        MissingDependencyError,
        match=r"needs the package tflite: pip install 'pytest-dwsconv\[measure\]'",
    ):
        read_model(pack(PLAIN))


def test_the_layer_of_an_operator() -> None:
    prefix = "torch.export.unflatten.InterpreterModule_"
    block = f"a.B/{prefix}layer1/{prefix}0"
    fused = replace(
        FEATURES, name=f"{block}/{prefix}relu;;{block}/{prefix}bn1;;{block}/{prefix}conv1;1"
    )
    assert replace(CONV, outputs=(fused,)).layer == "layer1.0.conv1"
    assert replace(MEAN, outputs=(fused,)).layer == "layer1.0.relu"
    named = replace(WEIGHT, name=f"a.B/{prefix}fc;")
    assert replace(CONV, inputs=(IMAGE, named, None)).layer == "fc"
    own = replace(FEATURES, name="a.B/torch.export.unflatten.UnflattenedModule_network;2")
    assert replace(MEAN, outputs=(own,)).layer == "the model's own forward"
    assert (CONV.layer, replace(CONV, outputs=()).layer) == ("features", "")


# The vendor's own files: name, parameters cached and streamed, input and output bytes, runtime
# version, operators left on the CPU. Published by the vendor's compiler and decoded with the
# vendor's schema.
VENDOR = [
    ("mobilenet_v1_0.25_128_quant", 566_912, 0, 49_152, 1_008, 12, ""),
    ("mobilenet_v1_0.25_128_quant_cocompiled_with_3quant", 315_840, 251_072, 49_152, 1_008, 12, ""),
    (
        "deeplabv3_mnv2_dm05_pascal_quant", 766_720, 0, 789_512, 279_040, 12,
        "RESIZE_BILINEAR QUANTIZE CONCATENATION CONV_2D CONV_2D RESIZE_BILINEAR RESIZE_BILINEAR "
        "ARG_MAX",
    ),
    ("keras_lstm_mnist_ptq", 43_968, 576, 848, 80, 12, ""),
    ("split_concat", 192, 0, 384, 1_280, 13, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "cached", "streamed", "inputs", "outputs", "runtime", "on_cpu"), VENDOR
)
def test_the_vendors_compiled_files(
    name: str, cached: int, streamed: int, inputs: int, outputs: int, runtime: int, on_cpu: str
) -> None:
    path = vendor_model(f"{name}_edgetpu")
    model = read_model(path)
    assert (model.parameters_cached, model.parameters_streamed) == (cached, streamed)
    assert (model.input_bytes, model.output_bytes) == (inputs, outputs)
    assert (model.compiled, model.min_runtime_version) == (True, runtime)
    assert [operator.name for operator in model.on_cpu] == on_cpu.split()
    assert all(package.compiler_version.startswith("cl/") for package in model.packages)
    assert model.size == os.path.getsize(path)
