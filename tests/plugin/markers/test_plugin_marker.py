"""The fixture and the marker ``dws_budget``: what they check, and what they refuse."""

from __future__ import annotations

import pytest
from inner_runs import NETS, OVER_5K, TITLE


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester) -> None:
    inner.makepyfile(nets=NETS)


def failures(result: pytest.RunResult) -> list[str]:
    """The lines of a run above its short summary, which repeats them whole where CI is set."""
    lines = result.outlines
    for number, line in enumerate(lines):
        if "short test summary info" in line:
            return lines[:number]
    return lines


class TestBudgetFixture:
    def test_within(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            from nets import Small
            def test_it(dws_budget, dws_report):
                limits = dict(params=5440, macs="1M", size="22kB", candidates=2)
                report = dws_budget(Small(), (1, 4, 12, 12), **limits)
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
                "E *Small has 2 candidates, the budget is 0 (2 over). Making body and stem "
                "separable *bring it to 0.",
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
                "InputError: a budget has no argument 'parms': it takes params, macs, size, "
                "size_fp16, *",
            ),
            ("Small(), params='5Q'", "FormatError: the budget's params '5Q' is not a quantity: *"),
            (
                "Small(), macs='1G'",
                "InputError: the budget limits MACs and none were counted for Small: *",
            ),
            ("Small()", "InputError: a budget without a limit checks nothing: *"),
            ("3, params=1", "InputError: *"),
        ],
    )
    def test_misuse(self, pytester: pytest.Pytester, arguments: str, sentence: str) -> None:
        pytester.makepyfile(
            f"from nets import Small\ndef test_it(dws_budget): dws_budget({arguments})"
        )
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
                [
                    "Small has 368.9k MACs for input 1 x 4 x 12 x 12, the budget is 1 (368.89k "
                    "over). Making every candidate separable would *"
                ],
            ),
            (
                "macs=1",
                ["the budget limits MACs and none were counted for Small: give an input size, *"],
            ),
            ("params=1, input_size=(1, 3, 8, 8)", ["*Small*1, 3, 8, 8*"]),
        ],
    )
    def test_models_among_the_arguments(
        self, pytester: pytest.Pytester, limits: str, sentences: list[str]
    ) -> None:
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
        result.stdout.fnmatch_lines(
            ["PASSED *test_it[[]plain]", f"FAILED *test_it[[]small] - Failed: {OVER_5K[:20]}*"]
        )

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
        result = self.run(
            pytester, f"@pytest.mark.dws_budget({arguments})\ndef test_it(model): print('ran')"
        )
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*_ ERROR at setup of test_it _*", sentence])
        result.stdout.no_fnmatch_line("ran")
        result.stdout.no_fnmatch_line("*During handling*")

    def test_without_a_model_it_says_what_to_do(self, pytester: pytest.Pytester) -> None:
        result = self.run(pytester, "@pytest.mark.dws_budget(params=1)\ndef test_it(): pass")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "dws_budget found no model: the test called none and returned none, and it has no "
                "arguments; call the model in the test, *"
            ]
        )
        source = "@pytest.mark.dws_budget(params=1)\ndef test_it(tmp_path, request): pass"
        self.run(pytester, source).stdout.fnmatch_lines(
            ["*, and none is in its arguments (tmp_path, request); call the model in the test, *"]
        )

    @pytest.mark.parametrize("reporting", [[], ["--dws-report", "-o", "dws_budgets=* params=1M"]])
    def test_what_the_test_calls_is_checked_with_its_inputs(
        self, pytester: pytest.Pytester, reporting: list[str]
    ) -> None:
        source = """
import torch
IMAGE = torch.zeros(2, 4, 12, 12)
pytestmark = pytest.mark.dws_budget(macs="368k")

def test_called(): Small()(IMAGE)
def test_fixture(model): model(IMAGE)
def test_entered(): Small().forward(IMAGE)
def test_known_already(): Small()(IMAGE)
def test_smaller(): Small(8)(IMAGE)
"""
        result = self.run(pytester, source, *reporting)
        result.assert_outcomes(failed=4, passed=1)
        sentence = "Small has 368.9k MACs per sample of input 2 x 4 x 12 x 12, the budget is 368k *"
        result.stdout.fnmatch_lines([sentence] * 4)

    def test_a_model_that_is_both_held_and_called_counts_once(
        self, pytester: pytest.Pytester
    ) -> None:
        source = """
import torch
@pytest.mark.dws_budget(params=5, macs=1)
def test_it(model):
    model(torch.zeros(1, 4, 12, 12))
    torch.nn.DataParallel(model)(torch.zeros(1, 4, 13, 13))
@pytest.mark.dws_budget(params=5, input_size="1,4,9,9")
def test_size_of_the_marker(model): model(torch.zeros(1, 4, 12, 12))
"""
        result = self.run(pytester, source)
        result.assert_outcomes(failed=2)
        lines = [line for line in failures(result) if line.startswith("Small has")]
        assert [line.split(",")[0] for line in lines] == [
            "Small has 5.44k parameters",
            "Small has 368.9k MACs for input 1 x 4 x 12 x 12",
            "Small has 463.68k MACs for input 1 x 4 x 13 x 13",
            "Small has 5.44k parameters",
        ]

    @pytest.mark.parametrize(
        "held",
        [
            "[Small()]",
            "{'a': (Plain(), {'b': Small()})}",
            "SimpleNamespace(net=Small(), other=3)",
            "{'net': Small(), 'loss': torch.nn.CrossEntropyLoss()}",
            "(lambda net: {'net': net, 'part': net.body})(Small())",
            "[Refuses(), Small()]",
        ],
    )
    def test_models_inside_of_arguments(self, pytester: pytest.Pytester, held: str) -> None:
        source = f"""
import torch
from types import SimpleNamespace
class Refuses:
    @property
    def __class__(self): raise RuntimeError("a proxy without an object")
    def __getattr__(self, name): raise RuntimeError("a proxy without an object")
@pytest.fixture
def held(): return {held}
@pytest.mark.dws_budget(params="5k")
def test_it(held): pass
"""
        result = self.run(pytester, source)
        result.assert_outcomes(failed=1)
        assert [line for line in failures(result) if "the budget is" in line] == [OVER_5K]

    def test_limits_on_layers_are_for_the_models_that_have_them(
        self, pytester: pytest.Pytester
    ) -> None:
        source = """
import torch
pytestmark = pytest.mark.dws_budget(params="6k", layers={"body": {"params": "4k"}})
def test_beside(model): Plain()(torch.zeros(1, 3))
def test_nowhere(): Plain()(torch.zeros(1, 3))
def test_over(): Small(40)(torch.zeros(1, 4, 9, 9)); Plain()(torch.zeros(1, 3))
"""
        result = self.run(pytester, source)
        result.assert_outcomes(failed=3)
        lines = [line for line in failures(result) if " budget" in line and "--" not in line]
        assert [line.split(",")[0].partition(" parameters")[0] for line in lines] == [
            "Small has 4.61k",
            "the budget limits layers 'body'",
            "Small has 6.66k",
            "Small has 5.76k",
        ]

    def test_what_it_calls_and_cannot_be_checked_is_told(self, pytester: pytest.Pytester) -> None:
        source = """
import torch
def script(): torch.jit.script(torch.nn.Linear(3, 4))(torch.zeros(1, 3))
pytestmark = [pytest.mark.dws_budget(params="6k"), pytest.mark.filterwarnings("ignore:.*jit")]
def test_alone(): script()
def test_beside(model): script()
"""
        result = self.run(pytester, source, "-W", "default")
        result.assert_outcomes(failed=1, passed=1, warnings=1)
        result.stdout.fnmatch_lines(
            [
                "dws_budget found no model that it can check: RecursiveScriptModule: a Script*",
                "*PytestWarning: dws_budget is not checked: RecursiveScriptModule: *",
            ]
        )
        for arguments in (["--dws-strict"], ["-W", "error::pytest.PytestWarning"]):
            result = self.run(pytester, source, *arguments)
            result.assert_outcomes(failed=2)
            result.stdout.no_fnmatch_line("*marker.py*")

    def test_a_test_that_failed_or_was_skipped_is_not_checked(
        self, pytester: pytest.Pytester
    ) -> None:
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
        self.run(pytester, source, "--dws-report").stdout.fnmatch_lines(
            [TITLE, "Reported by test_marked.py::test_it"]
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ('dws_budget(nn.Conv2d(3, 8, 3), params="5Q")', "5Q"),
        (
            "dws_budget(nn.Conv2d(3, 8, 3), (1, 5, 9, 9), params=5)",
            "rejected inputs of shape (1, 5, 9, 9)",
        ),
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
    pytester.makepyfile(
        "import pytest\n\n@pytest.mark.skip\n@pytest.mark.dws_budget(speed=1)\ndef test(): pass"
    )
    pytester.runpytest().assert_outcomes(skipped=1)
