"""The plugin's three hooks by example: change a verdict, add a latency target, receive reports."""

import copy
import platform
import time

import pytest
import torch

from pytest_dwsconv import Judgement, Measurement, Verdict

TESTS = {}


class Bfloat16:
    """Measures a copy in bfloat16, on the processor that runs the tests."""

    def measure(self, model, shape):
        network = copy.deepcopy(model).bfloat16()
        x = torch.rand(shape, dtype=torch.bfloat16)
        with torch.inference_mode():
            times = [self._time(network, x) for _ in range(12)]
        return Measurement(
            model=type(model).__name__,
            host="",
            machine=platform.node(),
            device="cpu",
            python=platform.python_version(),
            runtime=f"torch {torch.__version__}",
            library="",
            library_version="",
            clock="",
            first_invoke=times[0],
            samples=tuple(times[2:]),
        )

    def _time(self, model, x):
        start = time.perf_counter()
        model(x)
        return time.perf_counter() - start


@pytest.hookimpl(optionalhook=True)
def pytest_dwsconv_latency_backend(config, target):
    return Bfloat16() if target == "bfloat16" else None


@pytest.hookimpl(optionalhook=True)
def pytest_dwsconv_judge(config, finding):
    if finding.name == "stem":
        return Judgement(Verdict.INELIGIBLE, "ACME1", "the stem reads the camera's image, keep it")
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_dwsconv_report(config, nodeid, report):
    TESTS.setdefault((report.params, report.model), set()).add(nodeid)


def pytest_terminal_summary(terminalreporter):
    if TESTS:
        terminalreporter.section("models by parameters")
        for (params, model), tests in sorted(TESTS.items(), reverse=True):
            terminalreporter.write_line(
                f"  {model:20} {params:>12,}  {', '.join(sorted(filter(None, tests)))}"
            )
