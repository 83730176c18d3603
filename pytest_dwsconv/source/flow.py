"""Which of a file's convolutions an expression may stand for: followed through names, containers,
calls and loops.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import libcst as cst
import libcst.matchers as m
from libcst.metadata import ClassScope

from pytest_dwsconv.source.names import Binding, Names
from pytest_dwsconv.source.parsing import Parsed

_Function = cst.FunctionDef | cst.Lambda


class _Parts(NamedTuple):
    """What an object of a class of the file has in it."""

    of: cst.ClassDef


class _Computed(NamedTuple):
    """The attributes whose names a pattern matches, as ``c.*`` those that ``setattr(self, f"c{i}",
    x)`` sets.
    """

    pattern: str


_Key = str | Binding | cst.CSTNode | _Parts | _Computed
"""An attribute by its name, a variable, a call, or a function or class of the file, which stands
for its objects.
"""

_WALKS = frozenset({"modules", "named_modules"})
_PARTS = frozenset(
    "children named_children get_submodule append extend insert add_module register_module".split()
)
_SELF_OR_PARTS = _PARTS | frozenset(
    "to cuda cpu half float double bfloat16 type train eval requires_grad_ apply share_memory "
    "items values keys get "
    "pop copy setdefault".split()
)
"""Methods of modules and containers whose result is the object itself or what it holds."""

_PROPERTY = (
    m.Name("property") | m.Name("cached_property") | m.Attribute(attr=m.Name("cached_property"))
)

_TAKE_A_NAME = frozenset("getattr setattr add_module register_module get_submodule".split())


_SET_A_NAME = frozenset("setattr add_module register_module".split())
_TEXT = (
    m.FormattedString()
    | m.BinaryOperation(operator=m.Add() | m.Modulo())
    | m.Call(func=m.Attribute(attr=m.Name("format")))
)


@dataclass(frozen=True)
class Reach:
    """What an expression may stand for: these convolutions, and whether the file shows what else it
    may be.
    """

    calls: frozenset[cst.Call]
    resolved: bool


class Flow:
    """Flows of values in one file, whatever the order of its statements.

    A variable holds what its values mention, a class what is assigned to attributes of ``self``, a
    parameter what the file's own calls pass. Attributes are told apart by their last name only.
    ``modules()`` yields nothing: a walk over all modules meets the two parts of a replacement as
    well.
    """

    def __init__(self, parsed: Parsed, names: Names, convolutions: frozenset[cst.Call]) -> None:
        self._parsed = parsed
        self._names = names
        self.convolutions = convolutions
        self._holds: dict[_Key, set[_Key]] = defaultdict(set)
        self._functions: dict[_Key, list[_Function]] = defaultdict(list)
        self._classes: dict[_Key, cst.ClassDef] = {}
        self._reached: dict[tuple[_Key, bool], Reach] = {}
        for node in parsed.parents:
            self._define(node)
        for node in parsed.parents:
            note = _NOTES.get(type(node))
            if note is not None:
                note(self, node)

    def reach_attribute(self, name: str) -> Reach:
        """What an attribute of this name may stand for."""
        return self._reach_of(name, False)

    def reach(self, node: cst.BaseExpression, through_classes: bool = True) -> Reach:
        """What ``node`` may stand for; not ``through_classes``: without the parts of the file's own
        modules.
        """
        reached = [self._reach_of(key, through_classes) for key in set(self._sources(node))]
        calls = frozenset[cst.Call]().union(*(each.calls for each in reached))
        return Reach(calls, any(each.resolved for each in reached))

    def _reach_of(self, start: _Key, through_classes: bool) -> Reach:
        if (start, through_classes) not in self._reached:
            unset = isinstance(start, str) and not self._holds.get(start)
            waiting = self._computed(str(start)) if unset else [start]
            seen = {start, *waiting}
            while waiting:
                key = waiting.pop()
                if not isinstance(key, cst.ClassDef) or through_classes:
                    fresh = self._holds.get(key, set()) - seen
                    seen |= fresh
                    waiting += fresh
            calls = self.convolutions.intersection(seen)
            resolved = any(isinstance(key, (cst.Call, cst.ClassDef, _Parts)) for key in seen)
            self._reached[start, through_classes] = Reach(calls, resolved)
        return self._reached[start, through_classes]

    def _computed(self, name: str) -> list[_Key]:
        """What may set an attribute that the file sets under no name written in it."""
        return [
            key
            for key in self._holds
            if isinstance(key, _Computed) and re.fullmatch(key.pattern, name)
        ]

    # -- what the file defines

    def _define(self, node: cst.CSTNode) -> None:
        if isinstance(node, cst.FunctionDef):
            self._functions[self._key(node.name)].append(node)
            if any(m.matches(each.decorator, _PROPERTY) for each in node.decorators):
                self._holds[self._key(node.name)].add(node)
        elif isinstance(node, cst.ClassDef):
            self._classes[self._key(node.name)] = node
        elif isinstance(node, cst.Assign) and isinstance(node.value, cst.Lambda):
            for target in node.targets:
                if isinstance(target.target, (cst.Name, cst.Attribute)):
                    self._functions[self._key(target.target)].append(node.value)

    # -- what holds what

    def _note_assign(self, node: cst.Assign) -> None:
        for target in node.targets:
            self._bind(target.target, node.value)

    def _note_annotated(self, node: cst.AnnAssign) -> None:
        if node.value is not None:
            self._bind(node.target, node.value)

    def _note_augmented(self, node: cst.AugAssign | cst.NamedExpr) -> None:
        self._bind(node.target, node.value)

    def _note_loop(self, node: cst.For | cst.CompFor) -> None:
        self._bind(node.target, node.iter)

    def _note_with(self, node: cst.WithItem) -> None:
        if node.asname is not None and isinstance(node.asname.name, cst.BaseExpression):
            self._bind(node.asname.name, node.item)

    def _note_match(self, node: cst.MatchAs) -> None:
        match = next(
            above for _, above in self._parsed.ancestors(node) if isinstance(above, cst.Match)
        )
        if node.name is not None:
            self._bind(node.name, match.subject)

    def _note_return(self, node: cst.Return | cst.Yield) -> None:
        function = self._enclosing(node, cst.FunctionDef, cst.Lambda)
        value = node.value.item if isinstance(node.value, cst.From) else node.value
        if function is not None and value is not None:
            self._holds[function].update(self._sources(value))

    def _note_lambda(self, node: cst.Lambda) -> None:
        self._holds[node].update(self._sources(node.body))

    def _note_class(self, node: cst.ClassDef) -> None:
        self._holds[node].add(_Parts(node))
        for base in node.bases:
            inherited = self._class_named(base.value)
            if inherited is not None:
                self._holds[_Parts(node)].add(_Parts(inherited))

    def _note_call(self, node: cst.Call) -> None:
        self._pass_arguments(node)
        for owner in self._filled(node):
            for argument in node.args:
                self._holds[owner].update(self._sources(argument.value))

    def _filled(self, call: cst.Call) -> Iterator[_Key]:
        """What may hold the arguments after a call: attributes that it names, the object whose
        method is called.
        """
        yield from _names_given(call)
        own = call.args[0].value if m.matches(call.func, m.Name("setattr")) and call.args else None
        if isinstance(call.func, cst.Attribute):
            receiver, method = call.func.value, call.func.attr.value
            if isinstance(receiver, (cst.Name, cst.Attribute)) and not is_self(receiver):
                yield self._key(receiver)
            own = receiver if method in _PARTS or method == "__init__" else None
        if own is not None and (is_self(own) or m.matches(own, m.Call(func=m.Name("super")))):
            yield from self._own_parts(call)

    def _note_keyed(self, node: cst.DictElement | cst.Tuple) -> None:
        """Modules make attributes of keys: ``ModuleDict({"a": ...})``, ``OrderedDict([("a",
        ...)])``.
        """
        key, value = (node.key, node.value) if isinstance(node, cst.DictElement) else _pair(node)
        if isinstance(key, cst.SimpleString) and value is not None:
            self._holds[str(key.evaluated_value)].update(self._sources(value))

    def _bind(self, target: cst.BaseExpression, value: cst.BaseExpression) -> None:
        if isinstance(target, (cst.Tuple, cst.List)):
            parts = [element.value for element in target.elements]
            values = (
                [each.value for each in value.elements]
                if isinstance(value, (cst.Tuple, cst.List))
                else []
            )
            for number, part in enumerate(parts):
                self._bind(part, values[number] if len(values) == len(parts) else value)
        elif isinstance(target, (cst.Name, cst.Attribute)):
            sources = set(self._sources(value))
            self._holds[self._key(target)] |= sources
            if isinstance(target, cst.Attribute) and is_self(target.value):
                for owner in self._own_parts(target):
                    self._holds[owner] |= sources
        elif isinstance(target, (cst.Subscript, cst.StarredElement)):
            self._bind(target.value, value)

    def _key(self, node: cst.Name | cst.Attribute) -> _Key:
        if isinstance(node, cst.Attribute):
            return node.attr.value
        scope, name = self._names.binding(node)
        return name if isinstance(scope, ClassScope) else (scope, name)

    def _enclosing(self, node: cst.CSTNode, *kinds: type[cst.CSTNode]) -> cst.CSTNode | None:
        return next(
            (above for _, above in self._parsed.ancestors(node) if isinstance(above, kinds)), None
        )

    # -- arguments

    def _pass_arguments(self, call: cst.Call) -> None:
        for function, skip in self._called(call):
            self._pass(call, function, skip)
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "apply":
            # reason: Module.apply walks over all modules, so over the parts of a replacement
            return
        for argument in call.args:
            for function in self._named(argument.value):
                for parameter in _parameters(function):
                    for other in call.args:
                        self._holds[self._key(parameter)].update(self._sources(other.value))

    def _called(self, call: cst.Call) -> Iterator[tuple[_Function, int]]:
        """The file's functions that a call may run, and how many parameters come before the first
        argument.
        """
        method = isinstance(call.func, cst.Attribute)
        for function in self._named(call.func):
            yield (
                function,
                int(
                    method
                    and isinstance(
                        self._enclosing(function, cst.ClassDef, cst.FunctionDef), cst.ClassDef
                    )
                ),
            )
        made = self._class_named(call.func)
        if made is not None:
            starts = self._functions.get("__init__", [])
            yield from ((each, 1) for each in starts if self._enclosing(each, cst.ClassDef) is made)

    def _named(self, node: cst.BaseExpression) -> list[_Function]:
        if isinstance(node, cst.Lambda):
            return [node]
        return (
            self._functions.get(self._key(node), [])
            if isinstance(node, (cst.Name, cst.Attribute))
            else []
        )

    def _class_named(self, node: cst.BaseExpression) -> cst.ClassDef | None:
        return (
            self._classes.get(self._key(node))
            if isinstance(node, (cst.Name, cst.Attribute))
            else None
        )

    def _pass(self, call: cst.Call, function: _Function, skip: int) -> None:
        positional = [*_positional(function)][skip:]
        every = _parameters(function)
        for number, argument in enumerate(call.args):
            if argument.keyword is not None:
                taken = [name for name in every if name.value == argument.keyword.value] or every
            else:
                plain = not argument.star and number < len(positional)
                taken = [positional[number]] if plain else every
            for name in taken:
                self._holds[self._key(name)].update(self._sources(argument.value))

    # -- what an expression mentions

    def _sources(self, node: cst.CSTNode) -> Iterator[_Key]:
        """The keys of what the value of an expression may be, or have in it."""
        if isinstance(node, cst.Attribute) and node.attr.value == "_modules":
            yield from self._sources_of_parts(node.value)
        elif isinstance(node, (cst.Name, cst.Attribute)):
            yield self._key(node)
        elif isinstance(node, cst.Call):
            yield from self._sources_of_call(node)
        elif isinstance(node, cst.Subscript):
            yield from self._sources_of_parts(node.value)
        else:
            for name in _VALUES.get(type(node), ()):
                part = getattr(node, name)
                for each in part if isinstance(part, (tuple, list)) else (part,):
                    yield from self._sources(each)

    def _sources_of_parts(self, node: cst.BaseExpression) -> Iterator[_Key]:
        """As those of an expression; of ``self``, what its class holds."""
        yield from self._own_parts(node) if is_self(node) else self._sources(node)

    def _sources_of_call(self, call: cst.Call) -> Iterator[_Key]:
        functions, made = self._named(call.func), self._class_named(call.func)
        yield from functions
        if made is not None:
            yield made
        if call in self.convolutions or functions or made is not None:
            yield call
            return
        builtin = (self._names.qualified(call.func) or "").startswith("builtins.")
        names = [*_names_given(call)]
        yield from names
        if names:
            return
        for argument in call.args:
            yield from (
                self._sources_of_parts(argument.value) if builtin else self._sources(argument.value)
            )
        if isinstance(call.func, cst.Attribute) and call.func.attr.value in _SELF_OR_PARTS:
            yield from self._sources_of_method(call.func)
        elif not builtin and not m.matches(
            call.func, m.Attribute(attr=m.OneOf(*map(m.Name, sorted(_WALKS))))
        ):
            yield call

    def _sources_of_method(self, method: cst.Attribute) -> Iterator[_Key]:
        if method.attr.value in _PARTS:
            yield from self._sources_of_parts(method.value)
        elif not is_self(method.value):
            yield from self._sources(method.value)

    def _own_parts(self, node: cst.CSTNode) -> Iterator[_Parts]:
        """What ``self`` has in it."""
        owner = self._enclosing(node, cst.ClassDef)
        if isinstance(owner, cst.ClassDef):
            yield _Parts(owner)


_VALUES: Mapping[type[cst.CSTNode], tuple[str, ...]] = {
    cst.Tuple: ("elements",),
    cst.List: ("elements",),
    cst.Set: ("elements",),
    cst.Dict: ("elements",),
    cst.Element: ("value",),
    cst.StarredElement: ("value",),
    cst.DictElement: ("value",),
    cst.StarredDictElement: ("value",),
    cst.ListComp: ("elt",),
    cst.SetComp: ("elt",),
    cst.GeneratorExp: ("elt",),
    cst.DictComp: ("value",),
    cst.IfExp: ("body", "orelse"),
    cst.BooleanOperation: ("left", "right"),
    cst.BinaryOperation: ("left", "right"),
    cst.NamedExpr: ("value",),
    cst.Await: ("expression",),
}
"""The parts of an expression that its value may be, or have in it."""

_NOTES: Mapping[type[cst.CSTNode], Callable[[Flow, Any], None]] = {
    cst.Assign: Flow._note_assign,
    cst.AnnAssign: Flow._note_annotated,
    cst.AugAssign: Flow._note_augmented,
    cst.NamedExpr: Flow._note_augmented,
    cst.For: Flow._note_loop,
    cst.CompFor: Flow._note_loop,
    cst.WithItem: Flow._note_with,
    cst.MatchAs: Flow._note_match,
    cst.Return: Flow._note_return,
    cst.Yield: Flow._note_return,
    cst.Lambda: Flow._note_lambda,
    cst.DictElement: Flow._note_keyed,
    cst.Tuple: Flow._note_keyed,
    cst.ClassDef: Flow._note_class,
    cst.Call: Flow._note_call,
}


def _pair(node: cst.Tuple) -> tuple[cst.BaseExpression | None, cst.BaseExpression | None]:
    return (
        (node.elements[0].value, node.elements[1].value)
        if len(node.elements) == 2
        else (None, None)
    )


def is_self(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Name) and node.value == "self"


def _pattern(text: cst.BaseExpression) -> str:
    """What the texts look like that an expression may give."""
    parts = text.parts if isinstance(text, cst.FormattedString) else ()
    known = [
        re.escape(part.value) if isinstance(part, cst.FormattedStringText) else ".*"
        for part in parts
    ]
    return "".join(known) or ".*"


def _names_given(call: cst.Call) -> Iterator[str | _Computed]:
    """The attributes that a call like ``getattr(self, "conv")`` names in a string."""
    name = call.func.attr.value if isinstance(call.func, cst.Attribute) else None
    name = call.func.value if isinstance(call.func, cst.Name) else name
    if name in _TAKE_A_NAME:
        for argument in call.args:
            if isinstance(argument.value, cst.SimpleString):
                yield from str(argument.value.evaluated_value).split(".")
            elif m.matches(argument.value, _TEXT) and name in _SET_A_NAME:
                yield _Computed(_pattern(argument.value))


def _positional(function: _Function) -> Iterator[cst.Name]:
    yield from (each.name for each in (*function.params.posonly_params, *function.params.params))


def _parameters(function: _Function) -> list[cst.Name]:
    more = [
        each
        for each in (function.params.star_arg, function.params.star_kwarg)
        if isinstance(each, cst.Param)
    ]
    return [
        *_positional(function),
        *(each.name for each in (*function.params.kwonly_params, *more)),
    ]
