"""The plugin when nobody asks for anything, the fixture ``dws_report``, the hooks, and xdist."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path

import pytest
from inner_runs import NETS, OVER_5K, PARAMS, REPORTING, TITLE
from torch import nn

from pytest_dwsconv.core.forms import FORMS
from pytest_dwsconv.plugin.fixtures import dws_budget


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


def test_help_lists_options_and_ini_keys(pytester: pytest.Pytester) -> None:
    shown = " ".join(pytester.runpytest("--help").stdout.str().split())
    for text in (
        "depthwise separable convolutions: --dws-report=[FORMAT[:PATH]] report the models of this "
        "run: text (a table for a terminal), json (",
        "or html:PATH (a page",
        "only the form with = takes a value; may be repeated",
        "--dws-model=MODULE:FACTORY report this model too",
        "--dws-input-size=N,C,H,W the input shape of the models named by --dws-model",
        "dws_report (linelist): as --dws-report, one per line",
        "dws_models (linelist): models to report, one per line: as --dws-model, then its input",
        "dws_input_size (string): as --dws-input-size, for models without one of their own",
    ):
        assert text in shown


def test_the_documentation_lists_every_form() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pytest.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"one of the \[forms\](.+?)\. It goes", page, flags=re.DOTALL)
    assert re.findall("`(.+?)`", listed) == list(FORMS)


def test_markers_are_described(pytester: pytest.Pytester) -> None:
    arguments = ", ".join(f"{name}=" for name in signature(dws_budget).parameters)
    assert arguments.startswith("params=, macs=, ")
    pytester.runpytest("--markers").stdout.fnmatch_lines(
        [
            f"@pytest.mark.dws_budget({arguments}): Fail the test if a model it reports, or else "
            "takes, returns or calls, is *"
        ]
    )


def test_fixtures_are_described(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest("--fixtures").stdout
    listed.fnmatch_lines(["dws_report -- *", "*Analyse a model: *"])
    listed.fnmatch_lines(["dws_budget -- *", "*Hold a model to a budget: *"])


class TestNothingAsked:
    def test_nothing_is_registered_or_printed(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(
            """
            def pytest_configure(config):
                assert config.pluginmanager.hasplugin("dwsconv")
                assert not config.pluginmanager.hasplugin("dwsconv-summary")
            """
        )
        pytester.makepyfile("def test_plain(): pass")
        result = pytester.runpytest("--strict-markers")
        result.assert_outcomes(passed=1)
        result.stdout.no_fnmatch_line("*separable*")

    def test_the_plugin_can_be_blocked(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("def test_plain(): pass")
        pytester.runpytest_subprocess("-p", "no:dwsconv").assert_outcomes(passed=1)
        result = pytester.runpytest_subprocess("-p", "no:dwsconv", "--dws-report")
        assert result.ret == pytest.ExitCode.USAGE_ERROR

    def test_a_model_in_the_ini_file_waits_for_a_report_to_be_asked_for(
        self, pytester: pytest.Pytester
    ) -> None:
        pytester.makeini("[pytest]\ndws_models = nets:broken")
        pytester.makepyfile("def test_plain(): pass")
        result = pytester.runpytest()
        assert result.ret == 0
        result.stdout.no_fnmatch_line("*separable*")


class TestReportFixture:
    def test_it_works_without_any_flag(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(test_reporting=REPORTING)
        pytester.makeconftest(
            "def pytest_runtest_logreport(report): assert not hasattr(report, 'dwsconv')"
        )
        result = pytester.runpytest()
        result.assert_outcomes(passed=5, failed=1)
        result.stdout.no_fnmatch_line(TITLE)

    def test_reports_of_one_network_are_shown_once_with_their_tests(
        self, pytester: pytest.Pytester
    ) -> None:
        pytester.makepyfile(test_reporting=REPORTING)
        result = pytester.runpytest("--dws-report")
        bare = "test_reporting.py::test_bare"
        names = [f"test_reporting.py::test_shaped[[]{number}]" for number in range(5)]
        result.stdout.fnmatch_lines(
            [
                "Small, input 1 x 4 x 12 x 12 *",
                f"Reported by {bare}, {', '.join(names[:2])} and 3 more (-v shows all)",
            ]
        )
        assert result.stdout.str().count("Reported by") == 1
        pytester.runpytest("--dws-report", "-v").stdout.fnmatch_lines(
            [f"Reported by {bare}, {', '.join(names)}"]
        )

    def test_inputs_and_policy_are_passed_on(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            import torch
            from nets import Small
            from pytest_dwsconv import Policy
            def test_it(dws_report):
                inputs = {"x": torch.zeros(2, 4, 12, 12)}
                report = dws_report(Small(), example_inputs=inputs, policy=Policy(ignore=("stem",)))
                assert report.findings[0].output_shape == (2, 16, 10, 10)
                assert [finding.name for finding in report.candidates] == ["body"]
            """
        )
        pytester.runpytest().assert_outcomes(passed=1)

    @pytest.mark.parametrize("arguments", [["-k", "bare"], ["--lf"], ["-p", "no:xdist"]])
    def test_neighbours(self, pytester: pytest.Pytester, arguments: list[str]) -> None:
        pytester.makepyfile(test_reporting=REPORTING)
        if "--lf" in arguments:
            pytester.runpytest()
        result = pytester.runpytest("--dws-report", "--dws-model=nets:Plain", *arguments)
        result.stdout.fnmatch_lines([TITLE, "Reported by nets:Plain"])
        shown = result.stdout.str().count("Small, ")
        assert shown == 1

    def test_a_report_made_in_setup_or_teardown_counts(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            import pytest
            from nets import Plain, Small
            @pytest.fixture
            def made(dws_report):
                dws_report(Small())
                yield
                dws_report(Plain())
            def test_it(made): pass
            """
        )
        result = pytester.runpytest("--dws-report")
        result.stdout.fnmatch_lines(["1 model has no convolutions: Plain", "Small, *"])

    def test_junit_properties_stay_clean(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(test_reporting=REPORTING)
        pytester.runpytest("--dws-report", "--junitxml=junit.xml")
        assert "schema_version" not in (pytester.path / "junit.xml").read_text()


class TestHooks:
    def test_a_verdict_can_be_overridden(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(
            """
            from pytest_dwsconv.core.rules import Judgement, Verdict
            def pytest_dwsconv_judge(config, finding):
                if finding.name == "stem":
                    return Judgement(Verdict.INELIGIBLE, "ACME1", "stems stay as they are")
                if finding.name in ("head", "mix"):
                    return Judgement(Verdict.CANDIDATE, "ACME2", "because we say so")
            """
        )
        pytester.makepyfile(
            """
            from nets import Small, Twice
            def test_it(dws_report):
                stem, body, head = dws_report(Small(), (1, 4, 12, 12)).findings
                assert (stem.code, stem.separable_params) == ("ACME1", None)
                assert stem.separable_macs is None
                assert (body.code, body.separable_params) == ("DWS001", 656)
                assert (head.separable_params, head.separable_macs) == (32 + 256, (32 + 256) * 64)

            def test_all_calls_count(dws_report):
                (mix,) = dws_report(Twice(), (1, 4, 8, 8)).findings
                assert (mix.params, mix.macs) == (16, 16 * (64 + 36))
                assert (mix.separable_params, mix.separable_macs) == (4 + 16, (4 + 16) * (64 + 36))
            """
        )
        result = pytester.runpytest("--dws-model=nets:Small")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["ACME1 (ineligible, 1): stems stay as they are"])

    def test_a_judge_must_return_a_judgement(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest("def pytest_dwsconv_judge(finding): return 'candidate'")
        result = pytester.runpytest("--dws-model=nets:Small")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            ["ERROR: pytest_dwsconv_judge must return a Judgement or None, not 'candidate'"]
        )

    def test_every_report_that_joins_the_summary_is_handed_out(
        self, pytester: pytest.Pytester
    ) -> None:
        pytester.makeconftest(
            """
            def pytest_dwsconv_report(config, nodeid, report):
                print(f"\\n[{nodeid}] {report.model} {report.params}")
            """
        )
        pytester.makepyfile(test_reporting=REPORTING)
        arguments = ["-s", "--dws-report", "--dws-model=nets:Plain", "-k", "bare"]
        result = pytester.runpytest(*arguments)
        shown = [
            line for line in result.stdout.lines if line.startswith("[") and "params" not in line
        ]
        assert shown[0] == "[] Plain 8"
        assert shown[1:3] == ["[test_reporting.py::test_bare] Small 5440"] * 2


@pytest.mark.slow
class TestXdist:
    SOURCE = f"{REPORTING}\n\n@pytest.mark.dws_budget(params='5k')\ndef test_over(): return Small()"

    def summary(self, result: pytest.RunResult) -> list[str]:
        lines = result.stdout.lines
        (start,) = [index for index, line in enumerate(lines) if "= dwsconv: " in line]
        (end,) = [
            index for index, line in enumerate(lines) if "= short test summary info =" in line
        ]
        return lines[start:end]

    def test_the_summary_is_the_same_as_without(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(test_reporting=self.SOURCE)
        arguments = ["--dws-report", "--dws-report=json:out.json", "--dws-model=nets:Plain", "-v"]
        alone = pytester.runpytest_subprocess("-p", "no:xdist", *arguments)
        written = (pytester.path / "out.json").read_text()
        spread = pytester.runpytest_subprocess("-n2", *arguments)
        for result in (alone, spread):
            result.assert_outcomes(passed=5, failed=2)
            result.stdout.fnmatch_lines(
                [OVER_5K, "*- dwsconv: largest convolutions of Small -*", "body *4,608 *"]
            )
        assert self.summary(alone) == self.summary(spread)
        assert (pytester.path / "out.json").read_text() == written

    def test_a_wrong_target_is_one_sentence_before_workers_start(
        self, pytester: pytest.Pytester
    ) -> None:
        result = pytester.runpytest_subprocess("-n2", "--dws-model=nets:Smal")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert [line for line in result.stderr.lines if line] == [
            "ERROR: model 'nets:Smal' cannot be built, there is no Smal there: did you mean Small?"
        ]
        assert "workers" not in result.stdout.str()


def test_the_numbers_above_are_those_of_torch(tmp_path: Path) -> None:
    namespace: dict[str, type[nn.Module]] = {}
    exec(NETS, namespace)
    assert sum(parameter.numel() for parameter in namespace["Small"]().parameters()) == PARAMS
