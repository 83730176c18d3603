"""The fixture and the marker dws_agreement."""

from __future__ import annotations

import pytest
from inner_runs import run, run_reporting, written

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([1.0, factor]))

    def forward(self, x):
        return x * self.factor

BATCHES = [torch.tensor([[1.0, 2.0], [3.0, 4.0]])]
"""

MARKED = """
@pytest.fixture
def student(): return Net(0.5)
@pytest.fixture
def teacher(): return Net()
@pytest.fixture(params=[1, 2])
def batches(request): return BATCHES * request.param
"""

SHORT = (
    "*Net agrees with Net on 0 % of 2 samples (at least 98 %), with a relative output error of "
    "0.408 (at most 0.05): fit it with *"
)


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


def test_the_fixture_returns_what_it_measured_or_fails(pytester: pytest.Pytester) -> None:
    source = """
def test_kept(dws_agreement):
    found = dws_agreement(Net(1.01), Net(), BATCHES, min_top1="98%", max_error=0.05)
    assert found.top1 == 1 and 0 < found.error < 0.01
def test_lost(dws_agreement):
    dws_agreement(Net(0.5), Net(), BATCHES, min_top1="98%", max_error=0.05)
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E * Failed: " + SHORT[1:]])
    result.stdout.no_fnmatch_line("*pytest_dwsconv/*.py:*")


def test_the_marker_takes_the_arguments_of_the_test(pytester: pytest.Pytester) -> None:
    source = f"""{MARKED}
@pytest.fixture
def other(): return Net(1.0)
@pytest.mark.dws_agreement(min_top1="98%")
class TestIt:
    @pytest.mark.dws_agreement(max_error="5%")
    def test_lost(self, student, teacher, batches): pass
    @pytest.mark.dws_agreement(student="other")
    def test_kept(self, other, teacher, batches): pass
    def test_wrong(self, student, teacher, batches): assert 0
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=2, failed=4)
    result.stdout.fnmatch_lines([SHORT])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "dws_agreement without a limit checks nothing: give min_top1, *"),
        ("0.5", "dws_agreement takes keyword arguments only, not 0.5"),
        (
            "top1=1",
            "dws_agreement has no argument 'top1': it takes min_top1, *",
        ),
        ("min_top1='x'", "min_top1 'x' is not a share: *"),
        (
            "max_error=0, teacher='old'",
            "dws_agreement found no argument 'old' of the *",
        ),
        ("max_error=0, student='teacher'", "student and teacher are one network, *"),
    ],
)
def test_a_wrong_marker_is_one_sentence(
    pytester: pytest.Pytester, arguments: str, sentence: str
) -> None:
    marked = (
        f"@pytest.mark.dws_agreement({arguments})\ndef test_it(student, teacher, batches): pass"
    )
    result = run(pytester, MARKED + marked, "-k", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([sentence])
    result.stdout.no_fnmatch_line("*pytest_dwsconv/*.py:*")


def test_what_the_fixture_runs_is_no_model_of_the_test(pytester: pytest.Pytester) -> None:
    source = "def test_it(dws_agreement): dws_agreement(Net(), Net(), BATCHES, max_error=0)"
    assert run_reporting(pytester, source).ret == 0
    assert written(pytester) == []
