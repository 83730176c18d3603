"""Whether a model is still what it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytest_dwsconv.plugin.noticing.state import ModelState


def net() -> nn.Sequential:
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    made.register_buffer("kept", None)
    return made


def replace_data(model: nn.Sequential) -> None:
    weight = next(model.parameters())
    weight.data = weight.data[:2]


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "a setting": lambda model: setattr(model[0], "stride", (2, 2)),
    "a new setting": lambda model: setattr(model[1], "note", 1),
    "a deleted setting": lambda model: delattr(model[0], "groups"),
    "a child": lambda model: setattr(model, "1", nn.Identity()),
    "a new child": lambda model: model.append(nn.ReLU()),
    "a parameter": lambda model: setattr(model[0], "weight", nn.Parameter(torch.zeros(4, 3, 3, 3))),
    "a buffer": lambda model: setattr(model, "kept", torch.zeros(1)),
    "a hook": lambda model: model[1].register_forward_hook(lambda *arguments: None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_anywhere_is_seen_at_once_and_module_by_module(name: str) -> None:
    model = net()
    state = ModelState(model)
    assert state.is_same()
    assert all(state.is_next_same() for _ in range(6))
    CHANGES[name](model)
    assert not state.is_same()
    assert not all(state.is_next_same() for _ in range(3))


def test_a_tensor_of_another_shape_in_place_is_seen() -> None:
    model = net()
    state = ModelState(model)
    replace_data(model)
    assert not state.is_same()


def test_training_and_new_values_are_no_change() -> None:
    model = net()
    state = ModelState(model)
    model(torch.zeros(2, 3, 8, 8)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.eval().requires_grad_(False)
    assert state.is_same()
    assert all(state.is_next_same() for _ in range(3))


def test_settings_that_calls_change_are_ignored() -> None:
    model = net()
    setattr(model[0], "calls", 1)  # noqa: B010  # it is no attribute of the class
    state = ModelState(model)
    setattr(model[0], "calls", 2)  # noqa: B010
    assert state.changed_settings() == {("0", "calls")}
    state = ModelState(model, {("0", "calls")})
    setattr(model[0], "calls", 3)  # noqa: B010
    assert state.is_same()
