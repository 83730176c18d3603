"""The target ``cpu``, which needs no hook; what is measured is set by the tests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from inner_runs import NETS, run, run_reporting, written
from torch import nn

from pytest_dwsconv.core.conv import ConvSpec
from pytest_dwsconv.core.latency.comparison import (
    RUNTIMES,
    Comparison,
    Conditions,
    MemoryFormat,
    Runtime,
)
from pytest_dwsconv.core.measurement import Measurement
from pytest_dwsconv.core.plan import Plan, PlanEntry
from pytest_dwsconv.edgetpu.faults import EdgeTpuAbsentError
from pytest_dwsconv.errors import ExportError
from pytest_dwsconv.latency import benchmark, remedy

SAVED = {"stem": 1.0, "body": 4.0}
"""Milliseconds that replacing a convolution of ``Small`` saves."""
BUDGET = "dws_budget(Small(), (1, 4, 12, 12), latency={}, target='cpu')"
SOURCE = f"def test_it(dws_budget): {BUDGET}"


CONDITIONS = Conditions(3, MemoryFormat.CHANNELS_LAST, dtype="bfloat16")


class Cpu:
    """A processor on which ``Small`` takes 10 ms, and the reference convolution 2 ms."""

    def __init__(self) -> None:
        self.samples = (0.010,) * 9 + (0.020,)
        self.reference: tuple[float, ...] = (0.002,) * 4
        self.remeasured: list[bool] = []
        self.asked: list[tuple[Runtime, str]] = []

    def measure_network(
        self, network: nn.Module, shape: tuple[int, ...], runtime: Runtime, host: str = ""
    ) -> Measurement:
        assert shape == (1, 4, 12, 12)
        self.asked.append((runtime, host))
        name = type(network).__name__
        place = (name, host, "here", "cpu", "3.11", "torch", "", "", "")
        conditions = None if host else CONDITIONS
        return Measurement(*place, 0.1, self.samples, self.reference, conditions)

    def time_layers(
        self,
        candidates: Sequence[tuple[ConvSpec, PlanEntry]],
        conditions: Conditions,
        *,
        remeasure: bool,
    ) -> list[Comparison]:
        assert conditions == CONDITIONS
        self.remeasured.append(remeasure)
        found = []
        for spec, entry in candidates:
            entry.check(spec)
            after = 8 - SAVED[entry.name]
            ratio = 8 / after
            found.append(Comparison(8, after, ratio, ratio, ratio, 0, 8, Conditions(1), 1))
        return found


@pytest.fixture(autouse=True)
def cpu(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Cpu:
    inner.makepyfile(nets=NETS)
    found = Cpu()
    monkeypatch.setattr(benchmark, "measure_network", found.measure_network)
    monkeypatch.setattr(benchmark, "measure_exported", found.measure_network)
    monkeypatch.setattr(remedy, "time_layers", found.time_layers)
    return found


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("'10ms'", ""),
        ("'5x'", ""),
        ("'19ms', percentile=95", ""),
        ("'9ms', tolerance='12%'", ""),
        (
            "'7ms'",
            "On cpu Small took 10.000 ms, measured at the percentile 50 of 10 invokes, the limit "
            "is 7.000 ms (3.000 ms over). Making body separable would bring it to 6.000 ms, by "
            "what was measured of each.",
        ),
        ("'5500us'", "* Making body and stem separable would bring it to 5.000 ms, *"),
        ("'3ms'", "* All replacements that measured faster would only bring it to 5.000 ms, *"),
        (
            "'4x'",
            "* the limit is 4x the reference convolution, which took 2.000 ms: 8.000 ms (2.000 ms "
            "over). Making body separable *",
        ),
        ("'4x', tolerance=0.2", "* 8.000 ms + 20% (0.400 ms over). *"),
        ("'10ms', percentile=100", "* took 20.000 ms, measured at the percentile 100 of 10 *"),
    ],
)
def test_a_model_is_held_to_a_latency_on_this_cpu(
    pytester: pytest.Pytester, limit: str, said: str
) -> None:
    result = run(pytester, SOURCE.format(limit))
    result.assert_outcomes(passed=not said, failed=bool(said))
    if said:
        result.stdout.fnmatch_lines([f"E  *Failed: {said}"])


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        (SOURCE.format("'3x'"), []),
        (
            "@pytest.mark.dws_budget(latency='3x', target='cpu', input_size='1,4,12,12')\n"
            "def test_it(): return Small()",
            [],
        ),
        (
            "def test_it(dws_report): dws_report(Small(), (1, 4, 12, 12))",
            ["-o", "dws_budgets=Small latency=3x target=cpu percentile=60 tolerance=5%"],
        ),
        ("", ["-o", "dws_models=nets:Small 1,4,12,12 latency=3x target=cpu"]),
    ],
)
def test_the_replacements_that_bring_it_under_are_written(
    pytester: pytest.Pytester, source: str, arguments: list[str]
) -> None:
    result = run(pytester, source, "--dws-fix-plan=plan.json", *arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*Small: plan.json makes body separable, *budget of latency: *"])
    plan = Plan.from_json((pytester.path / "plan.json").read_text())
    assert [entry.name for entry in plan.entries] == ["body"]


def test_one_plan_keeps_parameters_and_latency(pytester: pytest.Pytester) -> None:
    run(pytester, SOURCE.format("'5500us', params='5k'"), "--dws-fix-plan=plan.json")
    plan = Plan.from_json((pytester.path / "plan.json").read_text())
    assert [entry.name for entry in plan.entries] == ["body", "stem"]


def test_there_is_no_plan_that_does_not_keep_the_latency(pytester: pytest.Pytester) -> None:
    result = run(pytester, SOURCE.format("'3ms', params='5k'"), "--dws-fix-plan=plan.json")
    result.stdout.fnmatch_lines(["Small: replacements alone do not keep its budget, *"])
    assert not (pytester.path / "plan.json").exists()


@pytest.mark.parametrize(("limit", "outcome"), [("'10ms'", "passed"), ("'7ms'", "skipped")])
def test_on_a_busy_machine_a_limit_is_kept_or_it_is_not_known(
    pytester: pytest.Pytester, cpu: Cpu, limit: str, outcome: str
) -> None:
    cpu.reference = (0.002, 0.010, 0.002, 0.009)
    result = run(pytester, SOURCE.format(limit), "-rs")
    result.assert_outcomes(**{outcome: 1})
    if outcome == "skipped":
        result.stdout.fnmatch_lines(["*too busy to measure it (the reference convolution's *"])
    assert cpu.remeasured == []


def test_a_busy_machine_makes_a_line_of_the_table_unknown(
    pytester: pytest.Pytester, cpu: Cpu
) -> None:
    cpu.reference = (0.002, 0.010, 0.002, 0.009)
    source = "def test_it(dws_report): dws_report(Small(), (1, 4, 12, 12))"
    result = run(pytester, source, "-o", "dws_budgets=Small latency=3ms target=cpu")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*= dwsconv: not known =*", "*Small on cpu is unknown: *busy*"])


@pytest.mark.parametrize(("option", "remeasured"), [([], False), (["--dws-remeasure"], True)])
def test_replacements_are_measured_again_when_asked(
    pytester: pytest.Pytester, cpu: Cpu, option: list[str], remeasured: bool
) -> None:
    run(pytester, SOURCE.format("'7ms'"), *option)
    assert cpu.remeasured == [remeasured]


def test_a_target_without_a_reference_refuses_a_relative_limit(
    pytester: pytest.Pytester, cpu: Cpu
) -> None:
    cpu.reference = ()
    result = run(pytester, SOURCE.format("'3x'"))
    result.stdout.fnmatch_lines(["*InputError: Small was measured on cpu of here without the *"])
    assert run(pytester, SOURCE.format("'10ms'")).ret == 0
    source = "def test_it(dws_report): dws_report(Small(), (1, 4, 12, 12))"
    result = run(pytester, source, "-o", "dws_budgets=Small latency=3x target=cpu")
    result.stdout.fnmatch_lines(["*= dwsconv: not known =*", "Small was measured on cpu of here *"])


def test_a_hook_of_the_users_own_comes_first(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pytest\ndef pytest_dwsconv_latency_backend(target): pytest.skip('mine: ' + target)"
    )
    result = run(pytester, SOURCE.format("'7ms'"), "-rs")
    result.stdout.fnmatch_lines(["*the latency of Small on cpu is unknown: mine: cpu"])


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            "latency='7 parsecs', target='cpu'",
            "the budget's latency '7 parsecs' is not a quantity*",
        ),
        ("latency='7ms', target='cpu', percentile=101", "a percentile is a number from 0 to 100*"),
        ("latency='7ms', target='cpu', percentile='most'", "a percentile is a number from 0 to*"),
        ("latency='7ms', target='cpu', tolerance='10'", "the budget's latency '10' is not a tol*"),
        ("params='5M', tolerance='10%'", "a budget's tolerance is its latency's: give latency*"),
        ("params='5M', percentile=90", "a budget's percentile is its latency's: give latency*"),
    ],
)
def test_what_is_not_a_limit_is_refused(pytester: pytest.Pytester, limits: str, said: str) -> None:
    source = f"def test_it(dws_budget): dws_budget(Small(), (1, 4, 12, 12), {limits})"
    result = run(pytester, source)
    result.stdout.fnmatch_lines([f"E *Error: {said}"])


@pytest.mark.parametrize(("target", "runtime"), RUNTIMES.items())
@pytest.mark.parametrize("host", ["", "ssh=pi"])
def test_every_runtime_is_measured_and_litert_on_the_host_that_is_named(
    pytester: pytest.Pytester, cpu: Cpu, target: str, runtime: Runtime, host: str
) -> None:
    source = SOURCE.replace("'cpu'", repr(target)).format("'7ms'")
    result = run(pytester, source, f"--dws-edgetpu-host={host}")
    result.assert_outcomes(failed=1)
    is_here = not (host and runtime.is_litert)
    assert cpu.asked == [(runtime, "" if is_here else host)]
    remedy = " Making body separable would bring it to 6.000 ms, *" if is_here else ""
    said = f"On {target} Small took 10.000 ms, * (3.000 ms over).{remedy}"
    result.stdout.fnmatch_lines([f"E *{said}"])


def test_a_limit_is_exceeded_where_the_layers_cannot_be_exported_too(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_layers(*_: object, **__: object) -> None:
        raise ExportError("Conv2d cannot be exported")

    monkeypatch.setattr(remedy, "time_layers", time_layers)
    result = run(pytester, SOURCE.replace("'cpu'", "'litert'").format("'7ms'"))
    result.stdout.fnmatch_lines(["E *Failed: On litert Small took 10.000 ms, * (3.000 ms over)."])


def test_replacements_whose_times_are_too_noisy_are_told_of(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = Comparison(8, 6, 1.3, 0.5, 3.0, 0.9, 8, CONDITIONS, 1)
    monkeypatch.setattr(remedy, "time_layers", lambda layers, *_, **__: [noisy] * len(layers))
    result = run(pytester, SOURCE.format("'7ms'"))
    said = "measured faster here. Times of 2 were too noisy to tell: run it on an idle machine."
    result.stdout.fnmatch_lines([f"E *No replacement of a convolution {said}"])


def test_a_host_that_cannot_be_reached_skips_the_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object) -> object:
        raise EdgeTpuAbsentError("ssh=pi cannot be reached", "host")

    monkeypatch.setattr(benchmark, "measure_exported", measure)
    result = run(pytester, SOURCE.replace("'cpu'", "'litert'").format("'7ms'"), "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*ssh=pi cannot be reached"])


def test_reports_say_what_was_held(pytester: pytest.Pytester) -> None:
    run_reporting(pytester, SOURCE.format("'4x', percentile=90, tolerance='10%'"))
    [check] = written(pytester)[0]["budget"]
    assert check["noun"] == "latency measured on cpu at the percentile 90"
    assert check["limit"] == pytest.approx(0.0088)
    assert check["actual"] == pytest.approx(0.011)
