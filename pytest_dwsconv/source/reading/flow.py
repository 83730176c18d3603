"""Which of a file's convolutions an expression may stand for, through names, calls and loops."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.source.reading.names import Names
from pytest_dwsconv.source.reading.syntax import Parsed
from pytest_dwsconv.source.reading.values import (
    PARTS,
    Computed,
    Function,
    Key,
    Own,
    Parts,
    Values,
    all_parameters,
    is_self,
    names_given,
    positional_parameters,
)

_PROPERTY = (
    m.Name("property") | m.Name("cached_property") | m.Attribute(attr=m.Name("cached_property"))
)

_NOTED: tuple[type[cst.CSTNode], ...] = (
    cst.AnnAssign,
    cst.Assign,
    cst.AugAssign,
    cst.Call,
    cst.ClassDef,
    cst.CompFor,
    cst.DictElement,
    cst.For,
    cst.FunctionDef,
    cst.Lambda,
    cst.MatchAs,
    cst.NamedExpr,
    cst.Return,
    cst.Tuple,
    cst.WithItem,
    cst.Yield,
)
"""The kinds of nodes that make something hold something."""

_Bindings = Iterator[tuple[cst.BaseExpression, cst.BaseExpression]]


@dataclass(frozen=True)
class Reach:
    """The convolutions an expression may stand for; ``resolved`` if the file shows what it is."""

    calls: frozenset[cst.Call]
    resolved: bool


def _together(reached: Sequence[Reach]) -> Reach:
    calls = frozenset[cst.Call]().union(*(each.calls for each in reached))
    return Reach(calls, any(each.resolved for each in reached))


class Flow:
    """Flows of values in one file, whatever the order of its statements.

    A variable holds what its values mention, a class what is assigned to attributes of ``self``, a
    parameter what the file's own calls pass. ``modules()`` yields nothing: a walk over all modules
    meets the two parts of a replacement as well.
    """

    def __init__(self, parsed: Parsed, names: Names, convolutions: frozenset[cst.Call]) -> None:
        self._parsed = parsed
        self._values = Values(parsed, names, convolutions)
        self.convolutions = convolutions
        self._holds: dict[Key, set[Key]] = defaultdict(set)
        self._shared: dict[str, set[Key]] = defaultdict(set)  # what any class may have for its own
        self._passed: dict[Key, list[cst.BaseExpression]] = defaultdict(list)
        self._reached: dict[tuple[Key, bool], Reach] = {}
        for node in parsed.nodes(*_NOTED):
            self._note(node)

    # -- what is asked

    def reach_attribute(self, name: str, classes: Set[str] = frozenset()) -> Reach:
        """What an attribute of this name may stand for, of objects of these classes or of any."""
        keys: list[Key] = [name]
        if classes:
            keys = [Own(each, name) for each in self._values.families_named(classes)]
        return _together([self._reach_of(each, through_classes=False) for each in keys])

    def reach_attributes(self, pattern: str) -> frozenset[cst.Call]:
        """What the attributes may stand for of which the names, written or computed, match."""
        calls = frozenset[cst.Call]()
        for key in list(self._holds):
            name = key.pattern.replace(".*", "0") if isinstance(key, Computed) else key
            if isinstance(name, str) and re.fullmatch(pattern, name):
                calls |= self._reach_of(key, through_classes=False).calls
        return calls

    def reach(self, node: cst.BaseExpression, through_classes: bool = True) -> Reach:
        """What ``node`` may stand for.

        Not ``through_classes``: without the parts that objects of the file's own classes hold.
        """
        reached = [self._reach_of(key, through_classes) for key in set(self._values.sources(node))]
        return _together(reached)

    def handed(self, call: cst.Call) -> Iterator[tuple[cst.Arg, cst.Call]]:
        """The convolutions that a call is handed straight, if the file does not show what it runs.

        Those are written in its arguments, or come to the parameters of the function around it.
        """
        if self.shows(call):
            return
        for argument in call.args:
            for each in self._handed_in(call, argument.value):
                yield argument, each

    def shows(self, call: cst.Call) -> bool:
        """Whether the file shows what a call runs."""
        return self._values.defines(call.func)

    def _handed_in(self, call: cst.Call, value: cst.BaseExpression) -> Iterator[cst.Call]:
        if self._is_replaced(call, value):
            yield from self.reach(value, through_classes=False).calls
        for node in self._values.written(value):
            if node in self.convolutions:
                yield cst.ensure_type(node, cst.Call)
            elif isinstance(node, cst.Name):
                yield from self.convolutions.intersection(self._handed_to(node))

    def _is_replaced(self, call: cst.Call, value: cst.BaseExpression) -> bool:
        """Whether the result takes the place of an argument: ``self.conv = norm(self.conv)``.

        Of a variable that is given a convolution itself: ``x = self.conv(x)`` is not that.
        """
        assign = self._parsed.parents[call]
        if not isinstance(assign, cst.Assign):
            return False
        if isinstance(value, cst.Name):
            written = self._holds.get(self._values.key(value), set())
            is_module = not self.convolutions.isdisjoint(written)
        else:
            is_module = isinstance(value, cst.Attribute) and is_self(value.value)
        return is_module and any(each.target.deep_equals(value) for each in assign.targets)

    def _handed_to(self, name: cst.Name) -> set[Key]:
        """What calls in this file hand straight to the parameter that a name may be."""
        waiting = [self._values.key(name)]
        seen = set(waiting)
        while waiting:
            for value in self._passed.get(waiting.pop(), ()):
                for node in self._values.written(value):
                    key = self._values.key(node) if isinstance(node, cst.Name) else node
                    if key not in seen:
                        seen.add(key)
                        waiting.append(key)
        return seen

    def _reach_of(self, start: Key, through_classes: bool) -> Reach:
        if (start, through_classes) not in self._reached:
            seen = self._keys_from(start, through_classes)
            calls = self.convolutions.intersection(seen)
            resolved = any(isinstance(key, (cst.Call, cst.ClassDef, Parts)) for key in seen)
            self._reached[start, through_classes] = Reach(calls, resolved)
        return self._reached[start, through_classes]

    def _keys_from(self, start: Key, through_classes: bool) -> set[Key]:
        """Every key that one holds, directly or through others."""
        waiting = [start]
        name = start
        if isinstance(start, Own) and not self._holds.get(start):
            name = start.name
        if isinstance(name, str) and name not in self._holds:
            # the file sets no attribute of this written name: one with a computed name may be it
            waiting = self._computed(name)
        seen = {start, *waiting}
        while waiting:
            key = waiting.pop()
            if isinstance(key, cst.ClassDef) and not through_classes:
                continue
            fresh = self._held_by(key) - seen
            seen |= fresh
            waiting += fresh
        return seen

    def _held_by(self, key: Key) -> set[Key]:
        if not isinstance(key, Own):
            return self._holds.get(key, set())
        if not self._holds.get(key):
            # its classes set none, or None: another file's class may, or whoever has the object
            return {key.name}
        return self._holds[key] | self._shared.get(key.name, set())

    def _computed(self, name: str) -> list[Key]:
        found: list[Key] = []
        for key in self._holds:
            if isinstance(key, Computed) and re.fullmatch(key.pattern, name):
                found.append(key)
        return found

    # -- what holds what

    def _note(self, node: cst.CSTNode) -> None:
        for target, value in (*_assigned(node), *self._bound_by_blocks(node)):
            self._bind(target, value)
        if isinstance(node, cst.FunctionDef):
            self._note_property(node)
        elif isinstance(node, (cst.Return, cst.Yield)):
            self._note_result(node)
        elif isinstance(node, cst.Lambda):
            self._add(node, node.body)
        elif isinstance(node, (cst.DictElement, cst.Tuple)):
            self._note_named_item(node)
        elif isinstance(node, cst.ClassDef):
            self._note_class(node)
        elif isinstance(node, cst.Call):
            self._note_call(node)

    def _add(self, owner: Key, value: cst.CSTNode) -> None:
        """``owner`` may hold what the value is, or has in it."""
        sources = set(self._values.sources(value))
        self._holds[owner] |= sources
        if isinstance(owner, Own):
            self._holds[owner.name] |= sources
        elif isinstance(owner, str):
            self._shared[owner] |= sources

    def _bound_by_blocks(self, node: cst.CSTNode) -> _Bindings:
        """The names that ``with`` and ``match`` bind, with what they stand for."""
        if isinstance(node, cst.WithItem) and node.asname is not None:
            if isinstance(node.asname.name, cst.BaseExpression):
                yield node.asname.name, node.item
        elif isinstance(node, cst.MatchAs) and node.name is not None:
            match = self._parsed.enclosing(node, cst.Match)
            yield node.name, cst.ensure_type(match, cst.Match).subject

    def _bind(self, target: cst.BaseExpression, value: cst.BaseExpression) -> None:
        if isinstance(target, (cst.Tuple, cst.List)):
            parts = [element.value for element in target.elements]
            values = [value] * len(parts)
            # a, b = x, y part by part; where the numbers differ, each may be any of them
            if isinstance(value, (cst.Tuple, cst.List)) and len(value.elements) == len(parts):
                values = [element.value for element in value.elements]
            for part, its_value in zip(parts, values, strict=True):
                self._bind(part, its_value)
        elif isinstance(target, (cst.Subscript, cst.StarredElement)):
            self._bind(target.value, value)
        elif isinstance(target, (cst.Name, cst.Attribute)):
            self._add(self._values.place(target), value)
            if isinstance(target, cst.Attribute) and is_self(target.value):
                for owner in self._values.own_parts(target):
                    self._add(owner, value)

    def _note_property(self, node: cst.FunctionDef) -> None:
        """Reading a property runs its function, though nothing calls it."""
        if any(m.matches(each.decorator, _PROPERTY) for each in node.decorators):
            # reason: a function is what its results are, and not a value
            for held in (self._holds, self._shared):
                held[node.name.value].add(node)

    def _note_result(self, node: cst.Return | cst.Yield) -> None:
        function = self._parsed.enclosing(node, cst.FunctionDef, cst.Lambda)
        value = node.value.item if isinstance(node.value, cst.From) else node.value
        if function is not None and value is not None:
            self._add(function, value)

    def _note_class(self, node: cst.ClassDef) -> None:
        self._holds[node].add(Parts(node))
        for base in node.bases:
            inherited = self._values.class_named(base.value)
            if inherited is not None:
                self._holds[Parts(node)].add(Parts(inherited))

    def _note_named_item(self, node: cst.DictElement | cst.Tuple) -> None:
        """Modules make attributes of keys: ``ModuleDict({"a": x})``, ``Ordered([("a", x)])``."""
        if isinstance(node, cst.DictElement):
            key, value = node.key, node.value
        elif len(node.elements) == 2:
            key, value = node.elements[0].value, node.elements[1].value
        else:
            return
        if isinstance(key, cst.SimpleString):
            self._add(str(key.evaluated_value), value)

    def _note_call(self, node: cst.Call) -> None:
        self._pass_arguments(node)
        for owner in self._filled(node):
            for argument in node.args:
                self._add(owner, argument.value)

    def _filled(self, call: cst.Call) -> Iterator[Key]:
        """What may hold the arguments of a call afterwards.

        Attributes that it names in a string, the variable whose method is called, and ``self``.
        """
        yield from names_given(call)
        module: cst.BaseExpression | None = None
        if isinstance(call.func, cst.Attribute):
            receiver = call.func.value
            if isinstance(receiver, (cst.Name, cst.Attribute)) and not is_self(receiver):
                yield self._values.place(receiver)
            if call.func.attr.value in PARTS or call.func.attr.value == "__init__":
                module = receiver
        elif m.matches(call.func, m.Name("setattr")) and call.args:
            module = call.args[0].value
        if module is not None and m.matches(module, _SELF_OR_SUPER):
            yield from self._values.own_parts(call)

    # -- arguments

    def _pass_arguments(self, call: cst.Call) -> None:
        if not call.args:
            # reason: super().__init__() may run any constructor of the file, and there may be many
            return
        for function, skip in self._values.functions_called(call):
            self._pass(call, function, skip)
        # map(f, convs): a function that is handed on may get any of the other arguments
        for argument in call.args:
            for function in self._values.functions(argument.value):
                for parameter in all_parameters(function):
                    for other in call.args:
                        self._add(self._values.key(parameter), other.value)

    def _pass(self, call: cst.Call, function: Function, skip: int) -> None:
        """Give each parameter what the call passes to it; all of them what is not clear."""
        positional = positional_parameters(function)[skip:]
        every = all_parameters(function)
        for number, argument in enumerate(call.args):
            takers = every
            if argument.keyword is not None:
                keyword = argument.keyword.value
                takers = [name for name in every if name.value == keyword] or every
            elif not argument.star and number < len(positional):
                takers = [positional[number]]
            for name in takers:
                self._add(self._values.key(name), argument.value)
            if len(takers) == 1:
                self._passed[self._values.key(takers[0])].append(argument.value)


_SELF_OR_SUPER = m.Name("self") | m.Call(func=m.Name("super"))


def _assigned(node: cst.CSTNode) -> _Bindings:
    """The targets of an assignment or a loop, with the values that they get."""
    if isinstance(node, cst.Assign):
        for target in node.targets:
            yield target.target, node.value
    elif isinstance(node, (cst.AnnAssign, cst.AugAssign, cst.NamedExpr)):
        if node.value is not None:
            yield node.target, node.value
    elif isinstance(node, (cst.For, cst.CompFor)):
        yield node.target, node.iter
