from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import unquote

import pytest
from render_samples import EMPTY, LARGE, NASTY, SMALL, UNTRUSTED

from pytest_dwsconv.core.budget import Budget, check_limits
from pytest_dwsconv.core.limits import AnyCheck
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.render import Reporters, SuiteRun, render_report, render_run
from pytest_dwsconv.render.forms.github import command


class Command(NamedTuple):
    kind: str
    properties: dict[str, str]
    message: str


def read(line: str) -> Command:
    """As the runner reads it: name up to a space, properties up to the next ::, then the rest."""
    match = re.fullmatch(r"::(\w+) (.*?)::(.*)", line)
    assert match, line
    pairs = dict(pair.split("=", 1) for pair in match[2].split(","))
    return Command(
        match[1], {name: unquote(value) for name, value in pairs.items()}, unquote(match[3])
    )


def test_one_notice_a_model_names_the_largest_savings() -> None:
    (notice,) = map(read, render_report("github", SMALL).splitlines())
    assert notice.kind == "notice"
    assert notice.properties == {"title": "dwsconv: Small"}
    first, second = notice.message.split("\n")
    assert first.startswith(
        f"Small: {SMALL.params:,} params, {SMALL.separable_params:,} with 3 candidates separable"
    )
    assert second == "Most is saved by body.conv2, body.conv1, stem"


def test_an_exceeded_limit_is_an_error_at_the_test() -> None:
    limits: list[AnyCheck] = [*check_limits(SMALL, Budget(params="1M", macs="2G"))]
    users = Reporters(
        {"net:small"}, {"tests/test_b.py::test", "tests/test_a,b.py::TestX::test[1-2]"}, limits
    )
    error, notice = map(read, render_run("github", {SMALL: users}).splitlines())
    assert (error.kind, error.properties["file"]) == ("error", "tests/test_a,b.py")
    assert error.message == str(limits[0])
    assert error.properties["title"] == "Small is over its budget"
    assert notice.properties["file"] == "tests/test_a,b.py"


@pytest.mark.parametrize("words", [NASTY, "100%", "%0A", "a\r\nb", "a::b,c=d", "::error::x"])
def test_untrusted_words_stay_in_their_part_of_one_line(words: str) -> None:
    line = command("notice", words, title=words, file=words)
    assert len(line.splitlines()) == 1 or "\x1b" in words
    assert read(line) == Command("notice", {"title": words, "file": words}, words)


def test_untrusted_names_make_one_line_each() -> None:
    lines = render_run("github", {UNTRUSTED: Reporters(set(), {f"{NASTY}.py::test"})}).split("\n")
    (notice,) = map(read, lines)
    assert notice.properties["title"] == f"dwsconv: {plain(NASTY)}"
    assert notice.message.startswith(plain(NASTY))


def test_of_many_models_one_notice_lists_all_and_nine_have_their_own() -> None:
    models = [replace(SMALL, model=f"Small{n}") for n in range(120)]
    run: SuiteRun = dict.fromkeys(models, Reporters())
    overview, *details = map(read, render_run("github", run).splitlines())
    assert overview.properties == {"title": "dwsconv: 120 models"}
    assert len(overview.message.splitlines()) == 101
    assert overview.message.endswith("\nand 20 more")
    assert len(details) == 9


def test_large_empty_and_no_models() -> None:
    empty, large = map(
        read, render_run("github", {LARGE: Reporters(), EMPTY: Reporters()}).splitlines()
    )
    assert re.search(r" and 1,\d\d\d more$", large.message)
    assert empty.message == "1 model has no convolutions: Linear"
    assert "No model was reported" in read(render_run("github", {})).message
