"""Whose a call is: a network's however it is entered, the test's, or this package's."""

from __future__ import annotations

from typing import Any

import pytest
from inner_runs import run_reporting, written

NETS = """
import pytest, torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.decoder = nn.ConvTranspose2d(8, 3, 3)

    def encode(self, x):
        return self.encoder(x)

    def forward(self, x, *rest, scale=1.0, **more):
        x = self.encode(x)
        x = self.decoder(x)
        return x * scale

class Derived(Net):
    @torch.no_grad()
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)

class Loop(Net):
    def forward(self, x):
        for layer in (self.encoder, self.decoder):
            out = layer(x) if layer is self.encoder else layer(out)
        return out

class Wraps(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch):
        return self.net(batch[0])

class Rebinds(Net):
    def forward(self, x):
        x = x[..., 2:, 2:]
        return super().forward(x)

class RebindsInLoop(Net):
    def forward(self, x):
        for layer in (self.encoder, self.decoder):
            x = layer(x)
        return x

IMAGE = torch.zeros(1, 3, 8, 8)
"""
SHAPE = [1, 3, 8, 8]
MACS = 6 * 6 * 8 * 27 * 2


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


def models(pytester: pytest.Pytester) -> list[tuple[str, Any, int | None]]:
    """Model, input shapes and MACs of each report of the last run."""
    reports = [row["report"] for row in written(pytester)]
    return [(report["model"], report["input_shapes"], report["macs"]) for report in reports]


@pytest.mark.parametrize(
    ("body", "model", "shapes", "macs"),
    [
        ("Net().forward(IMAGE)", "Net", [SHAPE], MACS),
        ("Net().forward(x=IMAGE, scale=2.0, more=3)", "Net", [SHAPE], MACS),
        ("Net().forward(IMAGE, IMAGE)", "Net", [SHAPE, SHAPE], MACS),
        ("Derived().forward(IMAGE)", "Derived", [SHAPE], MACS),
        ("Loop().forward(IMAGE)", "Loop", [SHAPE], MACS),
        ("Wraps().forward(IMAGE)", "Wraps", [SHAPE], MACS),
        ("net = Net(); net(IMAGE); net.encode(IMAGE)", "Net", [SHAPE], MACS),
        ("Wraps().training_step([IMAGE])", "Net", [SHAPE], MACS),
        ("Net().encoder(IMAGE)", "Sequential", [SHAPE], MACS // 2),
    ],
)
def test_a_network_is_the_network_however_it_is_entered(
    pytester: pytest.Pytester, body: str, model: str, shapes: Any, macs: int
) -> None:
    result = run_reporting(pytester, f"def test_it():\n    {body}")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*notices*")
    assert models(pytester) == [(model, shapes, macs)]


@pytest.mark.parametrize(
    ("body", "model", "method"),
    [
        ("Net().encode(IMAGE)", "Net", "encode"),
        ("Rebinds().forward(IMAGE)", "Rebinds", "forward"),
        ("RebindsInLoop().forward(IMAGE)", "RebindsInLoop", "forward"),
    ],
)
def test_what_is_not_recorded_has_the_networks_parameters_and_a_notice(
    pytester: pytest.Pytester, body: str, model: str, method: str
) -> None:
    result = run_reporting(pytester, f"def test_it(): {body}")
    result.assert_outcomes(passed=1)
    assert models(pytester) == [(model, [], None)]
    result.stdout.fnmatch_lines(
        [
            "*= dwsconv: notices =*",
            f"{model} was entered through {method}(), which is not recorded, *",
            "In test_them.py::test_it",
        ]
    )


def test_a_network_that_is_called_as_well_has_no_notice(pytester: pytest.Pytester) -> None:
    source = "def test_it():\n    net = Net()\n    net.encode(IMAGE)\n    net(IMAGE)"
    result = run_reporting(pytester, source)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*notices*")
    assert (("Net", [SHAPE], MACS)) in models(pytester)


def test_a_layer_that_a_test_calls_is_not_taken_for_its_fixtures_network(
    pytester: pytest.Pytester,
) -> None:
    source = """
@pytest.fixture
def net(): return Net()
def test_it(net): net.encoder(IMAGE)
"""
    run_reporting(pytester, source).assert_outcomes(passed=1)
    assert models(pytester) == [("Sequential", [SHAPE], MACS // 2)]


def test_what_this_package_makes_is_nobodys_model(pytester: pytest.Pytester) -> None:
    source = """
from pytest_dwsconv import SeparableConv2d, rewrite
def test_fit():
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3))
    rewrite(net, init="fit", calibration=torch.randn(16, 3, 8, 8).split(4), refine=1)
def test_layer(): SeparableConv2d(3, 4, 3).forward(IMAGE)
"""
    run_reporting(pytester, source).assert_outcomes(passed=2)
    assert {model for model, *_ in models(pytester)} == {"Sequential", "SeparableConv2d"}
