"""What is put back after a block, whatever it was, and what is stepped over."""

from __future__ import annotations

import random
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dwsconv import analyze
from pytest_dwsconv.preserving import as_found


def refuse(*_: Any) -> Any:
    raise RuntimeError("not for everybody")


REFUSING = dict.fromkeys(("__len__", "__iter__", "__bool__", "keys", "values", "items", "__getitem__"), refuse)
HOLDERS: list[Any] = [list, dict, OrderedDict, set, deque, tuple]


def holding(value: Any) -> nn.Module:
    """A network that holds ``value`` and does not use it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    model.__dict__["held"] = value
    return model


def gone() -> Any:
    return weakref.proxy(nn.ReLU())


class Unbound:
    """As werkzeug's LocalProxy is outside of its context."""

    @property
    def __class__(self) -> Any:
        return refuse()

    @property
    def __dict__(self) -> Any:
        return refuse()


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_container_that_refuses_to_be_read_is_no_reason_to_give_a_model_up(kind: Any) -> None:
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
