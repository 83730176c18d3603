from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from render_samples import EMPTY, LARGE, NASTY, SMALL, UNTRUSTED, WITHOUT_SHAPES

from pytest_dwsconv.core.budget import Budget, check_limits
from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.limits import AnyCheck
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.suite.changes import (
    Change,
    Changes,
    ChangeStatus,
    LayerChange,
    ModelChange,
    Outcome,
)
from pytest_dwsconv.render import Reporters, SuiteRun, View, render_report, render_run, write_run
from pytest_dwsconv.render.forms.markdown import COMMENT, SUMMARY, code, escape

GITHUB = MarkdownIt("gfm-like", {"linkify": False})
TAG = re.compile(r"<(/?\w+)")


def read(markdown: str) -> str:
    """What a reader of GitHub-flavoured Markdown makes of it, as HTML."""
    return str(GITHUB.render(markdown))


def tables(markdown: str) -> list[list[list[str]]]:
    """The cells of each row of each table, as read."""
    found = re.findall(r"<table>.*?</table>", read(markdown), re.DOTALL)
    rows = [re.findall(r"<tr>.*?</tr>", table, re.DOTALL) for table in found]
    return [
        [[text(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in part]
        for part in rows
    ]


def text(fragment: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", fragment))


def test_the_tables_have_the_rows_and_totals() -> None:
    totals, layers = tables(render_report("markdown", SMALL))
    assert [row[0] for row in totals] == ["", "3 candidates", "4 convolutions", "whole model"]
    assert totals[-1][1:] == [
        f"{SMALL.params:,}",
        f"{SMALL.macs:,}",
        f"{SMALL.separable_params:,}",
        f"{SMALL.separable_macs:,}",
        f"{SMALL.saving:.2f}x",
    ]
    assert [row[0] for row in layers] == ["layer", *(row.name for row in SMALL.findings)]
    stem = dict(zip(layers[0], layers[1], strict=True))
    assert (stem["kernel"], stem["params"], stem["verdict"]) == ("7 x 7", "9,408", "candidate")
    shortcut = dict(zip(layers[0], layers[3], strict=True))
    assert (shortcut["verdict"], shortcut["separable params"], shortcut["saving"]) == (
        "DWS104",
        "-",
        "-",
    )


def test_what_is_not_known_is_a_dash() -> None:
    totals, layers = tables(render_report("markdown", WITHOUT_SHAPES))
    assert totals[-1][2] == totals[-1][4] == "-"
    stem = dict(zip(layers[0], layers[1], strict=True))
    assert (stem["output"], stem["MACs"]) == ("-", "-")


def test_no_convolutions_and_no_models() -> None:
    assert "Linear has no convolutions" in text(read(render_report("markdown", EMPTY)))
    assert "| layer" not in render_report("markdown", EMPTY)
    assert "No model was reported" in text(read(render_run("markdown", {})))


def test_two_thousand_convolutions_are_two_thousand_rows() -> None:
    markdown = render_report("markdown", LARGE)
    assert len(tables(markdown)[1]) == 1 + 2000
    assert len(markdown) < 1024**2  # what GitHub takes for the summary of one step


@pytest.mark.parametrize("written", [escape, code])
@pytest.mark.parametrize(
    "words",
    [
        NASTY,
        "layer1.0.conv1",
        "a | b",
        "`",
        "``a`",
        "a\\",
        "\\|",
        "*a* _b_ ~~c~~",
        "[a](b) ![c](d)",
        "<img src=x>",
        "&lt;",
        "- a",
        "# a",
        " a ",
        "свёртка→卷积",
        "http://host.example/a",
        ":+1:",
    ],
)
def test_untrusted_words_are_read_back_as_they_are(
    written: Callable[[str], str], words: str
) -> None:
    markdown = f"| a | b |\n| --- | --- |\n| {written(words)} | end |"
    ((_, cells),) = tables(markdown)
    assert [cell.strip() for cell in cells] == [plain(words).strip(), "end"]
    assert set(TAG.findall(read(written(words)))) <= {"p", "/p", "code", "/code"}


def test_untrusted_names_make_nothing_but_text() -> None:
    markdown = render_run(
        "markdown", {UNTRUSTED: Reporters({NASTY}, {f"test_a.py::{NASTY}", "test_b.py::test"})}
    )
    tags = {tag.strip("/") for tag in TAG.findall(read(markdown))}
    assert tags == {
        "h2",
        "h3",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
        "ul",
        "li",
        "code",
    }
    _, layers = tables(markdown)
    assert [row[0] for row in layers] == ["layer", plain(NASTY), f"2{plain(NASTY)}"]
    assert {len(row) for row in layers} == {len(layers[0])}
    assert text(read(markdown)).count(plain(NASTY)) >= 8


def test_limits_and_users() -> None:
    limits: list[AnyCheck] = [*check_limits(SMALL, Budget(params="1M", macs="2G"))]
    tests = {f"tests/test_{number}.py::test" for number in range(5)}
    markdown = render_run(
        "markdown",
        {SMALL: Reporters({"net:small"}, tests, limits), EMPTY: Reporters(set(), {"t.py::t"})},
    )
    shown = text(read(markdown))
    assert "❌ over budget: Small has 2.44M parameters, the budget is 1M" in shown
    assert "✅ within budget" in shown
    assert "Reported by 6" in shown
    assert all(test in shown for test in tests)
    assert "1 model has no convolutions: Linear" in shown


class TestFile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "summary.md"
        path.write_text("before\n")
        return path

    def test_the_summary_of_a_job_is_appended_to(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
        run: dict[ReportData, Reporters] = {SMALL: Reporters({"net:small"})}
        write_run("markdown", run, path)
        write_run("markdown", run, path)
        written = path.read_text(encoding="utf-8")
        assert written.startswith("before\n## Depthwise")
        assert written.count("### Small") == 2
        assert len(tables(written)) == 4

    @pytest.mark.parametrize(
        ("form", "summary"), [("markdown", "other.md"), ("markdown", ""), ("json", "summary.md")]
    )
    def test_any_other_file_is_replaced(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, form: str, summary: str
    ) -> None:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path.parent / summary) if summary else "")
        write_run(form, {SMALL: Reporters()}, path)
        assert "before" not in path.read_text(encoding="utf-8")


def change(name: str, layers: int = 0) -> ModelChange:
    grown = Change("params", "parameters", 1, 2)
    changed = tuple(LayerChange(f"{name}.{n}", grown, grown) for n in range(layers))
    return ModelChange(name, ChangeStatus.CHANGED, (grown,), (), changed)


def test_a_comparison_fits_in_a_comment_and_names_what_is_left_out() -> None:
    models = tuple(change(f"Model{n}", layers=100) for n in range(20))
    markdown = render_run("markdown", {}, outcome=Outcome(Changes("main.json", models)))
    assert len(markdown) < COMMENT
    assert "<summary>Layers of Model0<" in markdown
    left_out = markdown.rpartition("Left out for want of room: ")[2]
    assert left_out.startswith("Layers of Model")
    assert left_out.rstrip().endswith(": the forms html and json have all")
    assert markdown.count("<details>") == markdown.count("</details>")
    assert markdown.count("<summary>") + left_out.count("Layers of") == len(models)


def test_a_table_that_is_too_long_for_a_comment_ends_early() -> None:
    models = tuple(change(f"Model{n}") for n in range(3000))
    markdown = render_run("markdown", {}, outcome=Outcome(Changes("main.json", models)))
    assert 50_000 < len(markdown) < COMMENT
    shown = len(tables(markdown)[0]) - 1
    assert f"{3000 - shown:,} more rows, left out for want of room" in markdown


def test_a_report_fits_in_the_summary_of_a_step() -> None:
    run: SuiteRun = {replace(LARGE, model=f"Large{n}"): Reporters() for n in range(8)}
    markdown = render_run("markdown", run, view=View(top=8))
    assert len(markdown.encode()) < SUMMARY
    assert "Left out for want of room: Large" in markdown
