"""Source text as a syntax tree whose positions are offsets into that text."""

from __future__ import annotations

import re
import warnings
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cache, cached_property
from operator import itemgetter
from typing import TypeVar, cast

import libcst as cst
from libcst.metadata import ExpressionContext, Scope, ScopeProvider
from libcst.metadata.scope_provider import ScopeVisitor

from pytest_dwsconv.errors import SourceError
from pytest_dwsconv.source.reading.spans import Span, written

Statement = cst.SimpleStatementLine | cst.BaseCompoundStatement

Node = TypeVar("Node", bound=cst.CSTNode)

_LINE_END = re.compile(r"\r\n?|\n")
_BLANK_END = re.compile(r"(\r\n?|\n)\s*\Z")
_LAYOUT = re.compile(
    "whitespace|leading_|trailing_|lines_after|lpar|rpar|lbracket|rbracket|lbrace|rbrace"
    "|comma$|semicolon|dot$|equal$|colon$|header|footer|indent|encoding|default_|has_trailing"
    "|first_line|separator"
)
"""Fields of syntax nodes that hold no code."""

_NO_NODES = frozenset({str, bool, type(None), cst.MaybeSentinel})
"""What else than nodes the other fields hold."""

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
        self.module, self._spans = _tree(text)

    @cached_property
    def parents(self) -> dict[cst.CSTNode, cst.CSTNode]:
        """Every node of the tree that ``below`` gives but its root, with the node it is part of."""
        parents = {}
        waiting: list[cst.CSTNode] = [self.module]
        while waiting:
            node = waiting.pop()
            own = [*parts(node)]
            for part in own:
                parents[part] = node
            waiting += reversed(own)
        return parents

    @cached_property
    def _by_kind(self) -> Mapping[type[cst.CSTNode], list[tuple[int, cst.CSTNode]]]:
        found: dict[type[cst.CSTNode], list[tuple[int, cst.CSTNode]]] = defaultdict(list)
        for number, node in enumerate(self.parents):
            found[type(node)].append((number, node))
        return found

    def nodes(self, *kinds: type[Node]) -> list[Node]:
        """The nodes of exactly these kinds, in the order of ``parents``.

        To ask every node of a file for its kind is slow: libcst's classes are abstract base ones.
        """
        found = []
        for kind in kinds:
            found += self._by_kind.get(kind, [])
        if len(kinds) > 1:
            found.sort(key=itemgetter(0))
        return [cast(Node, node) for _, node in found]

    @cached_property
    def scopes(self) -> Mapping[cst.CSTNode, Scope]:
        """The scope around each node, except names that label: attributes, keywords, imports.

        As libcst's ScopeProvider tells it, which walks the tree four times for the same.
        """
        found = _Scopes(self)
        visitor = _Visitor(cast(ScopeProvider, found))
        self.module.visit(visitor)
        visitor.infer_accesses()
        return found.scopes

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

    def is_target(self, node: cst.CSTNode) -> bool:
        """Whether it is assigned to or deleted, by itself or in a tuple."""
        for part, above in self.ancestors(node):
            if not isinstance(above, (cst.Element, cst.Tuple, cst.List)):
                return getattr(above, "target", None) is part
        return False

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in _LINE_END.finditer(self.text))]

    def line(self, node: cst.CSTNode) -> int:
        return self.place(self._spans[node][0])[0]

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of a character."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def code(self, node: cst.CSTNode) -> str:
        """The text of a node, without the parentheses and white space around it."""
        start, end = self._spans[node]
        return self.text[start:end]

    def span(self, node: cst.CSTNode) -> Span:
        return self._spans[node]

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
        waiting += reversed([*parts(node)])


def parts(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    """The nodes directly below one. libcst's own walk, which can edit, is ten times slower."""
    names = ("name",) if is_inserted(node) else _part_names(type(node))
    for name in names:
        part = getattr(node, name)
        if isinstance(part, (tuple, list)):
            yield from part
        elif type(part) in _NO_NODES:
            continue
        elif isinstance(part, cst.CSTNode):
            yield part


def is_inserted(node: cst.CSTNode) -> bool:
    """Whether it is a class that an earlier run inserted."""
    # reason: to ask for the exact class is ten times as fast, and every node is asked
    return type(node) is cst.ClassDef and MARK in (node.get_docstring(clean=False) or "")


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


def _tree(text: str) -> tuple[cst.Module, dict[cst.CSTNode, Span]]:
    """The tree of a text that comes out of it unchanged, blank lines at its end left out."""
    module = _parse(text)
    code, spans = written(module)
    if code != text:
        # reason: libcst loses blank lines with spaces in them at the end; they hold no code
        text = _BLANK_END.sub(r"\1", text)
        module = _parse(text)
        code, spans = written(module)
    if code != text:
        line = len(_LINE_END.findall(text[: _first_difference(text, code)])) + 1
        raise SourceError(
            f"line {line} has a form feed, a lone carriage return or spaces that would not be "
            "kept: take them out, then run the command again"
        )
    return module, spans


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


class _Scopes:
    """What the visitor takes for its provider: it asks for contexts, and sets scopes."""

    def __init__(self, parsed: Parsed) -> None:
        self.scopes: dict[cst.CSTNode, Scope] = {}
        self._stored = frozenset(_stored(parsed))

    def get_metadata(self, key: object, node: cst.CSTNode, default: object) -> object:
        return ExpressionContext.STORE if node in self._stored else default

    def set_metadata(self, node: cst.CSTNode, value: Scope) -> None:
        self.scopes[node] = value


class _Visitor(ScopeVisitor):
    # reason: libcst's own walk goes through white space too, and builds every node anew
    def on_visit(self, node: cst.CSTNode) -> bool:
        if super().on_visit(node):
            found = parts(node)
            if isinstance(node, (cst.ExceptHandler, cst.ExceptStarHandler)):
                body, *before = found  # its fields are not in the order of the text
                found = [*before, body]
            for part in found:
                part.visit(self)
        return False


def _stored(parsed: Parsed) -> Iterator[cst.Name]:
    """The names that are assigned to."""
    targets: list[cst.BaseExpression] = []
    targets += [node.target for node in parsed.nodes(cst.AssignTarget)]
    targets += [node.target for node in parsed.nodes(cst.AnnAssign)]
    targets += [node.target for node in parsed.nodes(cst.AugAssign)]
    targets += [node.target for node in parsed.nodes(cst.NamedExpr)]
    targets += [node.target for node in parsed.nodes(cst.For)]
    targets += [node.target for node in parsed.nodes(cst.CompFor)]
    targets += [node.name for node in parsed.nodes(cst.AsName)]
    for target in targets:
        yield from _names_in(target)


def _names_in(target: cst.BaseExpression) -> Iterator[cst.Name]:
    if isinstance(target, cst.Name):
        yield target
    elif isinstance(target, (cst.Tuple, cst.List)):
        for element in target.elements:
            yield from _names_in(element.value)
