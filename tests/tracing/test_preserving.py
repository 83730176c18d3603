"""What is put back after a block, whatever it was, and what is stepped over."""

from __future__ import annotations

import random
import signal
import weakref
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv import analyze
from pytest_dwsconv.tracing.preserving import as_found
from pytest_dwsconv.tracing.trace import trace


def refuse(*_: Any) -> Any:
    raise RuntimeError("not for everybody")


REFUSING = dict.fromkeys(
    ("__len__", "__iter__", "__bool__", "keys", "values", "items", "__getitem__"), refuse
)
HOLDERS: list[Any] = [list, dict, OrderedDict, set, deque, tuple]


def holding(value: Any) -> nn.Module:
    """A network that holds ``value`` and does not use it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    model.__dict__["held"] = value
    return model


def gone() -> Any:
    return weakref.proxy(nn.ReLU())


Unbound = type("Unbound", (), {"__class__": property(refuse), "__dict__": property(refuse)})
"""As werkzeug's LocalProxy is outside of its context."""


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_model_that_holds_a_container_that_refuses_to_be_read_is_analysed(kind: Any) -> None:
    first: Any = [("a", 1)] if issubclass(kind, dict) else [1]
    held = type("Refusing", (kind,), REFUSING)(first)
    assert analyze(holding(held), (1, 3, 8, 8)).findings
    assert list(kind.__iter__(held)) == list(kind(first))


@pytest.mark.parametrize("kind", [list, dict, OrderedDict, set, deque])
def test_what_is_in_a_container_that_refuses_to_be_read_is_put_back(kind: Any) -> None:
    first: Any = [("a", 1)] if issubclass(kind, dict) else [1]
    held = type("Refusing", (kind,), REFUSING)(first)
    with as_found([holding(held)]):
        kind.clear(held)
    assert list(kind.__iter__(held)) == list(kind(first))


@pytest.mark.parametrize("make", [gone, Unbound, random.SystemRandom])
def test_an_attribute_that_cannot_be_asked_is_stepped_over(make: Callable[[], Any]) -> None:
    assert analyze(holding(make()), (1, 3, 8, 8)).findings


def test_keys_are_told_apart_by_what_they_are() -> None:
    one, other = torch.ones(2), torch.ones(2)
    held = {one: 1}
    with as_found([holding(held)]):
        del held[one]
        held[other] = 1
    assert [id(key) for key in held] == [id(one)]


@dataclass(slots=True)
class Slotted:
    n: int = 0
    seen: list[int] = field(default_factory=list)
    late: int = field(init=False)


class Deeper(Slotted):
    __slots__ = ("__private",)

    def __init__(self) -> None:
        super().__init__()
        self.__private = 0

    def bump(self) -> int:
        self.__private += 1
        return self.__private


class Logged(dict[str, int]):
    __slots__ = ("__dict__", "count")
    count: int
    log: list[int]
    other: int


class Tagged(list[int]):
    tags: list[str]


def change_slots(held: Slotted) -> None:
    held.n += 1
    held.seen.append(1)
    held.late = 1


def look_at_slots(held: Slotted) -> Any:
    return held.n, list(held.seen), hasattr(held, "late")


def logged() -> Logged:
    held = Logged(a=1)
    held.count, held.log = 0, [1]
    return held


def change_logged(held: Logged) -> None:
    held["b"], held.count = 2, 1
    held.log.append(2)
    held.other = 1


def tagged() -> Tagged:
    held = Tagged([1])
    held.tags = ["a"]
    return held


def change_tagged(held: Tagged) -> None:
    held.append(2)
    held.tags.append("b")


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], object], Callable[[Any], Any]]] = {
    "slots": (Slotted, change_slots, look_at_slots),
    "inherited slots": (Deeper, change_slots, look_at_slots),
    "slots of objects in a list": (
        lambda: [Slotted()],
        lambda held: change_slots(held[0]),
        lambda held: look_at_slots(held[0]),
    ),
    "a dictionary with attributes": (
        logged,
        change_logged,
        lambda held: (dict(held), held.count, repr(vars(held))),
    ),
    "a list with attributes": (tagged, change_tagged, lambda held: (list(held), list(held.tags))),
    "numpy.random.RandomState": (
        lambda: np.random.RandomState(0),
        lambda held: held.standard_normal(),
        lambda held: repr(held.get_state()),
    ),
    "numpy.random.Generator": (
        lambda: np.random.default_rng(0),
        lambda held: held.random(),
        lambda held: repr(held.bit_generator.state),
    ),
    "bytearray": (lambda: bytearray(b"ab"), lambda held: held.append(1), bytes),
    "array.array": (lambda: array("i", [1]), lambda held: held.append(2), list),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_module_holds_is_put_back(what: str) -> None:
    make, change, look = CHANGES[what]
    held = make()
    before = look(held)
    with as_found([holding(held)]):
        change(held)
        assert look(held) != before
    assert look(held) == before


def test_a_private_slot_is_put_back() -> None:
    held = Deeper()
    with as_found([holding(held)]):
        assert held.bump() == 1
    assert held.bump() == 1


class InSlots(nn.Module):
    __slots__ = ("count",)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0


def test_slots_of_a_module_are_put_back() -> None:
    model = InSlots()
    with as_found([model, nn.ReLU()]):
        model.count += 1
    assert model.count == 0


def test_an_array_whose_memory_is_shared_keeps_its_length_and_hinders_nothing() -> None:
    held, after = bytearray(b"ab"), random.Random(0)
    expected = after.getstate()
    with as_found([holding([held, after])]):
        held.append(1)
        view = memoryview(held)
        after.random()
    assert len(view) == 3
    assert after.getstate() == expected


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


class Slow(random.Random):
    """Ctrl-C is pressed while its state is read, or put back."""

    def __init__(self, when: str) -> None:
        self.when = ""
        super().__init__(0)
        self.when = when

    def getstate(self) -> Any:
        if self.when == "read":
            interrupt()
        return super().getstate()

    def setstate(self, state: Any) -> None:
        if self.when == "put back":
            interrupt()
        super().setstate(state)


class Interrupted(nn.Module):
    """Changes what it can; Ctrl-C comes in its forward, or before or after by what it holds."""

    calls: Tensor

    def __init__(self, when: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.when = when
        self.generators = [Slow(when), random.Random(0)]
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.seen.append(1)
        self.generators[1].random()
        random.random()
        if self.when == "forward":
            interrupt()
            raise AssertionError("Ctrl-C comes at once")
        out: Tensor = self.conv(x)
        return out

    def state(self) -> Any:
        generators = [random.Random.getstate(generator) for generator in self.generators]
        tensors = [id(tensor) for tensor in self.state_dict(keep_vars=True).values()]
        return (
            generators,
            tensors,
            list(self.seen),
            [module.training for module in self.modules()],
            random.getstate(),
        )


@pytest.mark.parametrize("when", ["read", "forward", "put back"])
def test_ctrl_c_leaves_a_model_and_torch_as_found(when: str) -> None:
    model = Interrupted(when)
    before, call, handler = model.state(), nn.Module._call_impl, signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trace(model, (torch.rand(1, 3, 8, 8),))
    assert model.state() == before
    assert nn.Module._call_impl is call
    assert torch._C._len_torch_function_stack() == 0
    assert signal.getsignal(signal.SIGINT) is handler
    model.when = model.generators[0].when = ""  # type: ignore[attr-defined]  # reason: the first is a Slow
    assert len(trace(model, (torch.rand(1, 3, 8, 8),)).steps) > 1


def test_ctrl_c_while_a_model_is_put_back_comes_when_it_is() -> None:
    model = Interrupted("put back")
    before = model.state()

    def use() -> None:
        with as_found(list(model.modules())):
            model(torch.rand(1, 3, 8, 8))
            model.register_buffer("late", torch.zeros(1))

    with pytest.raises(KeyboardInterrupt):
        use()
    assert model.state() == before
