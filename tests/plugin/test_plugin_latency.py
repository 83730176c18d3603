"""Latencies that budgets limit, measured through the hook by a bench whose figures are known."""

from __future__ import annotations

import json

import pytest
from inner_runs import is_one_sentence, run, written

NETS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.body = nn.Conv2d(4, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(self.body(x))

class Plain(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

class Closed:
    __slots__ = ("inside",)

    def __getattr__(self, name):
        raise RuntimeError("closed") if name == "inside" else AttributeError(name)

IMAGE = torch.ones(1, 4, 12, 12)
"""

BENCH = """
import pytest, warnings
from pytest_dwsconv.core.measurement import Measurement

class Bench:
    '''Takes 5 ms for 32 filters, longer for more, and keeps a list of what it measured.'''

    def __init__(self, name):
        self.name = name

    def measure(self, model, shape):
        import torch
        if self.name == "bench-loud":
            print("warming up")
            warnings.warn("it is warm")
        filters = model(torch.rand(shape)).shape[1]
        if filters > 99:
            raise RuntimeError("too hot\\nto handle")
        with open("measured.txt", "a") as file:
            file.write(f"{type(model).__name__} {filters} on {self.name}\\n")
        if self.name == "bench-stop":
            pytest.exit("the bench is closed", returncode=9)
        if self.name == "bench-hasty":
            return 0.005
        middle = 0.005 * filters / 32
        samples = () if self.name == "bench-idle" else (middle - 0.001, middle + 0.001, middle)
        place = ("Small", "", f"{self.name}-1", "cpu", "3.11", "torch 2", "", "", "")
        return Measurement(*place, 0.1, samples)

def pytest_dwsconv_latency_backend(config, target):
    if target == "absent":
        pytest.skip("nobody has one")
    if target == "lost":
        raise pytest.fail.Exception("one is required", pytrace=False)
    if target == "number":
        return 3
    return Bench(target) if target.startswith("bench") else None
"""
SMALL_TOOK = (
    "On bench Small took 5.000 ms, measured at the percentile 50 of 3 invokes, the limit is "
    "4.000 ms (1.000 ms over)."
)


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)
    inner.makeconftest(BENCH)


def run_with(
    pytester: pytest.Pytester, table: str, source: str, *arguments: str
) -> pytest.RunResult:
    """Run these tests with a table of budgets."""
    pytester.makeini(
        "[pytest]\ndws_budgets =\n" + "".join(f"  {line}\n" for line in table.splitlines())
    )
    return run(pytester, source, *arguments)


def measured(pytester: pytest.Pytester) -> list[str]:
    """What the bench was given since this was asked last."""
    path = pytester.path / "measured.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


class TestInTests:
    SOURCE = """
@pytest.mark.dws_budget(latency="{limit}", target="{target}", input_size="1,4,12,12")
def test_marked(): return Small()
def test_fixture(dws_budget):
    dws_budget(Small(), (1, 4, 12, 12), latency="{limit}", target="{target}")
"""

    @pytest.mark.parametrize(("limit", "failed"), [("5ms", 0), ("4500us", 2)])
    def test_it_is_measured_by_the_backend(
        self, pytester: pytest.Pytester, limit: str, failed: int
    ) -> None:
        result = run(pytester, self.SOURCE.format(limit=limit, target="bench"), "-W", "error")
        result.assert_outcomes(passed=2 - failed, failed=failed)
        sentence = (
            "*Small took 5.000 ms, measured at the percentile 50 of 3 invokes, the limit is "
            "4.500 ms (0.500 ms*"
        )
        result.stdout.fnmatch_lines([sentence] * failed)

    def test_what_is_no_backend_is_refused(self, pytester: pytest.Pytester) -> None:
        result = run(pytester, self.SOURCE.format(limit="5ms", target="number"))
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines(
            ["*pytest_dwsconv_latency_backend must return a backend, with a method*, not 3"] * 2
        )

    def test_without_a_backend_it_is_unknown_and_says_so(self, pytester: pytest.Pytester) -> None:
        source = self.SOURCE.format(limit="1us", target="moon")
        said = "*the latency of Small on moon is unknown: no plugin measures it; write cpu, *"
        result = run(pytester, source, "-W", "default")
        result.assert_outcomes(passed=2, warnings=2)
        result.stdout.fnmatch_lines([said])
        result = run(pytester, source, "-W", "default", "--dws-report")
        result.stdout.fnmatch_lines(
            ["*= dwsconv: not known =*", said, "Called by *::test_fixture, *::test_marked"]
        )
        for arguments in (["--dws-strict"], ["-o", "dws_strict=1"]):
            result = run(pytester, source, "-W", "default", *arguments)
            result.assert_outcomes(failed=2, warnings=2)
            result.stdout.fnmatch_lines([said])

    @pytest.mark.parametrize(
        ("call", "sentence"),
        [
            (
                "dws_budget(dws_report(Small(), (1, 4, 12, 12)), {})",
                "cannot be measured on a report: give the budget*",
            ),
            ("dws_budget(Small(), {})", "needs the shape of one input, as in (1, 3, 224, 224)"),
        ],
    )
    def test_it_needs_a_model_and_a_shape(
        self, pytester: pytest.Pytester, call: str, sentence: str
    ) -> None:
        call = call.format("latency='5ms', target='bench'")
        result = run(pytester, f"def test_it(dws_budget, dws_report): {call}")
        result.stdout.fnmatch_lines([f"E *InputError: the latency of Small {sentence}"])


def test_latency_of_a_configured_model(pytester: pytest.Pytester) -> None:
    line = "nets:Small 1,4,12,12 latency=4ms target={}"
    result = run(pytester, "", "-o", f"dws_models={line.format('bench')}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["On bench Small took 5.000 ms, measured *, the limit is 4.000 ms (1.000 ms over)."]
    )
    result = run(pytester, "", "-o", f"dws_models={line.format('moon')}")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*= dwsconv: not known =*", "the latency of Small on moon is unknown: *"]
    )
    result = run(pytester, "", "-o", f"dws_models={line.format('moon')}", "--dws-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_configured_model_whose_measuring_fails(pytester: pytest.Pytester) -> None:
    line = "nets:Small(128) 1,4,12,12 params=1 latency=4ms target=bench"
    result = run(pytester, "def test_it(): print('ran')", "-s", "-o", f"dws_models={line}")
    is_one_sentence(result, "the latency of Small on bench is unknown: RuntimeError: too hot")
    result.stdout.no_fnmatch_line("ran")


class TestTable:
    """``dws_budgets`` limits the latency of models that nobody gave a limit in a test."""

    LIMIT = "Small latency=4ms target=bench"

    @pytest.mark.parametrize(
        ("body", "workers"),
        [
            ("Small()(IMAGE)", []),
            ("Small()(IMAGE)", ["-n2"]),
            ("dws_report(Small(), (1, 4, 12, 12))", []),
            ("dws_budget(Small(), (1, 4, 12, 12), params=1e6)", []),
        ],
    )
    def test_a_model_over_it_fails_the_run(
        self, pytester: pytest.Pytester, body: str, workers: list[str]
    ) -> None:
        source = f"def test_it(dws_report, dws_budget): {body}"
        result = run_with(
            pytester, self.LIMIT, source, "-W", "error", "--dws-report=json:out.json", *workers
        )
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["*= dwsconv: over budget =*", SMALL_TOOK])
        assert measured(pytester) == ["Small 32 on bench"]
        (model,) = written(pytester)
        (held,) = (limit for limit in model["budget"] if limit["name"] == "latency")
        assert (held["limit"], held["actual"], held["violation"]) == (0.004, 0.005, SMALL_TOOK)
        assert model["tests"] == ["test_them.py::test_it"]

    def test_a_model_within_it_passes(self, pytester: pytest.Pytester) -> None:
        table = (
            "* latency=4ms target=bench\nSmall latency=5ms target=bench params=1k\nSmall params=2k"
        )
        result = run_with(pytester, table, "def test_it(): Small()(IMAGE)", "--dws-report")
        assert result.ret == 0
        result.stdout.fnmatch_lines(
            ["within budget: 5ms median latency measured on bench, at most 5ms"]
        )

    def test_each_model_is_measured_once_on_each_target_and_others_are_not(
        self, pytester: pytest.Pytester
    ) -> None:
        source = """
def test_one(): Small()(IMAGE); Plain()(torch.ones(1, 3))
def test_two(dws_report): dws_report(Small(), (1, 4, 12, 12)); Small(16)(IMAGE)
def test_three(dws_budget): dws_budget(Small(48), (1, 4, 12, 12), latency="1s", target="bench")
def test_four(): Small(48)(IMAGE)
"""
        table = """
Small latency=1s target=bench
Small latency=1s target=bench-b
test_them.py::test_one params=1M
"""
        result = run_with(
            pytester, table, source, "--dws-model=nets:Small(8)", "--dws-input-size=1,4,12,12"
        )
        assert result.ret == 0
        found = [
            f"Small {filters} on {bench}"
            for filters in (8, 16, 32, 48)
            for bench in ("bench", "bench-b")
        ]
        assert sorted(measured(pytester), key=lambda line: (int(line.split()[1]), line)) == found

    def test_a_path_is_for_models_of_its_tests(self, pytester: pytest.Pytester) -> None:
        source = """
def test_one(): Small()(IMAGE)
def test_two(): Small()(IMAGE)
def test_rest(): Small(16)(IMAGE)
"""
        result = run_with(pytester, "test_them.py::test_two latency=4ms target=bench", source)
        result.stdout.fnmatch_lines([SMALL_TOOK])
        assert measured(pytester) == ["Small 32 on bench"]

    def test_a_target_is_for_named_models(self, pytester: pytest.Pytester) -> None:
        arguments = ("--dws-model=nets:Small", "--dws-input-size=1,4,12,12")
        result = run_with(
            pytester,
            "nets:* latency=4ms target=bench",
            "def test_it(): Small(16)(IMAGE)",
            *arguments,
        )
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([SMALL_TOOK])
        assert measured(pytester) == ["Small 32 on bench"]

    @pytest.mark.parametrize(
        ("target", "body", "sentence"),
        [
            (
                "moon",
                "Small()(IMAGE)",
                "the latency of Small on moon is unknown: no plugin measures it; write cpu, "
                "torch_compile, litert, litert_int8 or edgetpu, or measure it yourself by the hook "
                "pytest_dwsconv_latency_backend",
            ),
            (
                "absent",
                "Small()(IMAGE)",
                "the latency of Small on absent is unknown: nobody has one",
            ),
            (
                "bench",
                "Small(128)(IMAGE)",
                "the latency of Small on bench is unknown: RuntimeError: too hot",
            ),
            (
                "bench",
                "model = Small(); dws_report(model, (1, 4, 12, 12)); "
                "model.norm.bias.data = torch.zeros(3)",
                "the latency of Small on bench is unknown: a tensor of it got another shape or "
                "dtype in place after the test called it, so that what was called cannot be told "
                "any more",
            ),
            (
                "bench",
                "dws_report(Small())",
                "the latency of Small on bench is unknown: it takes a model with one input, whose "
                "shape is known",
            ),
        ],
    )
    def test_what_cannot_be_measured_is_said(
        self, pytester: pytest.Pytester, target: str, body: str, sentence: str
    ) -> None:
        for strict in ([], ["--dws-strict"]):
            table = f"Small latency=4ms target={target}"
            result = run_with(pytester, table, f"def test_it(dws_report): {body}", *strict)
            assert result.ret == (pytest.ExitCode.TESTS_FAILED if strict else 0)
            result.assert_outcomes(passed=1)
            result.stdout.fnmatch_lines(["*= dwsconv: not known =*", sentence])
        assert measured(pytester) == []

    @pytest.mark.parametrize(
        "body",
        [
            "model = Small(); model(IMAGE); model.norm = None",
            "model = Small(); dws_report(model, (1, 4, 12, 12)); model.norm = None",
            "model = Small(); model.closed = Closed(); dws_report(model, (1, 4, 12, 12))",
            "model = Small(); model.closed = Closed(); model(IMAGE)",
        ],
    )
    def test_a_model_is_measured_as_it_was(self, pytester: pytest.Pytester, body: str) -> None:
        result = run_with(pytester, self.LIMIT, f"def test_it(dws_report): {body}", "--dws-strict")
        result.stdout.no_fnmatch_line("*= dwsconv: not known =*")
        assert measured(pytester) == ["Small 32 on bench"]

    def test_a_report_without_its_model(self, pytester: pytest.Pytester) -> None:
        source = """
from pytest_dwsconv import analyze
report = analyze(Small(), (1, 4, 12, 12))
def test_it(dws_budget): dws_budget(report, params="2k")
"""
        result = run_with(pytester, self.LIMIT, source, "--dws-strict")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(
            ["the latency of Small on bench is unknown: no test or target had the model at *"]
        )

    def test_what_a_backend_prints_and_warns_of_is_no_tests(
        self, pytester: pytest.Pytester
    ) -> None:
        source = "def test_it(dws_report): dws_report(Small(), (1, 4, 12, 12))"
        result = run_with(pytester, "* latency=1s target=bench-loud", source, "-s", "-W", "error")
        assert result.ret == 0
        result.stdout.no_fnmatch_line("*warm*")
        assert measured(pytester) == ["Small 32 on bench-loud"]

    @pytest.mark.parametrize(
        ("model", "target", "reason"),
        [
            (
                "Small()",
                "bench-hasty",
                "Small was not measured: the backend must return a Measurement, not 0.005",
            ),
            (
                "Small()",
                "bench-idle",
                "Small was not measured: samples are the seconds of one invoke *, not ()",
            ),
            (
                "Small().to('meta')",
                "bench",
                "Small is on the meta device, where nothing is computed: make it on another",
            ),
        ],
    )
    def test_what_is_no_measurement_is_not_known(
        self, pytester: pytest.Pytester, model: str, target: str, reason: str
    ) -> None:
        source = f"def test_it(dws_report): dws_report({model}, (1, 4, 12, 12))"
        result = run_with(pytester, f"* latency=4ms target={target}", source)
        assert result.ret == 0
        unknown = f"the latency of Small on {target} is unknown: {reason}"
        result.stdout.fnmatch_lines(["*= dwsconv: not known =*", unknown])
        source = f"""
def test_it(dws_budget):
    dws_budget({model}, (1, 4, 12, 12), latency='4ms', target='{target}')
"""
        result = run_with(pytester, "", source)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([f"*InputError: {reason}"])

    @pytest.mark.parametrize("setting", ["dws_budgets=Small", "dws_models=nets:Small 1,4,12,12"])
    def test_a_backend_may_stop_the_run(self, pytester: pytest.Pytester, setting: str) -> None:
        source = "def test_it(): Small()(IMAGE)\ndef test_then(): pass"
        # reason: beside pytest 8.0 it has a hook of the old kind, which warns of any Exit
        others = ("-p", "no:rerunfailures")
        result = run(pytester, source, *others, "-o", f"{setting} latency=4ms target=bench-stop")
        assert result.ret == 9
        (result.stdout if "budgets" in setting else result.stderr).fnmatch_lines(
            ["*Exit: the bench is closed*"]
        )

    def test_a_device_that_is_required(self, pytester: pytest.Pytester) -> None:
        source = "def test_it(): Small()(IMAGE); Small(16)(IMAGE)"
        result = run_with(pytester, "* latency=4ms target=lost", source)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["*= dwsconv: over budget =*", "one is required"])
        assert result.outlines.count("one is required") == 1

    def test_the_model_is_left_as_found(self, pytester: pytest.Pytester) -> None:
        source = """
model = Small()
state = {name: value.clone() for name, value in model.state_dict().items()}
def test_first(dws_report): dws_report(model, (1, 4, 12, 12))
def test_then():
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
"""
        run_with(pytester, self.LIMIT, source).assert_outcomes(passed=2)
        assert measured(pytester) == ["Small 32 on bench"]

    def test_it_joins_the_baseline(self, pytester: pytest.Pytester) -> None:
        run_with(
            pytester,
            "* latency=1s target=bench",
            "def test_it(): Small()(IMAGE)",
            "--dws-update=force",
        )
        (model,) = json.loads((pytester.path / ".dwsconv" / "baseline.json").read_text())[
            "models"
        ].values()
        ((conditions, seconds),) = model["latency"].items()
        assert conditions.startswith("bench: cpu of bench-1, torch 2, torch ")
        assert seconds == 0.005
