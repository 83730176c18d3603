"""Names and reasons that are not text to a terminal, a browser, a runner or a reader of Markdown.

Whoever writes a model or a hook chooses them; nothing that prints them may obey.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from render_samples import NASTY, SMALL

from pytest_dwsconv.core.budget import Budget, check_limits
from pytest_dwsconv.core.limits import LatencyCheck, Remedy
from pytest_dwsconv.core.measurement import LatencyLimit, Measurement
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.suite.changes import (
    Change,
    Changes,
    ChangeStatus,
    LayerChange,
    ModelChange,
    Outcome,
)
from pytest_dwsconv.edgetpu.support import OperatorJudgement, Status, Support
from pytest_dwsconv.render import FORMS, Measurements, Reporters, SuiteRun, View, render_run
from pytest_dwsconv.render.forms.junit import latency_properties, properties
from pytest_dwsconv.report import Report

FRAGMENTS = [
    NASTY,
    "::error::stop",
    " ::error file=a.py::stop",
    "\n::add-mask::a",
    "##[error]stop",
    "##vso[task.complete result=Failed]",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066\u2069\u200f",
    "\u2028\u2029\x85\x0b\x0c",
    "a\r\nb\tc",
    "\x00",
    "\ud800",
    "\udcff",
    "\ufeff\ufffe",
    "<script>alert(1)</script>",
    "]]><!--",
    "'\" onload=x ",
    "{{ 7 * 7 }}{% raw %}",
    "|\n|---|\n",
    "[a](javascript:b)",
    "<https://a.b>",
    "```\n~~~",
    "$HOME %0A %25",
    "=",
    "+",
]
NAMES = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.text(st.characters(exclude_categories=())))
).map("".join)
NUMBERS = {"first_invoke": 0.05, "samples": (0.01, 0.011)}


def measurement(name: str) -> Measurement:
    texts = (
        "model host machine device python runtime library library_version clock".split()  # fields
    )
    return Measurement(**dict.fromkeys(texts, name), **NUMBERS)  # type: ignore[arg-type]


def report(name: str) -> Report:
    """A report in which every text is this one, as far as texts are free."""
    first, second, *_ = SMALL.findings
    findings = (
        replace(first, name=name, type_name=name, reason=name, code=name, aliases=(name,), calls=2),
        replace(second, name=f"b.{name}", reason=name, followed_by=(name, name)),
    )
    return replace(SMALL, model=name, findings=findings, not_counted=((name, 2), ("relu", 1)))


def written(form: str, name: str) -> str:
    run: SuiteRun = {report(name): Reporters({name}, {f"{name}.py::test", f"t.py::{name}"})}
    view = View(match=("*",), sort="followed_by")
    measured: Measurements = {measurement(name): {f"t.py::{name}"}}
    return render_run(form, run, 1, measured=measured, view=view, outcome=outcome(name))


def outcome(name: str) -> Outcome:
    """A comparison and a sentence in which every text is this one."""
    grown = Change("params", name, 1, 2, too_much=True)
    layers = (LayerChange(name, grown, grown),)
    model = ModelChange(name, ChangeStatus.CHANGED, (grown,), (f"t.py::{name}",), layers)
    gone = replace(model, status=ChangeStatus.GONE, quantities=(replace(grown, too_much=False),))
    return Outcome(Changes(name, (model, gone)), (name,))


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "wbr":  # one after each dot of a name
            names = tuple(name for name, _ in attrs if name != "class")  # a long name has one
            self.found.append((tag, names))


def assert_obeyed_by_nobody(text: str) -> None:
    for line in text.split("\n"):
        assert line.isprintable()
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
        assert "##vso[" not in line


@pytest.mark.parametrize("form", FORMS)
@given(name=NAMES)
@settings(max_examples=25, deadline=None)
@example(name="".join(FRAGMENTS))
@example(name="")
def test_every_form_takes_any_name(form: str, name: str) -> None:
    written(form, name).encode()


@given(name=NAMES)
@settings(max_examples=25, deadline=None)
@example(name=" ".join(FRAGMENTS))
def test_text_has_nothing_to_obey(name: str) -> None:
    assert_obeyed_by_nobody(written("text", name))
    assert_obeyed_by_nobody(report(name).table(depth=1))
    assert_obeyed_by_nobody(report(name).table(columns=["name", "code", "followed_by"]))


@given(name=NAMES)
@settings(max_examples=25, deadline=None)
@example(name=" ".join(FRAGMENTS))
def test_results_print_nothing_to_obey(name: str) -> None:
    judgement = OperatorJudgement(name, name, Status.CPU, name)
    over, within = (check_limits(report(name), Budget(params=limit))[0] for limit in (1, "1G"))
    remedy = Remedy((name,), 0.0001)
    latency = LatencyCheck(name, LatencyLimit(0.001), measurement(name), remedy)
    results = (report(name), measurement(name), over, within, latency)
    for result in (*results, Support((judgement,), (name,))):
        assert_obeyed_by_nobody(str(result))
    assert_obeyed_by_nobody(LatencyLimit(0.001).excess(measurement(name)))


@given(name=NAMES)
@settings(max_examples=25, deadline=None)
@example(name="".join(FRAGMENTS))
@example(name="+")
@example(name="0")
@example(name="-")
@example(name="")
def test_markdown_has_the_elements_that_it_has_anyway(name: str) -> None:
    github = MarkdownIt("gfm-like", {"linkify": False})
    read = [Tags(github.render(written("markdown", given))).found for given in (name, "name")]
    assert read[0] == read[1]


# an empty cell is not the header of its row
@given(name=NAMES.filter(bool))
@settings(max_examples=25, deadline=None)
@example(name="".join(FRAGMENTS))
def test_the_page_has_the_elements_that_it_has_anyway(name: str) -> None:
    page, ordinary = written("html", name), written("html", "name")
    assert Tags(page).found == Tags(ordinary).found
    assert all(line.isprintable() for line in page.split("\n"))


@given(name=NAMES)
@settings(max_examples=25, deadline=None)
@example(name="".join(FRAGMENTS))
def test_annotations_stay_one_per_line(name: str) -> None:
    kinds = [
        [re.match(r"::(\w+) ", line) for line in written("github", given).split("\n")]
        for given in (name, "name")
    ]
    assert [match and match[1] for match in kinds[0]] == [match and match[1] for match in kinds[1]]


@given(name=NAMES)
@settings(max_examples=25, deadline=None)
@example(name="".join(FRAGMENTS))
def test_json_gives_names_back_and_sarif_prints_them_plainly(name: str) -> None:
    (model,) = json.loads(written("json", name))["models"]
    assert model["report"]["model"] == json.loads(json.dumps(name))  # it joins surrogates
    for result in json.loads(written("sarif", name))["runs"][0]["results"]:
        assert result["message"]["text"].isprintable()


@pytest.mark.parametrize("form", ["json", "sarif"])
@given(name=NAMES)
@settings(max_examples=25, deadline=None)
@example(name=" ".join(FRAGMENTS))
@example(name="::error::\\##[error]")
def test_json_has_no_commands_of_a_runner(form: str, name: str) -> None:
    text = written(form, name)
    assert_obeyed_by_nobody(text)
    assert '"::' not in text
    assert " ::" not in text


@given(name=NAMES)
@settings(max_examples=25, deadline=None)
def test_junit_names_have_three_parts(name: str) -> None:
    rows = [*properties([report(name)]), *latency_properties([measurement(name)])]
    for key, _ in rows:
        assert re.fullmatch(r"dwsconv\.\w*\.\w+", key)


def test_a_plot_shows_names_plainly() -> None:
    axes = report(NASTY).plot()
    texts = [axes.get_title(), *(label.get_text() for label in axes.get_yticklabels())]
    assert any(plain(NASTY) in text for text in texts)
    assert all(text.isprintable() for text in texts)
