"""The HTML report as text; a real browser reads it in tests/integration/test_browser.py."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest
from render_samples import EMPTY, NASTY, SMALL, UNTRUSTED, WITHOUT_SHAPES

from pytest_dwsconv.core.budget import Budget, check_limits
from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.limits import AnyCheck
from pytest_dwsconv.render import Reporters, SuiteRun, render_report, render_run

VOID = {"meta", "input", "wbr", "rect", "line"}


class Page(HTMLParser):
    """The elements of a page, which must be closed in order, and the words in each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.words: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self._open[-1], data))

    def __getitem__(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]


MANY: SuiteRun = {
    SMALL: Reporters(
        {"net:small"},
        {f"t.py::test_{n}" for n in range(9)},
        [*check_limits(SMALL, Budget("1M", "2G"))],
    ),
    UNTRUSTED: Reporters({NASTY}, {NASTY}),
    WITHOUT_SHAPES: Reporters(),
    EMPTY: Reporters(),
}


@pytest.mark.parametrize(
    "run",
    [MANY, {SMALL: Reporters()}, {EMPTY: Reporters()}, {}],
    ids=["many", "one", "empty", "none"],
)
def test_it_is_well_formed_and_asks_for_nothing(run: SuiteRun) -> None:
    text = render_run("html", run)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>\n<html")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not page["link"] + page["img"] + page["iframe"]
    for _, attributes in page.elements:
        assert not {"src", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
        for name in ("aria-labelledby", "aria-controls"):
            assert attributes.get(name, (ids or [""])[0]) in [*ids, ""]
    assert page["html"] == [{"lang": "en"}]


def test_only_its_own_style_and_script_may_run() -> None:
    page = Page(render_report("html", SMALL))
    (policy,) = [meta["content"] for meta in page["meta"] if "http-equiv" in meta]
    for tag in ("style", "script"):
        (content,) = [words for parent, words in page.words if parent == tag]
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")


def test_untrusted_words_make_no_element() -> None:
    plain_tags = {tag for tag, _ in Page(render_run("html", {SMALL: Reporters({"a:b"})})).elements}
    nasty_tags = {
        tag for tag, _ in Page(render_run("html", {UNTRUSTED: Reporters({NASTY})})).elements
    }
    assert nasty_tags <= plain_tags


def test_the_totals_are_in_the_foot_of_the_table() -> None:
    text = render_report("html", SMALL)
    cells = re.findall(r"<td[^>]*>([^<]+)</td>", text[text.index(">whole model<") :])
    assert cells[:5] == [
        f"{SMALL.params:,}",
        f"{SMALL.macs:,}",
        f"{SMALL.separable_params:,}",
        f"{SMALL.separable_macs:,}",
        f"{SMALL.saving:.2f}x",
    ]


def test_the_same_run_makes_the_same_page() -> None:
    limits: list[AnyCheck] = [
        *check_limits(SMALL, Budget("3M", "2G")),
        *check_limits(SMALL, Budget("1M", "1k")),
    ]
    runs: list[dict[ReportData, Reporters]] = [
        {SMALL: Reporters({"a:b"}, {"t.py::t"}, found)} for found in (limits, limits[::-1])
    ]
    one, other = runs
    assert render_run("html", one) == render_run("html", other)
    assert render_run("html", MANY) == render_run("html", dict(reversed(list(MANY.items()))))


def test_words_that_promise_too_much_do_not_occur() -> None:
    words = set(re.findall(r"[a-z]+", render_run("html", MANY).lower()))
    assert not {"flop", "flops", "speedup", "speed"} & words
    assert "do not make a model faster" in render_run("html", MANY)
