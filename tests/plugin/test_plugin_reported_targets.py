"""``--dws-target``: reports that tell what replacements gain on a machine."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from inner_runs import NETS, is_one_sentence, run, run_reporting, written
from torch import nn

from pytest_dwsconv import analyze

TEST = """
import torch
def test_it(): Small()(torch.zeros({batch}, 4, 12, 12))
"""
ONE = TEST.format(batch=1)
TIMING = """
import pytest_dwsconv.latency as latency
from pytest_dwsconv.latency import Comparison, Conditions

def time_layers(candidates, conditions, *, remeasure):
    ratio = 3.0 if remeasure else 2.0
    found = Comparison(ratio, 1.0, ratio, ratio - 0.1, ratio + 0.1, 0.05, 99, Conditions(2), 1)
    return [found] * len(candidates)

latency.time_layers = time_layers
"""


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


def told(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    (model,) = written(pytester)
    evidence: list[dict[str, Any]] = model["report"]["evidence"]
    return evidence


def test_a_report_tells_what_is_predicted_for_the_edge_tpu(pytester: pytest.Pytester) -> None:
    result = run(pytester, ONE, "--dws-target=edgetpu")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*edgetpu",
            "*predicted",
            "body *7.02x *no gain",
            "edgetpu: no gain (predicted, rpi4_usb3): all parameters fit on the chip already",
        ]
    )


@pytest.mark.parametrize(
    ("line", "option", "host"),
    [
        ("dws_target = edgetpu", "", "dev_board_pcie"),
        ("dws_target = cpu", "--dws-target=edgetpu", "dev_board_pcie"),
        ("dws_target = edgetpu:desktop_usb3", "", "desktop_usb3"),
    ],
)
def test_the_configuration_file_names_targets_and_the_usual_host(
    pytester: pytest.Pytester, line: str, option: str, host: str
) -> None:
    pytester.makeini(f"[pytest]\ndws_prediction_host = dev_board_pcie\n{line}\n")
    run_reporting(pytester, ONE, *filter(None, [option])).assert_outcomes(passed=1)
    assert [(one["target"], one["conditions"]) for one in told(pytester)] == [("edgetpu", host)]


def test_the_key_alone_asks_for_no_report(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ndws_target = cpu\n")
    result = run(pytester, ONE)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*dwsconv:*")


def test_a_stored_report_is_shown_where_torch_is_not_installed(pytester: pytest.Pytester) -> None:
    report = analyze(nn.Conv2d(8, 16, 3), (1, 8, 9, 9))
    (pytester.path / "report.json").write_text(report.to_json())
    pytester.makepyfile(
        """
        from pytest_dwsconv import Report
        def test_it(dws_budget):
            dws_budget(Report.from_json(open("report.json").read()), params="2k")
        """
    )
    code = "import sys, pytest; sys.modules['torch'] = None; pytest.main(['--dws-target=cpu'])"
    result = pytester.run(sys.executable, "-c", code)
    result.stdout.fnmatch_lines(
        ["Conv2d, input 1 x 8 x 9 x 9*", "What * is unknown: * needs the package torch: *"]
    )


@pytest.mark.parametrize(("option", "ms"), [("", 2.0), ("--dws-remeasure", 3.0)])
def test_layers_are_measured_on_this_machine_at_the_end(
    pytester: pytest.Pytester, option: str, ms: float
) -> None:
    pytester.makeconftest(TIMING)
    arguments = ["--dws-target=cpu, edgetpu", *filter(None, [option])]
    run_reporting(pytester, ONE, *arguments).assert_outcomes(passed=1)
    whole, _ = told(pytester)
    assert whole["source"] == "unknown"
    assert whole["reason"].startswith("2 of 2 layers by themselves are measured faster; rewrite(")
    findings = written(pytester)[0]["report"]["findings"]
    first = [one["evidence"][0] for one in findings if "evidence" in one]
    assert [(one["source"], one["before_ms"]) for one in first] == [("measured", ms)] * 2


@pytest.mark.parametrize("targets", ["None, 'edgetpu'", "'edgetpu', None"])
def test_a_test_that_asks_for_a_target_itself_has_it_shown(
    pytester: pytest.Pytester, targets: str
) -> None:
    source = f"""
@pytest.mark.parametrize("target", [{targets}])
def test_it(dws_report, target):
    assert bool(dws_report(Small(), (1, 4, 12, 12), target=target).evidence) == bool(target)
"""
    run_reporting(pytester, source).assert_outcomes(passed=2)
    assert [one["source"] for one in told(pytester)] == ["predicted"]


def test_what_a_hook_takes_out_is_not_told_of(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from pytest_dwsconv import Judgement, Verdict
        def pytest_dwsconv_judge(finding):
            if finding.name == "body":
                return Judgement(Verdict.INELIGIBLE, "X1", "kept")
        """
    )
    source = """
def test_it(dws_report):
    report = dws_report(Small(), (1, 4, 12, 12), target="edgetpu")
    assert [bool(one.evidence) for one in report.findings] == [True, False, False]
"""
    run(pytester, source).assert_outcomes(passed=1)


def test_what_cannot_be_predicted_is_unknown_and_fails_nothing(pytester: pytest.Pytester) -> None:
    run_reporting(pytester, TEST.format(batch=8), "--dws-target=edgetpu").assert_outcomes(passed=1)
    (evidence,) = told(pytester)
    assert evidence["source"] == "unknown"
    assert "is for a batch of 8, and the Edge TPU takes 1" in evidence["reason"]


def test_evidence_on_one_side_is_no_change_to_a_baseline(pytester: pytest.Pytester) -> None:
    run_reporting(pytester, ONE, "--dws-target=edgetpu").assert_outcomes(passed=1)
    (pytester.path / "out.json").rename(pytester.path / "old.json")
    arguments = ("--dws-baseline=old.json", "--dws-fail-on-increase")
    assert run_reporting(pytester, ONE, *arguments).ret == 0
    changes = json.loads((pytester.path / "out.json").read_text())["changes"]
    assert [model["status"] for model in changes["models"]] == ["unchanged"]


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (
            "gpu",
            "dws-target: target must be 'cpu', * or 'edgetpu', not 'gpu'",
        ),
        ("edgetpu:pi", "dws-target: 'pi' is not a host with known rates; give rpi4_usb3, *"),
        ("cpu,edgetpu,edgetpu:desktop_usb3", "dws-target: a report is for one host of a target; *"),
    ],
)
def test_a_target_that_cannot_be_told_of_is_a_usage_error(
    pytester: pytest.Pytester, target: str, sentence: str
) -> None:
    is_one_sentence(run(pytester, ONE, f"--dws-target={target}"), sentence)
