"""What the names in a source file stand for: torch's classes and functions, and constants."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping

import libcst as cst
import libcst.matchers as m
from libcst.helpers import get_absolute_module_for_import
from libcst.metadata import (
    GlobalScope,
    ImportAssignment,
    QualifiedName,
    QualifiedNameSource,
    Scope,
    ScopeProvider,
)

from pytest_dwsconv.core.quantities import is_whole
from pytest_dwsconv.source.parsing import Parsed

Binding = tuple[Scope | None, str]

_ALIAS_DEPTH = 8
"""How many assignments are followed from one name; more only occur in circles."""

_SETS_ATTRIBUTE = m.Call(
    func=~m.Name("getattr"), args=[m.Arg(), m.Arg(m.SimpleString()), m.AtLeastN(n=1)]
)
"""``setattr(nn, "Conv2d", Mine)``, and the like of ``patch.object``."""

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

    def __init__(self, parsed: Parsed, known: frozenset[str]) -> None:
        """``known`` are the qualified names that a star import may bring in, and that an assignment
        may take away.
        """
        self._scopes: Mapping[cst.CSTNode, Scope | None] = parsed.wrapper.resolve(ScopeProvider)
        self._known = known
        self._values = dict(_assigned(parsed))
        self._unseen = frozenset(_bound_unseen(parsed))
        self._last_star = max((parsed.line(node) for node in _foreign_stars(parsed)), default=0)
        self._line = parsed.line
        self._stars = [
            get_absolute_module_for_import(None, node) or ""
            for node in parsed.parents
            if isinstance(node, cst.ImportFrom) and isinstance(node.names, cst.ImportStar)
        ]
        self._meant: dict[tuple[Scope | None, str], tuple[str, bool] | None] = {}
        self._replaced: frozenset[str] = frozenset()
        self._replaced = frozenset(self._find_replaced(parsed))
        self._meant.clear()  # reason: what was asked on the way did not know of these

    def qualified(self, node: cst.BaseExpression) -> str | None:
        """The full name that a name or dotted name certainly has (``torch.nn.Conv2d``), else None.

        A name that a local definition shadows, or that is bound twice, has none. ``nn = torch.nn``
        is followed.
        """
        meant = self.meant(node)
        return meant[0] if meant is not None and meant[1] else None

    def meant(self, node: cst.BaseExpression) -> tuple[str, bool] | None:
        """A full name that it has, and whether that is certain: the file may bind it to something
        else as well.
        """
        dotted = _dotted(node)
        if dotted is None:
            return None
        key = self._scopes.get(node), dotted
        if key not in self._meant:
            self._meant[key] = self._meaning(node, dotted)
        return self._meant[key]

    def _meaning(self, node: cst.BaseExpression, dotted: str) -> tuple[str, bool] | None:
        if self._is_local(node, dotted):
            return None
        names = self._names_of(node)
        if not names:
            return self._from_star(node)
        imported = [name.name for name in names if name.source is not QualifiedNameSource.LOCAL]
        if len(names) > 1:
            return next(((name, False) for name in imported if name in self._known), None)
        name = imported[0] if imported else self._from_alias(node, _ALIAS_DEPTH)
        if name is None:
            return None
        certain = name.rpartition(".")[2] not in self._replaced and not self._may_be_rebound(
            node, dotted
        )
        return name, certain

    def _may_be_rebound(self, node: cst.BaseExpression, dotted: str) -> bool:
        """By a pattern, or by a star import below: of a class's own name, for nobody calls another
        thing ``nn``.
        """
        if dotted.partition(".")[0] in self._unseen:
            return True
        scope = self._scopes.get(node) if self._last_star and "." not in dotted else None
        bound = scope[dotted] if scope is not None else ()
        return any(
            isinstance(each, ImportAssignment) and self._line(each.node) < self._last_star
            for each in bound
        )

    def _is_local(self, node: cst.BaseExpression, dotted: str) -> bool:
        """Whether it is certainly no name of an import: a quick answer for the many like
        ``self.conv1``.
        """
        root, dot, _ = dotted.partition(".")
        while isinstance(node, cst.Attribute):
            node = node.value
        scope = self._scopes.get(node)
        if scope is None or not dot:
            return scope is None
        bound = scope[root]
        return bool(bound) and all(
            isinstance(getattr(each, "node", None), cst.Param) for each in bound
        )

    def _names_of(self, node: cst.BaseExpression) -> Collection[QualifiedName]:
        scope = self._scopes.get(node)
        return scope.get_qualified_names_for(node) if scope is not None else ()

    def _from_alias(self, node: cst.BaseExpression, depth: int) -> str | None:
        if isinstance(node, cst.Attribute):
            owner = self._from_alias(node.value, depth)
            return None if owner is None else f"{owner}.{node.attr.value}"
        value = self.value(node) if isinstance(node, cst.Name) and depth else None
        if not isinstance(value, (cst.Name, cst.Attribute)) or _dotted(value) is None:
            return None
        names = self._names_of(value)
        imported = [name.name for name in names if name.source is not QualifiedNameSource.LOCAL]
        if len(names) == len(imported) == 1:
            return imported[0]
        return self._from_alias(value, depth - 1) if len(names) == 1 else None

    def _from_star(self, node: cst.BaseExpression) -> tuple[str, bool] | None:
        """The last star import binds the name; another package's may bind any, so torch's must come
        after it.
        """
        certain = True
        for module in reversed(self._stars) if isinstance(node, cst.Name) else ():
            name = f"{module}.{cst.ensure_type(node, cst.Name).value}"
            if name in self._known:
                return name, certain and name.rpartition(".")[2] not in self._replaced
            certain = certain and module.startswith("torch.")
        return None

    def _find_replaced(self, parsed: Parsed) -> Iterator[str]:
        """The last parts of known names that the file gives another meaning, as in ``nn.Conv2d =
        Mine``.
        """
        for node in parsed.parents:
            if isinstance(node, cst.AssignTarget) and isinstance(node.target, cst.Attribute):
                name = self.qualified(node.target)
            elif m.matches(node, _SETS_ATTRIBUTE):
                owner, text = (each.value for each in cst.ensure_type(node, cst.Call).args[:2])
                name = f"{self.qualified(owner)}.{self.constant(text)}"
            else:
                continue
            if name in self._known:
                yield name.rpartition(".")[2]

    def binding(self, name: cst.Name) -> Binding:
        """What tells a variable from others of the same name: the scope that binds it, and the
        name.
        """
        scope = self._scopes.get(name)
        bound = next(iter(scope[name.value]), None) if scope is not None else None
        return (bound.scope if bound is not None else scope), name.value

    def value(self, name: cst.Name) -> cst.BaseExpression | None:
        """The expression assigned to a name, where it is assigned exactly once."""
        scope = self._scopes.get(name)
        assignments = list(scope[name.value]) if scope is not None else []
        if len(assignments) != 1 or name.value in self._unseen:
            return None
        node = getattr(assignments[0], "node", None)
        if node is None:
            return None
        if (
            self._last_star
            and isinstance(assignments[0].scope, GlobalScope)
            and self._line(node) < self._last_star
        ):
            return None
        return self._values.get(node)

    def constant(self, node: cst.BaseExpression, depth: int = _ALIAS_DEPTH) -> object:
        """The value of a literal, of arithmetic on whole numbers, or of a name assigned once to
        such.

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
        left, right = (
            _whole(self.constant(node.left, depth)),
            _whole(self.constant(node.right, depth)),
        )
        try:
            return calculate(left, right)
        except ZeroDivisionError as error:
            raise NotConstantError from error


def _foreign_stars(parsed: Parsed) -> Iterator[cst.ImportFrom]:
    """The star imports that may bind any name: those of other packages than PyTorch."""
    for node in parsed.parents:
        if not isinstance(node, cst.ImportFrom) or not isinstance(node.names, cst.ImportStar):
            continue
        if not (get_absolute_module_for_import(None, node) or "").startswith("torch."):
            yield node


def _bound_unseen(parsed: Parsed) -> Iterator[str]:
    """Names that libcst's scopes do not see bound: by patterns, and by ``:=`` in a comprehension."""
    for node in parsed.parents:
        if isinstance(node, (cst.MatchAs, cst.MatchStar)) and node.name is not None:
            yield node.name.value
        elif isinstance(node, cst.MatchMapping) and node.rest is not None:
            yield node.rest.value
        elif isinstance(node, cst.NamedExpr) and any(
            isinstance(each, cst.BaseComp) for _, each in parsed.ancestors(node)
        ):
            yield cst.ensure_type(node.target, cst.Name).value


def _dotted(node: cst.BaseExpression) -> str | None:
    """Names and dots alone: libcst also names ``f(x).y`` and ``f[x].y``, after ``f``."""
    names = []
    while isinstance(node, cst.Attribute):
        names.append(node.attr.value)
        node = node.value
    return ".".join(reversed([*names, node.value])) if isinstance(node, cst.Name) else None


def _whole(value: object) -> int:
    if is_whole(value):
        return value
    raise NotConstantError


def _assigned(parsed: Parsed) -> Iterator[tuple[cst.CSTNode, cst.BaseExpression]]:
    """Each name that a statement assigns to, with the expression it is given."""
    for node in parsed.parents:
        if isinstance(node, cst.Assign):
            for target in node.targets:
                if isinstance(target.target, cst.Name):
                    yield target.target, node.value
        elif (
            isinstance(node, cst.AnnAssign)
            and node.value is not None
            and isinstance(node.target, cst.Name)
        ):
            yield node.target, node.value
