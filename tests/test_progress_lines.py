"""How far a long computation is, where somebody watches and where not."""

from __future__ import annotations

import io
import sys

import pytest

from pytest_dwsconv import progress
from pytest_dwsconv.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None, seconds: float, unit: str = "layer"
) -> str:
    """What four steps print that take so many seconds each."""
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress("fitting", 4, unit) as bar:
        for layer in ("a", "b", "c", "d"):
            bar.at(layer)
            now[0] += seconds
            bar.advance(error=0.12345, other=None)
    return stream.getvalue() if stream is not None else ""


def test_a_terminal_shows_stage_item_figures_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal(), 0)
    assert "fitting d: 100%" in text
    assert "error=0.123" in text


def test_a_log_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO(), 45).splitlines() == [
        "fitting b, 2 of 4 layers, error 0.123, about 2 min left",
        "fitting d, 4 of 4 layers, error 0.123, about 0 min left",
    ]


def test_passes_have_their_plural(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "1 of 4 passes" in shown(monkeypatch, io.StringIO(), 60, "pass")


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_what_is_done_within_a_minute_leaves_no_line(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    assert not shown(monkeypatch, stream, 14)


def test_the_bar_goes_on_where_a_run_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress("distilling", 10, "step", done=9) as bar:
        bar.advance()
    assert "10/10" in stream.getvalue()
