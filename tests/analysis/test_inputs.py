"""What a forward is run on, and what is said of inputs that are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv import analyze, rewrite
from pytest_dwsconv.errors import DwsconvError, InputError, TracingError

SHAPE = (1, 3, 12, 12)


def classifier(kind: type[nn.Module] = nn.Conv2d, rank: int = 2) -> nn.Sequential:
    """A network that takes a batch only: its last layer reads the channels from the second side."""
    pooling = getattr(nn, f"AdaptiveAvgPool{rank}d")(1)
    return nn.Sequential(kind(3, 8, 3), pooling, nn.Flatten(), nn.Linear(8, 10))


@pytest.mark.parametrize(
    "written", ["1,3,12,12", "1x3x12x12", [1, 3, 12, 12], [SHAPE], torch.Size(SHAPE)]
)
def test_a_shape_may_be_written_in_several_ways(written: Any) -> None:
    assert analyze(classifier(), written) == analyze(classifier(), SHAPE)


def test_rewrite_takes_a_shape_as_text_too() -> None:
    assert rewrite(nn.Sequential(nn.Conv2d(8, 8, 3)), "1,8,9,9").report_after.macs


def test_several_shapes_may_be_written_as_text() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    assert analyze(Sum(), "1,3;1,1").input_shapes == ((1, 3), (1, 1))


def test_sides_may_be_any_whole_numbers() -> None:
    sides = torch.tensor(SHAPE)
    assert analyze(classifier(), tuple(sides.numpy())) == analyze(classifier(), SHAPE)
    assert analyze(classifier(), tuple(sides)) == analyze(classifier(), SHAPE)


@pytest.mark.parametrize(
    ("input_size", "message"),
    [
        ((1, 3, 8, 0), "the side 0; sides are whole numbers from 1"),
        ((1, 3, 8, -1), "the side -1;"),
        ((1, 3, 8, 2.5), "the side 2.5;"),
        ((1, 3, 8, 8.0), "the side 8.0;"),
        ((1, 3, 8, True), "the side True;"),
        ((1, 3, 8, None), "the side None;"),
        ((1, 3, 8, "8"), "the side '8';"),
        ((1, 3, 8, torch.ones(2)), "the side tensor"),
        (("1", "3", "8", "8"), "the side '1';"),
        (((1, 3, 8, 8), (1, -(10**5000))), "of thousands of digits"),
        ((1, 3, 2**40, 2**40), "is larger than any tensor can be; give a smaller input_size"),
        ((1, 2**61), "is larger than any tensor can be"),
        ((1, 3, 8, 10**400), "is larger than any tensor can be"),
        ((1, 3, 8, 10**5000), "an input of shape of thousands of digits is larger"),
        ("1,3,8,a", "input size '1,3,8,a' is not a shape: write whole numbers from 1"),
        ("", "is not a shape"),
        ((), "input_size is a shape such as"),
        (224, "input_size is a shape such as"),
        (b"1,3", "input_size is a shape such as"),
        ({1: 3}, "input_size is a shape such as"),
        (torch.rand(SHAPE), "pass tensors as example_inputs"),
        (((1, 8, 9, 9), 3), "mixes shapes and sides; several inputs take one shape each"),
        ((3, (1, 8, 9, 9)), "mixes shapes and sides"),
    ],
)
def test_what_is_not_a_shape_is_refused_in_one_sentence(input_size: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        analyze(classifier(), input_size)
    assert len(str(caught.value)) < 300


def test_both_kinds_of_inputs_are_one_too_many() -> None:
    with pytest.raises(InputError, match="pass either input_size or example_inputs, not both"):
        analyze(classifier(), SHAPE, example_inputs=torch.rand(SHAPE))


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((3, 12, 12), r"\(3, 12, 12\) has no batch side, .*: pass \(1, 3, 12, 12\)\.$"),
        (
            (1, 12, 14, 3),
            r"looks like channels last, and PyTorch wants \(N, C, H, W\): pass \(1, 3, 12, 14\)\.$",
        ),
        ((12, 14, 3), r"looks like channels last, .*: pass \(1, 3, 12, 14\)\.$"),
        ((1, 4, 12, 12), r"Pass an input size or example_inputs that its forward accepts\.$"),
        ((1, 3, 2, 2), r"Pass an input size or example_inputs that its forward accepts\.$"),
        ((1, 3, 2, 3), r"Pass an input size or example_inputs that its forward accepts\.$"),
        ((1, 3, 12), r"Pass an input size or example_inputs that its forward accepts\.$"),
        ((12,), r"Pass an input size or example_inputs that its forward accepts\.$"),
    ],
)
def test_a_shape_that_the_model_rejects_is_told_as_what_it_is(
    shape: tuple[int, ...], advice: str
) -> None:
    for given in ({"input_size": shape}, {"example_inputs": torch.rand(shape)}):
        with pytest.raises(TracingError, match=advice) as caught:
            analyze(classifier(), **given)
        assert not isinstance(caught.value.__cause__, DwsconvError)


@pytest.mark.parametrize(
    ("kind", "shape", "wanted"),
    [
        (nn.Conv1d, (1, 16, 3), r"\(N, C, L\): pass \(1, 3, 16\)"),
        (nn.Conv3d, (1, 4, 5, 6, 3), r"\(N, C, D, H, W\): pass \(1, 3, 4, 5, 6\)"),
    ],
)
def test_channels_last_of_every_rank(
    kind: type[nn.Module], shape: tuple[int, ...], wanted: str
) -> None:
    with pytest.raises(TracingError, match=wanted):
        analyze(classifier(kind, len(shape) - 2), shape)


def test_a_shape_without_a_batch_is_fine_where_every_layer_takes_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    assert analyze(model, SHAPE[1:]).macs == analyze(model, SHAPE).macs


def test_a_model_without_convolutions_gets_no_advice_about_them() -> None:
    with pytest.raises(TracingError, match="that its forward accepts"):
        analyze(nn.Linear(3, 4), (2, 5))


def test_inputs_are_not_of_a_type_that_models_only_store() -> None:
    scale = torch.zeros(2, dtype=torch.float8_e4m3fn)
    model = nn.Sequential(nn.Identity(), *classifier())
    model[0].register_parameter("scale", nn.Parameter(scale, requires_grad=False))
    assert analyze(model, SHAPE).macs


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_traced_model_is_told_as_what_it_is(wrapped: bool) -> None:
    traced: nn.Module = torch.jit.trace(nn.Conv2d(3, 8, 3), torch.rand(1, 3, 8, 8))
    model = nn.Sequential(traced) if wrapped else traced
    with pytest.raises(InputError, match=r"was made by torch\.jit and has no Python forward"):
        analyze(model, (1, 3, 8, 8))
