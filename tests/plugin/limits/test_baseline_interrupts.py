"""The baseline's file is whole whatever stops the run that updates it, and Ctrl-C is obeyed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BOTH = """
import os, random, signal, sys, time
from pathlib import Path
from pytest_dwsconv.core.suite.baseline import Baseline
from pytest_dwsconv.core.suite.costs import Entry
from pytest_dwsconv.plugin.limits.baseline import write_baseline

path = Path(sys.argv[1]) / ".dwsconv" / "baseline.json"
small, large = (
    Baseline({f"Net{number}": Entry(params=number, macs=None) for number in range(count)})
    for count in (1, 500)
)

def write_forever():
    while True:
        write_baseline(path, small)
        write_baseline(path, large)

def check():
    assert Baseline.from_json(path.read_text()) in (small, large)

write_baseline(path, small)
random.seed(0)
"""
INTERRUPTS = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
# An alarm, not a thread: the end of a thread runs callbacks that swallow the interrupt.
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
for _ in range(100):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + random.random() / 100)
        write_forever()
    except KeyboardInterrupt:
        check()
        assert os.listdir(path.parent) == [path.name]
"""
KILLS = """
for _ in range(100):
    child = os.fork()
    if not child:
        write_forever()
    time.sleep(random.random() / 100)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    check()
"""


@pytest.mark.parametrize("stop", [INTERRUPTS, KILLS], ids=["interrupts", "kills"])
@pytest.mark.skipif(sys.platform == "win32", reason="it has no such signals")
def test_the_file_is_whole_after_every_stop(tmp_path: Path, stop: str) -> None:
    code = [sys.executable, "-c", BOTH + stop, str(tmp_path)]
    subprocess.run(code, check=True, timeout=120)


def test_a_run_interrupted_while_it_writes_the_baseline_ends_with_it_written(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)  # where it is set, no baseline is written unasked
    pytester.makeconftest(
        """
        import os, signal

        def pytest_configure():
            signal.signal(signal.SIGINT, signal.default_int_handler)
            replace = os.replace
            def interrupted(source, target):
                if str(target).endswith("baseline.json"):  # pytest renames compiled tests too
                    os.kill(os.getpid(), signal.SIGINT)
                replace(source, target)
            os.replace = interrupted
        """
    )
    pytester.makepyfile(
        """
        import torch
        def test_it(): torch.nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8))
        """
    )
    result = pytester.runpytest_subprocess("--dws-update", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stderr.fnmatch_lines(["Exit: dwsconv: interrupted while *"])
    folder = pytester.path / ".dwsconv"
    assert [file.name for file in folder.iterdir()] == ["baseline.json"]
    assert "Conv2d" in (folder / "baseline.json").read_text()
