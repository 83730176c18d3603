"""Latencies that are predicted: held to a budget, and shown where nobody measured."""

from __future__ import annotations

import json

import pytest
from inner_runs import NETS, run

# Small at 1 x 4 x 12 x 12 is predicted to take 0.61 ms on a Raspberry Pi 4, at least 0.55 ms.
SHAPE = "(1, 4, 12, 12)"
FIXTURE = """
def test_held(dws_budget):
    dws_budget(Small(), (1, 4, 12, 12), latency_predicted="{limit}")
"""
MARKER = """
@pytest.mark.dws_budget(latency_predicted="{limit}", input_size="1,4,12,12")
def test_held(): return Small()
"""
OVER = "*Small: predicted 0.61 ms (0.55 to *) on rpi4_usb3, the limit is 0.500 ms: the whole *"


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


@pytest.mark.parametrize("source", [FIXTURE, MARKER])
def test_a_test_fails_where_the_whole_interval_is_over_the_limit(
    pytester: pytest.Pytester, source: str
) -> None:
    result = run(pytester, source.format(limit="500us"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([OVER])
    run(pytester, source.format(limit="2ms"), "-W", "error").assert_outcomes(passed=1)


def test_a_limit_within_the_interval_passes_with_a_notice(pytester: pytest.Pytester) -> None:
    result = run(pytester, FIXTURE.format(limit="570us"), "--dws-report")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "within budget: * predicted on rpi4_usb3, 0.55 to * ms, which may be over, at*",
            "*dwsconv: notices*",
            "Small: predicted 0.61 ms * its interval is not: measure it on a device*",
        ]
    )


@pytest.mark.parametrize(
    "line",
    ["dws_budgets = Small", "dws_models = nets:Small 1,4,12,12"],
)
@pytest.mark.parametrize(
    ("limit", "shown"), [("500us", OVER), ("570us", "*its interval is not: *")]
)
def test_the_configuration_file_holds_models_to_it(
    pytester: pytest.Pytester, line: str, limit: str, shown: str
) -> None:
    pytester.makeini(f"[pytest]\n{line} latency_predicted={limit}\n")
    result = run(pytester, f"def test_it(dws_report): dws_report(Small(), {SHAPE})")
    over = shown == OVER
    assert result.ret == over
    section = "over budget" if over else "notices"
    result.stdout.fnmatch_lines([f"*dwsconv: {section}*", shown])


def test_the_kind_of_host_is_set_for_the_project(pytester: pytest.Pytester) -> None:
    arguments = ("-o", "dws_prediction_host=dev_board_pcie", "--dws-report=json:run.json")
    run(pytester, FIXTURE.format(limit="500us"), *arguments).assert_outcomes(passed=1)
    (model,) = json.loads((pytester.path / "run.json").read_text())["models"]
    (limit,) = model["budget"]
    assert (limit["name"], limit["limit"], limit["violation"]) == ("latency_predicted", 0.0005, "")
    assert limit["noun"].startswith("predicted on dev_board_pcie")


def test_another_kind_of_host_ends_the_run(pytester: pytest.Pytester) -> None:
    result = run(pytester, FIXTURE.format(limit="1ms"), "-o", "dws_prediction_host=rpi5")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: dws_prediction_host: 'rpi5' is not a host with known rates; give rpi4_usb3, *"]
    )


def test_a_batch_is_refused_in_one_sentence(pytester: pytest.Pytester) -> None:
    source = MARKER.format(limit="1ms").replace("1,4,12,12", "8,4,12,12")
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["the report of Small is for a batch of 8, and the Edge TPU takes*"]
    )


ABSENT = """
def pytest_dwsconv_latency_backend(config, target):
    pytest.skip("nobody has one")
"""
PREDICTED = "predicted 0.61 ms (0.55 to *) on rpi4_usb3"


@pytest.fixture
def absent(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(f"import pytest{ABSENT}")


@pytest.mark.usefixtures("absent")
def test_a_latency_that_is_not_measured_is_skipped_and_predicted(
    pytester: pytest.Pytester,
) -> None:
    source = f"""
def test_module(edgetpu_latency): edgetpu_latency(Small(), {SHAPE}, max="12ms")
def test_limited(dws_budget): dws_budget(Small(), {SHAPE}, latency="1ms", target="edgetpu")
def test_other(dws_budget): dws_budget(Small(), {SHAPE}, latency="1ms", target="lab")
"""
    result = run(pytester, source, "-rs", "--dws-report", "--junitxml=junit.xml")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(
        [f"Small: not measured, {PREDICTED}: floor 0.59, *", "*nobody has one"]
    )
    result.stdout.fnmatch_lines(
        [
            f"SKIPPED*: nobody has one; {PREDICTED}",
            f"SKIPPED*: the latency of Small on edgetpu is unknown: nobody has one; {PREDICTED}",
            "SKIPPED*: the latency of Small on lab is unknown: nobody has one",
        ]
    )
    assert 'name="dwsconv.Small.predicted_low"' in (pytester.path / "junit.xml").read_text()


@pytest.mark.usefixtures("absent")
def test_a_model_of_which_nothing_is_predicted_is_skipped_as_before(
    pytester: pytest.Pytester,
) -> None:
    source = f"""
class Broken(Small):
    def forward(self, x): raise RuntimeError("no weights")

def test_module(edgetpu_latency): edgetpu_latency(Broken(), {SHAPE}, max="12ms")
def test_batch(edgetpu_latency): edgetpu_latency(Small(), (8, 4, 12, 12), max="12ms")
def test_shape(edgetpu_latency): edgetpu_latency(Small(), max="12ms")
"""
    result = run(pytester, source, "-rs", "--dws-report=json:run.json")
    result.assert_outcomes(skipped=3)
    assert "predicted 0" not in result.stdout.str()
    data = json.loads((pytester.path / "run.json").read_text())
    assert (data["measured"], data["predicted"]) == ([], [])


@pytest.mark.usefixtures("absent")
def test_a_file_is_called_what_a_measurement_calls_it(pytester: pytest.Pytester) -> None:
    pytest.importorskip("tflite")
    import tflite_files as files  # which needs it

    (pytester.path / "net_edgetpu.tflite").write_bytes(files.pack(files.COMPILED))
    pytester.makepyfile(
        """
        from pathlib import Path

        def test_path(edgetpu_latency):
            edgetpu_latency(Path("net_edgetpu.tflite").absolute(), max="12ms")

        def test_bytes(edgetpu_latency):
            edgetpu_latency(Path("net_edgetpu.tflite").read_bytes(), max="12ms")
        """
    )
    pytester.runpytest("--dws-report=json:run.json").assert_outcomes(skipped=2)
    predicted = json.loads((pytester.path / "run.json").read_text())["predicted"]
    assert sorted(row["model"] for row in predicted) == ["model", "net_edgetpu.tflite"]
