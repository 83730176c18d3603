"""Ctrl-C that is deferred comes later, and once."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_dwsconv.interrupts import uninterrupted


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_held_back_and_comes_once() -> None:
    done = []

    def press_twice() -> None:
        with uninterrupted():
            interrupt()
            interrupt()
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert done


def test_ctrl_c_that_was_held_back_comes_where_it_may() -> None:
    with uninterrupted() as interruptible:
        interrupt()
        with pytest.raises(KeyboardInterrupt), interruptible:
            raise AssertionError("Ctrl-C comes before this")
        with pytest.raises(KeyboardInterrupt), interruptible:
            interrupt()


def test_a_handler_that_outlives_its_block_holds_nothing_back() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        kept = signal.getsignal(signal.SIGINT)
    assert kept is not handler
    signal.signal(signal.SIGINT, kept)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    finally:
        signal.signal(signal.SIGINT, handler)


def handler_within() -> Any:
    with uninterrupted() as interruptible, interruptible:
        return signal.getsignal(signal.SIGINT)


def test_what_is_not_a_function_of_python_stays_and_so_it_does_in_other_threads() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handler_within).result() is handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert handler_within() is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
