"""What the names in a source file stand for: torch's classes and functions, and variables."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import libcst as cst
import libcst.matchers as m
from libcst.helpers import get_absolute_module_for_import
from libcst.metadata import (
    GlobalScope,
    ImportAssignment,
    QualifiedName,
    QualifiedNameSource,
    Scope,
)

from pytest_dwsconv.source.reading.syntax import Parsed

Binding = tuple[Scope | None, str]

_ALIAS_DEPTH = 8
"""How many assignments are followed from one name; more only occur in circles."""

_SETS_ATTRIBUTE = m.Call(
    func=~m.Name("getattr"), args=[m.Arg(), m.Arg(m.SimpleString()), m.AtLeastN(n=1)]
)
"""``setattr(nn, "Conv2d", Mine)``, and the like of ``patch.object``."""


class _FullName(NamedTuple):
    """A full name, and whether nothing in the file may bind it to something else."""

    name: str
    certain: bool


class Names:
    """Resolves the names of one parsed module."""

    def __init__(self, parsed: Parsed, known: frozenset[str]) -> None:
        """``known``: the full names that star imports may bring in and assignments take away."""
        self._scopes = parsed.scopes
        self._known = known
        self._line = parsed.line
        self._values = dict(_assigned(parsed))
        self._unseen = frozenset(_bound_unseen(parsed))
        self._stars: list[str] = []
        self._last_foreign_star = 0
        for node in parsed.nodes(cst.ImportFrom):
            if isinstance(node.names, cst.ImportStar):
                module = get_absolute_module_for_import(None, node) or ""
                self._stars.append(module)
                if not module.startswith("torch."):
                    self._last_foreign_star = max(self._last_foreign_star, parsed.line(node))
        self._found: dict[tuple[Scope | None, str], _FullName | None] = {}
        self._replaced: frozenset[str] = frozenset()
        self._replaced = frozenset(self._find_replaced(parsed))
        self._found.clear()  # reason: what was asked on the way did not know of these

    def certain_name(self, node: cst.BaseExpression) -> str | None:
        """The full name that a name or dotted name certainly has (``torch.nn.Conv2d``), else None.

        A name that a local definition shadows, or that is bound twice, has none. ``nn = torch.nn``
        is followed.
        """
        found = self._full_name(node)
        return found.name if found is not None and found.certain else None

    def possible_name(self, node: cst.BaseExpression) -> str | None:
        """A full name that it may have: the file may bind it to something else as well."""
        found = self._full_name(node)
        return found.name if found is not None else None

    def _full_name(self, node: cst.BaseExpression) -> _FullName | None:
        dotted = _dotted(node)
        if dotted is None:
            return None
        key = self._scopes.get(node), dotted
        if key not in self._found:
            self._found[key] = self._find_full_name(node, dotted)
        return self._found[key]

    def _find_full_name(self, node: cst.BaseExpression, dotted: str) -> _FullName | None:
        if self._is_local(node, dotted):
            return None
        names = self._names_of(node)
        if not names:
            return self._from_star(node)
        imported = [name.name for name in names if name.source is not QualifiedNameSource.LOCAL]
        if len(names) > 1:
            # bound twice: uncertain if one of the meanings is torch's, else not our subject
            known = [name for name in imported if name in self._known]
            return _FullName(known[0], certain=False) if known else None
        name = imported[0] if imported else self._from_alias(node, _ALIAS_DEPTH)
        if name is None:
            return None
        return _FullName(name, not self._is_replaced(name) and not self._is_rebound(node, dotted))

    def _is_replaced(self, name: str) -> bool:
        # by the last part alone: a class has several full names, and ``nn.Conv2d = Mine`` is one
        return name.rpartition(".")[2] in self._replaced

    def _is_rebound(self, node: cst.BaseExpression, dotted: str) -> bool:
        """Whether a pattern or a star import below may bind it to something else."""
        if dotted.partition(".")[0] in self._unseen:
            return True
        scope = self._scopes.get(node)
        # reason: a star import may bring a ``Conv2d``, but nobody calls another thing ``nn``
        if scope is None or "." in dotted:
            return False
        return any(
            isinstance(each, ImportAssignment) and self._line(each.node) < self._last_foreign_star
            for each in scope[dotted]
        )

    def _is_local(self, node: cst.BaseExpression, dotted: str) -> bool:
        """Whether no import can have bound it: a quick answer for the many like ``self.conv1``."""
        root, dot, _ = dotted.partition(".")
        while isinstance(node, cst.Attribute):
            node = node.value
        scope = self._scopes.get(node)
        if scope is None:
            return True
        bound = scope[root] if dot else ()
        return bool(bound) and all(
            isinstance(getattr(each, "node", None), cst.Param) for each in bound
        )

    def _names_of(self, node: cst.BaseExpression) -> Collection[QualifiedName]:
        scope = self._scopes.get(node)
        return scope.get_qualified_names_for(node) if scope is not None else ()

    def _from_alias(self, node: cst.BaseExpression, depth: int) -> str | None:
        """The full name of what the file assigns to it, as in ``nn = torch.nn``."""
        if isinstance(node, cst.Attribute):
            owner = self._from_alias(node.value, depth)
            return None if owner is None else f"{owner}.{node.attr.value}"
        value = self.value(node) if isinstance(node, cst.Name) and depth else None
        if value is None or _dotted(value) is None:
            return None
        names = list(self._names_of(value))
        if len(names) != 1:
            return None
        if names[0].source is not QualifiedNameSource.LOCAL:
            return names[0].name
        return self._from_alias(value, depth - 1)

    def _from_star(self, node: cst.BaseExpression) -> _FullName | None:
        """A name that only a star import can have bound: the last one that has it wins."""
        if not isinstance(node, cst.Name):
            return None
        certain = True
        for module in reversed(self._stars):
            name = f"{module}.{node.value}"
            if name in self._known:
                return _FullName(name, certain and not self._is_replaced(name))
            # reason: what another package brings is not known, it may be anything
            certain = certain and module.startswith("torch.")
        return None

    def _find_replaced(self, parsed: Parsed) -> Iterator[str]:
        """The last parts of known names that the file assigns to, as in ``nn.Conv2d = Mine``."""
        names = []
        for target in parsed.nodes(cst.AssignTarget):
            if isinstance(target.target, cst.Attribute):
                names.append(self.certain_name(target.target))
        for call in parsed.nodes(cst.Call):
            if len(call.args) > 2 and m.matches(call, _SETS_ATTRIBUTE):
                owner, text = (each.value for each in call.args[:2])
                written = str(cst.ensure_type(text, cst.SimpleString).evaluated_value)
                names.append(f"{self.certain_name(owner)}.{written}")
        for name in names:
            if name in self._known:
                yield name.rpartition(".")[2]

    def binding(self, name: cst.Name) -> Binding:
        """What tells a variable from others of its name: the scope that binds it, and the name."""
        scope = self._scopes.get(name)
        bound = list(scope[name.value]) if scope is not None else []
        return (bound[0].scope if bound else scope), name.value

    def value(self, name: cst.Name) -> cst.BaseExpression | None:
        """The expression assigned to a name, if it is assigned exactly once."""
        node = self.bound_once(name)
        return None if node is None else self._values.get(node)

    def bound_once(self, name: cst.Name) -> cst.CSTNode | None:
        """The node that binds a name, if nothing else does."""
        scope = self._scopes.get(name)
        assignments = list(scope[name.value]) if scope is not None else []
        if len(assignments) != 1 or name.value in self._unseen:
            return None
        node: cst.CSTNode | None = getattr(assignments[0], "node", None)
        is_global = isinstance(assignments[0].scope, GlobalScope)
        if node is not None and is_global and self._line(node) < self._last_foreign_star:
            return None  # reason: the star import may bind it again
        return node


def _bound_unseen(parsed: Parsed) -> Iterator[str]:
    """Names bound where libcst's scopes do not see it: patterns, ``:=`` in a comprehension."""
    bound = [node.name for node in parsed.nodes(cst.MatchAs)]
    bound += [node.name for node in parsed.nodes(cst.MatchStar)]
    bound += [node.rest for node in parsed.nodes(cst.MatchMapping)]
    for name in bound:
        if name is not None:
            yield name.value
    for node in parsed.nodes(cst.NamedExpr):
        if any(isinstance(each, cst.BaseComp) for _, each in parsed.ancestors(node)):
            yield cst.ensure_type(node.target, cst.Name).value


def _dotted(node: cst.BaseExpression) -> str | None:
    """Names and dots alone: libcst also names ``f(x).y`` and ``f[x].y``, after ``f``."""
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        parts.insert(0, node.attr.value)
        node = node.value
    return ".".join([node.value, *parts]) if isinstance(node, cst.Name) else None


def _assigned(parsed: Parsed) -> Iterator[tuple[cst.CSTNode, cst.BaseExpression]]:
    """Each name that a statement assigns to, with the expression it is given."""
    for node in parsed.nodes(cst.Assign):
        for target in node.targets:
            if isinstance(target.target, cst.Name):
                yield target.target, node.value
    for annotated in parsed.nodes(cst.AnnAssign):
        if isinstance(annotated.target, cst.Name) and annotated.value:
            yield annotated.target, annotated.value
