"""One walk of a model, against PyTorch's own walks."""

from __future__ import annotations

import torch
from torch import nn

from pytest_dwsconv.tracing.inventory import Inventory


class Holder(nn.Module):
    """A module shared at two depths, a parameter shared by two modules, a buffer, a plain tensor
    and an empty slot.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
        self.again = nn.ModuleDict({"inner": self.first})
        self.tied = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.tied.weight
        self.plain = torch.ones(2)
        self.register_module("empty", None)


def test_modules_and_parameters_are_those_of_pytorch_in_its_order() -> None:
    model = Holder()
    inventory = Inventory(model)
    assert list(inventory.modules.items()) == list(model.named_modules())
    assert list(map(id, inventory.parameters)) == list(map(id, model.parameters()))
    assert len(inventory.parameters) == len(set(map(id, inventory.parameters))) == 7


def test_a_shared_module_has_all_its_names() -> None:
    model = Holder()
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    assert Inventory(model).names == names
    assert names[id(model.first[0])] == ["first.0", "again.inner.0"]


def test_tensors_have_the_names_that_pytorch_gives_them() -> None:
    model = Holder()
    inventory = Inventory(model)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not name.startswith("again."):
            names.setdefault(id(parameter), []).append(name)
    assert inventory.parameter_names == names
    assert names[id(model.tied.weight)] == ["tied.weight", "other.weight"]
    assert [(name, id(buffer)) for name, buffer in inventory.buffers] == [
        (name, id(buffer)) for name, buffer in model.named_buffers()
    ]


def test_a_module_that_holds_itself_is_walked_once() -> None:
    model = nn.Sequential(nn.ReLU())
    model.add_module("self", model)
    inventory = Inventory(model)
    assert list(inventory.modules) == ["", "0"]
    assert inventory.names[id(model)] == ["", "self"]


def test_the_device_is_that_of_a_parameter_or_else_of_a_buffer() -> None:
    assert Inventory(nn.Linear(2, 2, device="meta")).device().type == "meta"
    assert Inventory(nn.BatchNorm1d(2, affine=False, device="meta")).device().type == "meta"
    assert Inventory(nn.ReLU()).device().type == "cpu"
