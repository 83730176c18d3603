"""Loops that initialise convolutions: whether they ask for a bias before they take it."""

# ruff: noqa: N802  # libcst finds a visitor's methods by the names of its node types

from __future__ import annotations

import libcst as cst
import libcst.matchers as m


def unguarded_bias(branch: cst.If, name: str) -> cst.Attribute | None:
    """The first ``name.bias`` under a condition that is used without asking whether there is one."""
    search = _UnguardedBias(name)
    if not search.mentions_bias(branch.test):
        branch.body.visit(search)
    return search.found


class _UnguardedBias(cst.CSTVisitor):
    """Does not look where a condition mentions the bias, where errors are caught, or where it is replaced."""

    def __init__(self, name: str) -> None:
        self._bias = m.Attribute(value=m.Name(name), attr=m.Name("bias"))
        self.found: cst.Attribute | None = None

    def mentions_bias(self, node: cst.CSTNode) -> bool:
        return bool(m.findall(node, self._bias))

    def visit_If(self, node: cst.If) -> bool:
        return not self.mentions_bias(node.test)

    def visit_IfExp(self, node: cst.IfExp) -> bool:
        return not self.mentions_bias(node.test)

    def visit_Comparison(self, node: cst.Comparison) -> bool:
        return False

    def visit_BooleanOperation(self, node: cst.BooleanOperation) -> bool:
        return not self.mentions_bias(node.left)

    def visit_Try(self, node: cst.Try) -> bool:
        return False

    def visit_AssignTarget(self, node: cst.AssignTarget) -> bool:
        return not m.matches(node.target, self._bias)

    def visit_Attribute(self, node: cst.Attribute) -> None:
        if self.found is None and m.matches(node, self._bias):
            self.found = node
