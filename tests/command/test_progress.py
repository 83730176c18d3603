"""The bar: on a terminal, of long runs, and away where a line is printed."""

from __future__ import annotations

import io
import sys

import pytest

from pytest_dwsconv.command import progress
from pytest_dwsconv.command.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, wanted: bool, total: int) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "_DELAY", 0)
    bar = Progress(wanted)
    for number in bar.over(range(total), total):
        bar.clear()
        if number == total // 2:
            stream.write("[a line]")
    return stream.getvalue()


def test_a_long_run_on_a_terminal_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal(), True, 30)
    assert "/30 [" in text
    before_line = text.partition("[a line]")[0]
    assert before_line.endswith("\r"), "the bar is wiped out first"


@pytest.mark.parametrize(
    ("stream", "wanted", "total"),
    [(io.StringIO(), True, 30), (Terminal(), False, 30), (Terminal(), True, 3)],
)
def test_else_there_is_no_bar(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, wanted: bool, total: int
) -> None:
    assert shown(monkeypatch, stream, wanted, total) == "[a line]"
