"""Models are noticed, checked and reported beside other plugins of pytest, and in other set-ups."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from inner_runs import run_reporting, written

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x):
        return self.conv(x)

IMAGE = torch.zeros(1, 3, 8, 8)
"""
OVER = "Net has 224 parameters, the budget is 100 (124 over). *"


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> Iterator[None]:
    inner.makepyfile(nets=NETS)
    state = random.getstate()
    yield
    random.setstate(state)


def models(pytester: pytest.Pytester) -> list[tuple[str, int, list[str]]]:
    """Model, parameters and tests of each report of the last run."""
    return [
        (row["report"]["model"], row["report"]["params"], row["tests"]) for row in written(pytester)
    ]


def called_in(*names: str, file: str = "test_them.py") -> list[str]:
    return [f"{file}::{name}" for name in names]


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@needs("pytest_asyncio")
def test_asyncio(pytester: pytest.Pytester) -> None:
    source = """
import asyncio
pytestmark = pytest.mark.asyncio

async def run(net):
    await asyncio.sleep(0)
    return net(IMAGE)

async def test_one(): await run(Net())

@pytest.mark.dws_budget(params=100)
async def test_marked(): await asyncio.gather(run(Net()), run(Net()))
"""
    mode = ["-o", "asyncio_default_fixture_loop_scope=function"]
    result = run_reporting(pytester, source, *mode)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([OVER])
    assert models(pytester) == [("Net", 224, called_in("test_marked", "test_one"))]


@needs("pytest_benchmark")
def test_benchmark(pytester: pytest.Pytester) -> None:
    source = """
def test_it(benchmark): benchmark.pedantic(Net(), args=(IMAGE,), rounds=40)

@pytest.mark.dws_budget(params=100)
def test_marked(benchmark): benchmark.pedantic(Net(), args=(IMAGE,), rounds=2)
"""
    result = run_reporting(pytester, source, "-p", "no:xdist")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([OVER])
    assert models(pytester) == [("Net", 224, called_in("test_it", "test_marked"))]


@needs("pytest_randomly")
def test_randomly(pytester: pytest.Pytester) -> None:
    source = """
@pytest.mark.parametrize("width", range(1, 9))
def test_it(width): Net(width)(torch.rand(1, 3, 8, 8))
"""
    found = []
    for seed in (1, 2):
        result = run_reporting(pytester, source, "-v", "-p", "no:xdist", f"--randomly-seed={seed}")
        result.assert_outcomes(passed=8)
        found.append((models(pytester), [line for line in result.outlines if "PASSED" in line]))
    (first, order), (second, other_order) = found
    assert first == second
    assert order != other_order


@needs("pytest_timeout")
@pytest.mark.parametrize("method", ["signal", "thread"])
def test_timeout(pytester: pytest.Pytester, method: str) -> None:
    source = """
import time
@pytest.mark.dws_budget(params=100)
def test_marked(): Net()(IMAGE)
def test_it(): Net()(IMAGE)
"""
    if method == "signal":
        source += """
@pytest.mark.timeout(0.5)
def test_hangs():
    class Hangs(Net):
        def forward(self, x): time.sleep(60)
    Hangs()(IMAGE)
def test_later(): Net()(IMAGE)
"""
    result = run_reporting(pytester, source, "--timeout=300", f"--timeout-method={method}")
    hangs = method == "signal"
    result.assert_outcomes(passed=1 + hangs, failed=1 + hangs)
    names = ["test_it", "test_later", "test_marked"] if hangs else ["test_it", "test_marked"]
    assert models(pytester) == [("Net", 224, called_in(*names))]


@needs("syrupy")
def test_syrupy(pytester: pytest.Pytester) -> None:
    source = """
def test_it(snapshot, dws_report):
    net = Net()
    net(IMAGE)
    assert dws_report(net, IMAGE.shape).to_dict() == snapshot
"""
    run_reporting(pytester, source, "--snapshot-update").assert_outcomes(passed=1)
    run_reporting(pytester, source).assert_outcomes(passed=1)
    assert models(pytester) == [("Net", 224, called_in("test_it"))]


def test_hypothesis(pytester: pytest.Pytester) -> None:
    source = """
from hypothesis import given, settings, strategies

@settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(strategies.integers(1, 4), strategies.integers(3, 5))
def test_it(width, side): Net(width)(torch.zeros(1, 3, side, side))

@pytest.mark.dws_budget(params=100)
@settings(max_examples=3, deadline=None, database=None, derandomize=True)
@given(strategies.just(8))
def test_marked(width): Net(width)(IMAGE)
"""
    result = run_reporting(pytester, source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([OVER])
    assert {params for _, params, _ in models(pytester)} == {28, 56, 84, 112, 224}


def test_doctest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        shown='''
        def example():
            """
            >>> from nets import IMAGE, Net
            >>> Net()(IMAGE).shape
            torch.Size([1, 8, 6, 6])
            """
        '''
    )
    result = pytester.runpytest("--doctest-modules", "--dws-report=json:out.json", "shown.py")
    result.assert_outcomes(passed=1)
    assert models(pytester) == [("Net", 224, called_in("shown.example", file="shown.py"))]


def test_importlib_mode_and_another_root_folder(pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("project")
    (folder / "pytest.ini").write_text(
        "[pytest]\ndws_budgets = unit/ params=100\npythonpath = ..\n"
    )
    source = "from nets import *\ndef test_it(): Net()(IMAGE)\n"
    for name in ("unit", "other"):
        (folder / name).mkdir()
        (folder / name / "test_same.py").write_text(source)
    arguments = ["--import-mode=importlib", "-c", "project/pytest.ini", "--rootdir=project"]
    report = "--dws-report=json:out.json"
    result = pytester.runpytest(*arguments, report, "--dws-update=force", "project")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([OVER])
    tests = ["other/test_same.py::test_it", "unit/test_same.py::test_it"]
    assert models(pytester) == [("Net", 224, tests)]
    assert (folder / ".dwsconv" / "baseline.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("lightning") or find_spec("pytorch_lightning")),
    reason="neither lightning nor pytorch_lightning is installed",
)
def test_lightning(pytester: pytest.Pytester) -> None:
    package = "lightning.pytorch" if find_spec("lightning") else "pytorch_lightning"
    source = f"""
import {package} as lightning

class Task(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.head = Net(), nn.Linear(8, 2)
    def forward(self, x): return self.head(self.net(x).mean((2, 3)))
    def training_step(self, batch, index): return self(batch).square().mean()
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.01)

def test_fit(tmp_path):
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )
    trainer.fit(Task(), torch.utils.data.DataLoader(torch.zeros(6, 3, 8, 8), batch_size=2))
"""
    pytester.makepyfile(test_them=f"from nets import *\n{source}")
    result = pytester.runpytest_subprocess("--dws-report=json:out.json", "-W", "ignore")
    result.assert_outcomes(passed=1)
    assert models(pytester) == [("Task", 224 + 18, called_in("test_fit"))]
