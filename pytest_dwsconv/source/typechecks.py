"""Where a file asks for the type of something: ``isinstance``, ``type(m) is``, ``match``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.source.reading.calls import CALLEES
from pytest_dwsconv.source.reading.names import Names

ALL_RANKS = frozenset({1, 2, 3})
_BASE = "torch.nn.modules.conv._ConvNd"

_TYPE_CALL = m.Call(func=m.Name("type"), args=[m.Arg()])
_TYPE_OF = _TYPE_CALL | m.Attribute(attr=m.Name("__class__"))
_NAME_OF_TYPE = m.Attribute(value=_TYPE_OF, attr=m.Name("__name__"))


class TypeCheck(NamedTuple):
    """``subject`` is held against ``types``; if ``exact``, subclasses of those do not count."""

    subject: cst.BaseExpression
    types: cst.BaseExpression
    exact: bool = False


def type_check(node: cst.CSTNode) -> TypeCheck | None:
    """The check that a call or comparison makes, if it makes one."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and len(node.args) == 2:
        asked, types = (argument.value for argument in node.args)
        if node.func.value == "isinstance":
            return TypeCheck(asked, types)
        if node.func.value == "issubclass" and m.matches(asked, _TYPE_CALL):
            return TypeCheck(_argument(asked), types)
    if isinstance(node, cst.Comparison):
        asked = node.left
        if m.matches(asked, _NAME_OF_TYPE):
            asked = cst.ensure_type(asked, cst.Attribute).value
        if m.matches(asked, _TYPE_OF):
            subject = asked.value if isinstance(asked, cst.Attribute) else _argument(asked)
            return TypeCheck(subject, node.comparisons[0].comparator, exact=True)
    return None


def conv_ranks(types: cst.BaseExpression, names: Names) -> frozenset[int]:
    """The dimensions of the convolutions, without transposed ones, that are among the types."""
    ranks: set[int] = set()
    for member in members(types):
        if isinstance(member, (cst.Name, cst.Attribute)):
            ranks |= _ranks_of(member, names)
        elif isinstance(member, cst.SimpleString):
            ranks |= _ranks_named(str(member.evaluated_value))
    return frozenset(ranks)


def _ranks_named(class_name: str) -> frozenset[int]:
    callee = CALLEES.get(f"torch.nn.{class_name}")
    return frozenset() if callee is None or callee.transposed else frozenset({callee.rank})


def _ranks_of(member: cst.Name | cst.Attribute, names: Names) -> frozenset[int]:
    name = names.possible_name(member) or ""
    if name == _BASE:
        return ALL_RANKS
    if name in CALLEES:
        return _ranks_named(name.rpartition(".")[2])
    value = names.value(member) if isinstance(member, cst.Name) else None
    if isinstance(value, (cst.Tuple, cst.List, cst.Set)):
        return conv_ranks(value, names)
    return frozenset()


def members(node: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    """The expression, and the members of a tuple, list or set, or of a union of types."""
    yield node
    if isinstance(node, (cst.Tuple, cst.List, cst.Set)):
        for element in node.elements:
            yield from members(element.value)
    elif isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.BitOr):
        yield from members(node.left)
        yield from members(node.right)


def _argument(node: cst.BaseExpression) -> cst.BaseExpression:
    return cst.ensure_type(node, cst.Call).args[0].value
