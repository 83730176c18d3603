"""The memory of a fit: of the order of its second moments, whatever the multiplier and order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dwsconv.core.conv import Order

FIT = """
import torch
from pytest_dwsconv.core.conv import ConvSpec, Order
from pytest_dwsconv.fit.least_squares.problem import Problem
from pytest_dwsconv.fit.least_squares.solution import fit
from pytest_dwsconv.separable.factorize import decompose
from pytest_dwsconv.core.plan import PlanEntry

def held(key):
    lines = open("/proc/self/status")
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

torch.manual_seed(0)
channels, filters, side, multiplier = {channels}, {filters}, {side}, {multiplier}
order = Order("{order}")
kernel = torch.randn(filters, channels, side, side)
x = torch.randn(channels * side**2, 40, dtype=torch.float64)
gram = (x @ x.T).add_(torch.eye(len(x)))[None]
cross = kernel.double().flatten(1)[None] @ gram
problem = Problem(gram, cross, torch.eye(filters, dtype=torch.float64)[None])
spec = ConvSpec(2, channels, filters, (side, side), bias=False)
entry = PlanEntry.of("", spec, order, multiplier)
start = decompose(kernel, 1, order).factors(multiplier)
before = held("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
fit(problem, entry, start, 1)
print(held("VmHWM") - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak is read where Linux keeps it"
)
@pytest.mark.parametrize("order", list(Order))
def test_no_matrix_of_all_unknowns_is_formed(order: Order) -> None:
    """Of 64 channels and 7 x 7 taps at multiplier 3 it would have 9,408 rows: 675 MiB."""
    numbers = {"channels": 64, "filters": 64, "side": 7, "multiplier": 3, "order": order.value}
    done = subprocess.run(
        [sys.executable, "-c", FIT.format(**numbers)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 200
