"""Finds the places where a source file makes, or hands on, one of torch's convolutions."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, replace

import libcst as cst

from pytest_dwsconv.core.conv import ConvSpec, Trait
from pytest_dwsconv.core.rules import Judgement, Verdict
from pytest_dwsconv.source.calls import (
    CALLEES,
    Callee,
    is_depthwise_by_spelling,
    spec_of_call,
    unknown_spec,
)
from pytest_dwsconv.source.flow import Flow
from pytest_dwsconv.source.guards import done_to_all, unguarded_biases
from pytest_dwsconv.source.judging import by_rule
from pytest_dwsconv.source.names import Names
from pytest_dwsconv.source.parsing import Parsed, Span, below
from pytest_dwsconv.source.typechecks import members
from pytest_dwsconv.source.uses import judge_uses

_SKIP = re.compile(r"#\s*dws:\s*skip\b")
_CALL_WIDTH = 72
_TAKE_TYPES = frozenset({"builtins.isinstance", "builtins.issubclass", "typing.cast"})
_NOT_SEARCHED = (cst.Import, cst.ImportFrom, cst.Annotation)


@dataclass(frozen=True)
class Place:
    """One place: the call, or the class handed on. ``line`` and ``column`` count from 1.

    ``proved`` is what the file's text settles whatever the numbers are; ``callee`` is what a
    rewrite replaces.
    """

    line: int
    column: int
    spec: ConvSpec
    code: str
    callee: Span
    type_name: str
    proved: Judgement | None = None

    @property
    def is_call(self) -> bool:
        return Trait.REFERENCE not in self.spec.traits


@dataclass(frozen=True)
class Annotation:
    """A type written where only the results of ``calls`` (starts of their callees) ever are."""

    span: Span
    calls: tuple[int, ...]


def find_places(parsed: Parsed) -> tuple[list[Place], list[Annotation]]:
    """All places in their order, and the annotations that are about them; inserted classes are not
    searched.
    """
    finder = _Finder(parsed)
    return sorted(
        finder.places(), key=lambda place: (place.line, place.column)
    ), finder.annotations()


class _Finder:
    """Keeps each place by its node."""

    def __init__(self, parsed: Parsed) -> None:
        self._parsed = parsed
        self._names = Names(parsed, frozenset(CALLEES))
        self._places: dict[cst.CSTNode, Place] = {}
        searched = [*self._searched()]
        for node in searched:
            if isinstance(node, cst.Call):
                self._look_at_call(node)
        settled = {each for node in searched for each in self._settled(node)}
        for node in searched:
            if isinstance(node, (cst.Name, cst.Attribute)) and node not in settled:
                self._look_at_reference(node)

    def _searched(self) -> Iterator[cst.CSTNode]:
        """The nodes that may be places: not imports and annotations."""
        skipped: set[cst.CSTNode] = set()
        for node, parent in self._parsed.parents.items():
            if parent in skipped or isinstance(node, _NOT_SEARCHED):
                skipped.add(node)
            else:
                yield node

    def _settled(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """The names in a node that are not read as values, or are read for their type only."""
        if isinstance(node, cst.Call):
            if node in self._places:
                yield node.func
            elif self._names.qualified(node.func) in _TAKE_TYPES:
                yield from (each for argument in node.args for each in members(argument.value))
        elif isinstance(node, cst.MatchClass):
            yield node.cls
        elif isinstance(node, cst.Attribute):
            # reason: an attribute of the class, as in nn.Conv2d.forward
            yield from (node.value, node.attr)
        elif isinstance(node, cst.Comparison):
            for operand in (node.left, *(target.comparator for target in node.comparisons)):
                yield from members(operand)
        else:
            yield from _bound(node)

    # -- places

    def _look_at_call(self, node: cst.Call) -> None:
        meant = self._names.meant(node.func)
        if meant is None or meant[0] not in CALLEES:
            return
        callee = CALLEES[meant[0]]
        proved = by_rule("DWS107") if callee.functional else None
        if is_depthwise_by_spelling(node, callee):
            proved = by_rule("DWS105")
        self._add(
            node,
            node.func,
            spec_of_call(node, callee, self._names),
            proved or self._unclear(node.func),
        )

    def _look_at_reference(self, node: cst.Name | cst.Attribute) -> None:
        callee = self._callee(node)
        if callee is not None and not callee.functional:
            self._add(node, node, unknown_spec(callee, (Trait.REFERENCE,)))

    def _callee(self, node: cst.BaseExpression) -> Callee | None:
        meant = self._names.meant(node)
        return CALLEES.get(meant[0]) if meant is not None else None

    def _unclear(self, node: cst.BaseExpression) -> Judgement | None:
        if self._names.qualified(node) is not None:
            return None
        code = self._parsed.code(node)
        return by_rule(
            "DWS205",
            f"{code} may be something else than PyTorch's: this file binds it, or part of it, "
            "twice",
        )

    def _add(
        self,
        node: cst.BaseExpression,
        callee: cst.BaseExpression,
        spec: ConvSpec,
        proved: Judgement | None = None,
    ) -> None:
        start = self._parsed.positions[node].start
        meant = self._names.meant(callee)
        self._places[node] = Place(
            line=start.line,
            column=start.column + 1,
            spec=spec,
            code=_one_line(self._parsed.code(node)),
            callee=self._parsed.span(callee),
            type_name=meant[0].rpartition(".")[2] if meant is not None else "",
            proved=proved,
        )

    # -- the result

    def places(self) -> Iterator[Place]:
        calls = [
            node
            for node, place in self._places.items()
            if isinstance(node, cst.Call) and place.is_call
        ]
        uses = (
            judge_uses(self._parsed, self._names, Flow(self._parsed, self._names, frozenset(calls)))
            if calls
            else {}
        )
        alike = self._done_to_all() if calls else {}
        skipped = _skipped_lines(self._parsed.text)
        for node, place in self._places.items():
            proved = place.proved or uses.get(node) or alike.get(place.spec.rank)
            position = self._parsed.positions[node]
            ignored = not skipped.isdisjoint(range(position.start.line, position.end.line + 1))
            unclear = proved is not None and proved.verdict is Verdict.CANNOT_TELL
            traits = (*place.spec.traits, *[Trait.IGNORED] * ignored, *[Trait.LEFT_OPEN] * unclear)
            yield replace(place, spec=replace(place.spec, traits=traits), proved=proved)

    def _done_to_all(self) -> dict[int, Judgement]:
        """By the dimensions of the convolutions that some code changes, or takes the bias of for
        granted.
        """
        found: dict[int, Judgement] = {}
        for one in done_to_all(self._parsed, self._names):
            found |= dict.fromkeys(
                one.ranks, by_rule("DWS110", f"line {self._parsed.line(one.node)} {one.what}")
            )
        for bias in unguarded_biases(self._parsed, self._names):
            reason = (
                f"line {self._parsed.line(bias.attribute)} takes the bias of every such "
                "convolution, and a depthwise "
                f"part has none: let it ask whether {bias.name}.bias is not None"
            )
            found |= dict.fromkeys(bias.ranks, by_rule("DWS110", reason))
        return found

    def annotations(self) -> list[Annotation]:
        return [
            Annotation(self._parsed.span(written), calls)
            for written, values in self._annotated()
            if self._callee(written) is not None and (calls := self._calls(values))
        ]

    def _annotated(self) -> Iterator[tuple[cst.BaseExpression, list[cst.BaseExpression | None]]]:
        """The types written for variables and results, with all the values that those get."""
        for node in self._parsed.parents:
            if isinstance(node, cst.AnnAssign) and node.value is not None:
                yield node.annotation.annotation, [node.value]
            elif isinstance(node, cst.FunctionDef) and node.returns is not None:
                yield node.returns.annotation, [*self._returned(node)]

    def _returned(self, function: cst.FunctionDef) -> Iterator[cst.BaseExpression | None]:
        """The returned expressions, those of functions inside it left out."""
        for node in below(function):
            if isinstance(node, cst.Return):
                above = (
                    each
                    for _, each in self._parsed.ancestors(node)
                    if isinstance(each, cst.FunctionDef)
                )
                if next(above) is function:
                    yield node.value

    def _calls(self, values: list[cst.BaseExpression | None]) -> tuple[int, ...]:
        """The starts of the callees, where all the values are places; else none."""
        places = [self._places.get(value) if value is not None else None for value in values]
        starts = tuple(place.callee[0] for place in places if place is not None and place.is_call)
        return starts if len(starts) == len(values) else ()


def _bound(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The names that a node binds or only labels something with: they are not read."""
    if isinstance(
        node, (cst.AssignTarget, cst.AnnAssign, cst.AugAssign, cst.For, cst.CompFor, cst.NamedExpr)
    ):
        yield from members(node.target)
    elif isinstance(node, (cst.FunctionDef, cst.ClassDef, cst.Param, cst.AsName, cst.NameItem)):
        yield node.name
    elif isinstance(node, cst.Arg) and node.keyword is not None:
        yield node.keyword
    elif isinstance(node, cst.Del):
        yield from members(node.target)


def _skipped_lines(text: str) -> set[int]:
    if not _SKIP.search(text):
        return set()
    tokens = tokenize.generate_tokens(io.StringIO(text, newline="").readline)
    return {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and _SKIP.search(token.string)
    }


def _one_line(code: str) -> str:
    line = re.sub(r"\s+", " ", re.sub(r"#.*", "", code))
    line = re.sub(r"(?<=[(\[]) | (?=[)\]])|,(?= ?[)\]]$)", "", line)
    return line if len(line) <= _CALL_WIDTH else f"{line[: _CALL_WIDTH - 3]}..."
