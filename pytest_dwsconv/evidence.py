"""Which call in a source file built which convolutions, seen while a model is built."""

from __future__ import annotations

import linecache
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from torch.nn.modules import conv

from pytest_dwsconv.conv import ConvSpec
from pytest_dwsconv.operators import CONV_MODULES, TRANSPOSED_MODULES
from pytest_dwsconv.sites import module_spec

_EXACT = {*CONV_MODULES, *TRANSPOSED_MODULES}

Built = dict[tuple[int, int | None], list[ConvSpec]]
"""By line and column of the call, both from 1; the column is None where the interpreter does not record it."""


@contextmanager
def recording(path: Path) -> Iterator[Built]:
    """Note every convolution that a call written in this file builds. PyTorch is as before afterwards.

    Those that other files build for this one, and subclasses, are not noted: no call here names them.
    """
    built: Built = defaultdict(list)
    own = path.resolve()
    original = conv._ConvNd.__init__

    def init(module: Any, *args: Any, **kwargs: Any) -> None:
        original(module, *args, **kwargs)
        caller = _caller()
        if type(module) in _EXACT and caller is not None and Path(caller.f_code.co_filename).resolve() == own:
            built[_position(caller)].append(module_spec(module))

    conv._ConvNd.__init__ = init  # type: ignore[method-assign, assignment]  # put back below
    try:
        yield built
    finally:
        conv._ConvNd.__init__ = original  # type: ignore[method-assign]  # as it was


def _caller() -> FrameType | None:
    """The frame that called ``nn.Conv2d(...)``: the first one outside torch's own constructors and this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in (__name__, conv.__name__):
        frame = frame.f_back
    return frame


def _position(frame: FrameType) -> tuple[int, int | None]:
    if sys.version_info >= (3, 11):
        instruction = frame.f_lasti // 2
        line, _, column, _ = next(islice(frame.f_code.co_positions(), instruction, None))
        if line is not None and column is not None:
            before = linecache.getline(frame.f_code.co_filename, line).encode()[:column]
            return line, len(before.decode()) + 1  # positions count UTF-8 bytes, columns count characters
    return frame.f_lineno, None
