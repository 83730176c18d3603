"""The class that a rewrite inserts, run beside the convolution it replaces."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dwsconv.core.conv import ConvSpec, separable_cost
from pytest_dwsconv.source.template import class_text

CONVS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def inserted(rank: int) -> Any:
    name = f"DepthwiseSeparableConv{rank}d"
    namespace: dict[str, Any] = {"torch": torch, "nn": nn, "__name__": __name__}
    exec(class_text(rank, name, "torch", "nn"), namespace)
    return namespace[name]


def pair(rank: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return inserted(rank)(*args, **kwargs), CONVS[rank](*args, **kwargs)


ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": "same"},
    {"padding": "same", "dilation": 2, "padding_mode": "reflect"},
    {"padding": "valid", "bias": False},
    {"padding": 2, "dilation": 2, "stride": 3, "groups": 2},
    {"padding": 1, "padding_mode": "circular", "groups": 4, "bias": False},
    {"dtype": torch.float64},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_it_stands_in_for_the_convolution(rank: int, arguments: dict[str, Any]) -> None:
    new, old = pair(rank, 4, 8, 3, **arguments)
    x = torch.randn(2, 4, *(9, 8, 7)[:rank], dtype=arguments.get("dtype"))
    assert new(x).shape == old(x).shape
    assert new(x[0]).shape == old(x[0]).shape
    assert new(input=x).dtype == old(x).dtype
    for name in (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
    ):
        assert getattr(new, name) == getattr(old, name), name
    for name in ("padding_mode", "transposed", "output_padding"):
        assert getattr(new, name) == getattr(old, name), name
    assert new.weight.shape == old.weight.shape
    assert (new.bias is None) == (old.bias is None)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_its_weight_is_the_kernel_of_the_equal_convolution(
    rank: int, arguments: dict[str, Any]
) -> None:
    new, old = pair(rank, 4, 8, 3, **{**arguments, "dtype": torch.float64})
    state = {"weight": new.weight.detach()}
    if new.bias is not None:
        state["bias"] = new.bias.detach()
    old.load_state_dict(state)
    x = torch.randn(2, 4, *(9, 8, 7)[:rank], dtype=torch.float64)
    torch.testing.assert_close(new(x), old(x), rtol=1e-10, atol=1e-10)
    new.weight.sum().backward()
    assert all(
        new.get_parameter(f"{part}.weight").grad is not None for part in ("depthwise", "pointwise")
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("groups", "bias"), [(1, True), (1, False), (2, True)])
def test_its_parameters_are_those_foretold(rank: int, groups: int, bias: bool) -> None:
    new, _ = pair(rank, 4, 8, 3, groups=groups, bias=bias)
    spec = ConvSpec(rank, 4, 8, (3,) * rank, groups=groups, bias=bias)
    foretold = separable_cost(spec)
    assert foretold is not None
    assert sum(parameter.numel() for parameter in new.parameters()) == foretold.params


def test_it_takes_the_arguments_in_the_same_order() -> None:
    values = (4, 8, (3, 5), (2, 1), (1, 2), (1, 2), 2, False, "reflect", "meta", torch.float64)
    new, old = pair(2, *values)
    for parameter in new.parameters():
        assert (parameter.device.type, parameter.dtype) == ("meta", torch.float64)
    assert (new.stride, new.padding, new.dilation) == (old.stride, old.padding, old.dilation)
    assert (new.groups, new.bias, new.padding_mode) == (2, None, "reflect")


@pytest.mark.parametrize(
    "arguments", [(4, 9, 3, 1, 0, 1, 2), (5, 8, 3, 1, 0, 1, 2), (4, 8, 3, 1, "wrong")]
)
def test_what_the_convolution_rejects_it_rejects(arguments: tuple[Any, ...]) -> None:
    for make in (inserted(2), nn.Conv2d):
        with pytest.raises(ValueError, match=r"must be divisible|padding"):
            make(*arguments)


@pytest.mark.parametrize("groups", [1, 4])
def test_its_output_varies_as_that_of_the_convolution(groups: int) -> None:
    torch.manual_seed(0)
    new, old = pair(2, 256, 512, 3, groups=groups, bias=False)
    x = torch.randn(4, 256, 12, 12)
    assert new(x).std().item() == pytest.approx(old(x).std().item(), rel=0.15)


def test_loops_that_look_for_convolutions_find_its_parts() -> None:
    found = [module for module in inserted(2)(4, 8, 3).modules() if isinstance(module, nn.Conv2d)]
    assert [tuple(module.weight.shape) for module in found] == [(4, 1, 3, 3), (8, 4, 1, 1)]


def test_it_copies_pickles_and_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = inserted(2)
    monkeypatch.setattr(sys.modules[__name__], kind.__name__, kind, raising=False)
    new, x = kind(4, 8, 3, padding=1), torch.randn(1, 4, 6, 6)
    for other in (copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
        torch.testing.assert_close(other(x), new(x))
    exported = torch.export.export(new, (x,)).module()
    torch.testing.assert_close(exported(x), new(x))


def test_it_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"import torch\nfrom torch import nn\n\n\n{class_text(2, 'Separable', 'torch', 'nn')}"
    (tmp_path / "scripted_separable.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import scripted_separable  # type: ignore[import-not-found]  # written above

    new, x = scripted_separable.Separable(4, 8, 3), torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(torch.jit.script(new)(x), new(x))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("nn_name", ["nn", "torch.nn"])
def test_formatters_leave_it_as_it_is(rank: int, nn_name: str, tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    file = tmp_path / "inserted.py"
    text = class_text(rank, f"DepthwiseSeparableConv{rank}d", "torch", nn_name)
    file.write_text(f"import torch\nfrom torch import nn\n\n\n{text}")
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--diff", str(file)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""
