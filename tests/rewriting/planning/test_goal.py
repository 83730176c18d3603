"""What the arguments of a rewrite say of a target."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pytest_dwsconv.errors import FormatError, InputError
from pytest_dwsconv.rewriting.planning.goal import Goal, goal_of
from pytest_dwsconv.rewriting.rewrite import rewrite


@pytest.mark.parametrize(
    ("arguments", "goal"),
    [
        ({}, None),
        ({"budget": "10k"}, Goal(None, None, {"params": 10_000}, fastest=False)),
        ({"target": "cpu"}, Goal("cpu", None, {}, fastest=False)),
        ({"target": "edgetpu", "budget": {"latency": "8ms"}}, Goal("edgetpu", 8, {}, False)),
        ({"target": "edgetpu:desktop_usb3"}, Goal("edgetpu", None, {}, False, "desktop_usb3")),
        (
            {"target": "cpu", "objective": "latency", "budget": {"params": "1k"}},
            Goal("cpu", None, {"params": 1000}, fastest=True),
        ),
        (
            {"target": "cpu", "objective": "latency", "budget": {"latency": "1s", "macs": 9}},
            Goal("cpu", 1000, {"macs": 9}, fastest=False),
        ),
    ],
)
def test_the_arguments_become_a_goal(arguments: dict[str, Any], goal: Goal | None) -> None:
    given = {"target": None, "objective": None, "budget": None, **arguments}
    assert goal_of(**given) == goal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "gpu"}, "target must be 'cpu', .*'litert_int8' or 'edgetpu', not 'gpu'"),
        ({"target": "cpu:0"}, "target must be 'cpu', .* or 'edgetpu', not 'cpu:0'"),
        ({"target": "edgetpu:"}, "'' is not a host with known rates; give rpi4_usb3, desktop_usb3"),
        ({"target": 7}, "target must be 'cpu', .* or 'edgetpu', not 7"),
        ({"target": "cpu", "objective": "macs"}, "objective must be 'latency', not 'macs'"),
        ({"objective": "latency"}, "an objective is one of a target: pass target='cpu'"),
        ({"budget": {"latency": "8ms"}}, "a budget's latency is one of a target"),
        ({"target": "cpu", "objective": "latency"}, "objective='latency' needs a limit"),
        ({"target": "edgetpu", "depth_multiplier": 2}, "pass target or depth_multiplier, not both"),
        (
            {"target": "cpu", "depth_multiplier": 2, "budget": {"latency": "1s"}},
            "pass budget or depth_multiplier, not both",
        ),
        ({"target": "torch_compile"}, "target='torch_compile' needs an input: give its shape"),
        ({"target": "edgetpu"}, "target='edgetpu' needs an input: give its shape"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rewrite(nn.Sequential(nn.Conv2d(16, 16, 3)), **arguments)


def test_a_latency_that_is_not_a_time_is_refused() -> None:
    with pytest.raises(FormatError, match="the budget's latency 'fast' is not a quantity"):
        goal_of("cpu", None, {"latency": "fast"})


def test_a_forward_with_keywords_cannot_be_timed() -> None:
    inputs = {"input": torch.zeros(1, 16, 8, 8)}
    with pytest.raises(InputError, match="times networks whose forward takes tensors"):
        rewrite(nn.Sequential(nn.Conv2d(16, 16, 3)), example_inputs=inputs, target="cpu")
