from __future__ import annotations

import json
from inspect import signature
from pathlib import Path

import pytest
from torch import nn

from pytest_dwsconv.plugin.marker import dws_budget
from pytest_dwsconv.report import Report

TITLE = "*= dwsconv: depthwise separable candidates =*"

NETS = """
from torch import nn

class Small(nn.Module):
    '''5440 parameters, 1012 with its two 3 x 3 convolutions separable.'''

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(4, 16, 3, bias=False)
        self.body = nn.Conv2d(16, 32, 3, bias=False)
        self.head = nn.Conv2d(32, 8, 1, bias=False)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))

class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x):
        return self.mix(self.mix(x)[..., :6, :6])

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x)

def broken():
    raise RuntimeError("no weights")
"""
PARAMS = 4 * 16 * 9 + 16 * 32 * 9 + 32 * 8  # 5440
SEPARABLE = (4 * 9 + 4 * 16) + (16 * 9 + 16 * 32) + 32 * 8  # 1012
OVER_5K = "Small has 5.44k parameters, the budget is 5k (0.44k over). Making body separable would bring it to 1.49k."


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


def test_help_lists_options_and_ini_keys(pytester: pytest.Pytester) -> None:
    shown = " ".join(pytester.runpytest("--help").stdout.str().split())
    for text in (
        "depthwise separable convolutions: --dws-report=[FORMAT[:PATH]] report the models of this run: text",
        "only the form with = takes a value; may be repeated",
        "--dws-model=MODULE:FACTORY report this model too",
        "--dws-input-size=N,C,H,W the input shape of the models named by --dws-model",
        "dws_report (linelist): as --dws-report, one a line",
        "dws_models (linelist): models to report, one a line: as --dws-model, then its input size and",
        "dws_input_size (string): as --dws-input-size, for models without one of their own",
    ):
        assert text in shown


def test_markers_are_described(pytester: pytest.Pytester) -> None:
    arguments = ", ".join(f"{name}=" for name in signature(dws_budget).parameters)
    assert arguments.startswith("params=, macs=, ")
    pytester.runpytest("--markers").stdout.fnmatch_lines(
        [f"@pytest.mark.dws_budget({arguments}): Fail the test if a model it reports, or else takes or returns, is *"]
    )


def test_fixtures_are_described(pytester: pytest.Pytester) -> None:
    pytester.runpytest("--fixtures").stdout.fnmatch_lines(
        ["dws_report -- *", "*Analyse a model: *", "dws_budget -- *", "*Hold a model to a budget: *"]
    )


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

    def test_a_model_in_the_ini_file_waits_for_a_report_to_be_asked_for(self, pytester: pytest.Pytester) -> None:
        pytester.makeini("[pytest]\ndws_models = nets:broken")
        pytester.makepyfile("def test_plain(): pass")
        result = pytester.runpytest()
        assert result.ret == 0
        result.stdout.no_fnmatch_line("*separable*")


class TestReportOption:
    def test_a_named_model_is_reported(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("def test_plain(): pass")
        result = pytester.runpytest("--dws-report", "--dws-model=nets:Small", "--dws-input-size=1,4,12,12")
        assert result.ret == 0
        result.stdout.fnmatch_lines(
            [
                TITLE,
                "Small, input 1 x 4 x 12 x 12 (forward on meta tensors)",
                f"stem *Conv2d *3 x 3 *16 x 10 x 10 *576 *{576 * 100:,} *candidate *100 *{100 * 100:,} *5.76x",
                "head *Conv2d *1 x 1 *8 x 8 x 8 *256 *DWS104 *- *- *-",
                f"whole model *{PARAMS:,} *{SEPARABLE:,} *{PARAMS / SEPARABLE:.2f}x",
                "Reported by nets:Small",
            ]
        )

    def test_naming_a_model_on_the_command_line_asks_for_the_report(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest("--dws-model", "nets:Small", "--dws-model", "nets:Plain")
        result.stdout.fnmatch_lines(
            ["Plain has no convolutions, so nothing *", "Reported by nets:Plain", "Reported by nets:Small"]
        )

    def test_without_any_model_it_says_how_to_name_one(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest("--dws-report")
        result.stdout.fnmatch_lines([TITLE, "No model was reported: name one with --dws-model, or use *"])

    @pytest.mark.parametrize("arguments", [["--dws-report", "here"], ["here", "--dws-report"]])
    def test_it_does_not_swallow_a_path(self, pytester: pytest.Pytester, arguments: list[str]) -> None:
        for folder in ("here", "elsewhere"):
            (pytester.mkdir(folder) / f"test_{folder}.py").write_text("def test_it(marked): pass")
        conftest = "import pytest\ndef pytest_addoption(parser): parser.addoption('--early')\n"
        fixture = "@pytest.fixture\ndef marked(pytestconfig): assert pytestconfig.getoption('early') == 'yes'"
        (pytester.path / "here" / "conftest.py").write_text(conftest + fixture)
        result = pytester.runpytest(*arguments, "--early=yes")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines([TITLE])

    def test_it_does_not_swallow_a_path_after_addopts(self, pytester: pytest.Pytester) -> None:
        pytester.makeini("[pytest]\naddopts = --dws-report")
        path = pytester.makepyfile("def test_it(): pass")
        result = pytester.runpytest(path, "--", "--dws-report")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: file or directory not found: --dws-report"])
        pytester.runpytest(path).stdout.fnmatch_lines([TITLE])

    def test_json_is_written_and_read_back(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            from nets import Small
            def test_one(dws_report):
                dws_report(Small())
            """
        )
        result = pytester.runpytest("--dws-report=json:out.json", "--dws-report=text:out.txt", "--dws-model=nets:Small")
        assert result.ret == 0
        result.stdout.fnmatch_lines(["*- dwsconv json report: *out.json -*", "*- dwsconv text report: *out.txt -*"])
        data = json.loads((pytester.path / "out.json").read_text())
        (model,) = data["models"]
        assert (data["schema_version"], model["targets"]) == (1, ["nets:Small"])
        assert model["tests"] == ["test_json_is_written_and_read_back.py::test_one"]
        report = Report.from_dict(model["report"])
        assert (report.params, report.separable_params) == (PARAMS, SEPARABLE)
        text = (pytester.path / "out.txt").read_text()
        assert text.startswith(str(report))
        assert text.endswith("\n\nReported by nets:Small, test_json_is_written_and_read_back.py::test_one\n")

    def test_json_without_a_path_is_printed(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest("--dws-report=json", "--dws-model=nets:Plain")
        output = result.stdout.str()
        data = json.loads(output[output.index("\n{") : output.index("\n}") + 2])
        assert data["models"][0]["report"]["params"] == 8

    def test_quiet_is_one_line_a_model(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest("-q", "--dws-report", "--dws-model=nets:Small")
        lines = result.stdout.lines
        start = next(index for index, line in enumerate(lines) if "dwsconv:" in line)
        assert lines[start + 1] == "Small: 5,440 params, 1,012 with 2 candidates separable (5.38x)"
        assert lines[start + 2] == "no tests ran" or lines[start + 2].startswith("no tests ran in")

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--dws-report=xml"], "dws-report 'xml' is not text or json or *, with :PATH after it if wanted"),
            (["--dws-report="], "dws-report '' is not text or json or *, with :PATH after it if wanted"),
            (["--dws-report=json:"], "dws-report 'json:' is not text or json or *, with :PATH after it if wanted"),
            (["--dws-report=json:no/such/folder.json"], "dws-report *folder.json cannot be written, name a file in*"),
            (["--dws-report=json:nets.py/folder.json"], "dws-report *folder.json cannot be written, name a file in*"),
            (["--dws-report=json:."], "dws-report 'json:.': * cannot be written, name a file in an existing folder"),
            (["--dws-model=nets"], "model 'nets' is not written module:factory, as in *"),
            (["--dws-model=no_such:Net"], "model 'no_such:Net' cannot be built, there is no module no_such: *"),
            (
                ["--dws-model=nets:Smal"],
                "model 'nets:Smal' cannot be built, there is no Smal there: did you mean Small?",
            ),
            (["--dws-model=nets:broken"], "model 'nets:broken' cannot be built, *RuntimeError: no weights"),
            (["--dws-model=nets:Small", "--dws-input-size=big"], "input size 'big' is not a shape: *"),
            (["--dws-model=nets:Small", "--dws-input-size=1,3,8,8"], "*Small*1, 3, 8, 8*"),
        ],
    )
    def test_bad_input_is_one_sentence(self, pytester: pytest.Pytester, arguments: list[str], sentence: str) -> None:
        pytester.makepyfile("def test_plain(): assert False, 'must not run'")
        files = set(pytester.path.iterdir())
        result = pytester.runpytest("--dws-report=json:out.json", *arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        errors = [line for line in result.stderr.lines if line]
        assert len(errors) == 1
        result.stderr.fnmatch_lines([f"ERROR: {sentence}"])
        result.stdout.no_fnmatch_line("*must not run*")
        assert {path.name for path in set(pytester.path.iterdir()) - files} <= {"__pycache__"}

    def test_paths_start_from_the_working_folder(
        self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytester.makeini("[pytest]")
        monkeypatch.chdir(pytester.mkdir("folder"))
        pytester.runpytest("--dws-report=json:out.json", "--dws-model=nets:Plain")
        assert (pytester.path / "folder" / "out.json").is_file()

    def test_a_run_on_wrong_paths_writes_nothing(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest("--dws-report=json:out.json", "nowhere.py")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert not (pytester.path / "out.json").exists()

    def test_a_file_that_becomes_unwritable_is_one_sentence(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("import os\ndef test_plain(): os.mkdir('out.json')")
        result = pytester.runpytest("--dws-report=json:out.json")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.assert_outcomes(passed=1)
        said = [line for line in result.stdout.lines if line.startswith("dws-report")]
        assert said == [f"dws-report: {pytester.path / 'out.json'} cannot be written: Is a directory"]
        assert not [line for line in result.stderr.lines if line]


class TestIni:
    def test_the_same_words(self, pytester: pytest.Pytester) -> None:
        pytester.makeini(
            """
            [pytest]
            dws_report =
                text
                json:from_ini.json
            dws_models =
                nets:Small
                nets:Plain
            """
        )
        folder = pytester.mkdir("folder")
        result = pytester.runpytest("--rootdir", pytester.path, folder)
        result.stdout.fnmatch_lines([TITLE, "Reported by nets:Plain", "Reported by nets:Small"])
        assert len(json.loads((pytester.path / "from_ini.json").read_text())["models"]) == 2

    def test_the_command_line_wins(self, pytester: pytest.Pytester) -> None:
        pytester.makeini("[pytest]\ndws_report = json:no.json\ndws_models = nets:broken\ndws_input_size = 1,4,8,8")
        result = pytester.runpytest("--dws-report=text", "--dws-model=nets:Small")
        result.stdout.fnmatch_lines(["Small, input 1 x 4 x 8 x 8 *"])
        assert not (pytester.path / "no.json").exists()

    def test_toml(self, pytester: pytest.Pytester) -> None:
        pytester.makepyprojecttoml(
            '[tool.pytest.ini_options]\ndws_report = ["text"]\ndws_models = ["nets:Small"]\ndws_input_size = "1x4x8x8"'
        )
        pytester.runpytest().stdout.fnmatch_lines(["Small, input 1 x 4 x 8 x 8 *"])

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("dws_report = true", "dws-report 'true' is not text or json*"),
            ("dws_report = text json", "dws-report 'text json' is not text or json*"),
            ("dws_report = text\ndws_models = Small", "model 'Small' is not written module:factory*"),
        ],
    )
    def test_odd_values(self, pytester: pytest.Pytester, line: str, sentence: str) -> None:
        pytester.makeini(f"[pytest]\n{line}")
        result = pytester.runpytest()
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: {sentence}"])

    def test_empty_values_ask_for_nothing(self, pytester: pytest.Pytester) -> None:
        pytester.makeini("[pytest]\ndws_report =\ndws_models =\ndws_input_size =")
        result = pytester.runpytest()
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
        result.stdout.no_fnmatch_line("*separable*")


REPORTING = """
import pytest
from nets import Small

@pytest.mark.parametrize("number", range(5))
def test_shaped(dws_report, number):
    report = dws_report(Small(), (1, 4, 12, 12))
    assert (report.params, report.separable_params) == (5440, 1012)
    assert report.macs is not None

def test_bare(dws_report):
    dws_report(Small())
    dws_report(Small())
    assert False
"""


class TestReportFixture:
    def test_it_works_without_any_flag(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(test_reporting=REPORTING)
        pytester.makeconftest("def pytest_runtest_logreport(report): assert not hasattr(report, 'dwsconv')")
        result = pytester.runpytest()
        result.assert_outcomes(passed=5, failed=1)
        result.stdout.no_fnmatch_line(TITLE)

    def test_equal_reports_are_shown_once_with_their_tests(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(test_reporting=REPORTING)
        result = pytester.runpytest("--dws-report")
        names = [f"test_reporting.py::test_shaped[[]{number}]" for number in range(5)]
        result.stdout.fnmatch_lines(
            [
                "Small, no input given *",
                "Reported by test_reporting.py::test_bare",
                "Small, input 1 x 4 x 12 x 12 *",
                f"Reported by {', '.join(names[:3])} and 2 more (-v shows all)",
            ]
        )
        assert result.stdout.str().count("Reported by") == 2
        pytester.runpytest("--dws-report", "-v").stdout.fnmatch_lines([f"Reported by {', '.join(names)}"])

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

    @pytest.mark.parametrize("arguments", [["--co"], ["-k", "bare"], ["--lf"], ["-p", "no:xdist"]])
    def test_neighbours(self, pytester: pytest.Pytester, arguments: list[str]) -> None:
        pytester.makepyfile(test_reporting=REPORTING)
        if "--lf" in arguments:
            pytester.runpytest()
        result = pytester.runpytest("--dws-report", "--dws-model=nets:Plain", *arguments)
        result.stdout.fnmatch_lines([TITLE, "Reported by nets:Plain"])
        shown = result.stdout.str().count("Small, ")
        assert shown == {"--co": 0, "-k": 1, "--lf": 1, "-p": 2}[arguments[0]]

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
        assert result.stdout.str().count("Reported by") == 2

    def test_junit_properties_stay_clean(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(test_reporting=REPORTING)
        pytester.runpytest("--dws-report", "--junitxml=junit.xml")
        assert "schema_version" not in (pytester.path / "junit.xml").read_text()


class TestBudgetFixture:
    def test_within(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            from nets import Small
            def test_it(dws_budget, dws_report):
                report = dws_budget(Small(), (1, 4, 12, 12), params=5440, macs="1M", size="22kB", candidates=2)
                assert report.params == 5440
                assert dws_budget(report, params="6k") is report
            """
        )
        pytester.runpytest("-W", "error").assert_outcomes(passed=1)

    def test_over(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            from nets import Small
            def test_it(dws_budget):
                dws_budget(Small(), (1, 4, 12, 12), params="5k", candidates=0)
            """
        )
        result = pytester.runpytest()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                '>*dws_budget(Small(), (1, 4, 12, 12), params="5k", candidates=0)',
                f"E *Failed: {OVER_5K}",
                "E *Small has 2 candidates, the budget is 0 (2 over). Making body and stem separable *bring it to 0.",
                "*- dwsconv: largest convolutions of Small -*",
                "body *4,608 *",
                "stem *576 *",
                "head *256 *",
            ]
        )
        result.stdout.no_fnmatch_line("*fixtures.py*")

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (
                "Small(), parms=3",
                "InputError: a budget has no argument 'parms': it takes params, macs, size, size_fp16, *",
            ),
            ("Small(), params='5Q'", "FormatError: the budget's params '5Q' is not a quantity: *"),
            ("Small(), macs='1G'", "InputError: the budget limits MACs and none were counted for Small: *"),
            ("Small()", "InputError: a budget without a limit checks nothing: *"),
            ("3, params=1", "InputError: *"),
        ],
    )
    def test_misuse(self, pytester: pytest.Pytester, arguments: str, sentence: str) -> None:
        pytester.makepyfile(f"from nets import Small\ndef test_it(dws_budget): dws_budget({arguments})")
        result = pytester.runpytest()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([f"E *{sentence}"])


MARKED = """
import pytest
from nets import Plain, Small

@pytest.fixture(scope="session")
def model():
    return Small()

@pytest.fixture
def other():
    return Plain()
"""


class TestMarker:
    def run(self, pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_marked=MARKED + source)
        return pytester.runpytest("--strict-markers", *arguments)

    @pytest.mark.parametrize(
        ("limits", "sentences"),
        [
            ("params='6k'", []),
            ("params='5k'", [OVER_5K]),
            ("macs='1M', input_size='1,4,12,12'", []),
            (
                "macs=1, input_size=(1, 4, 12, 12)",
                ["Small has 368.9k MACs, the budget is 1 (368.89k over). Making every candidate separable would *"],
            ),
            ("macs=1", ["the budget limits MACs and none were counted for Small: give an input size, *"]),
            ("params=1, input_size=(1, 3, 8, 8)", ["*Small*1, 3, 8, 8*"]),
        ],
    )
    def test_models_among_the_arguments(self, pytester: pytest.Pytester, limits: str, sentences: list[str]) -> None:
        result = self.run(pytester, f"@pytest.mark.dws_budget({limits})\ndef test_it(model): pass")
        result.assert_outcomes(failed=len(sentences), passed=1 - len(sentences))
        result.stdout.fnmatch_lines(["*_ test_it _*", *sentences] if sentences else ["*1 passed*"])
        result.stdout.no_fnmatch_line("*Traceback*")
        result.stdout.no_fnmatch_line("*During handling*")

    def test_reports_go_before_arguments(self, pytester: pytest.Pytester) -> None:
        source = """
@pytest.mark.dws_budget(params=10)
def test_small_is_not_reported(model, dws_report): dws_report(Plain())

@pytest.mark.dws_budget(params=9, macs="1M")
def test_all_reports_count(dws_report):
    dws_report(Plain(), (1, 3))
    dws_report(Small(), (1, 4, 8, 8))
"""
        result = self.run(pytester, source)
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["Small has 5.44k parameters, the budget is 9 (5.43k over). *"])
        result.stdout.no_fnmatch_line("Plain has*")

    def test_parameters_count_as_arguments(self, pytester: pytest.Pytester) -> None:
        source = """
@pytest.mark.parametrize("network", [Small(), Plain()], ids=["small", "plain"])
@pytest.mark.dws_budget(params="5k")
def test_it(network): pass
"""
        result = self.run(pytester, source, "-rA")
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["PASSED *test_it[[]plain]", f"FAILED *test_it[[]small] - Failed: {OVER_5K[:20]}*"])

    def test_methods_and_unittest_reach_their_models(self, pytester: pytest.Pytester) -> None:
        source = """
import unittest

class TestPlain:
    @pytest.mark.dws_budget(params="5k")
    def test_method(self, model): pass

class TestCase(unittest.TestCase):
    @pytest.mark.dws_budget(params="5k")
    def test_case(self): pass
"""
        result = self.run(pytester, source)
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines([OVER_5K, "dws_budget found no model: *"])

    def test_the_closest_marker_wins_argument_by_argument(self, pytester: pytest.Pytester) -> None:
        source = """
@pytest.mark.dws_budget(params="5k", candidates=2)
class TestClosest:
    def test_of_the_class(self, model): pass

    @pytest.mark.dws_budget(params="6k")
    def test_wider(self, model): pass

    @pytest.mark.dws_budget(params="6k", candidates=1)
    def test_other_limit(self, model): pass
"""
        result = self.run(pytester, source, "-rA")
        result.assert_outcomes(passed=1, failed=2)
        result.stdout.fnmatch_lines(
            [OVER_5K, "Small has 2 candidates, the budget is 1 (1 over). *", "PASSED *test_wider"]
        )

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ("parms='5k'", "dws_budget has no argument 'parms': it takes params, macs, size, *"),
            ("'5k'", "dws_budget takes keyword arguments only, not '5k'"),
            ("params='5Q'", "the budget's params '5Q' is not a quantity: write a number from 0, *"),
            ("params=1, input_size='x'", "input size 'x' is not a shape: *"),
            ("", "a budget without a limit checks nothing: *"),
        ],
    )
    def test_a_wrong_marker_is_an_error_before_the_test(
        self, pytester: pytest.Pytester, arguments: str, sentence: str
    ) -> None:
        result = self.run(pytester, f"@pytest.mark.dws_budget({arguments})\ndef test_it(model): print('ran')")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*_ ERROR at setup of test_it _*", sentence])
        result.stdout.no_fnmatch_line("ran")
        result.stdout.no_fnmatch_line("*During handling*")

    def test_without_a_model_it_says_what_to_do(self, pytester: pytest.Pytester) -> None:
        result = self.run(pytester, "@pytest.mark.dws_budget(params=1)\ndef test_it(): pass")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["dws_budget found no model: report one with the fixture dws_report, make one an *"]
        )

    def test_a_test_that_failed_or_was_skipped_is_not_checked(self, pytester: pytest.Pytester) -> None:
        source = """
pytestmark = pytest.mark.dws_budget(params=1)

@pytest.fixture
def failing(): raise RuntimeError("setup")

def test_failed(model): assert False, "its own"
def test_skipped(model): pytest.skip("why")
def test_setup(model, failing): pass

@pytest.mark.xfail(strict=True)
def test_expected(model): pass
"""
        result = self.run(pytester, source)
        result.assert_outcomes(failed=1, skipped=1, errors=1, xfailed=1)
        result.stdout.no_fnmatch_line("*the budget is*")

    def test_a_second_attempt_starts_anew(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(
            """
            from _pytest.runner import runtestprotocol
            def pytest_runtest_protocol(item, nextitem):
                runtestprotocol(item, nextitem=None)
                runtestprotocol(item, nextitem=nextitem)
                return True
            """
        )
        source = """
models = [Small(), Plain()]

@pytest.mark.dws_budget(params=8)
def test_it(dws_report): dws_report(models.pop(0))
"""
        self.run(pytester, source).assert_outcomes(failed=1, passed=1)

    def test_what_it_analyses_joins_the_summary(self, pytester: pytest.Pytester) -> None:
        source = "@pytest.mark.dws_budget(params='6k')\ndef test_it(model): pass"
        self.run(pytester, source, "--dws-report").stdout.fnmatch_lines([TITLE, "Reported by test_marked.py::test_it"])


class TestHooks:
    def test_a_verdict_can_be_overridden(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(
            """
            from pytest_dwsconv.rules import Judgement, Verdict
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
                assert (stem.code, stem.separable_params, stem.separable_macs) == ("ACME1", None, None)
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
        result.stderr.fnmatch_lines(["ERROR: pytest_dwsconv_judge must return a Judgement or None, not 'candidate'"])

    def test_every_report_that_joins_the_summary_is_handed_out(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(
            """
            def pytest_dwsconv_report(config, nodeid, report):
                print(f"\\n[{nodeid}] {report.model} {report.params}")
            """
        )
        pytester.makepyfile(test_reporting=REPORTING)
        arguments = ["-s", "--dws-report", "--dws-model=nets:Plain", "-k", "bare"]
        result = pytester.runpytest(*arguments)
        shown = [line for line in result.stdout.lines if line.startswith("[") and "params" not in line]
        assert shown[0] == "[] Plain 8"
        assert shown[1:3] == ["[test_reporting.py::test_bare] Small 5440"] * 2


@pytest.mark.slow
class TestXdist:
    SOURCE = REPORTING + "\n\n@pytest.mark.dws_budget(params='5k')\ndef test_over(model): pass\n" + MARKED

    def summary(self, result: pytest.RunResult) -> list[str]:
        lines = result.stdout.lines
        (start,) = [index for index, line in enumerate(lines) if "= dwsconv: " in line]
        (end,) = [index for index, line in enumerate(lines) if "= short test summary info =" in line]
        return lines[start:end]

    def test_the_summary_is_the_same_as_without(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(test_reporting=self.SOURCE)
        arguments = ["--dws-report", "--dws-report=json:out.json", "--dws-model=nets:Plain", "-v"]
        alone = pytester.runpytest_subprocess("-p", "no:xdist", *arguments)
        written = (pytester.path / "out.json").read_text()
        spread = pytester.runpytest_subprocess("-n2", *arguments)
        for result in (alone, spread):
            result.assert_outcomes(passed=5, failed=2)
            result.stdout.fnmatch_lines([OVER_5K, "*- dwsconv: largest convolutions of Small -*", "body *4,608 *"])
        assert self.summary(alone) == self.summary(spread)
        assert (pytester.path / "out.json").read_text() == written

    def test_a_wrong_target_is_one_sentence_before_workers_start(self, pytester: pytest.Pytester) -> None:
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ('dws_budget(nn.Conv2d(3, 8, 3), params="5Q")', "5Q"),
        ("dws_budget(nn.Conv2d(3, 8, 3), (1, 5, 9, 9), params=5)", "rejected inputs of shape (1, 5, 9, 9)"),
        ("dws_report(nn.Conv2d(3, 8, 3), (1, 5, 9, 9))", "rejected inputs of shape (1, 5, 9, 9)"),
    ],
)
def test_what_is_the_users_to_mend_comes_without_our_own_frames(
    pytester: pytest.Pytester, call: str, message: str
) -> None:
    pytester.makepyfile(f"from torch import nn\n\ndef test(dws_budget, dws_report): {call}")
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    assert message in result.stdout.str()
    result.stdout.no_fnmatch_line("*pytest_dwsconv/*.py:*")
    assert len(result.outlines) < 30


def test_a_skipped_test_is_skipped_whatever_its_marker_says(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n\n@pytest.mark.skip\n@pytest.mark.dws_budget(speed=1)\ndef test(): pass")
    pytester.runpytest().assert_outcomes(skipped=1)
