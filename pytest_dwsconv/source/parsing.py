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
_BLANK_END = re.compile(r"(\r\n?|\n)\s*\Z")
_NEXT = "correct it, or run the command with the Python that the file is written for"


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
        raise SourceError(f"syntax error{place}: {error.msg}; {_NEXT}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise SourceError(f"Python cannot compile it: {error or type(error).__name__}") from error


def _tree(text: str) -> cst.Module:
    """The tree of the text, or of the text up to its last line of code where libcst would lose the blank ones below."""
    module = _parse(text)
    if module.code != text:
        text = _BLANK_END.sub(r"\1", text)
        module = _parse(text)
    if module.code != text:
        kept = next((at for at, pair in enumerate(zip(text, module.code, strict=False)) if pair[0] != pair[1]), -1)
        line = len(_LINE_END.findall(text[:kept])) + 1
        raise SourceError(
            f"line {line} has a form feed, a lone carriage return or spaces that would not be kept: "
            "take them out, then run the command again"
        )
    return module


def _parse(text: str) -> cst.Module:
    try:
        return cst.parse_module(text)
    except cst.ParserSyntaxError as error:
        place = f"line {error.raw_line}, column {error.raw_column + 1}"
        raise SourceError(f"this release of libcst cannot read {place}: {error.message}") from error
