"""What the names in a source file stand for: torch's classes and functions, and constants."""

# ruff: noqa: N802  # libcst finds a visitor's methods by the names of its node types

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping

import libcst as cst
from libcst.helpers import get_absolute_module_for_import
from libcst.metadata import MetadataWrapper, QualifiedName, QualifiedNameSource, Scope, ScopeProvider

_ALIAS_DEPTH = 8
"""How many assignments are followed from one name; more only occur in circles."""

_ARITHMETIC: Mapping[type[cst.BaseBinaryOp], Callable[[int, int], int]] = {
    cst.Add: operator.add,
    cst.Subtract: operator.sub,
    cst.Multiply: operator.mul,
    cst.FloorDivide: operator.floordiv,
    cst.Modulo: operator.mod,
}


class NotConstantError(ValueError):
    """An expression whose value is not written in the file."""


class Names:
    """Resolves the names of one parsed module."""

    def __init__(self, wrapper: MetadataWrapper, known: frozenset[str]) -> None:
        """``known`` are the qualified names that a star import may bring in."""
        self._scopes: Mapping[cst.CSTNode, Scope | None] = wrapper.resolve(ScopeProvider)
        self._known = known
        assignments = _Assignments()
        wrapper.module.visit(assignments)
        self._values = assignments.values
        self._stars = assignments.stars

    def qualified(self, node: cst.BaseExpression, depth: int = _ALIAS_DEPTH) -> str | None:
        """The full name that a name or dotted name certainly has (``torch.nn.Conv2d``), else None.

        A name that a local definition shadows, or that is bound twice, has none. ``nn = torch.nn`` is followed.
        """
        if not _is_dotted(node):
            return None
        names = self._meanings(node)
        if not names:
            return self._from_star(node)
        if len(names) > 1:
            return None
        (name,) = names
        if name.source is not QualifiedNameSource.LOCAL:
            return name.name
        return self._from_alias(node, depth)

    def _meanings(self, node: cst.BaseExpression) -> Collection[QualifiedName]:
        scope = self._scopes.get(node)
        return scope.get_qualified_names_for(node) if scope is not None else ()

    def _from_alias(self, node: cst.BaseExpression, depth: int) -> str | None:
        if isinstance(node, cst.Attribute):
            owner = self._from_alias(node.value, depth)
            return None if owner is None else f"{owner}.{node.attr.value}"
        value = self.value(node) if isinstance(node, cst.Name) and depth else None
        return self.qualified(value, depth - 1) if isinstance(value, (cst.Name, cst.Attribute)) else None

    def _from_star(self, node: cst.BaseExpression) -> str | None:
        """The last star import binds the name; another package's may bind any, so torch's must come after it."""
        if not isinstance(node, cst.Name):
            return None
        for module in reversed(self._stars):
            if f"{module}.{node.value}" in self._known:
                return f"{module}.{node.value}"
            if not module.startswith("torch."):
                return None
        return None

    def value(self, name: cst.Name) -> cst.BaseExpression | None:
        """The expression assigned to a name, where it is assigned exactly once."""
        scope = self._scopes.get(name)
        assignments = list(scope[name.value]) if scope is not None else []
        if len(assignments) != 1:
            return None
        node = getattr(assignments[0], "node", None)
        return None if node is None else self._values.get(node)

    def constant(self, node: cst.BaseExpression, depth: int = _ALIAS_DEPTH) -> object:
        """The value of a literal, of arithmetic on whole numbers, or of a name assigned once to such.

        Raises:
            NotConstantError: the expression is anything else.
        """
        if isinstance(node, (cst.Integer, cst.SimpleString, cst.ConcatenatedString)):
            return node.evaluated_value
        if isinstance(node, cst.Name):
            return self._constant_name(node, depth)
        if isinstance(node, (cst.Tuple, cst.List)):
            return tuple(self._constants(node, depth))
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
            return -_whole(self.constant(node.expression, depth))
        if isinstance(node, cst.BinaryOperation):
            return self._arithmetic(node, depth)
        raise NotConstantError

    def _constants(self, node: cst.Tuple | cst.List, depth: int) -> Iterator[object]:
        for element in node.elements:
            if isinstance(element, cst.StarredElement):
                raise NotConstantError
            yield self.constant(element.value, depth)

    def _constant_name(self, node: cst.Name, depth: int) -> object:
        if node.value in ("None", "True", "False"):
            return {"None": None, "True": True, "False": False}[node.value]
        value = self.value(node) if depth else None
        if value is None:
            raise NotConstantError
        return self.constant(value, depth - 1)

    def _arithmetic(self, node: cst.BinaryOperation, depth: int) -> int:
        calculate = _ARITHMETIC.get(type(node.operator))
        if calculate is None:
            raise NotConstantError
        left, right = _whole(self.constant(node.left, depth)), _whole(self.constant(node.right, depth))
        try:
            return calculate(left, right)
        except ZeroDivisionError as error:
            raise NotConstantError from error


def _is_dotted(node: cst.BaseExpression) -> bool:
    """Names and dots alone: libcst also names ``f(x).y`` and ``f[x].y``, after ``f``."""
    while isinstance(node, cst.Attribute):
        node = node.value
    return isinstance(node, cst.Name)


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise NotConstantError


class _Assignments(cst.CSTVisitor):
    """Which expression each assigned name is given, and the modules imported with a star, in their order."""

    def __init__(self) -> None:
        self.values: dict[cst.CSTNode, cst.BaseExpression] = {}
        self.stars: list[str] = []

    def visit_Assign(self, node: cst.Assign) -> None:
        for target in node.targets:
            self._note(target.target, node.value)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:
        if node.value is not None:
            self._note(node.target, node.value)

    def _note(self, target: cst.BaseExpression, value: cst.BaseExpression) -> None:
        if isinstance(target, cst.Name):
            self.values[target] = value

    def visit_ImportFrom(self, node: cst.ImportFrom) -> None:
        if isinstance(node.names, cst.ImportStar):
            self.stars.append(get_absolute_module_for_import(None, node) or "")
