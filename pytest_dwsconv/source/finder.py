"""Finds the places where a source file makes, or hands on, one of torch's convolutions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.core.conv import ConvSpec, Trait
from pytest_dwsconv.core.rules import CANDIDATE_CODE, Judgement, Verdict
from pytest_dwsconv.source.callables import Callables
from pytest_dwsconv.source.loops import changes_to_all
from pytest_dwsconv.source.reading.calls import (
    CALLEES,
    Callee,
    is_depthwise_by_spelling,
    specs_of_call,
    unknown_spec,
)
from pytest_dwsconv.source.reading.comments import noqa_codes, skipped_lines
from pytest_dwsconv.source.reading.constants import Constants
from pytest_dwsconv.source.reading.flow import Flow
from pytest_dwsconv.source.reading.names import Names
from pytest_dwsconv.source.reading.syntax import Parsed, below
from pytest_dwsconv.source.sites import Fusion, Place, by_rule
from pytest_dwsconv.source.template import GUARD
from pytest_dwsconv.source.typechecks import members
from pytest_dwsconv.source.uses import judge_uses

_CODE_WIDTH = 72
_GUARDED = m.Call(func=m.Attribute(attr=m.Name(GUARD)))
_TAKE_TYPES = frozenset({"builtins.isinstance", "builtins.issubclass", "typing.cast"})
_NOT_SEARCHED: tuple[type[cst.CSTNode], ...] = (cst.Import, cst.ImportFrom, cst.Annotation)

_BINDING = (
    cst.AssignTarget,
    cst.AnnAssign,
    cst.AugAssign,
    cst.For,
    cst.CompFor,
    cst.NamedExpr,
    cst.Del,
)
_SETTLING: tuple[type[cst.CSTNode], ...] = (
    *_BINDING,
    cst.Arg,
    cst.AsName,
    cst.Attribute,
    cst.Call,
    cst.ClassDef,
    cst.Comparison,
    cst.FunctionDef,
    cst.MatchClass,
    cst.NameItem,
    cst.Param,
)
"""The kinds of nodes that have names in them that are not read as values."""


def find_places(
    parsed: Parsed, path: Path | None = None, fusions: Sequence[Fusion] = ()
) -> list[Place]:
    """All places in their order; inserted classes are skipped.

    What other files define is looked up from ``path``, where the text is that of a file;
    ``fusions`` are what they do to the objects of this one.
    """
    return _places(parsed, Callables(path, judge_last), fusions)


def _places(parsed: Parsed, callables: Callables, fusions: Sequence[Fusion] = ()) -> list[Place]:
    places = _Finder(parsed, callables, fusions).places()
    return sorted(places, key=lambda place: (place.line, place.column))


def judge_last(text: str, callables: Callables) -> Judgement | None:
    """What stands against a replacement of the last convolution of a text."""
    return _places(Parsed(text), callables)[-1].proved


class _Finder:
    """Keeps each place by its node."""

    def __init__(self, parsed: Parsed, callables: Callables, fusions: Sequence[Fusion]) -> None:
        self._parsed = parsed
        self._fusions = fusions
        self._callables = callables
        self._names = Names(parsed, frozenset(CALLEES))
        self._constants = Constants(parsed, self._names)
        self._places: dict[cst.CSTNode, Place] = {}
        self._calls: dict[cst.CSTNode, list[cst.Call]] = {}  # of a class that is not called itself
        self._find()

    def _find(self) -> None:
        """Look at every call, and at every name that is neither called nor bound."""
        parsed = self._parsed
        settled: set[cst.CSTNode] = set()
        for skipped in parsed.nodes(*_NOT_SEARCHED):
            settled.update(below(skipped))
        for call in parsed.nodes(cst.Call):
            if call not in settled:
                self._look_at_call(call)
        for node in parsed.nodes(*_SETTLING):
            settled.update(self._settled(node))
        for name in (*parsed.nodes(cst.Name), *parsed.nodes(cst.Attribute)):
            if name not in settled and not self._look_at_partial(name):
                self._look_at_reference(name)

    def _settled(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """The names in a node that are not read as values, or are read for their type only."""
        if node in self._places or (isinstance(node, cst.Call) and self._is_guarded(node)):
            yield cst.ensure_type(node, cst.Call).func
        elif isinstance(node, cst.Call) and self._names.certain_name(node.func) in _TAKE_TYPES:
            for argument in node.args:
                yield from members(argument.value)
        elif isinstance(node, cst.MatchClass):
            yield node.cls
        elif isinstance(node, cst.Attribute):
            # reason: an attribute of the class, as in nn.Conv2d.forward
            yield from (node.value, node.attr)
        elif isinstance(node, cst.Comparison):
            yield from members(node.left)
            for target in node.comparisons:
                yield from members(target.comparator)
        else:
            yield from _bound(node)

    # -- places

    def _look_at_call(self, node: cst.Call) -> None:
        callee = self._callee(node.func)
        if callee is None or self._is_guarded(node):
            return
        if is_depthwise_by_spelling(node.args, callee, self._constants):
            proved = by_rule("DWS105")
        elif callee.functional:
            proved = by_rule("DWS107")
        elif self._names.certain_name(node.func) is None:
            proved = by_rule(
                "DWS205",
                f"{self._parsed.code(node.func)} may be something else than PyTorch's: this file "
                "binds it, or part of it, twice",
            )
        else:
            proved = None
        specs = specs_of_call(node.args, callee, self._constants)
        self._add(node, node.func, specs, proved)

    def _is_guarded(self, node: cst.Call) -> bool:
        """Whether an earlier run left it to ``where_it_saves``."""
        argument = self._parsed.parents[node]
        if not isinstance(argument, cst.Arg):
            return False
        return m.matches(self._parsed.parents[argument], _GUARDED)

    def _look_at_reference(self, node: cst.BaseExpression) -> None:
        callee = self._callee(node)
        if callee is not None and not callee.functional:
            self._add(node, node, [unknown_spec(callee, (Trait.REFERENCE,))])

    def _look_at_partial(self, node: cst.BaseExpression) -> bool:
        """``conv3 = partial(nn.Conv2d, kernel_size=3)``, if that name is only ever called."""
        callee = self._callee(node)
        partial = self._parsed.parents.get(self._parsed.parents[node])
        if callee is None or callee.functional or not isinstance(partial, cst.Call):
            return False
        if self._names.certain_name(partial.func) != "functools.partial":
            return False
        calls = self._calls_of_partial(partial) if partial.args[0].value is node else []
        if any(self._is_guarded(call) for call in calls):
            return True
        specs: list[ConvSpec] = []
        for call in calls:
            # the call's keywords come last, and go before the partial's
            specs += specs_of_call([*partial.args[1:], *call.args], callee, self._constants)
        if specs:
            self._add(node, node, specs)
            self._calls[node] = calls
            spans = [self._parsed.span(call) for call in calls]
            begins = tuple(self._parsed.place(start) for start, _ in spans)
            self._places[node] = replace(self._places[node], calls=tuple(spans), called_at=begins)
        return bool(specs)

    def _calls_of_partial(self, partial: cst.Call) -> list[cst.Call]:
        """The calls of the name that it is assigned to; none if that is used in other ways too."""
        assign = self._parsed.parents[partial]
        if not (isinstance(assign, cst.Assign) and len(assign.targets) == 1):
            return []
        target = assign.targets[0].target
        if not isinstance(target, cst.Name) or self._names.value(target) is not partial:
            return []
        calls = []
        for name in self._parsed.nodes(cst.Name):
            if name.value != target.value or name is target:
                continue
            call = self._parsed.parents[name]
            if not (isinstance(call, cst.Call) and call.func is name):
                return []
            calls.append(call)
        return calls

    def _callee(self, node: cst.BaseExpression) -> Callee | None:
        return CALLEES.get(self._names.possible_name(node) or "")

    def _add(
        self,
        node: cst.BaseExpression,
        callee: cst.BaseExpression,
        specs: list[ConvSpec],
        proved: Judgement | None = None,
    ) -> None:
        line, column = self._parsed.place(self._parsed.span(node)[0])
        self._places[node] = Place(
            line=line,
            column=column,
            specs=tuple(specs),
            code=_one_line(self._parsed.code(node)),
            calls=(self._parsed.span(node),) if isinstance(node, cst.Call) else (),
            callee=self._parsed.span(callee),
            proved=proved,
        )

    # -- the result

    def places(self) -> Iterator[Place]:
        if not self._places:
            return
        flow = self._flow()
        uses, changes = self._judgements_by_use(flow) if flow.convolutions else ({}, {})
        uses = {**self._fused(flow), **uses}
        skipped, noqa = skipped_lines(self._parsed), noqa_codes(self._parsed)
        for node, place in self._places.items():
            proved = place.proved
            for call in self._calls.get(node, [node]):
                proved = proved or uses.get(call)
            proved = proved or changes.get(place.spec.rank)
            traits: list[Trait] = []
            last, _ = self._parsed.place(self._parsed.span(node)[1])
            silenced: tuple[str, ...] = ()
            for line in range(place.line, last + 1):
                silenced += noqa.get(line, ())
            is_skipped = bool(skipped.intersection(range(place.line, last + 1)))
            if is_skipped or CANDIDATE_CODE.startswith(silenced):
                traits.append(Trait.IGNORED)
            if proved is not None and proved.verdict is Verdict.CANNOT_TELL:
                traits.append(Trait.LEFT_OPEN)
            yield place.settled(traits, proved, silenced)

    def _fused(self, flow: Flow) -> dict[cst.CSTNode, Judgement]:
        """What other files do to attributes of objects, by the calls that may be these."""
        found: dict[cst.CSTNode, Judgement] = {}
        for fusion in self._fusions:
            for call in flow.reach_attribute(fusion.attribute, fusion.classes).calls:
                found.setdefault(call, fusion.judgement)
        return found

    def _flow(self) -> Flow:
        """How the calls that make convolutions flow through the file."""
        calls: set[cst.Call] = set()
        for node, place in self._places.items():
            if isinstance(node, cst.Call) and place.is_call:
                calls.add(node)
            calls.update(self._calls.get(node, []))
        return Flow(self._parsed, self._names, frozenset(calls))

    def _judgements_by_use(
        self, flow: Flow
    ) -> tuple[Mapping[cst.CSTNode, Judgement], Mapping[int, Judgement]]:
        """What the file does with its convolutions: judgements by call, and by rank for all."""
        uses = judge_uses(self._parsed, self._names, flow, self._callables)
        return uses, {} if self._callables.from_elsewhere else self._judge_changes()

    def _judge_changes(self) -> dict[int, Judgement]:
        """By rank: what the file does to every convolution that a replacement cannot take."""
        found: dict[int, Judgement] = {}
        for change in changes_to_all(self._parsed, self._names):
            judgement = by_rule("DWS110", f"line {self._parsed.line(change.node)} {change.what}")
            found |= dict.fromkeys(change.ranks, judgement)
        return found


def _bound(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The names that a node binds or only labels something with: they are not read."""
    if isinstance(node, _BINDING):
        yield from members(node.target)
    elif isinstance(node, (cst.FunctionDef, cst.ClassDef, cst.Param, cst.AsName, cst.NameItem)):
        yield node.name
    elif isinstance(node, cst.Arg) and node.keyword is not None:
        yield node.keyword


def _one_line(code: str) -> str:
    """The code of a call for a message: no comments, no line ends, at most 72 characters."""
    line = re.sub(r"\s+", " ", re.sub(r"#.*", "", code))
    # what breaking a call over several lines leaves: spaces inside brackets, a trailing comma
    line = re.sub(r"(?<=[(\[]) | (?=[)\]])|,(?= ?[)\]]$)", "", line)
    return line if len(line) <= _CODE_WIDTH else f"{line[: _CODE_WIDTH - 3]}..."
