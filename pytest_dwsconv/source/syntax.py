"""Source text as a syntax tree whose positions are offsets into that text."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache, cached_property

import libcst as cst
from libcst.metadata import CodePosition, CodeRange, MetadataWrapper, PositionProvider

from pytest_dwsconv.errors import SourceError

Span = tuple[int, int]
"""The characters of the file from the first up to the second."""

Statement = cst.SimpleStatementLine | cst.BaseCompoundStatement

_LINE_END = re.compile(r"\r\n?|\n")
_BLANK_END = re.compile(r"(\r\n?|\n)\s*\Z")
_LAYOUT = re.compile(
    "whitespace|leading_|trailing_|lines_after|lpar|rpar|lbracket|rbracket|lbrace|rbrace"
    "|comma$|semicolon|dot$|equal$|colon$|header|footer|indent|encoding|default_|has_trailing"
    "|first_line|separator"
)
"""Fields of syntax nodes that hold no code."""

MARK = "Inserted by dwsconv-rewrite"
"""Stands in the docstring of every inserted class: by it a later run knows its own work."""

_NEXT = "correct it, or run the command with the Python that the file is written for"


class Parsed:
    """One file's text and tree.

    Raises:
        SourceError: the text is not Python, with line and column.
    """

    def __init__(self, text: str) -> None:
        check_compiles(text)
        self.text = text
        self.wrapper = MetadataWrapper(_tree(text), unsafe_skip_copy=True)

    @property
    def module(self) -> cst.Module:
        return self.wrapper.module

    @cached_property
    def parents(self) -> dict[cst.CSTNode, cst.CSTNode]:
        """Every node of the tree that ``below`` gives but its root, with the node it is part of."""
        parents = {}
        for node in below(self.module):
            for part in _parts(node):
                parents[part] = node
        return parents

    def ancestors(self, node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
        """Each node above, the nearest first, after the part of it that the way came from."""
        while node in self.parents:
            node, part = self.parents[node], node
            yield part, node

    def enclosing(self, node: cst.CSTNode, *kinds: type[cst.CSTNode]) -> cst.CSTNode | None:
        """The nearest node above that is of one of these kinds."""
        for _, above in self.ancestors(node):
            if isinstance(above, kinds):
                return above
        return None

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in _LINE_END.finditer(self.text))]

    @cached_property
    def positions(self) -> Mapping[cst.CSTNode, CodeRange]:
        return self.wrapper.resolve(PositionProvider)

    def line(self, node: cst.CSTNode) -> int:
        return self.positions[node].start.line

    def code(self, node: cst.CSTNode) -> str:
        """The text of a node, without the parentheses and white space around it."""
        start, end = self.span(node)
        return self.text[start:end]

    def offset(self, position: CodePosition) -> int:
        return self._line_starts[position.line - 1] + position.column

    def span(self, node: cst.CSTNode) -> Span:
        position = self.positions[node]
        return self.offset(position.start), self.offset(position.end)

    def statements_until(self, character: int) -> list[tuple[int, Statement]]:
        """The top-level statements up to the one that holds a character, each with its start.

        A statement starts with the comments and blank lines above it.
        """
        module = self.module
        start = len("".join(module.code_for_node(line) for line in module.header))
        found: list[tuple[int, Statement]] = []
        for statement in module.body:
            found.append((start, statement))
            if self.span(statement)[1] > character:
                break
            start += len(module.code_for_node(statement))
        return found


def below(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The node and all those it is made of, statements in their order.

    White space, comments, and what is in the classes that an earlier run inserted are left out.
    """
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed([*_parts(node)])


def _parts(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The nodes directly below one. libcst's own walk, which can edit, is ten times slower."""
    for name in ("name",) if is_inserted(node) else _part_names(type(node)):
        part = getattr(node, name)
        if isinstance(part, cst.CSTNode):
            yield part
        elif isinstance(part, (tuple, list)):
            yield from part


def is_inserted(node: cst.CSTNode) -> bool:
    """Whether it is a class that an earlier run inserted."""
    return isinstance(node, cst.ClassDef) and MARK in (node.get_docstring(clean=False) or "")


@cache
def _part_names(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if not _LAYOUT.match(field.name))


def check_compiles(text: str) -> None:
    """Raise SourceError, in one sentence, where Python itself rejects the text."""
    try:
        with warnings.catch_warnings():
            # reason: escapes like "\d" in the user's strings are not our subject
            warnings.simplefilter("ignore")
            compile(text, "<source>", "exec", dont_inherit=True)
    except SyntaxError as error:
        place = "" if error.lineno is None else f" in line {error.lineno}, column {error.offset}"
        # reason: of a number of 5,000 digits it goes on about settings of the interpreter
        what = error.msg.partition("; use sys.")[0]
        raise SourceError(f"syntax error{place}: {what}; {_NEXT}") from error
    except (RecursionError, MemoryError) as error:
        raise SourceError("its expressions are nested too deeply for Python to compile") from error
    except ValueError as error:
        raise SourceError(f"Python cannot compile it: {error}") from error


def _tree(text: str) -> cst.Module:
    """The tree of a text that comes out of it unchanged, blank lines at its end left out."""
    module = _parse(text)
    if module.code != text:
        # reason: libcst loses blank lines with spaces in them at the end; they hold no code
        text = _BLANK_END.sub(r"\1", text)
        module = _parse(text)
    if module.code != text:
        line = len(_LINE_END.findall(text[: _first_difference(text, module.code)])) + 1
        raise SourceError(
            f"line {line} has a form feed, a lone carriage return or spaces that would not be "
            "kept: take them out, then run the command again"
        )
    return module


def _first_difference(text: str, other: str) -> int:
    for index, (character, its_other) in enumerate(zip(text, other, strict=False)):
        if character != its_other:
            return index
    return min(len(text), len(other))


def _parse(text: str) -> cst.Module:
    try:
        return cst.parse_module(text)
    except cst.ParserSyntaxError as error:
        place = f"line {error.raw_line}, column {error.raw_column + 1}"
        raise SourceError(f"this release of libcst cannot read {place}: {error.message}") from error
