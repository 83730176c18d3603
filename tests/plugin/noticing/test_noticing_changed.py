"""Models that a test calls, changes and calls again."""

from __future__ import annotations

import pytest
from inner_runs import run_reporting, written

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.head = nn.Conv2d(8, 8, 1)
        self.losses, self.step = [], 0

    def forward(self, x):
        return self.head(self.stem(x))

IMAGE = torch.zeros(1, 3, 8, 8)
"""
STEM = 3 * 8 * 9 + 8
WIDTH = 8 + 1


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


def parameters(pytester: pytest.Pytester) -> list[int]:
    return sorted(row["report"]["params"] for row in written(pytester))


@pytest.mark.parametrize(
    "change",
    [
        "net.head = nn.Conv2d(8, 4, 1)",
        "net._modules['head'] = nn.Conv2d(8, 4, 1)",
        "net.head.weight, net.head.bias = "
        "map(nn.Parameter, (torch.zeros(4, 8, 1, 1), torch.zeros(4)))",
    ],
)
@pytest.mark.parametrize("calls", [1, 40])
@pytest.mark.parametrize("call", ["net", "net.forward"])
def test_a_model_is_reported_before_and_after_a_change(
    pytester: pytest.Pytester, change: str, calls: int, call: str
) -> None:
    source = f"""
def test_it():
    net = Net()
    for number in range({calls} + 4):
        if number == {calls}:
            {change}
        {call}(IMAGE)
"""
    result = run_reporting(pytester, source)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= dwsconv: no*")
    assert parameters(pytester) == [STEM + 4 * WIDTH, STEM + 8 * WIDTH]


def test_settings_of_a_layer_are_a_change(pytester: pytest.Pytester) -> None:
    source = "def test_it(): net = Net(); net(IMAGE); net.stem.stride = (2, 2); net(IMAGE)"
    run_reporting(pytester, source).assert_outcomes(passed=1)
    macs = [STEM - 8 + 64, STEM - 8 + 64]
    assert sorted(row["report"]["macs"] for row in written(pytester)) == [
        macs[0] * 9,
        macs[1] * 36,
    ]


@pytest.mark.parametrize(
    "change",
    [
        "net.losses.append(0.5)",
        "net.step += 1",
        "net.note = object()",
        "net.stem.seen = number",
        "net.train(number % 2 == 0)",
        "net.double(); net.float()",
        "torch.optim.SGD(net.parameters(), 0.1).step()",
    ],
)
def test_a_model_stays_known_whatever_harmless_is_done_to_it_in_a_loop(
    pytester: pytest.Pytester, change: str
) -> None:
    source = f"""
def test_it():
    net = Net()
    for number in range(220):
        {change}
        net(IMAGE)
"""
    result = run_reporting(pytester, source)
    result.assert_outcomes(passed=1)
    assert parameters(pytester) == [STEM + 8 * WIDTH]
    result.stdout.no_fnmatch_line("*= dwsconv: no*")


def test_of_many_states_the_first_and_the_last_are_kept(pytester: pytest.Pytester) -> None:
    source = """
def test_it():
    net = Net()
    for width in range(1, 31):
        net.head = nn.Conv2d(8, width, 1)
        net(IMAGE)
"""
    result = run_reporting(pytester, source)
    widths = [(params - STEM) // WIDTH for params in parameters(pytester)]
    assert widths == [1, 2, 3, 4, 5, 6, 7, 30]
    result.stdout.fnmatch_lines(
        ["Net was changed and called again *: its first 7 states and its last one are reported, *"]
    )


def test_an_earlier_state_that_is_lost_is_a_notice(pytester: pytest.Pytester) -> None:
    source = """
def test_it():
    net = Net()
    net(IMAGE)
    for each in net.head.parameters():
        each.data = each.data[:4]
    net(IMAGE)
"""
    result = run_reporting(pytester, source, "--dws-strict")
    assert result.ret == 0
    assert parameters(pytester) == [STEM + 4 * WIDTH]
    result.stdout.fnmatch_lines(
        ["Net: a tensor of it got another *; the model as it was called afterwards is reported"]
    )


def test_a_model_that_is_called_is_freed_with_the_test_still_running(
    pytester: pytest.Pytester,
) -> None:
    source = """
import gc, weakref
def test_it():
    for _ in range(3):
        net = Net()
        for _ in range(20):
            net(IMAGE)
        net.owner = lambda: net
        gone = [weakref.ref(net), weakref.ref(net.head)]
        del net
        gc.collect()
    assert [each() for each in gone] == [None, None]
"""
    run_reporting(pytester, source).assert_outcomes(passed=1)
