"""The values of expressions, as far as a source file says: numbers, words, alternatives."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.core.quantities import is_whole
from pytest_dwsconv.source.reading.names import Names
from pytest_dwsconv.source.reading.syntax import Parsed

_DEPTH = 8
"""How many assignments are followed from one name; more only occur in circles."""

_LARGEST = 2**63
"""PyTorch takes no number from here on; nor can one of 5,000 digits be printed."""

_CONSTANTS: Mapping[str, object] = {"None": None, "True": True, "False": False}

_ARITHMETIC: Mapping[type[cst.BaseBinaryOp], Callable[[int, int], int]] = {
    cst.Add: operator.add,
    cst.Subtract: operator.sub,
    cst.Multiply: operator.mul,
    cst.FloorDivide: operator.floordiv,
    cst.Modulo: operator.mod,
}

_FILL = frozenset("update setdefault pop popitem clear append extend insert remove".split())
"""Methods that change what a dict or list has in it."""


class NotConstantError(ValueError):
    """An expression whose value is not written in the file."""


class Constants:
    """Reads the expressions of one parsed module."""

    def __init__(self, parsed: Parsed, names: Names) -> None:
        self._parsed = parsed
        self._names = names
        self._changed = frozenset(_changed_containers(parsed))
        self._attributes = _attributes(parsed)
        self._loops = dict(_loop_values(parsed))

    def value(self, node: cst.BaseExpression, depth: int = _DEPTH) -> object:
        """The value of a literal, of whole-number arithmetic, or of a name that only is such.

        Raises:
            NotConstantError: the expression is anything else, or a number from 2**63.
        """
        alternatives = self.alternatives(node, depth)
        if len(alternatives) != 1 or depth == 0:
            raise NotConstantError
        (node,) = alternatives
        if isinstance(node, cst.Integer):
            return _whole(node.evaluated_value)
        if isinstance(node, (cst.SimpleString, cst.ConcatenatedString)):
            return node.evaluated_value
        if isinstance(node, cst.Name) and node.value in _CONSTANTS:
            return _CONSTANTS[node.value]
        if isinstance(node, (cst.Tuple, cst.List)):
            return tuple(self._items(node, depth - 1))
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
            return -_whole(self.value(node.expression, depth - 1))
        if isinstance(node, cst.BinaryOperation):
            return self._arithmetic(node, depth - 1)
        raise NotConstantError

    def alternatives(
        self, node: cst.BaseExpression, depth: int = _DEPTH
    ) -> list[cst.BaseExpression]:
        """The expressions one of which gives the value: ``a if x else b``, ``for k in (a, b)``.

        Names and attributes of ``self`` that are bound once are followed; else it is as given.
        """
        values: list[cst.BaseExpression] = []
        if depth and isinstance(node, cst.IfExp):
            values = [node.body, node.orelse]
        elif depth and isinstance(node, cst.Name):
            values = self._values_of_name(node)
        elif depth and isinstance(node, cst.Attribute):
            values = self._values_of_attribute(node)
        if not values:
            return [node]
        found = []
        for value in values:
            found += self.alternatives(value, depth - 1)
        return found

    def elements(self, node: cst.BaseExpression) -> list[cst.BaseExpression] | None:
        """The expressions in a tuple or list; None if they are not written in the file."""
        only = self._only(node)
        if not isinstance(only, (cst.Tuple, cst.List)):
            return None
        if any(isinstance(each, cst.StarredElement) for each in only.elements):
            return None
        return [each.value for each in only.elements]

    def entries(self, node: cst.BaseExpression) -> dict[str, cst.BaseExpression] | None:
        """The expressions in a dict by their keys; None if those are not written in the file."""
        only = self._only(node)
        if isinstance(only, cst.Call) and self._names.certain_name(only.func) == "builtins.dict":
            items = [_item(argument) for argument in only.args]
        elif isinstance(only, cst.Dict):
            items = [_item(element) for element in only.elements]
        else:
            return None
        found: dict[str, cst.BaseExpression] = {}
        for key, value in items:
            unpacked = {key: value} if key is not None else self.entries(value)
            if unpacked is None:
                return None
            found |= unpacked
        return found

    def _only(self, node: cst.BaseExpression) -> cst.BaseExpression | None:
        """The one expression that it is; None if that is open, or the file adds to it."""
        if isinstance(node, cst.Name) and node.value in self._changed:
            return None
        alternatives = self.alternatives(node)
        return alternatives[0] if len(alternatives) == 1 else None

    def _values_of_name(self, node: cst.Name) -> list[cst.BaseExpression]:
        bound = self._names.bound_once(node)
        if bound in self._loops:
            return self.elements(self._loops[bound]) or []
        value = self._names.value(node)
        return [] if value is None else [value]

    def _values_of_attribute(self, node: cst.Attribute) -> list[cst.BaseExpression]:
        """What the one assignment gives that ``self.k`` has, in its class or that of the name."""
        if not isinstance(node.value, cst.Name):
            return []
        bound = self._attributes.get(node.attr.value, [])
        if len(bound) != 1 or bound[0] is None:
            return []
        owner, value = bound[0]
        if node.value.value in ("self", "cls"):
            around = self._parsed.enclosing(node, cst.ClassDef)
            return [value] if around is owner else []
        return [value] if node.value.value == owner.name.value else []

    def _items(self, node: cst.Tuple | cst.List, depth: int) -> Iterator[object]:
        for element in node.elements:
            if isinstance(element, cst.StarredElement):
                raise NotConstantError
            yield self.value(element.value, depth)

    def _arithmetic(self, node: cst.BinaryOperation, depth: int) -> int:
        calculate = _ARITHMETIC.get(type(node.operator))
        if calculate is None:
            raise NotConstantError
        left, right = _whole(self.value(node.left, depth)), _whole(self.value(node.right, depth))
        try:
            return _whole(calculate(left, right))
        except ZeroDivisionError as error:
            raise NotConstantError from error


def _whole(value: object) -> int:
    if is_whole(value) and abs(value) < _LARGEST:
        return value
    raise NotConstantError


def _item(item: cst.Arg | cst.BaseDictElement) -> tuple[str | None, cst.BaseExpression]:
    """A key and its value; the key is None if it is not written, or several are unpacked."""
    if isinstance(item, cst.Arg):
        return None if item.keyword is None else item.keyword.value, item.value
    if isinstance(item, cst.DictElement) and isinstance(item.key, cst.SimpleString):
        return str(item.key.evaluated_value), item.value
    return None, item.value


def _changed_containers(parsed: Parsed) -> Iterator[str]:
    """The names of containers that the file adds to, in any of its functions."""
    for subscript in parsed.nodes(cst.Subscript):
        if isinstance(subscript.value, cst.Name) and parsed.is_target(subscript):
            yield subscript.value.value
    for attribute in parsed.nodes(cst.Attribute):
        if isinstance(attribute.value, cst.Name) and attribute.attr.value in _FILL:
            yield attribute.value.value
    for augmented in parsed.nodes(cst.AugAssign):
        if isinstance(augmented.target, cst.Name):
            yield augmented.target.value


def _loop_values(parsed: Parsed) -> Iterator[tuple[cst.CSTNode, cst.BaseExpression]]:
    """The name that a loop binds, with what it goes through."""
    loops: list[cst.For | cst.CompFor] = [*parsed.nodes(cst.For), *parsed.nodes(cst.CompFor)]
    for loop in loops:
        if isinstance(loop.target, cst.Name):
            yield loop.target, loop.iter


class _Bound(NamedTuple):
    """A value that an assignment in a class gives to an attribute."""

    owner: cst.ClassDef
    value: cst.BaseExpression


def _attributes(parsed: Parsed) -> Mapping[str, list[_Bound | None]]:
    """What the file binds attributes of each name to; None for what no assignment in a class gives.

    Empty where ``setattr`` may bind any of them.
    """
    found: dict[str, list[_Bound | None]] = defaultdict(list)
    if any(m.matches(call.func, m.Name("setattr")) for call in parsed.nodes(cst.Call)):
        return found
    assigned = _assigned_in_classes(parsed)
    for attribute in parsed.nodes(cst.Attribute):
        if parsed.is_target(attribute):
            found[attribute.attr.value].append(assigned.get(attribute))
    for target, bound in assigned.items():
        if isinstance(target, cst.Name):
            found[target.value].append(bound)
    return found


def _assigned_in_classes(parsed: Parsed) -> dict[cst.CSTNode, _Bound]:
    """The attributes that statements in classes assign to, and the names that their bodies do."""
    pairs: list[tuple[cst.CSTNode, cst.BaseExpression | None]] = []
    for assign in parsed.nodes(cst.Assign):
        pairs += [(each.target, assign.value) for each in assign.targets]
    pairs += [(each.target, each.value) for each in parsed.nodes(cst.AnnAssign)]
    found = {}
    for target, value in pairs:
        owner = parsed.enclosing(target, cst.ClassDef)
        around = parsed.enclosing(target, cst.ClassDef, cst.FunctionDef)
        is_attribute = isinstance(target, cst.Attribute) or around is owner
        if value is not None and isinstance(owner, cst.ClassDef) and is_attribute:
            found[target] = _Bound(owner, value)
    return found
