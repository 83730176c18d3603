"""What the value of an expression may be, or have in it: the keys that the flow connects."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cached_property
from typing import NamedTuple, cast

import libcst as cst
import libcst.matchers as m
from libcst.metadata import ClassScope

from pytest_dwsconv.source.reading.names import Binding, Names
from pytest_dwsconv.source.reading.syntax import Parsed

Function = cst.FunctionDef | cst.Lambda


class Parts(NamedTuple):
    """What an object of a class of the file has in it."""

    of: cst.ClassDef


class Own(NamedTuple):
    """An attribute of ``self``, in classes of the file that inherit from one another."""

    family: cst.ClassDef
    name: str


class Computed(NamedTuple):
    """Attributes by a pattern: ``setattr(self, f"c{i}", x)`` sets those that match ``c.*``."""

    pattern: str


Key = str | Binding | cst.CSTNode | Parts | Own | Computed
"""An attribute by its name, a variable, a call, or a function or class standing for its objects."""

WALK = m.Call(func=m.Attribute(attr=m.Name("modules") | m.Name("named_modules")))
"""What yields every module of a model."""

PARTS = frozenset(
    "children named_children get_submodule append extend insert add_module register_module".split()
)
"""Methods that take or give what a module holds."""

_SELF = frozenset(
    "to cuda cpu half float double bfloat16 type train eval requires_grad_ apply share_memory"
    "".split()
)
"""Methods of modules whose result is the object itself."""

_SELF_OR_PARTS = PARTS | _SELF | frozenset("items values keys get pop copy setdefault".split())
"""Methods of modules and containers whose result is the object itself or what it holds."""

_SET_A_NAME = frozenset("setattr add_module register_module".split())
_TAKE_A_NAME = _SET_A_NAME | {"getattr", "get_submodule"}
"""Functions and methods whose string argument is the name of an attribute."""

_FORMAT = m.Call(func=m.Attribute(attr=m.Name("format")))

UNKNOWN = "\0"
"""Stands in the template of a text for what is known at run time only."""

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


class Values:
    """Tells what expressions mention, by what the file defines.

    Attributes are told apart by their last name, and those of ``self`` by their class too.
    """

    def __init__(self, parsed: Parsed, names: Names, convolutions: frozenset[cst.Call]) -> None:
        self._parsed = parsed
        self._names = names
        self._convolutions = convolutions
        self._functions: dict[Key, list[Function]] = defaultdict(list)
        self._classes: dict[Key, cst.ClassDef] = {}
        self._owners: dict[Function, cst.ClassDef] = {}  # of methods
        self._constructors: dict[cst.ClassDef, list[cst.FunctionDef]] = defaultdict(list)
        for function in parsed.nodes(cst.FunctionDef):
            self._define(function)
        for of in parsed.nodes(cst.ClassDef):
            self._classes[self.key(of.name)] = of
        for node in parsed.nodes(cst.Assign):
            if isinstance(node.value, cst.Lambda):
                for target in node.targets:
                    if isinstance(target.target, (cst.Name, cst.Attribute)):
                        self._functions[self.key(target.target)].append(node.value)

    def _define(self, function: cst.FunctionDef) -> None:
        self._functions[self.key(function.name)].append(function)
        for generic in _dispatchers(function):
            self._functions[self.key(generic)].append(function)
        owner = self._parsed.enclosing(function, cst.ClassDef, cst.FunctionDef)
        if isinstance(owner, cst.ClassDef):
            self._owners[function] = owner
            if function.name.value == "__init__":
                self._constructors[owner].append(function)

    def place(self, node: cst.Name | cst.Attribute) -> Key:
        """The key of what a variable or an attribute holds."""
        if isinstance(node, cst.Attribute) and is_self(node.value):
            owner = self._parsed.enclosing(node, cst.ClassDef)
            if isinstance(owner, cst.ClassDef):
                return Own(self._families.get(owner, owner), node.attr.value)
        return self.key(node)

    @cached_property
    def _families(self) -> dict[cst.CSTNode, cst.ClassDef]:
        """For each class one that stands for all that inherit from one another."""
        members: dict[cst.CSTNode, list[cst.ClassDef]] = {}
        for of in self._parsed.nodes(cst.ClassDef):
            joined = [of]
            for base in self._bases(of):
                joined += members.get(base, [])
            members |= dict.fromkeys(joined, joined)
        return {of: joined[0] for of, joined in members.items()}

    def families_named(self, names: Set[str]) -> set[cst.ClassDef]:
        """What stands for the file's classes of these names, as ``Own`` has it."""
        return {
            self._families.get(of, of) for of in self._classes.values() if of.name.value in names
        }

    def key(self, node: cst.Name | cst.Attribute) -> Key:
        if isinstance(node, cst.Attribute):
            return node.attr.value
        scope, name = self._names.binding(node)
        # a name bound in a class body is an attribute of its objects
        return name if isinstance(scope, ClassScope) else (scope, name)

    def functions(self, node: cst.BaseExpression) -> list[Function]:
        """The file's functions that an expression may name, or the lambda that it is."""
        if isinstance(node, cst.Lambda):
            return [node]
        if isinstance(node, (cst.Name, cst.Attribute)):
            return self._functions.get(self.key(node), [])
        return []

    def class_named(self, node: cst.BaseExpression) -> cst.ClassDef | None:
        if isinstance(node, (cst.Name, cst.Attribute)):
            return self._classes.get(self.key(node))
        return None

    def functions_called(self, call: cst.Call) -> Iterator[tuple[Function, int]]:
        """The file's functions that a call may run, and how many parameters it leaves out.

        That is 1 for ``self``, which no argument is written for.
        """
        callee = call.func
        if isinstance(callee, cst.Subscript):
            # {"zero": lambda m: ..., "norm": norm}[kind](m)
            for function in self._in_containers:
                yield function, 0
        is_super = m.matches(callee, m.Attribute(value=m.Call(func=m.Name("super"))))
        bases = self._bases(self._parsed.enclosing(call, cst.ClassDef)) if is_super else []
        for function in self.functions(callee):
            owner = self._owners.get(function)
            if not is_super or owner in bases:
                yield function, int(isinstance(callee, cst.Attribute) and owner is not None)
        made = self.class_named(callee)
        if made is not None:
            for constructor in self._constructors.get(made, []):
                yield constructor, 1

    @cached_property
    def _in_containers(self) -> list[Function]:
        found: list[Function] = []
        for item in (*self._parsed.nodes(cst.DictElement), *self._parsed.nodes(cst.Element)):
            found += self.functions(item.value)
        return found

    def _bases(self, of: cst.CSTNode | None) -> list[cst.CSTNode]:
        """The classes of the file that a class inherits from."""
        found: list[cst.CSTNode] = []
        waiting = [of]
        while waiting:
            node = waiting.pop()
            for base in node.bases if isinstance(node, cst.ClassDef) else ():
                named = base.value
                if isinstance(named, cst.Subscript):  # Base[int]
                    named = named.value
                inherited = self.class_named(named)
                if inherited is not None and inherited not in found:
                    found.append(inherited)
                    waiting.append(inherited)
        return found

    def defines(self, callee: cst.BaseExpression) -> bool:
        """Whether the file shows what a call of this runs."""
        return bool(self.functions(callee)) or self.class_named(callee) is not None

    # -- what an expression mentions

    def written(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """The convolutions that an expression is, or has as items, written in it.

        And names, which may stand for some; what other calls are given is not the expression's.
        """
        if isinstance(node, cst.Name) or node in self._convolutions:
            yield node
        elif isinstance(node, cst.Call):
            if isinstance(node.func, cst.Attribute) and node.func.attr.value in _SELF:
                yield from self.written(node.func.value)
        else:
            for part in _value_parts(node):
                yield from self.written(part)

    def sources(self, node: cst.CSTNode) -> Iterator[Key]:
        """The keys of what the value of an expression may be, or have in it."""
        if isinstance(node, cst.Attribute) and node.attr.value == "_modules":
            yield from self._sources_of_parts(node.value)
        elif isinstance(node, (cst.Name, cst.Attribute)):
            if not (isinstance(node, cst.Name) and node.value == "None"):
                yield self.place(node)
        elif isinstance(node, cst.Call):
            yield from self._sources_of_call(node)
        elif isinstance(node, cst.Subscript):
            yield from self._sources_of_parts(node.value)
            yield from _names_in_index(node)
        else:
            for part in _value_parts(node):
                yield from self.sources(part)

    def _sources_of_parts(self, node: cst.BaseExpression) -> Iterator[Key]:
        """As those of an expression; of ``self``, what its class holds."""
        yield from self.own_parts(node) if is_self(node) else self.sources(node)

    def _sources_of_call(self, call: cst.Call) -> Iterator[Key]:
        functions, made = self.functions(call.func), self.class_named(call.func)
        if call in self._convolutions or functions or made is not None:
            # the file defines what is called: its results are followed, not its arguments
            yield from functions
            if made is not None:
                yield made
            yield call
            return
        names = list(names_given(call))
        if names:
            # getattr(self, "conv") is that attribute and nothing else
            yield from names
            return
        is_builtin = (self._names.certain_name(call.func) or "").startswith("builtins.")
        for argument in call.args:
            # list(self) and zip(self, x) go through what self holds; f(self) may be anything
            if is_builtin:
                yield from self._sources_of_parts(argument.value)
            else:
                yield from self.sources(argument.value)
        if isinstance(call.func, cst.Attribute) and call.func.attr.value in _SELF_OR_PARTS:
            yield from self._sources_of_method(call.func)
        elif not is_builtin and not m.matches(call, WALK):
            # reason: modules() yields the parts of a replacement too, so it stands for nothing
            yield call

    def _sources_of_method(self, method: cst.Attribute) -> Iterator[Key]:
        if method.attr.value in PARTS:
            yield from self._sources_of_parts(method.value)
        elif not is_self(method.value):
            yield from self.sources(method.value)

    def own_parts(self, node: cst.CSTNode) -> Iterator[Parts]:
        """What ``self`` has in it, where the node stands."""
        owner = self._parsed.enclosing(node, cst.ClassDef)
        if isinstance(owner, cst.ClassDef):
            yield Parts(owner)


def _dispatchers(function: cst.FunctionDef) -> Iterator[cst.Name]:
    """The function of which this one is the form for a type: ``@init.register(nn.Conv2d)``."""
    for each in function.decorators:
        decorator = each.decorator.func if isinstance(each.decorator, cst.Call) else each.decorator
        if m.matches(decorator, m.Attribute(value=m.Name(), attr=m.Name("register"))):
            yield cst.ensure_type(cst.ensure_type(decorator, cst.Attribute).value, cst.Name)


def _value_parts(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The parts of an expression that its value may be, or have in it."""
    for name in _VALUES.get(type(node), ()):
        part = getattr(node, name)
        if isinstance(part, (tuple, list)):
            yield from part
        else:
            yield part


def is_self(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Name) and node.value == "self"


def names_given(call: cst.Call) -> Iterator[str | Computed]:
    """The attributes that a call like ``getattr(self, "conv")`` names in a string."""
    called = call.func.attr if isinstance(call.func, cst.Attribute) else call.func
    name = called.value if isinstance(called, cst.Name) else None
    if name not in _TAKE_A_NAME:
        return
    for argument in call.args:
        if isinstance(argument.value, cst.SimpleString):
            yield from str(argument.value.evaluated_value).split(".")
        elif name in _SET_A_NAME and _is_computed_text(argument.value):
            yield Computed(pattern_of(template(argument.value)))


def _is_computed_text(node: cst.BaseExpression) -> bool:
    is_joined = isinstance(node, (cst.FormattedString, cst.BinaryOperation))
    return is_joined or m.matches(node, _FORMAT)


def _names_in_index(node: cst.Subscript) -> Iterator[str]:
    """The attribute that ``dict(model.named_modules())["layer1.conv"]`` gives."""
    for element in node.slice:
        if m.matches(element.slice, m.Index(m.SimpleString())):
            index = cst.ensure_type(element.slice, cst.Index)
            text = cst.ensure_type(index.value, cst.SimpleString).evaluated_value
            yield str(text).rpartition(".")[2]


def template(node: cst.CSTNode) -> str:
    """The text that an expression gives, as far as it is written: of ``f"conv{i}"`` the letters."""
    if isinstance(node, cst.SimpleString):
        return str(node.evaluated_value)
    if isinstance(node, cst.FormattedStringText):
        return node.value
    joined = _joined(node)
    if joined:
        return "".join(map(template, joined))
    if m.matches(node, m.BinaryOperation(operator=m.Modulo())):
        written = cst.ensure_type(node, cst.BinaryOperation).left
        return re.sub(r"%[\d.]*[a-z]", UNKNOWN, template(written))
    if m.matches(node, _FORMAT):
        written = cst.ensure_type(cst.ensure_type(node, cst.Call).func, cst.Attribute).value
        return re.sub(r"{[^{}]*}", UNKNOWN, template(written))
    return UNKNOWN


def _joined(node: cst.CSTNode) -> Sequence[cst.CSTNode]:
    """The parts of a text that are written one after the other."""
    if isinstance(node, cst.FormattedString):
        return node.parts
    is_sum = m.matches(node, m.BinaryOperation(operator=m.Add()))
    if isinstance(node, cst.ConcatenatedString) or is_sum:
        both = cast(cst.ConcatenatedString | cst.BinaryOperation, node)
        return both.left, both.right
    return ()


def pattern_of(text: str) -> str:
    """The regular expression of all texts that a template may give."""
    return re.escape(text).replace(re.escape(UNKNOWN), ".*")


def positional_parameters(function: Function) -> list[cst.Name]:
    return [each.name for each in (*function.params.posonly_params, *function.params.params)]


def all_parameters(function: Function) -> list[cst.Name]:
    more = [*function.params.kwonly_params]
    for star in (function.params.star_arg, function.params.star_kwarg):
        if isinstance(star, cst.Param):
            more.append(star)
    return [*positional_parameters(function), *(each.name for each in more)]
