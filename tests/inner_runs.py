"""Pytest runs inside tests: networks for them, how they are started, and how they are read."""

from __future__ import annotations

import json
from typing import Any

import pytest

TITLE = "*= dwsconv: depthwise separable candidates =*"

NETS = """
from torch import nn

class Small(nn.Module):
    '''5440 parameters, 1120 with its two 3 x 3 convolutions separable.'''

    def __init__(self, width=32):
        super().__init__()
        self.stem = nn.Conv2d(4, 16, 3, bias=False)
        self.body = nn.Conv2d(16, width, 3, bias=False)
        self.head = nn.Conv2d(width, 8, 1, bias=False)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))

class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x):
        return self.mix(self.mix(x)[..., :6, :6])

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x)

def broken():
    raise RuntimeError("no weights")
"""
PARAMS = 4 * 16 * 9 + 16 * 32 * 9 + 32 * 8  # 5440
SEPARABLE = (4 * 16 + 16 * 9) + (16 * 9 + 16 * 32) + 32 * 8  # 1120
OVER_5K = (
    "Small has 5.44k parameters, the budget is 5k (0.44k over). "
    "Making body separable would bring it to 1.49k."
)

REPORTING = """
import pytest
from nets import Small

@pytest.mark.parametrize("number", range(5))
def test_shaped(dws_report, number):
    report = dws_report(Small(), (1, 4, 12, 12))
    assert (report.params, report.separable_params) == (5440, 1120)
    assert report.macs is not None

def test_bare(dws_report):
    dws_report(Small())
    dws_report(Small())
    assert False
"""


def run(pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    """Run these tests, which have all names of the module ``nets``."""
    pytester.makepyfile(test_them=f"import pytest\nfrom nets import *\n{source}")
    return pytester.runpytest(*arguments)


def run_reporting(pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    """The same, with the report that ``written`` reads."""
    return run(pytester, source, "--dws-report=json:out.json", *arguments)


def written(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    """The models in the report of the last run."""
    models: list[dict[str, Any]] = json.loads((pytester.path / "out.json").read_text())["models"]
    return models


def is_one_sentence(result: pytest.RunResult, sentence: str) -> None:
    """The run ended with this usage error, and has said nothing else about it."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len([line for line in result.stderr.lines if line]) == 1
    result.stderr.fnmatch_lines([f"ERROR: {sentence}"])
