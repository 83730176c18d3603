from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before torch is imported: workers side by side, each with a thread per core, wait for each other
# most of the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import nn

from pytest_dwsconv import analyze
from pytest_dwsconv.command.trial.child import Child

pytest_plugins = ["pytester", "standin"]


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt here, and ends a child, however the shell started the tests.

    A job in the background ignores it, and so would all that it starts.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep measured latencies out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.getbasetemp() / "cache"
        patch.setattr("pytest_dwsconv.latency.store.cache_folder", lambda: folder)
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where latencies are kept for this test alone."""
    folder = tmp_path / "own" / "cache"
    monkeypatch.setattr("pytest_dwsconv.latency.store.cache_folder", lambda: folder)
    return folder


@pytest.fixture(scope="session")
def _imported() -> None:
    """Import torch here: an inner run forgets its imports, and torch cannot be imported twice."""
    torch.compile(nn.ReLU())  # its compiler too, which much else imports at the first need
    str(analyze(nn.Conv2d(1, 1, 3), (1, 1, 8, 8)))


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Runs of pytest inside a test."""
    # reason: hypothesis' plugin imports itself anew in every inner run, most of a second each time
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    return pytester


@pytest.fixture
def inner(_imported: None, project: pytest.Pytester) -> pytest.Pytester:
    """The same, of tests that import torch into this process."""
    return project


@pytest.fixture
def one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command does in processes of their own it does here: starting PyTorch takes long."""

    def call(child: Child, job: Callable[..., Any], *args: Any) -> Any:
        try:
            return job(*args)
        finally:
            for name, module in list(sys.modules.items()):
                if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
                    del sys.modules[name]

    monkeypatch.setattr(Child, "call", call)
