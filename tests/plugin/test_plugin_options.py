"""The options of reports and named models, and the same words in the configuration file."""

from __future__ import annotations

import json

import pytest
from inner_runs import (
    NETS,
    PARAMS,
    SEPARABLE,
    TITLE,
    is_one_sentence,
    run,
    run_reporting,
    written,
)

from pytest_dwsconv.report import Report


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


class TestReportOption:
    def test_a_named_model_is_reported(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("def test_plain(): pass")
        result = pytester.runpytest(
            "--dws-report", "--dws-model=nets:Small", "--dws-input-size=1,4,12,12"
        )
        assert result.ret == 0
        result.stdout.fnmatch_lines(
            [
                TITLE,
                "Small, input 1 x 4 x 12 x 12 (forward on meta tensors)",
                f"stem *Conv2d *3 x 3 *16 x 10 x 10 *576 *{576 * 100:,} *pointwise first *208 "
                f"*{4 * 16 * 144 + 16 * 9 * 100:,} *2.77x",
                "head *Conv2d *1 x 1 *8 x 8 x 8 *256 *DWS104 *- *- *-",
                f"whole model *{PARAMS:,} *{SEPARABLE:,} *{PARAMS / SEPARABLE:.2f}x",
                "Reported by nets:Small",
            ]
        )

    def test_naming_a_model_on_the_command_line_asks_for_the_report(
        self, pytester: pytest.Pytester
    ) -> None:
        result = pytester.runpytest("--dws-model", "nets:Small", "--dws-model", "nets:Plain")
        result.stdout.fnmatch_lines(
            [
                "Reported by nets:Small",
                "Plain has no convolutions, so nothing *",
                "Reported by nets:Plain",
            ]
        )

    def test_a_quiet_line_of_a_model_without_convolutions_has_its_numbers(
        self, pytester: pytest.Pytester
    ) -> None:
        size = ("--dws-input-size", "1,8")
        result = pytester.runpytest("-q", "--dws-model", "torch.nn:Linear(8, 4)", *size)
        result.stdout.fnmatch_lines(
            ["Linear: 36 params, no convolutions, 32 MACs for input 1 x 8, in torch*"]
        )

    def test_without_any_model_it_says_how_to_name_one(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest("--dws-report")
        result.stdout.fnmatch_lines(
            [TITLE, "No model was reported: call one in a test, name one *"]
        )

    @pytest.mark.parametrize("arguments", [["--dws-report", "here"], ["here", "--dws-report"]])
    def test_it_does_not_swallow_a_path(
        self, pytester: pytest.Pytester, arguments: list[str]
    ) -> None:
        for folder in ("here", "elsewhere"):
            (pytester.mkdir(folder) / f"test_{folder}.py").write_text("def test_it(marked): pass")
        conftest = "import pytest\ndef pytest_addoption(parser): parser.addoption('--early')\n"
        fixture = (
            "@pytest.fixture\n"
            "def marked(pytestconfig): assert pytestconfig.getoption('early') == 'yes'"
        )
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
        result = pytester.runpytest(
            "--dws-report=json:out.json", "--dws-report=text:out.txt", "--dws-model=nets:Small"
        )
        assert result.ret == 0
        result.stdout.fnmatch_lines(
            ["*- dwsconv json report: *out.json -*", "*- dwsconv text report: *out.txt -*"]
        )
        data = json.loads((pytester.path / "out.json").read_text())
        (model,) = data["models"]
        assert (data["schema_version"], model["targets"]) == (1, ["nets:Small"])
        assert model["tests"] == ["test_json_is_written_and_read_back.py::test_one"]
        report = Report.from_dict(model["report"])
        assert (report.params, report.separable_params) == (PARAMS, SEPARABLE)
        text = (pytester.path / "out.txt").read_text()
        assert text.startswith(str(report))
        assert text.endswith(
            "\n\nReported by nets:Small, test_json_is_written_and_read_back.py::test_one\n"
        )

    def test_json_without_a_path_is_printed(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest("--dws-report=json", "--dws-model=nets:Plain")
        output = result.stdout.str()
        data = json.loads(output[output.index("\n{") : output.index("\n}") + 2])
        assert data["models"][0]["report"]["params"] == 8

    def test_quiet_is_one_line_per_model(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest("-q", "--dws-report", "--dws-model=nets:Small")
        lines = result.stdout.lines
        start = next(index for index, line in enumerate(lines) if "dwsconv:" in line)
        assert lines[start + 1] == (
            "Small: 5,440 params, 1,120 with 2 candidates separable (4.86x), in nets:Small"
        )
        assert lines[start + 2] == "no tests ran" or lines[start + 2].startswith("no tests ran in")

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (
                ["--dws-report=xml"],
                "dws-report 'xml' is not text or json or *, with :PATH after it if wanted",
            ),
            (
                ["--dws-report="],
                "dws-report '' is not text or json or *, with :PATH after it if wanted",
            ),
            (
                ["--dws-report=json:"],
                "dws-report 'json:' is not text or json or *, with :PATH after it if wanted",
            ),
            (
                ["--dws-report=json:no/such/folder.json"],
                "dws-report *folder.json cannot be written, name a file in*",
            ),
            (
                ["--dws-report=json:nets.py/folder.json"],
                "dws-report *folder.json cannot be written, name a file in*",
            ),
            (
                ["--dws-report=json:."],
                "dws-report 'json:.': * cannot be written, name a file in an existing folder",
            ),
            (
                ["--dws-report=html:./out.json"],
                "dws-report: json and html both go to *out.json; name two files",
            ),
            (["--dws-model=nets"], "model 'nets' is not written module:factory, as in *"),
            (
                ["--dws-model=no_such:Net"],
                "model 'no_such:Net' cannot be built, there is no module no_such: *",
            ),
            (
                ["--dws-model=nets:Smal"],
                "model 'nets:Smal' cannot be built, there is no Smal there: did you mean Small?",
            ),
            (
                ["--dws-model=nets:broken"],
                "model 'nets:broken' cannot be built, *RuntimeError: no weights",
            ),
            (
                ["--dws-input-size=1,4,8,8"],
                "dws-input-size is the input of a named model: name the model with --dws-m*",
            ),
            (
                ["--dws-model=nets:Small", "--dws-input-size=big"],
                "input size 'big' is not a shape: *",
            ),
            (["--dws-model=nets:Small", "--dws-input-size=1,3,8,8"], "*Small*1, 3, 8, 8*"),
        ],
    )
    def test_bad_input_is_one_sentence(
        self, pytester: pytest.Pytester, arguments: list[str], sentence: str
    ) -> None:
        pytester.makepyfile("def test_plain(): assert False, 'must not run'")
        files = set(pytester.path.iterdir())
        result = pytester.runpytest("--dws-report=json:out.json", *arguments)
        is_one_sentence(result, sentence)
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

    def test_a_file_that_becomes_unwritable_is_one_sentence(
        self, pytester: pytest.Pytester
    ) -> None:
        pytester.makepyfile("import os\ndef test_plain(): os.mkdir('out.json')")
        result = pytester.runpytest("--dws-report=json:out.json")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.assert_outcomes(passed=1)
        said = [line for line in result.stdout.lines if line.startswith("dws-report")]
        assert said == [
            f"dws-report: {pytester.path / 'out.json'} cannot be written: Is a directory"
        ]
        assert not [line for line in result.stderr.lines if line]


def layers(result: pytest.RunResult) -> list[str]:
    """The first column of the tables, in order."""
    known = ("stem", "body", "head", "net.0", "net.1")
    return [
        line.split()[0] for line in result.stdout.lines if line.split() and line.split()[0] in known
    ]


class TestView:
    """Which convolutions a report in text shows, and how."""

    MODEL = ("--dws-model=nets:Small", "--dws-input-size=1,4,12,12")

    @pytest.mark.parametrize(
        ("arguments", "shown"),
        [
            (["--dws-sort=params"], ["body", "stem", "head"]),
            (["--dws-sort=name"], ["body", "head", "stem"]),
            (["--dws-match=*e*", "--dws-match=nothing"], ["stem", "head"]),
            (["--dws-match=*e*", "--dws-sort=params"], ["stem", "head"]),
            (["--dws-depth=1", "--dws-sort=macs"], ["body", "stem", "head"]),
            (["-o", "dws_sort=macs"], ["body", "stem", "head"]),
            (["-o", "dws_match=body", "--dws-match=head"], ["head"]),
            (
                ["-o", "dws_depth=1", "-o", "dws_sort=params", "--dws-sort=name"],
                ["body", "head", "stem"],
            ),
        ],
    )
    def test_options_and_keys(
        self, pytester: pytest.Pytester, arguments: list[str], shown: list[str]
    ) -> None:
        result = pytester.runpytest(*self.MODEL, *arguments)
        assert result.ret == 0
        assert layers(result) == shown
        result.stdout.fnmatch_lines([f"whole model *{PARAMS:,} *"])

    @pytest.mark.parametrize(
        ("arguments", "shown"),
        [
            ([], []),
            (["-o", "dws_depth=1", "-o", "dws_sort=macs"], []),
            (["--dws-depth=1"], ["stem", "body", "head"]),
            (["--dws-sort=params"], ["body", "stem", "head"]),
        ],
    )
    def test_quiet_has_the_tables_that_the_command_line_chooses(
        self, pytester: pytest.Pytester, arguments: list[str], shown: list[str]
    ) -> None:
        result = pytester.runpytest("-q", *self.MODEL, *arguments)
        assert layers(result) == shown
        result.stdout.fnmatch_lines(["Small: 5,440 params, 1,120 with 2 candidates *"])
        result.stdout.no_fnmatch_line("whole model*")

    @pytest.mark.parametrize(
        ("arguments", "detailed"),
        [
            ([], ["A", "B", "C"]),
            (["--dws-top=2"], ["A", "B"]),
            (["-o", "dws_top=1"], ["A"]),
            (["-o", "dws_top=1", "--dws-top=0"], []),
        ],
    )
    def test_so_many_models_have_details(
        self, pytester: pytest.Pytester, arguments: list[str], detailed: list[str]
    ) -> None:
        tests = """
class A(Small): pass
class B(Small): pass
class C(Small): pass
@pytest.mark.parametrize("net", [A, B, C])
def test_it(dws_report, net): dws_report(net())
"""
        result = run(pytester, tests, "--dws-report", *arguments)
        text = result.stdout.str()
        assert [name for name in "ABC" if f"\n{name}, no input given" in text] == detailed
        assert all(f"\n{name}       5,440 " in text for name in "ABC")
        assert ("--dws-top=3 shows all" in text) == (len(detailed) < 3)

    def test_top_alone_asks_for_text(self, pytester: pytest.Pytester) -> None:
        pytester.runpytest("--dws-top=3").stdout.fnmatch_lines([TITLE])

    def test_sums_of_parts(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            deep="from nets import *\ndef build(): return nn.Sequential(Small(), nn.Conv2d(8, 8, "
            "3))"
        )
        arguments = (
            "--dws-model=deep:build",
            "--dws-depth=1",
            "--dws-report=text:out.txt",
            "--dws-report",
        )
        result = pytester.runpytest(*arguments)
        result.stdout.fnmatch_lines(
            [f"0 (3 convolutions) *{PARAMS:,} *{SEPARABLE:,} *", "1 (1 convolution) *584 *"]
        )
        assert "0 (3 convolutions)" in (pytester.path / "out.txt").read_text()

    def test_what_is_left_out_is_said(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest(*self.MODEL, "--dws-match=stem", "--dws-match=b*")
        result.stdout.fnmatch_lines(
            ["2 of 3 convolutions: those called stem or b[*]", f"whole model *{PARAMS:,} *"]
        )
        result.stdout.no_fnmatch_line("*dwsconv: notices*")
        result = pytester.runpytest(*self.MODEL, "--dws-match=nothing")
        result.stdout.fnmatch_lines(
            [
                "None of its 3 convolutions is called nothing",
                "*= dwsconv: notices =*",
                "dws-match 'nothing' is the name of no convolution of this run",
            ]
        )

    def test_the_column_sorted_by_is_shown(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest(*self.MODEL, "--dws-sort=macs_share")
        result.stdout.fnmatch_lines(["*saving *MACs", " *share", "body *", "stem *", "head *"])

    def test_it_asks_for_text_and_other_forms_have_all_of_it(
        self, pytester: pytest.Pytester
    ) -> None:
        pytester.makepyfile("from nets import *\ndef test_it(dws_report): dws_report(Small())")
        pytester.runpytest("--dws-sort=params").stdout.fnmatch_lines(
            [TITLE, "body *", "stem *", "head *"]
        )
        for json_too in ("--dws-report=json:out.json", "-odws_report=json:out.json"):
            result = pytester.runpytest("--dws-match=stem", "--dws-depth=1", json_too)
            result.stdout.fnmatch_lines([TITLE, "stem (1 convolution) *"])
        (model,) = written(pytester)
        assert [finding["name"] for finding in model["report"]["findings"]] == [
            "stem",
            "body",
            "head",
        ]

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (
                ["--dws-sort=speed"],
                "dws-sort: there is no column 'speed'; take name, type, kernel, *",
            ),
            (
                ["--dws-depth=1", "--dws-sort=kernel"],
                "dws-sort: a table by depth has no column 'kernel'; take name, *",
            ),
            (["--dws-depth=0"], "dws-depth must be a whole number from 1, not 0"),
            (["--dws-depth=one"], "dws-depth must be a whole number from 1, not 'one'"),
            (["-o", "dws_depth=-1"], "dws-depth must be a whole number from 1, not '-1'"),
            (["--dws-top=few"], "dws-top must be a whole number from 0, not 'few'"),
            (["-o", "dws_top=-1"], "dws-top must be a whole number from 0, not '-1'"),
        ],
    )
    def test_what_cannot_be_shown(
        self, pytester: pytest.Pytester, arguments: list[str], sentence: str
    ) -> None:
        pytester.makepyfile("def test_plain(): assert False, 'must not run'")
        is_one_sentence(pytester.runpytest("--dws-report", *arguments), sentence)


def test_ignored_patterns_that_match_nothing_are_a_notice(pytester: pytest.Pytester) -> None:
    """In no model of the run: models may share a list."""
    pytester.makepyfile(
        """
        from nets import *
        from pytest_dwsconv import Policy
        policy = Policy(ignore=("stem", "mix", "boddy"))
        def test_one(dws_report): dws_report(Small(), policy=policy)
        def test_two(dws_report): dws_report(Twice(), policy=policy)
        """
    )
    result = pytester.runpytest("--dws-report", "--dws-strict")
    assert result.ret == 0
    said = [line for line in result.stdout.lines if line.startswith("ignore")]
    assert said == ["ignore 'boddy' is the name of no convolution of this run"]


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
        result.stdout.fnmatch_lines([TITLE, "Reported by nets:Small", "Reported by nets:Plain"])
        assert len(json.loads((pytester.path / "from_ini.json").read_text())["models"]) == 2

    def test_the_command_line_wins(self, pytester: pytest.Pytester) -> None:
        pytester.makeini(
            "[pytest]\ndws_report = json:no.json\ndws_models = nets:broken\ndws_input_size = "
            "1,4,8,8"
        )
        result = pytester.runpytest("--dws-report=text", "--dws-model=nets:Small")
        result.stdout.fnmatch_lines(["Small, input 1 x 4 x 8 x 8 *"])
        assert not (pytester.path / "no.json").exists()

    def test_toml(self, pytester: pytest.Pytester) -> None:
        pytester.makepyprojecttoml(
            '[tool.pytest.ini_options]\ndws_report = ["text"]\ndws_models = '
            '["nets:Small"]\ndws_input_size = "1x4x8x8"'
        )
        pytester.runpytest().stdout.fnmatch_lines(["Small, input 1 x 4 x 8 x 8 *"])

    @pytest.mark.parametrize("key", ["dws_report", "dws_models", "dws_budgets"])
    @pytest.mark.parametrize("value", ["[3]", "[true]", '[["a"]]', "[{a = 1}]"])
    def test_a_list_of_what_is_not_text(
        self, pytester: pytest.Pytester, key: str, value: str
    ) -> None:
        pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{key} = {value}")
        is_one_sentence(pytester.runpytest("--dws-sort=name"), f"{key} * is not text: write a *")

    def test_an_input_size_that_is_not_text(self, pytester: pytest.Pytester) -> None:
        pytester.makepyprojecttoml(
            '[tool.pytest.ini_options]\ndws_models = ["nets:Small"]\ndws_input_size = [1, 4, 8, 8]'
        )
        result = pytester.runpytest("--dws-report", "-Wignore")
        is_one_sentence(result, "dws_input_size *1, 4, 8, 8* is not text: write it as in *")

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("dws_report = true", "dws-report 'true' is not text or json*"),
            ("dws_report = text json", "dws-report 'text json' is not text or json*"),
            ("dws_strict = maybe", "dws_strict is not true or false: *"),
            (
                "dws_report = text\ndws_models = Small",
                "model 'Small' is not written module:factory*",
            ),
        ],
    )
    def test_odd_values(self, pytester: pytest.Pytester, line: str, sentence: str) -> None:
        pytester.makeini(f"[pytest]\n{line}")
        is_one_sentence(pytester.runpytest(), sentence)

    def test_empty_values_ask_for_nothing(self, pytester: pytest.Pytester) -> None:
        pytester.makeini("[pytest]\ndws_report =\ndws_models =\ndws_input_size =")
        result = pytester.runpytest()
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
        result.stdout.no_fnmatch_line("*separable*")


@pytest.mark.parametrize(("saving", "candidates"), [("1.0", 2), ("3", 1)])
def test_the_settings_of_the_command_hold_for_the_plugin(
    inner: pytest.Pytester, saving: str, candidates: int
) -> None:
    (inner.path / "pyproject.toml").write_text(f"[tool.dwsconv]\nmin-saving = {saving}\n")
    source = f"""
def test_reported(dws_report): assert len(dws_report(Small()).candidates) == {candidates}
def test_asked(dws_report):
    from pytest_dwsconv import Policy
    assert len(dws_report(Small(), policy=Policy()).candidates) == 2
"""
    run(inner, source).assert_outcomes(passed=2)
    result = run_reporting(inner, "import torch\ndef test_it(): Small()(torch.ones(1, 4, 9, 9))")
    assert result.ret == 0
    verdicts = [found["verdict"] for found in written(inner)[0]["report"]["findings"]]
    assert verdicts.count("candidate") == candidates


def test_wrong_settings_are_one_sentence(inner: pytest.Pytester) -> None:
    (inner.path / "pyproject.toml").write_text("[tool.dwsconv]\nmin-saving = 0\n")
    result = run(inner, "def test_it(dws_report): dws_report(Small())")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E * min-saving must be a number from 1, not 0: *"])
    is_one_sentence(run(inner, "", "--dws-report"), "*: min-saving must be a number from 1, *")
