"""Ctrl-C at any moment: obeyed, and everything as found."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_dwsconv import analyze
from pytest_dwsconv.errors import TracingError
from pytest_dwsconv.interrupts import interrupted
from pytest_dwsconv.tracing.peak import peak_activation_bytes
from pytest_dwsconv.tracing.preserving import as_found
from pytest_dwsconv.tracing.trace import trace


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_analysis_may_be_interrupted_at_any_line() -> None:
    """Of its own code, the forward's and PyTorch's."""
    script = Path(__file__).parent / "interrupted_analyses.py"
    command = [sys.executable, str(script), "320"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.returncode) == ("as found", 0), run.stdout + run.stderr


class FailsToCleanUp(nn.Module):
    """As PyTorch's own context managers may, when they are interrupted."""

    def __init__(self, press: bool) -> None:
        super().__init__()
        self.press = press
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        try:
            if self.press:
                interrupt()
        finally:
            raise RuntimeError("nothing to clean up")


def test_ctrl_c_is_obeyed_also_where_a_clean_up_fails() -> None:
    with pytest.raises(KeyboardInterrupt):
        analyze(FailsToCleanUp(press=True), (1, 3))


def test_an_error_is_not_taken_for_a_ctrl_c_that_the_caller_is_dealing_with() -> None:
    try:
        interrupt()
    except KeyboardInterrupt:
        with pytest.raises(TracingError, match="nothing to clean up"):
            analyze(FailsToCleanUp(press=False), (1, 3))


def test_what_interrupted_code_would_do_later_is_done_before_all_is_put_back() -> None:
    """A context manager that was about to be left acts when the error lets go of it."""
    found = torch.is_grad_enabled()

    def generator() -> Iterator[None]:
        try:
            yield
        finally:
            torch.set_grad_enabled(not found)

    def leave_one_open() -> None:
        opened = generator()
        next(opened)
        interrupt()
        next(opened)

    def use() -> None:
        with as_found([]):
            leave_one_open()

    with pytest.raises(KeyboardInterrupt):  # which keeps the error, and the frames in it
        use()
    assert torch.is_grad_enabled() is found


def test_an_error_is_told_from_an_interrupt() -> None:
    error: Any = RuntimeError()
    assert not interrupted(error, None)
    error.__context__ = ValueError()
    error.__context__.__context__ = pressed = KeyboardInterrupt()
    assert interrupted(error, None)
    assert not interrupted(error, pressed)


def pressed_after(function: Any) -> Any:
    def call(*args: Any) -> Any:
        out = function(*args)
        interrupt()
        return out

    return call


def test_reading_the_modes_cannot_be_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch tells how deep autocast is nested only by nesting it once more."""

    def use() -> None:
        with as_found([]):
            raise AssertionError("Ctrl-C comes before this")

    nested = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    monkeypatch.setattr(
        torch, "autocast_increment_nesting", pressed_after(torch.autocast_increment_nesting)
    )
    with pytest.raises(KeyboardInterrupt):
        use()
    monkeypatch.undo()
    assert torch.autocast_increment_nesting() == nested + 1
    assert torch.autocast_decrement_nesting() == nested


def test_gradients_are_as_found_when_the_peak_of_memory_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = trace(nn.Flatten(), (torch.rand(3, 3),))
    found = torch.is_grad_enabled()
    monkeypatch.setattr(torch.no_grad, "__enter__", pressed_after(torch.no_grad.__enter__))
    with pytest.raises(KeyboardInterrupt):
        peak_activation_bytes(recorded)
    assert torch.is_grad_enabled() is found
