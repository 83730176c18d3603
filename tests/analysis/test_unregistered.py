"""Convolutions that a model uses without registering them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_dwsconv import analyze

MACS = 16 * 16 * 9 * 64


class Plain(nn.Module):
    """A registered stem, and one more convolution wherever ``hold`` puts it."""

    def __init__(self, hold: Callable[[Any, nn.Conv2d], Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.convolve = [hold(self, nn.Conv2d(16, 16, 3, padding=1))]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.convolve[0](self.stem(x))
        return out


class Unhashable(nn.Sequential):
    __hash__ = None  # type: ignore[assignment]  # reason: as a class that defines __eq__ has it


class Refusing:
    """Does not let itself be looked at."""

    __slots__ = ()


def in_list(model: Any, conv: nn.Conv2d) -> Any:
    model._convs = [None, conv]
    return model._convs[1]


def in_dictionary(model: Any, conv: nn.Conv2d) -> Any:
    model.convs = {"a": nn.Sequential(conv)}
    return model.convs["a"]


def in_tuple(model: Any, conv: nn.Conv2d) -> Any:
    model.convs = (Refusing(), [conv])
    return conv


def in_object(model: Any, conv: nn.Conv2d) -> Any:
    model.parts = SimpleNamespace(conv=conv)
    return conv


def past_registration(model: Any, conv: nn.Conv2d) -> Any:
    model.__dict__["conv"] = conv
    return conv


def deep_down(model: Any, conv: nn.Conv2d) -> Any:
    model.convs = [[[[conv]]]]
    return lambda x: conv(x)  # noqa: PLW0108  # reason: as in a closure


def without_a_hash(model: Any, conv: nn.Conv2d) -> Any:
    model.parts = [Unhashable(conv)]
    return model.parts[0]


def in_closure(model: Any, conv: nn.Conv2d) -> Any:
    return lambda x: conv(x)  # noqa: PLW0108  # reason: the closure is what is tried


def bare_weight(model: Any, conv: nn.Conv2d) -> Any:
    model.weights = [conv.weight]
    return lambda x: F.conv2d(x, model.weights[0], padding=1)


@pytest.mark.parametrize(
    ("hold", "name", "type_name"),
    [
        (in_list, "_convs.1", "Conv2d"),
        (in_dictionary, "convs.a.0", "Conv2d"),
        (in_tuple, "convs.1.0", "Conv2d"),
        (in_object, "parts.conv", "Conv2d"),
        (past_registration, "conv", "Conv2d"),
        (without_a_hash, "parts.0.0", "Conv2d"),
        (deep_down, "conv2d", "conv2d"),
        (in_closure, "conv2d", "conv2d"),
        (bare_weight, "conv2d", "conv2d"),
    ],
)
def test_a_module_that_is_not_registered_is_told_as_that(
    hold: Any, name: str, type_name: str
) -> None:
    model = Plain(hold)
    report = analyze(model, (1, 3, 8, 8))
    found = report.findings[1]
    assert (found.name, found.type_name, found.code) == (name, type_name, "DWS114")
    assert "not registered" in found.reason
    assert (found.params, found.macs, found.calls) == (0, MACS, 1)
    assert report.params == sum(parameter.numel() for parameter in model.parameters())


def test_calls_of_one_unregistered_module_are_one_row() -> None:
    def twice(model: Any, conv: nn.Conv2d) -> Any:
        model.convs = [conv, conv]
        return lambda x: model.convs[1](model.convs[0](x))

    found = analyze(Plain(twice), (1, 3, 8, 8)).findings[1]
    assert (found.name, found.calls, found.macs) == ("convs.0", 2, 2 * MACS)


def test_two_unregistered_modules_are_two_rows() -> None:
    def several(model: Any, conv: nn.Conv2d) -> Any:
        model.convs = [conv, nn.Conv2d(16, 16, 3, padding=1)]
        return lambda x: model.convs[1](model.convs[0](x))

    names = [found.name for found in analyze(Plain(several), (1, 3, 8, 8)).findings]
    assert names == ["stem", "convs.0", "convs.1"]


def test_a_computed_weight_is_not_told_as_unregistered() -> None:
    def computed(model: Any, conv: nn.Conv2d) -> Any:
        return lambda x: F.conv2d(x, conv.weight * 2, padding=1)

    assert analyze(Plain(computed), (1, 3, 8, 8)).findings[1].code == "DWS112"
