from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from inner_runs import NETS, is_one_sentence, run


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


def test_a_limit_that_cannot_be_checked_hides_no_other(pytester: pytest.Pytester) -> None:
    source = "def test_it(dws_report): dws_report(Small())"
    result = run(
        pytester, source, "-o", "dws_budgets=* params=5k macs=1G activations=1MB b* macs=1G"
    )
    assert sum("limits MACs" in line for line in result.stdout.lines) == 1
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["Small has 5.44k parameters, the budget is 5k *"])
    result.stdout.fnmatch_lines_random(
        ["the budget limits MACs and *", "the budget limits activations and *"]
    )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            "dws_budget(Small(), macs=1)",
            "the budget limits MACs and none were counted *",
        ),
        ("dws_budget(Small(), parms=1)", "a budget has no argument 'parms': it takes *"),
        ("dws_budget(Small(), layers={'x': {'params': 1}})", "the budget limits layers 'x', *"),
        ("dws_budget(Small(), (1, 3), params=1)", "* Small *"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence_without_frames_of_the_plugin(
    pytester: pytest.Pytester, call: str, sentence: str
) -> None:
    result = run(pytester, f"def test_it(dws_budget): {call}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E  * {sentence}"])
    result.stdout.no_fnmatch_line("*pytest_dwsconv/*.py:*")


@pytest.mark.parametrize(
    "source",
    [
        "def test_it(dws_budget): dws_budget(Small(), (1, 4, 9, 9), latency=1, target='edgetpu')",
        "@pytest.mark.dws_budget(latency=1, target='edgetpu', input_size=(1, 4, 9, 9))\n"
        "def test_it(): return Small()",
        "def test_it(edgetpu_latency): edgetpu_latency(Small(), (1, 4, 9, 9), max='1ms')",
    ],
)
def test_a_skip_is_shown_where_the_test_is(pytester: pytest.Pytester, source: str) -> None:
    result = run(pytester, source, "-rs", "--dws-edgetpu=off")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] test_them.py:*: *"])


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        ([], "*= 1 passed, 1 over budget in * =*"),
        (["-q"], "1 passed, 1 over budget in *"),
        (["-o", "dws_budgets=* macs=1"], "*= 1 passed in * =*"),
        (["-o", "dws_budgets=* macs=1", "--dws-strict"], "*= 1 passed, 1 not known in * =*"),
        (["-o", "dws_budgets=* params=6k"], "*= 1 passed in * =*"),
    ],
)
def test_the_last_line_says_what_fails_the_run(
    pytester: pytest.Pytester, arguments: list[str], last: str
) -> None:
    source = "def test_it(dws_report): dws_report(Small())"
    result = run(pytester, source, "-o", "dws_budgets=* params=1", *arguments)
    lines = [line for line in result.stdout.lines if line]
    assert fnmatchcase(lines[-1], last)
    assert result.ret == (1 if ", 1 " in last else 0)


def test_a_report_takes_no_inputs(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        "def test_it(dws_report, dws_budget): dws_budget(dws_report(Small()), (1, 4, 8, 8), "
        "macs=1)",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*dws_budget takes inputs for a model only: a report has those it was made with"]
    )


class TestMarker:
    @pytest.mark.parametrize(
        ("limits", "sentence"),
        [
            (
                "size_fp16='10kB'",
                "Small has 10.88kB of float16 parameters, the budget is 10kB (0.88kB over). *",
            ),
            (
                "size_int8='5KiB'",
                "Small has 5.31KiB of int8 parameters, the budget is 5KiB (0.31KiB over). *",
            ),
            (
                "activations='14kB', input_size='1,4,12,12'",
                "Small has 14.59kB of activations at their peak for input 1 x 4 x 12 x 12, "
                "the budget is 14kB (0.59kB over). "
                "No convolution *",
            ),
            (
                "activations='14kB'",
                "the budget limits activations and none were counted for Small: give an input *",
            ),
            (
                "latency='5ms'",
                "a budget's latency and target go together: give target='cpu', say, as well",
            ),
        ],
    )
    def test_limits(self, pytester: pytest.Pytester, limits: str, sentence: str) -> None:
        source = f"""
@pytest.fixture
def model(): return Small()
@pytest.mark.dws_budget({limits})
def test_it(model): pass
"""
        result = run(pytester, source)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([sentence])

    def test_a_model_that_the_test_returns(self, pytester: pytest.Pytester) -> None:
        source = """
@pytest.mark.dws_budget(params="5k")
def test_over(): return Small()
@pytest.mark.dws_budget(params="6k")
def test_within(): return Small()
@pytest.mark.dws_budget(params="6k")
@pytest.mark.parametrize("width", [32, 64])
def test_each(width): return Small(width)
class TestMethod:
    @pytest.mark.dws_budget(params="5k")
    def test_method(self): return Small()
"""
        result = run(pytester, source, "-rA", "-W", "error")
        result.assert_outcomes(passed=2, failed=3)
        result.stdout.fnmatch_lines(
            [
                "Small has 5.44k parameters, the budget is 5k (0.44k over). *",
                "PASSED *test_each[[]32]",
            ]
        )

    def test_a_model_that_an_asynchronous_test_returns(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(
            """
            import asyncio, inspect
            def pytest_pyfunc_call(pyfuncitem):
                if inspect.iscoroutinefunction(pyfuncitem.obj):
                    assert asyncio.run(pyfuncitem.obj()) is None
                    return True
            """
        )
        source = '@pytest.mark.dws_budget(params="5k")\nasync def test_over(): return Small()'
        result = run(pytester, source)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["Small has 5.44k parameters, the budget is 5k (0.44k over). *"]
        )

    def test_returning_something_else_stays_pytests_affair(self, pytester: pytest.Pytester) -> None:
        source = """
@pytest.mark.dws_budget(params="5k")
def test_it(): return 3
def test_unmarked(): return Small()
"""
        result = run(pytester, source, "-W", "error")
        assert "passed" not in result.parseoutcomes()

    def test_what_would_meet_the_whole_budget_is_shown(self, pytester: pytest.Pytester) -> None:
        source = """
def test_it(dws_budget): dws_budget(Small(), (1, 4, 12, 12), params="1.3k", candidates=1)
"""
        result = run(pytester, source)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "*- dwsconv: largest convolutions of Small -*",
                "body *4,608 *",
                "stem *576 *",
                "head *256 *",
                "*- dwsconv: replacements that would bring Small within its budget -*",
                "body *4,608 *656 *",
                "stem *576 *208 *",
            ]
        )


@pytest.mark.parametrize("how", ["fixture", "marker"])
def test_layers_have_limits_of_their_own(pytester: pytest.Pytester, how: str) -> None:
    limits = "params='6k', layers={'b*': {'params': '4k', 'candidates': 1}}"
    source = {
        "fixture": f"def test_it(dws_budget): dws_budget(Small(), {limits})",
        "marker": f"@pytest.mark.dws_budget({limits})\ndef test_it(): return Small()",
    }
    result = run(pytester, source[how])
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*Small has 4.61k parameters in its convolutions b[*], the budget is 4k (0.61k over). "
            "Making body separable would bring it to 656."
        ]
    )


class TestConfiguration:
    OVER = "Small has 5.44k parameters, the budget is 5k (0.44k over). *"

    def test_a_budget_in_dws_models_is_kept_without_any_option(
        self, pytester: pytest.Pytester
    ) -> None:
        pytester.makeini(
            "[pytest]\ndws_models =\n  nets:Small(width=32) 1,4,12,12 params=5k macs=1M\n  "
            "nets:Plain params=8"
        )
        result = run(pytester, "def test_it(): pass")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.assert_outcomes(passed=1)
        reporter = "Reported by nets:Small(width=32)"
        result.stdout.fnmatch_lines(
            ["*= dwsconv: over budget =*", self.OVER, reporter], consecutive=True
        )
        result.stdout.no_fnmatch_line("*depthwise separable candidates*")
        assert run(pytester, "", "-o", "dws_models=nets:Small params=6k").ret == 0

    @pytest.mark.parametrize("workers", [[], ["-n2"]])
    def test_a_model_over_it_is_told_once_for_all_its_inputs(
        self, pytester: pytest.Pytester, workers: list[str]
    ) -> None:
        pytester.makeini("[pytest]\ndws_budgets =\n  Small params=5k")
        source = """
import pytest, torch
@pytest.mark.parametrize("side", [24, 12, 8])
def test_it(side): Small()(torch.ones(1, 4, side, side))
"""
        result = run(pytester, source, *workers)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        tests = ", ".join(f"test_them.py::test_it[[]{side}]" for side in (12, 24, 8))
        lines = [self.OVER, f"Reported by {tests}"]
        result.stdout.fnmatch_lines(["*= dwsconv: over budget =*", *lines], consecutive=True)
        assert sum("the budget is" in line for line in result.stdout.lines) == 1

    @pytest.mark.parametrize(
        ("lines", "sentences"),
        [
            (["* params=5k"], ["Small has 5.44k *", "Small has 10.3k *"]),
            (["* params=5k", "Small params=20k"], []),
            (["Small params=20k", "* params=5k"], ["Small has 5.44k *", "Small has 10.3k *"]),
            (["Sm*l params=6k"], ["Small has 10.3k *"]),
            (["* params=5k", "edge params=6k"], ["Small has 5.44k *", "Small has 10.3k *"]),
            (["* params=5k", "edge/ params=20k"], ["Small has 5.44k *"]),
            (["edge/test_edge.py params=10k"], ["Small has 10.3k *"]),
            (
                ["edge/test_edge.py::test_wide params=10k candidates=1"],
                ["Small has 10.3k *", "Small has 2 candidates*"],
            ),
            (["*.py::test_wide params=10k"], ["Small has 10.3k *"]),
            (["edge/* params=10k"], ["Small has 10.3k *"]),
            (["./edge/ params=10k"], ["Small has 10.3k *"]),
            (["nets:* params=1"], []),
            (["Other params=1"], []),
        ],
    )
    def test_the_table_of_budgets(
        self, pytester: pytest.Pytester, lines: list[str], sentences: list[str]
    ) -> None:
        header = "import torch\nfrom nets import *\n"
        (pytester.mkdir("edge") / "test_edge.py").write_text(
            f"{header}def test_wide(): Small(64)(torch.zeros(1, 4, 12, 12))"
        )
        pytester.makeini(
            "[pytest]\npythonpath = .\ndws_budgets =\n" + "".join(f"  {line}\n" for line in lines)
        )
        result = run(pytester, "import torch\ndef test_it(dws_report): dws_report(Small())")
        assert result.ret == (pytest.ExitCode.TESTS_FAILED if sentences else 0)
        result.assert_outcomes(passed=2)
        shown = [line for line in result.stdout.lines if "the budget is" in line]
        assert len(shown) == len(sentences)
        result.stdout.fnmatch_lines_random(sentences)

    def test_a_named_model_is_held_to_the_table_too(self, pytester: pytest.Pytester) -> None:
        result = run(
            pytester, "", "-o", "dws_budgets=nets:Small params=5k", "--dws-model=nets:Small"
        )
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([self.OVER])

    def test_what_a_report_does_not_tell_is_unknown(self, pytester: pytest.Pytester) -> None:
        source = "def test_it(dws_report): dws_report(Small())"
        for strict in ([], ["--dws-strict"]):
            result = run(pytester, source, "-o", "dws_budgets=* macs=1k", *strict)
            assert result.ret == (pytest.ExitCode.TESTS_FAILED if strict else 0)
            result.stdout.fnmatch_lines(
                ["*= dwsconv: not known =*", "the budget limits MACs and none were counted *"]
            )

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            (
                "dws_models=nets:Small 1,2 3,4 params=1",
                "dws_models '*3,4 params=1' is not a target, an input size and *",
            ),
            (
                "dws_models=nets:Small 1,4,12,12 params",
                "dws_models '*12 params' is not a target, an input size and *",
            ),
            (
                "dws_models=nets:Small 1,x params=1",
                "dws_models 'nets:Small 1,x params=1': input size '1,x' is not a *",
            ),
            (
                "dws_models=nets:Small parms=1",
                "dws_models 'nets:Small parms=1': a budget has no argument 'parms'*",
            ),
            (
                "dws_models=nets:Small params=5Q",
                "dws_models *: the budget's params '5Q' is not a quantity: *",
            ),
            (
                "dws_models=nets:Smal params=1",
                "model 'nets:Smal' cannot be built, *did you mean Small?",
            ),
            (
                "dws_models=nets:Small macs=1",
                "dws_models 'nets:Small': the budget limits MACs and none were counted for *",
            ),
            (
                "dws_models=nets:Small latency=1ms",
                "dws_models *: a budget's latency and target go together: *",
            ),
            (
                "dws_budgets=params=5k",
                "dws_budgets 'params=5k' is not a pattern and limits, as in *",
            ),
            (
                "dws_budgets=* params=1k params=2k",
                "dws_budgets '* params=1k params=2k': params has two limits; give one",
            ),
            ("dws_budgets=Small", "dws_budgets 'Small' is not a pattern and limits, as in *"),
            ("dws_budgets=Small 5k", "dws_budgets 'Small 5k' is not a pattern and limits, as in *"),
            (
                "dws_budgets=* parms=5k",
                "dws_budgets '* parms=5k': a budget has no argument 'parms': it takes *",
            ),
            (
                "dws_budgets=* latency=5ms",
                "dws_budgets *: a budget's latency and target go together: *",
            ),
            (
                "dws_budgets=* latency=5 target=x",
                "dws_budgets *: the budget's latency '5' is not a quantity: *",
            ),
        ],
    )
    def test_a_wrong_line_is_one_sentence_before_any_test(
        self, pytester: pytest.Pytester, line: str, sentence: str
    ) -> None:
        result = run(pytester, "def test_it(): print('ran')", "-s", "-o", line)
        is_one_sentence(result, sentence)
        result.stdout.no_fnmatch_line("ran")


def test_a_table_for_a_target_with_arguments_and_for_nothing(inner: pytest.Pytester) -> None:
    inner.makepyfile(
        own="from torch import nn\ndef build(width, depth=1): return nn.Conv2d(3, width, 3)"
    )
    inner.makeini("[pytest]\ndws_budgets =\n  own:build(4, depth=2) params=100\n  Smal* params=5M")
    result = inner.runpytest("--dws-model=own:build(4, depth=2)")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "dws_budgets Smal[*] is for no model of this run: the classes are Conv2d, *",
            "Conv2d has 112 parameters, the budget is 100 (12 over)*",
        ]
    )


LAYERED = "Small has 4.61k parameters in its convolutions b[*], the budget is 4k (0.61k over). *"


@pytest.mark.parametrize(
    "lines",
    [
        ["Small params=6k b* params=4k candidates=1"],
        ["* b* params<=9k", "Small b* params<=4k"],
        ["Small params=9k b* candidates=1", "* b* params=4k"],
        ["nets:Small* b* params=4k head params=500"],
    ],
)
def test_the_table_limits_layers(pytester: pytest.Pytester, lines: list[str]) -> None:
    pytester.makeini("[pytest]\ndws_budgets =\n" + "".join(f"  {line}\n" for line in lines))
    result = run(pytester, "", "--dws-model=nets:Small", "--dws-model=nets:Plain")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*= dwsconv: over budget =*", LAYERED])
    assert sum(line.startswith("Small has ") for line in result.stdout.lines) == 1
    result.stdout.no_fnmatch_line("*= dwsconv: notices =*")


def test_a_pattern_with_a_dot_is_for_the_layers_of_every_model(pytester: pytest.Pytester) -> None:
    source = """
def test_it(dws_report):
    from torch import nn
    dws_report(nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 4, 3)))
"""
    result = run(pytester, source, "-o", "dws_budgets=0.* params<=100 candidates<=1")
    result.stdout.fnmatch_lines(["Sequential has 148 parameters in its convolutions 0.[*], the *"])


def test_a_named_model_has_limits_on_its_layers(pytester: pytest.Pytester) -> None:
    line = "dws_models=nets:Small 1,4,12,12 macs=1M b* params=4k"
    result = run(pytester, "", "-o", line)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*= dwsconv: over budget =*", LAYERED])
    is_one_sentence(
        run(pytester, "", "-o", "dws_models=nets:Small boddy params=1"),
        "dws_models 'nets:Small': the budget limits layers 'boddy', and no convolution of Small "
        "has such a name; one is called 'body'",
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], True),
        (["."], True),
        (["edge"], True),
        (["-m", "not slow"], False),
        (["-k", "it"], False),
        (["test_them.py"], False),
        (["edge/inner"], False),
        (["-o", "addopts=-m 'not slow'"], True),
        (["--deselect=edge"], False),
        (["-x"], False),
    ],
)
def test_what_a_part_of_the_tests_leaves_unused_is_not_told(
    pytester: pytest.Pytester, arguments: list[str], told: bool
) -> None:
    (pytester.mkdir("edge") / "inner").mkdir()
    pytester.makeini(
        "[pytest]\nmarkers = slow\npythonpath = .\ndws_budgets =\n"
        "  Other params=5M\n  * boddy params=1\n"
    )
    source = "import torch\nfrom nets import Small\ndef test_it(): Small()(torch.ones(1, 4, 9, 9))"
    (pytester.path / "edge" / "inner" / "test_inner.py").write_text(source)
    own = "def test_it(dws_report): dws_report(Small())\ndef test_wrong(): assert 'x' == ''"
    result = run(pytester, own, *arguments)
    sentences = [
        "dws_budgets Other is for no model of this run: the classes are Small, and a folder *",
        "dws_budgets [*] boddy: no model that this is for has a convolution of such a name",
    ]
    if told:
        result.stdout.fnmatch_lines(["*= dwsconv: notices =*", *sentences], consecutive=True)
    else:
        result.stdout.no_fnmatch_line("*= dwsconv: notices =*")


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        (r"tests\edge\ ", "tests are written from the root folder, with /, as in tests/edge/"),
        ("test_other.py", "tests are written from the root folder, *"),
        ("nets:Smal", "a target is one that --dws-model or dws_models names"),
        ("tests", "the classes are Small, and a folder ends in /"),
    ],
)
def test_a_pattern_for_no_model_says_what_it_has_to_match(
    pytester: pytest.Pytester, pattern: str, advice: str
) -> None:
    own = "def test_it(dws_report): dws_report(Small())"
    result = run(pytester, own, "-o", f"dws_budgets={pattern} params=5M")
    result.stdout.fnmatch_lines([f"dws_budgets *is for no model of this run: {advice}"])


def test_a_budget_that_nothing_uses_half_of_is_a_notice(pytester: pytest.Pytester) -> None:
    source = """
@pytest.mark.parametrize("width", [8, 32])
def test_reported(dws_report, width): dws_report(Small(width))
@pytest.mark.dws_budget(candidates=4)
def test_marked(): return Small(8)
"""
    # of the two the larger uses half of its parameters' limit, and a fifth of that on its body
    lines = ["-o", "dws_budgets=* params=10880 body params=23k size=0"]
    result = run(pytester, source, *lines)
    sentence = "Small uses 20 % of its budget, tighten to 4.7k parameters in its convolutions body."
    result.stdout.fnmatch_lines([sentence])
    assert sum("tighten" in line for line in result.stdout.lines) == 1
    part = run(pytester, source, *lines, "-k", "reported")
    part.stdout.no_fnmatch_line("*tighten*")
