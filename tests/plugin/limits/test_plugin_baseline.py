from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from inner_runs import is_one_sentence

NETS = """
import os
from torch import nn

class Small(nn.Conv2d):
    def __init__(self):
        super().__init__(4, int(os.environ.get("WIDTH", 16)), 3, bias=False)
"""
TEST = "import torch\nfrom nets import Small\ndef test_it(): Small()(torch.zeros(1, 4, 12, 12))"
PARAMS, MACS = 16 * 4 * 9, 16 * 4 * 9 * 100
NAME = "Small"


@pytest.fixture(autouse=True)
def nets(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    inner.makeini("[pytest]")
    inner.makepyfile(nets=NETS, test_it=TEST)


@pytest.fixture
def baseline(pytester: pytest.Pytester) -> Path:
    return pytester.path / ".dwsconv" / "baseline.json"


@pytest.fixture
def made(pytester: pytest.Pytester, baseline: Path) -> Path:
    assert pytester.runpytest("--dws-update").ret == 0
    return baseline


def test_update_writes_it_and_says_what_changed(
    pytester: pytest.Pytester, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = pytester.runpytest("--dws-update")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*= dwsconv: notices =*", ".dwsconv/baseline.json is updated:", f"{NAME}: new"]
    )
    entry = {
        "candidates": 0,
        "input": "1 x 4 x 12 x 12",
        "macs": MACS,
        "params": PARAMS,
        "reported_by": "test_it.py::test_it",
    }
    assert json.loads(baseline.read_text()) == {"schema_version": 1, "models": {NAME: entry}}
    written = baseline.stat().st_mtime_ns
    pytester.runpytest("--dws-update").stdout.fnmatch_lines(
        [".dwsconv/baseline.json is up to date."]
    )
    assert baseline.stat().st_mtime_ns == written
    monkeypatch.setenv("WIDTH", "17")
    result = pytester.runpytest("--dws-update", "--dws-fail-on-increase")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [f"{NAME}: 612 parameters, 576 in the baseline (+36, +6.25 %), 61,200 MACs, *"]
    )
    assert pytester.runpytest("--dws-fail-on-increase").ret == 0


@pytest.mark.parametrize(
    ("width", "arguments", "failed"),
    [
        (16, ["--dws-fail-on-increase"], False),
        (17, ["--dws-fail-on-increase"], True),
        (17, ["--dws-fail-on-increase", "test_it.py"], True),
        (17, ["--dws-fail-on-increase=6.25"], False),
        (17, ["--dws-fail-on-increase=6.24%"], True),
        (17, ["-o", "dws_fail_on_increase=6"], True),
        (17, ["-o", "dws_fail_on_increase=0", "--dws-fail-on-increase=7"], False),
        (17, ["-o", "dws_fail_on_increase="], False),
    ],
)
def test_an_increase_fails_the_run(
    pytester: pytest.Pytester,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    arguments: list[str],
    failed: bool,
) -> None:
    before = made.read_text()
    monkeypatch.setenv("WIDTH", str(width))
    result = pytester.runpytest(*arguments)
    result.assert_outcomes(passed=1)
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if failed else 0)
    sentences = (
        [
            f"{NAME} has 612 parameters, 576 in the baseline (+36, +6.25 %). If that is meant, "
            "take it over with *"
        ]
        if failed
        else []
    )
    result.stdout.fnmatch_lines(sentences)
    assert made.read_text() == before


def test_another_model_of_the_same_class_and_input_hides_no_increase(
    pytester: pytest.Pytester, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WIDTH", "40")
    smaller = """
def test_new(monkeypatch):
    monkeypatch.setenv('WIDTH', '2')
    Small()(torch.zeros(1, 4, 12, 12))
"""
    pytester.makepyfile(test_it=TEST + smaller)
    result = pytester.runpytest("--dws-fail-on-increase")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [f"{NAME}, in test_it.py::test_it has 1,440 parameters, 576 in the baseline *"]
    )
    assert pytester.runpytest("--dws-update").ret == 0
    models = json.loads(made.read_text())["models"]
    assert {name: row["params"] for name, row in models.items()} == {
        NAME: 1440,
        f"{NAME}, in test_it.py::test_new": 72,
    }


def test_a_percentage_is_one_also_where_a_file_has_its_name(
    pytester: pytest.Pytester, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "5").touch()
    (pytester.path / "force").touch()
    monkeypatch.setenv("WIDTH", "17")
    result = pytester.runpytest("--dws-fail-on-increase=5")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    monkeypatch.setenv("CI", "1")
    assert pytester.runpytest("--dws-update=force").ret == 0


def test_a_decrease_and_a_new_model_are_notices(
    pytester: pytest.Pytester, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WIDTH", "15")
    result = pytester.runpytest(
        "--dws-fail-on-increase", "--dws-strict", "--dws-model=torch.nn:Linear(2,3)"
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*= dwsconv: notices =*",
            f"{NAME} has 540 parameters, 576 in the baseline (-36, -6.25 %). It is smaller than *",
            "Linear is not in the baseline: add it with --dws-update.",
        ]
    )


def test_it_is_refused_under_ci_unless_forced(
    pytester: pytest.Pytester, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    is_one_sentence(
        pytester.runpytest("--dws-update"), "--dws-update is refused where CI is set: update *"
    )
    assert not baseline.exists()
    assert pytester.runpytest("--dws-update=force").ret == 0
    assert pytester.runpytest("--dws-fail-on-increase").ret == 0
    monkeypatch.setenv("CI", "false")
    assert pytester.runpytest("--dws-update").ret == 0


def test_options_and_files_that_cannot_be_used(pytester: pytest.Pytester, baseline: Path) -> None:
    pytester.makepyfile(test_it="def test_it(): assert False, 'must not run'")
    compare, update = "--dws-fail-on-increase", "--dws-update"
    is_one_sentence(
        pytester.runpytest(compare),
        "there is no baseline *baseline.json: make it with --dws-update and *",
    )
    is_one_sentence(
        pytester.runpytest(f"{compare}=more"),
        "dws-fail-on-increase 'more' is not a percentage: write *",
    )
    is_one_sentence(
        pytester.runpytest(f"{compare}=", "-o", "dws_fail_on_increase=0"),
        "dws-fail-on-increase is empty: *",
    )
    is_one_sentence(
        pytester.runpytest(f"{compare}=-1"),
        "dws-fail-on-increase '-1' is not a percentage: write a *",
    )
    is_one_sentence(
        pytester.runpytest(f"{compare}=nan"),
        "dws-fail-on-increase 'nan' is not a percentage: write a *",
    )
    is_one_sentence(
        pytester.runpytest(f"{update}=now"),
        "dws-update 'now' is not force: write --dws-update, or *",
    )
    is_one_sentence(
        pytester.runpytest(f"{update}=force", "-o", "dws_strict=maybe"),
        "dws_strict is not true or false: *",
    )
    baseline.parent.mkdir()
    for broken, reason in ((b"{", "not a baseline in JSON: *"), (b"\xff", "*codec can't decode*")):
        baseline.write_bytes(broken)
        for option in (compare, update):
            is_one_sentence(
                pytester.runpytest(option),
                f"the baseline *baseline.json cannot be used ({reason}): restore it, or *",
            )
        assert baseline.read_bytes() == broken
    baseline.unlink()
    baseline.mkdir()
    is_one_sentence(
        pytester.runpytest(compare), "the baseline *baseline.json cannot be read: *Is a directory*"
    )


def test_an_update_without_any_model_does_not_claim_a_file(
    pytester: pytest.Pytester, baseline: Path
) -> None:
    pytester.makepyfile(test_it="def test_it(): pass")
    result = pytester.runpytest("--dws-update")
    result.stdout.fnmatch_lines([".dwsconv/baseline.json is not made, as no model was reported: *"])
    assert not baseline.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(pytester: pytest.Pytester, baseline: Path) -> None:
    baseline.parent.mkdir(mode=0o500)
    is_one_sentence(
        pytester.runpytest("--dws-update"),
        "there is no baseline *: name a folder that can be written",
    )


def test_a_write_that_fails_leaves_the_baseline_as_it_was(
    pytester: pytest.Pytester, made: Path
) -> None:
    before = made.read_text()
    pytester.makeconftest(
        """
        import os
        def full(*paths): raise OSError(28, "No space left on device")
        os.replace = full
        """
    )
    pytester.makepyfile(nets=NETS.replace("16", "160"))
    result = pytester.runpytest_subprocess("--dws-update", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*= dwsconv: not written =*",
            "the baseline *baseline.json is as it was, it cannot be written: No space left on "
            "device",
        ]
    )
    assert made.read_text() == before
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_an_interrupted_run_writes_nothing(pytester: pytest.Pytester, baseline: Path) -> None:
    pytester.makepyfile(test_it=f"{TEST}\ndef test_stop(): raise KeyboardInterrupt")
    assert pytester.runpytest_subprocess("--dws-update").ret == pytest.ExitCode.INTERRUPTED
    assert not baseline.exists()


def test_latency_is_kept_by_its_conditions(pytester: pytest.Pytester, baseline: Path) -> None:
    pytester.makeconftest(
        """
        import os
        from pytest_dwsconv.core.measurement import Measurement
        class Bench:
            def measure(self, model, shape):
                samples = (float(os.environ.get("SECONDS", "0.005")),)
                place = ("Small", "", "bench-1", "cpu", "3.11", "torch", "", "", "")
                return Measurement(*place, 0.1, samples)
        def pytest_dwsconv_latency_backend(config, target):
            return Bench()
        """
    )
    source = (
        "def test_it(dws_budget): dws_budget(Small(), (1, 4, 12, 12), latency='1s', target='bench')"
    )
    pytester.makepyfile(test_it=f"import torch\nfrom nets import Small\n{source}")
    assert pytester.runpytest("--dws-update").ret == 0
    ((conditions, seconds),) = json.loads(baseline.read_text())["models"][NAME]["latency"].items()
    assert seconds == 0.005
    assert conditions.startswith("bench: cpu of bench-1, torch, torch ")
    assert conditions.endswith(" threads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECONDS", "0.006")
        assert pytester.runpytest("--dws-fail-on-increase").ret == 0
        result = pytester.runpytest("--dws-fail-on-increase=10")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(
            [f"{NAME} has 6.000 ms median latency (bench: *), 5.000 in the baseline (+1.0*"]
        )
    pytester.makepyfile(test_it=TEST)
    assert pytester.runpytest("--dws-fail-on-increase=10").ret == 0


# -------------------------------------------------------------- what is no longer there

TWO = (
    TEST
    + """
def test_other(): torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))(torch.zeros(1, 3, 8, 8))
"""
)
UPDATE, COMPARE = "--dws-update", "--dws-fail-on-increase"


@pytest.fixture
def two(pytester: pytest.Pytester, baseline: Path) -> Path:
    """A baseline of two models."""
    pytester.makepyfile(test_it=TWO)
    assert pytester.runpytest(UPDATE).ret == 0
    return baseline


def stored(baseline: Path) -> list[str]:
    return sorted(json.loads(baseline.read_text())["models"])


def test_a_full_update_removes_what_is_gone(pytester: pytest.Pytester, two: Path) -> None:
    assert stored(two) == ["Sequential", NAME]
    pytester.makepyfile(test_it=TEST)
    pytester.runpytest(COMPARE).stdout.fnmatch_lines(
        ["Sequential of the baseline was not seen: --dws-update removes it in a run of all tests."]
    )
    result = pytester.runpytest(UPDATE)
    result.stdout.fnmatch_lines(["Sequential: removed, this run did not see it"])
    assert stored(two) == [NAME]


@pytest.mark.parametrize(
    "arguments",
    [["-k", "test"], ["-m", "not slow"], ["test_it.py"], ["--deselect", "x"], ["--lf"], ["--sw"]],
)
def test_an_update_of_some_tests_removes_nothing(
    pytester: pytest.Pytester, two: Path, arguments: list[str]
) -> None:
    pytester.makepyfile(test_it=TEST)
    assert pytester.runpytest(UPDATE, *arguments).ret == 0
    assert stored(two) == ["Sequential", NAME]


@pytest.mark.parametrize(
    "other",
    [
        "def test_other(): assert False",
        "import pytest\ndef test_other(): pytest.skip('needs a GPU')",
        "def test_later(): assert False",
    ],
)
def test_an_update_in_which_a_test_fails_or_is_skipped_removes_nothing(
    pytester: pytest.Pytester, two: Path, other: str
) -> None:
    pytester.makepyfile(test_it=f"{TEST}\n{other}")
    pytester.runpytest(UPDATE)
    assert stored(two) == ["Sequential", NAME]


def test_a_named_model_is_gone_once_the_configuration_no_longer_names_it(
    pytester: pytest.Pytester, baseline: Path
) -> None:
    named, linear = "dws_models=nets:Small", "torch.nn:Linear(2,3)"
    assert pytester.runpytest(UPDATE, "-o", f"{named}\n{linear}").ret == 0
    assert pytester.runpytest(UPDATE, "--dws-model=nets:Small").ret == 0
    assert stored(baseline) == ["Linear", NAME]  # one command line says nothing of another
    assert pytester.runpytest(UPDATE, "-o", named).ret == 0
    assert stored(baseline) == [NAME]


def test_a_file_that_is_skipped_as_a_whole_keeps_its_models(
    pytester: pytest.Pytester, baseline: Path
) -> None:
    skip = "pytest.skip('no GPU', allow_module_level=True)"
    skipped = f"import pytest, os\nif 'ELSEWHERE' in os.environ: {skip}\n"
    pytester.makepyfile(test_gpu=skipped + TEST.replace("Small()", "torch.nn.Conv2d(4, 4, 3)"))
    assert pytester.runpytest(UPDATE).ret == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELSEWHERE", "1")
        pytester.runpytest(UPDATE).stdout.fnmatch_lines([".dwsconv/baseline.json is up to date."])
    (pytester.path / "test_gpu.py").unlink()
    assert stored(baseline) == ["Conv2d", NAME]
    pytester.runpytest(UPDATE)
    assert stored(baseline) == [NAME]


def test_every_form_and_the_junit_file_show_an_increase(
    pytester: pytest.Pytester, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WIDTH", "17")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path.parent))
    forms = ["text", "json", "markdown", "github", "gitlab", "sarif", "html"]
    reports = [f"--dws-report={form}:{form}.out" for form in forms]
    assert pytester.runpytest(COMPARE, "--junitxml=junit.out", *reports).ret == 1
    for form in (*forms, "junit"):
        shown = (pytester.path / f"{form}.out").read_text(encoding="utf-8")
        assert "612" in shown, form
        assert "576" in shown, form
    annotations = (pytester.path / "github.out").read_text(encoding="utf-8")
    assert annotations.startswith(
        f"::error file={pytester.path.name}/test_it.py,line=3,title=Small has grown::"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("Small", "Renamed"), f"Renamed is not in the baseline, and {NAME} of the baseline was *"),
        (
            ("12, 12", "24, 24"),
            f"{NAME} was not seen with input 1 x 4 x 12 x 12 of the baseline, *",
        ),
    ],
)
def test_what_escapes_its_entry_is_told_and_fails_a_strict_run(
    pytester: pytest.Pytester, made: Path, change: tuple[str, str], sentence: str
) -> None:
    pytester.makepyfile(nets=NETS.replace(*change), test_it=TEST.replace(*change))
    result = pytester.runpytest(COMPARE)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*= dwsconv: not known =*", sentence])
    assert pytester.runpytest(COMPARE, "--dws-strict").ret == 1


def test_sizes_that_hypothesis_or_parameters_make_up_are_one_entry(
    pytester: pytest.Pytester, baseline: Path
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest, torch
        from nets import Small
        @pytest.mark.parametrize("side", range(10, 30))
        def test_it(side): Small()(torch.zeros(side % 3 + 1, 4, side, side))
        """
    )
    assert pytester.runpytest(UPDATE).ret == 0
    assert stored(baseline) == [NAME]
    alone = pytester.runpytest(COMPARE, "--dws-strict", "-k", "29")
    assert alone.ret == 0
    alone.stdout.no_fnmatch_line("*not known*")


# --------------------------------------------------------------------- another baseline


def test_a_baseline_may_lie_elsewhere_and_be_a_report(
    pytester: pytest.Pytester, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        pytester.runpytest(UPDATE, "--dws-baseline=old.json", "--dws-report=json:run.json").ret == 0
    )
    assert not baseline.exists()
    monkeypatch.setenv("WIDTH", "17")
    for path in ("old.json", "run.json"):
        result = pytester.runpytest(COMPARE, f"--dws-baseline={path}")
        assert result.ret == 1
        result.stdout.fnmatch_lines([f"{NAME} has 612 parameters, 576 in the baseline *"])
    assert pytester.runpytest("--dws-baseline=old.json").ret == 0
    assert pytester.runpytest("-o", "dws_baseline=old.json", COMPARE).ret == 1
    is_one_sentence(
        pytester.runpytest("--dws-baseline=none.json"),
        "there is no baseline *none.json: make it with --dws-update and commit it",
    )
    is_one_sentence(
        pytester.runpytest(UPDATE, "--dws-baseline=run.json"),
        "the baseline *run.json cannot be used (not a baseline: it is the JSON of a whole run*",
    )
    is_one_sentence(pytester.runpytest("--dws-baseline="), "dws-baseline is empty: name a file, *")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_recorded_with_what_it_changed(
    pytester: pytest.Pytester, baseline: Path
) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], cwd=pytester.path, check=True)
    said = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=pytester.path, capture_output=True, check=True
    )
    assert pytester.runpytest(UPDATE).ret == 0
    entry = json.loads(baseline.read_text())["models"][NAME]
    assert said.stdout.decode().startswith(entry["commit"])
    subprocess.run(
        [*git, "commit", "-q", "--allow-empty", "-m", "b"], cwd=pytester.path, check=True
    )
    pytester.runpytest(UPDATE).stdout.fnmatch_lines([".dwsconv/baseline.json is up to date."])


@pytest.mark.parametrize(
    ("lines", "percent", "grew"),
    [
        (["* increase<=7%"], "0", []),
        (["* increase<=6%"], "0", ["612 parameters", "61,200 MACs"]),
        (["Small increase=3600 params=1k"], "0", []),
        (["Small increase=3.5k"], "0", ["61,200 MACs"]),
        (["Small increase<=1%"], "10", ["612 parameters", "61,200 MACs"]),
        (["test_it.py increase<=7%"], "0", []),
        (["* increase<=7%", "Small increase=35"], "0", ["612 parameters", "61,200 MACs"]),
        (["nets:Small increase<=7%", "Other increase<=7%"], "7", []),
        (["nets:Small increase<=7%"], "6", ["612 parameters", "61,200 MACs"]),
    ],
)
def test_the_table_says_by_how_much_a_model_may_grow(
    pytester: pytest.Pytester,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[str],
    percent: str,
    grew: list[str],
) -> None:
    monkeypatch.setenv("WIDTH", "17")  # +36 parameters, +3,600 MACs, both 6.25 %
    pytester.makeini("[pytest]\ndws_budgets =\n" + "".join(f"  {line}\n" for line in lines))
    result = pytester.runpytest(f"--dws-fail-on-increase={percent}")
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if grew else 0)
    shown = [line for line in result.stdout.lines if line.startswith("Small has")]
    assert [line.partition(",")[0] for line in shown] == [
        f"Small has {words}".partition(",")[0] for words in grew
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("* increase<=x%", "*: 'x%' is not a percentage: write a number from 0, as in 2.5"),
        ("* increase=2q", "*: '2q' is not a quantity: write a number from 0, with k, M or G *"),
        ("* increase=1 increase=2", "*: increase has two limits; give one"),
        ("* b.* increase=1", "*: layers cannot be limited in 'increase': 'b.[*]' takes params, *"),
    ],
)
def test_a_growth_that_cannot_be_read_is_one_sentence(
    pytester: pytest.Pytester, line: str, sentence: str
) -> None:
    is_one_sentence(pytester.runpytest("-o", f"dws_budgets={line}"), f"dws_budgets {sentence}")
