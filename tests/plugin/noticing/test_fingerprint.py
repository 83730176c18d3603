from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pytest_dwsconv.plugin.noticing.fingerprint import (
    architecture,
    changeable_settings,
    shaped,
    summary,
)


@dataclass
class Config:
    strides: tuple[int, ...]


class Slotted:
    __slots__ = ("stride",)

    def __init__(self, stride: int) -> None:
        self.stride = stride


class Mode(Enum):
    ONE = 1
    TWO = 2


def adding(number: int) -> Callable[[int], int]:
    return lambda other: number + other


def holding(value: Any) -> nn.Module:
    module = nn.Conv2d(3, 4, 3)
    module.__dict__["held"] = value
    return module


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ([1, 1], [1, 1], [2, 2]),
        ({"a": [1]}, {"a": [1]}, {"a": [2]}),
        (Config((1, 1)), Config((1, 1)), Config((2, 2))),
        (Slotted(1), Slotted(1), Slotted(2)),
        (adding(1), adding(1), adding(2)),
        (partial(int, base=2), partial(int, base=2), partial(int, base=3)),
        (Slotted.__init__, Slotted.__init__, Config.__init__),
        (Config((1,)).__repr__, Config((1,)).__repr__, Config((2,)).__repr__),
        (torch.relu, torch.relu, torch.tanh),
        (Mode.ONE, Mode.ONE, Mode.TWO),
        (np.array([4, 8]), np.array([4, 8]), np.array([4, 9])),
        (np.int64(4), np.int64(4), np.int64(5)),
        ({1, 2}, {2, 1}, {1, 3}),
        (torch.zeros(2), torch.ones(2), torch.zeros(3)),
        ([nn.Linear(2, 3)], [nn.Linear(2, 3)], [nn.Linear(2, 4)]),
        (torch.float32, torch.float32, torch.float16),
    ],
)
def test_what_a_module_holds_tells_it_apart(one: Any, same: Any, other: Any) -> None:
    first, second, third = (architecture(holding(value)) for value in (one, same, other))
    assert first == second
    assert hash(first) == hash(second)
    assert first != third
    assert summary(shaped(((one,), {}))) == summary(shaped(((same,), {})))
    assert summary(shaped(((one,), {}))) != summary(shaped(((other,), {})))


def test_what_cannot_be_compared_is_not_compared() -> None:
    assert architecture(holding(threading.Lock())) == architecture(holding(threading.Lock()))
    assert architecture(holding(threading.Lock())) != architecture(holding(threading.RLock()))


def test_buffers_count_by_shape_and_weights_do_not_count() -> None:
    one, same, other = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    nn.init.ones_(same.bias)
    other.register_buffer("running_mean", torch.zeros(5))
    assert architecture(one) == architecture(same.eval())
    assert architecture(one) != architecture(other)


def test_what_holds_itself_or_very_much_is_described_all_the_same() -> None:
    around: list[Any] = [1]
    around.append(around)
    module = holding(around)
    module.__dict__["parent"] = module
    many = list(range(100_000))
    assert architecture(module) == architecture(module)
    assert architecture(holding(many)) == architecture(holding(many.copy()))
    assert architecture(holding(many)) != architecture(holding(many[1:]))
    deep = [[[number] for number in range(100)] for _ in range(100)]
    assert architecture(holding(deep)) == architecture(holding(deep))


def test_what_a_call_changes_is_no_part_of_an_architecture() -> None:
    module = holding([1])
    before = changeable_settings(module)
    module.__dict__["held"].append(2)
    module.__dict__["made"] = "by the call"
    called = architecture(module)
    steady = called.without(called.changed(before))
    assert {name for (_, name), _ in steady.settings} & {"held", "made"} == {"made"}


def test_hooks_tell_models_apart() -> None:
    module = nn.Conv2d(3, 4, 3)
    handle = module.register_forward_hook(lambda module, args, out: None)
    hooked = architecture(module)
    handle.remove()
    assert hooked != architecture(module)
