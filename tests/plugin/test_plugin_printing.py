"""Names that a terminal or the log of a runner would obey, wherever the plugin prints them."""

from __future__ import annotations

import pytest
from inner_runs import NETS, run

NAME = "Net\x1b[2J\n::error::one\n##[error]two\u202e"

SOURCE = f"""
import torch
NAME = {NAME!r}
IMAGE = torch.zeros(1, 4, 12, 12)

class Once(Small):
    def forward(self, x):
        if x.device.type == "meta":
            raise RuntimeError(NAME)
        return super().forward(x)

Named, Unknown = type(NAME, (Small,), {{}}), type(NAME, (Once,), {{}})

def test_fixture(dws_budget): dws_budget(Named(), IMAGE.shape, params="1k")
def test_wrong_shape(dws_report): dws_report(Named(), (1, 3, 12, 12))
@pytest.mark.dws_budget(params="1k", input_size="1,4,12,12")
def test_marker(): return Named()
@pytest.mark.dws_budget(macs="1k", input_size="1,3,12,12")
def test_marker_without_macs(): return Named()
def test_latency(dws_budget): dws_budget(Named(), IMAGE.shape, latency="1s", target=NAME)
def test_called(): Named()(IMAGE)
def test_not_known(): Unknown()(IMAGE)
"""


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


@pytest.mark.parametrize("verbosity", [[], ["-q"], ["-v"]])
def test_hostile_names_are_spelled_out(pytester: pytest.Pytester, verbosity: list[str]) -> None:
    baseline = ["-o", "dws_fail_on_increase=0"]
    run(pytester, "def test_it(): pass", "--dws-update")
    for more in (
        ["--dws-update"],
        [*baseline, "-o", "dws_budgets=* macs=1k latency=1s target=moon"],
    ):
        result = run(pytester, SOURCE, "--dws-report", "-rA", *more, *verbosity)
        for line in [*result.outlines, *result.errlines]:
            assert line.isprintable() or not line.strip(), repr(line)
            assert not line.lstrip().startswith(("::", "##[")), line
