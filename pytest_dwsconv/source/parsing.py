"""Source text as a syntax tree whose positions are offsets into that text."""

from __future__ import annotations

import re
import warnings
from functools import cached_property

import libcst as cst
from libcst.metadata import CodePosition, CodeRange, MetadataWrapper

from pytest_dwsconv.errors import SourceError

Span = tuple[int, int]
"""The characters of the file from the first up to the second."""

_LINE_END = re.compile(r"\r\n?|\n")


class Parsed:
    """One file's text and tree.

    Raises:
        SourceError: the text is no Python, with line and column.
    """

    def __init__(self, text: str) -> None:
        check_compiles(text)
        self.text = text
        self.wrapper = MetadataWrapper(_tree(text), unsafe_skip_copy=True)

    @property
    def module(self) -> cst.Module:
        return self.wrapper.module

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in _LINE_END.finditer(self.text))]

    def offset(self, position: CodePosition) -> int:
        return self._line_starts[position.line - 1] + position.column

    def span(self, position: CodeRange) -> Span:
        return self.offset(position.start), self.offset(position.end)

    @cached_property
    def statement_starts(self) -> list[int]:
        """Where each top-level statement begins, with the comments and blank lines above it."""
        module = self.module
        starts = [len("".join(module.code_for_node(line) for line in module.header))]
        for statement in module.body:
            starts.append(starts[-1] + len(module.code_for_node(statement)))
        return starts[:-1]


def check_compiles(text: str) -> None:
    """Raise SourceError, in one sentence, where Python itself rejects the text."""
    try:
        with warnings.catch_warnings():
            # reason: escapes like "\d" in the user's strings are not our subject
            warnings.simplefilter("ignore")
            compile(text, "<source>", "exec", dont_inherit=True)
    except SyntaxError as error:
        place = "" if error.lineno is None else f" in line {error.lineno}, column {error.offset}"
        raise SourceError(f"syntax error{place}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise SourceError(f"Python cannot compile it: {error or type(error).__name__}") from error


def _tree(text: str) -> cst.Module:
    try:
        module = cst.parse_module(text)
        same = module.code == text
    except cst.ParserSyntaxError as error:
        place = f"line {error.raw_line}, column {error.raw_column + 1}"
        raise SourceError(f"this release of libcst cannot read {place}: {error.message}") from error
    if not same:
        raise SourceError("it has line ends or characters that would not be kept")
    return module
