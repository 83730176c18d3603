"""A process of its own: what it gives back, and how its end becomes a sentence."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pytest_dwsconv.command.trial.child import Child
from pytest_dwsconv.errors import InputError, TargetError


def greet(name: str) -> str:
    sys.stdout.write(f"hello {name}\n")
    return name.upper()


def refuse() -> None:
    raise InputError("not like this")


def crash() -> None:
    os.kill(os.getpid(), 11)


def hang() -> None:
    time.sleep(600)


def leave_a_thread() -> int:
    import threading

    threading.Thread(target=hang).start()
    return 1


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def child(said: list[str]) -> Child:
    return Child(Path("net.py"), said.append)


def test_what_the_job_gives_and_prints_comes_back(child: Child, said: list[str]) -> None:
    assert child.call(greet, "net") == "NET"
    assert said == ["hello net"]


def test_an_error_of_the_job_is_raised_here(child: Child) -> None:
    with pytest.raises(InputError, match=r"^not like this$"):
        child.call(refuse)


@pytest.mark.parametrize(
    ("ended", "how"),
    [
        (partial(os._exit, 0), "exit code 0"),
        (partial(os._exit, 3), "exit code 3"),
        (crash, "SIGSEGV"),
    ],
)
def test_the_end_of_the_process_is_a_sentence(
    child: Child, ended: Callable[[], None], how: str
) -> None:
    sentence = rf"^running 'net.py' ended its process \([^:]*{how}\); nothing is written$"
    with pytest.raises(TargetError, match=sentence):
        child.call(ended)


def test_what_hangs_is_ended(said: list[str]) -> None:
    with pytest.raises(TargetError, match=r"not done after 2 s: does it train"):
        Child(Path("net.py"), said.append, seconds=2).call(hang)


def test_a_thread_left_behind_does_not_hold_it_up(child: Child) -> None:
    assert child.call(leave_a_thread) == 1
