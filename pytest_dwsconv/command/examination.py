"""What becomes of each file's text, worked out in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pytest_dwsconv.command.inputs import Input
from pytest_dwsconv.command.streams import read_stdin
from pytest_dwsconv.core.rules import CANDIDATE_CODE
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.source.edit import Rewrite, rewrite_text
from pytest_dwsconv.source.files import SourceText, decode, read
from pytest_dwsconv.source.fusions import find_fusions
from pytest_dwsconv.source.reading.syntax import check_compiles
from pytest_dwsconv.source.sites import BuildEvidence, Fusion


class Examination(NamedTuple):
    """A file's text, and what a rewrite makes of it."""

    old: SourceText
    rewrite: Rewrite


Examine = Callable[[], Examination]


def examine(
    source: Input, evidence: BuildEvidence = BuildEvidence(), fusions: Sequence[Fusion] = ()
) -> Examination:
    """Read a file or standard input and rewrite its text; nothing is written.

    The file that has a class which others import is left as it is.

    Raises:
        SourceError: it cannot be read or is not Python.
    """
    old = decode(read_stdin()) if source.path is None else read(source.path)
    config = source.config
    place = Path(os.path.realpath(source.path or source.name))
    if any(each.is_home(place) for each in config.classes.values()):
        return Examination(old, Rewrite(old.text, (), {}))
    path = None if source.path is None else place
    rewrite = rewrite_text(
        old.text, config.policy, evidence, config.classes, config.guards, path, fusions
    )
    if source.is_named and not rewrite.sites:
        # reason: of files in folders that name no convolution, nothing but the text is searched
        check_compiles(old.text)
    if CANDIDATE_CODE not in source.selection:
        rewrite = replace(rewrite, text=old.text)
    return Examination(old, rewrite)


@contextmanager
def examinations(
    inputs: Sequence[Input], evidence: BuildEvidence, jobs: int
) -> Iterator[Iterator[Examine]]:
    """For each input, in their order, what gives its examination or raises its error."""
    files = [each for each in inputs if each.path is not None]
    fusions = find_fusions([each.path for each in files if each.path is not None])
    jobs = min(jobs or os.cpu_count() or 1, len(files))
    if jobs <= 1:
        yield (partial(examine, each, evidence, fusions) for each in inputs)
        return
    # reason: a process that is forked from one with threads may hang
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(jobs, context) as pool:
        try:
            with _interrupts_held_back():
                futures = {
                    id(each): pool.submit(examine, each, evidence, fusions) for each in files
                }
            yield (_examine_by(futures.get(id(each)), each) for each in inputs)
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def _examine_by(future: Future[Examination] | None, source: Input) -> Examine:
    # reason: standard input is read here, it is not that of the other processes
    return partial(examine, source) if future is None else partial(_result, future)


def _result(future: Future[Examination]) -> Examination:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "one of the processes of --jobs was ended, maybe for want of memory: run the command "
            "again with fewer"
        ) from error


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Keep Ctrl-C from the processes that are started here: only the first one deals with it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
