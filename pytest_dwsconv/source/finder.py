"""Finds the places where a source file makes, or hands on, one of torch's convolutions."""

# ruff: noqa: N802  # libcst finds a visitor's methods by the names of its node types

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import libcst as cst
import libcst.matchers as m
from libcst.metadata import CodeRange, ExpressionContext, ExpressionContextProvider, PositionProvider

from pytest_dwsconv.conv import ConvSpec, Trait
from pytest_dwsconv.rules import Judgement
from pytest_dwsconv.source.calls import CALLEES, Callee, is_depthwise_by_spelling, spec_of_call, unknown_spec
from pytest_dwsconv.source.guards import unguarded_bias
from pytest_dwsconv.source.judging import by_rule
from pytest_dwsconv.source.names import Names
from pytest_dwsconv.source.parsing import Parsed, Span
from pytest_dwsconv.source.template import MARK

_SKIP = re.compile(r"#\s*dws:\s*skip\b")
_CALL_WIDTH = 72
_TAKE_TYPES = frozenset({"builtins.isinstance", "builtins.issubclass", "typing.cast"})
_REPARAMETRIZE = re.compile(r"torch\.nn\.utils\.(parametriz\w+\.)?(\w+_norm|orthogonal|register_parametrization)")


_NAME_AND_TYPES = m.Call(args=[m.Arg(m.Name()), m.Arg()])


@dataclass(frozen=True)
class Place:
    """One place: the call, or the class handed on. ``line`` and ``column`` count from 1.

    ``proved`` is what the file's text settles whatever the numbers are; ``callee`` is what a rewrite replaces.
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
    """All places in their order, and the annotations that are about them; inserted classes are not searched."""
    finder = _Finder(parsed)
    parsed.module.visit(finder)
    return sorted(finder.places(), key=lambda place: (place.line, place.column)), finder.annotations()


def is_inserted(node: cst.ClassDef) -> bool:
    """Whether a class is one that an earlier run inserted."""
    return MARK in (node.get_docstring(clean=False) or "")


class _Finder(cst.CSTVisitor):
    """``_settled`` holds the nodes that are no place of their own."""

    def __init__(self, parsed: Parsed) -> None:
        self._parsed = parsed
        self._names = Names(parsed.wrapper, frozenset(CALLEES))
        self._positions: Mapping[cst.CSTNode, CodeRange] = parsed.wrapper.resolve(PositionProvider)
        self._contexts = parsed.wrapper.resolve(ExpressionContextProvider)
        self._settled: set[cst.CSTNode] = set()
        self._places: dict[cst.CSTNode, Place] = {}
        self._targets: dict[cst.CSTNode, str] = {}
        self._annotated: list[tuple[cst.BaseExpression, list[cst.BaseExpression | None]]] = []
        self._reparametrized: set[cst.CSTNode | str] = set()
        self._weight_used: dict[str, Judgement] = {}
        self._skipped_lines: set[int] = set()
        self._bias_taken: dict[int, Judgement] = {}

    # -- what is no place: imports, types, comparisons of types, what an earlier run inserted

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:
        return not is_inserted(node)

    def visit_Import(self, node: cst.Import) -> bool:
        return False

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        return False

    def visit_Annotation(self, node: cst.Annotation) -> bool:
        return False

    def visit_MatchClass(self, node: cst.MatchClass) -> None:
        self._settled.add(node.cls)

    def visit_Comparison(self, node: cst.Comparison) -> None:
        for operand in (node.left, *(target.comparator for target in node.comparisons)):
            self._settled.update(_members(operand))

    # -- what is known from elsewhere in the file

    def visit_If(self, node: cst.If) -> None:
        for name, types in self._type_checks(node.test):
            bias = unguarded_bias(node, name)
            if bias is None:
                continue
            reason = (
                f"line {self._line(bias)} takes the bias of every such convolution, and a depthwise part has none: "
                f"let it ask whether {name}.bias is not None"
            )
            callees = [callee for each in _members(types) if (callee := self._callee(each)) is not None]
            ranks = [callee.rank for callee in callees if not callee.transposed]
            self._bias_taken |= dict.fromkeys(ranks, by_rule("DWS110", reason))

    def _type_checks(self, test: cst.BaseExpression) -> Iterator[tuple[str, cst.BaseExpression]]:
        """The names and types of ``isinstance(name, types)`` in a condition."""
        for call in (cst.ensure_type(each, cst.Call) for each in m.findall(test, _NAME_AND_TYPES)):
            if self._names.qualified(call.func) == "builtins.isinstance":
                yield cst.ensure_type(call.args[0].value, cst.Name).value, call.args[1].value

    def visit_Comment(self, node: cst.Comment) -> None:
        if _SKIP.search(node.value):
            self._skipped_lines.add(self._line(node))

    def visit_Assign(self, node: cst.Assign) -> None:
        for target in node.targets:
            self._note_target(target.target, node.value)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:
        if node.value is not None:
            self._note_target(node.target, node.value)
            self._annotated.append((node.annotation.annotation, [node.value]))

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        if node.returns is not None:
            self._annotated.append((node.returns.annotation, _returned(node)))

    def _note_target(self, target: cst.BaseExpression, value: cst.BaseExpression) -> None:
        name = _last_name(target)
        while m.matches(value, m.Call(func=m.Attribute(value=m.Call()))):  # nn.Conv2d(...).to(dtype)
            if name is not None:
                self._targets[value] = name
            value = cst.ensure_type(cst.ensure_type(value, cst.Call).func, cst.Attribute).value
        if name is not None:
            self._targets[value] = name

    def _note_reparametrized(self, node: cst.BaseExpression) -> None:
        self._reparametrized.add(_last_name(node) or node)

    def _line(self, node: cst.CSTNode) -> int:
        return self._positions[node].start.line

    # -- places

    def visit_Call(self, node: cst.Call) -> None:
        qualified = self._names.qualified(node.func) or ""
        if qualified in CALLEES:
            self._settled.add(node.func)
            self._add_call(node, CALLEES[qualified])
        elif qualified in _TAKE_TYPES:
            for argument in node.args:
                self._settled.update(_members(argument.value))
        elif _REPARAMETRIZE.fullmatch(qualified) and node.args:
            self._note_reparametrized(node.args[0].value)

    def visit_Attribute(self, node: cst.Attribute) -> None:
        if self._callee(node.value) is not None:
            self._settled.add(node.value)  # an attribute of the class, as in nn.Conv2d.forward
        owner = _last_name(node.value)
        if node.attr.value == "weight" and owner is not None:
            reason = f"line {self._line(node)} uses its weight by name, and a replacement has none of its own"
            self._weight_used[owner] = by_rule("DWS110", reason)
        self._add_reference(node)

    def visit_Name(self, node: cst.Name) -> None:
        self._add_reference(node)

    def _callee(self, node: cst.BaseExpression) -> Callee | None:
        if not isinstance(node, (cst.Name, cst.Attribute)):
            return None
        return CALLEES.get(self._names.qualified(node) or "")

    def _add_call(self, node: cst.Call, callee: Callee) -> None:
        spec = spec_of_call(node, callee, self._names)
        proved = by_rule("DWS107") if callee.functional else None
        if is_depthwise_by_spelling(node, callee):
            proved = by_rule("DWS105")
        self._add(node, node.func, spec, proved)

    def _add_reference(self, node: cst.Name | cst.Attribute) -> None:
        callee = self._callee(node)
        if node in self._settled or callee is None or callee.functional:
            return
        if self._contexts.get(node) is ExpressionContext.LOAD:
            self._add(node, node, unknown_spec(callee, (Trait.REFERENCE,)))

    def _add(
        self,
        node: cst.BaseExpression,
        callee: cst.BaseExpression,
        spec: ConvSpec,
        proved: Judgement | None = None,
    ) -> None:
        start = self._positions[node].start
        self._places[node] = Place(
            line=start.line,
            column=start.column + 1,
            spec=spec,
            code=_one_line(self._parsed.module.code_for_node(node)),
            callee=self._parsed.span(self._positions[callee]),
            type_name=(self._names.qualified(callee) or "").rpartition(".")[2],
            proved=proved,
        )

    # -- the result

    def places(self) -> Iterator[Place]:
        for node, place in self._places.items():
            traits = (*place.spec.traits, *self._more_traits(node))
            proved = place.proved or self._weight_used.get(self._targets.get(node, ""))
            proved = proved or self._bias_taken.get(place.spec.rank)
            yield replace(place, spec=replace(place.spec, traits=traits), proved=proved)

    def _more_traits(self, node: cst.CSTNode) -> Iterator[Trait]:
        position = self._positions[node]
        if not self._skipped_lines.isdisjoint(range(position.start.line, position.end.line + 1)):
            yield Trait.IGNORED
        if node in self._reparametrized or self._targets.get(node) in self._reparametrized:
            yield Trait.REPARAMETRIZED

    def annotations(self) -> list[Annotation]:
        return [
            Annotation(self._parsed.span(self._positions[written]), calls)
            for written, values in self._annotated
            if self._callee(written) is not None and (calls := self._calls(values))
        ]

    def _calls(self, values: list[cst.BaseExpression | None]) -> tuple[int, ...]:
        """The starts of the callees, where all the values are places; else none."""
        places = [self._places.get(value) if value is not None else None for value in values]
        starts = tuple(place.callee[0] for place in places if place is not None and place.is_call)
        return starts if len(starts) == len(values) else ()


class _Returns(cst.CSTVisitor):
    """The returned expressions of one function, those of functions inside it left out."""

    def __init__(self, function: cst.FunctionDef) -> None:
        self._function = function
        self.values: list[cst.BaseExpression | None] = []

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        return node is self._function

    def visit_Return(self, node: cst.Return) -> None:
        self.values.append(node.value)


def _returned(function: cst.FunctionDef) -> list[cst.BaseExpression | None]:
    returns = _Returns(function)
    function.visit(returns)
    return returns.values


def _members(node: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    """The expression itself and, of a tuple, list or set, or of a union of types, its members."""
    yield node
    if isinstance(node, (cst.Tuple, cst.List, cst.Set)):
        for element in node.elements:
            yield from _members(element.value)
    elif isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.BitOr):
        yield from _members(node.left)
        yield from _members(node.right)


def _last_name(node: cst.BaseExpression) -> str | None:
    """``conv`` of ``conv`` and of ``self.conv``."""
    if isinstance(node, cst.Attribute):
        return node.attr.value
    return node.value if isinstance(node, cst.Name) else None


def _one_line(code: str) -> str:
    line = re.sub(r"\s+", " ", re.sub(r"#.*", "", code))
    line = re.sub(r"(?<=[(\[]) | (?=[)\]])|,(?= ?[)\]]$)", "", line)
    return line if len(line) <= _CALL_WIDTH else f"{line[: _CALL_WIDTH - 3]}..."
