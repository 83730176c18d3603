"""Code that reaches convolutions by their type: what it does to all, and what it asks before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.source.names import Names
from pytest_dwsconv.source.syntax import Parsed, below
from pytest_dwsconv.source.typechecks import ALL_RANKS, conv_ranks, type_check

SETTINGS = frozenset(
    "stride padding dilation kernel_size groups padding_mode forward _conv_forward in_channels "
    "out_channels".split()
)
"""What a replacement hands to its parts once."""

_ZERO = m.Integer("0") | m.Float()
_ZEROED = (
    m.Call(func=m.Attribute(attr=m.Name("zeros_")))
    | m.Call(func=m.Attribute(attr=m.Name("constant_")), args=[m.Arg(), m.Arg(_ZERO)])
    | m.Call(func=m.Attribute(attr=m.Name("zero_")))
    | m.Call(func=m.Attribute(attr=m.Name("fill_")), args=[m.Arg(_ZERO)])
)

_NAMES_A_CLASS = re.compile(r"__name__|__class__|\btype\(")
_CONV_NAME = re.compile(r"Conv(?!Transpose)(?:(\d)d)?")
_LEAVES = m.Continue() | m.Return() | m.Raise() | m.Break()
_WALK = m.Call(func=m.Attribute(attr=m.Name("modules") | m.Name("named_modules")))
_COMPREHENSIONS = (cst.ListComp, cst.SetComp, cst.GeneratorExp, cst.DictComp)


class UnguardedBias(NamedTuple):
    """``m.bias`` taken for granted of every convolution of these dimensions."""

    attribute: cst.Attribute
    name: str
    ranks: frozenset[int]


class ChangeToAll(NamedTuple):
    """What is done to every convolution of these dimensions, and does not suit a replacement."""

    node: cst.CSTNode
    what: str
    ranks: frozenset[int]


def unguarded_biases(parsed: Parsed, names: Names) -> Iterator[UnguardedBias]:
    """Every use of ``m.bias`` of which the code asked for the type of ``m``, not for the bias."""
    for bias in parsed.nodes(cst.Attribute):
        if bias.attr.value == "bias" and isinstance(bias.value, cst.Name):
            guards = _Guards(parsed, names, bias)
            ranks = frozenset[int]() if guards.ask_for_it() else guards.ranks()
            if ranks:
                yield UnguardedBias(bias, cst.ensure_type(bias.value, cst.Name).value, ranks)


def changes_to_all(parsed: Parsed, names: Names) -> Iterator[ChangeToAll]:
    """Every ``m.stride = 1`` and ``nn.init.zeros_(m.weight)`` chosen by the type of ``m``."""
    for attribute in parsed.nodes(cst.Attribute):
        name = attribute.attr.value
        if not isinstance(attribute.value, cst.Name):
            continue
        if name in SETTINGS and is_target(parsed, attribute):
            what = f"sets the {name} of every such convolution, and would set that of both parts"
        elif name == "weight" and _is_zeroed(parsed, attribute):
            what = (
                "zeroes the weight of every such convolution, and two parts that are both zero "
                "cannot learn"
            )
        else:
            continue
        ranks = _Guards(parsed, names, attribute).ranks()
        if ranks:
            yield ChangeToAll(attribute, what, ranks)


def is_target(parsed: Parsed, node: cst.CSTNode) -> bool:
    """Whether it is assigned to or deleted, by itself or in a tuple."""
    for part, above in parsed.ancestors(node):
        if not isinstance(above, (cst.Element, cst.Tuple, cst.List)):
            return getattr(above, "target", None) is part
    return False


def _is_zeroed(parsed: Parsed, node: cst.CSTNode) -> bool:
    """Whether the statement that it stands in sets it to 0."""
    for _, above in parsed.ancestors(node):
        if m.matches(above, _ZEROED):
            # the pattern takes any decimal fraction: fill_(0.0) zeroes, fill_(0.01) does not
            return all(
                float(each.value) == 0 for each in below(above) if isinstance(each, cst.Float)
            )
        if isinstance(above, cst.BaseSmallStatement):
            return False
    return False


class _Condition(NamedTuple):
    """A test, and whether it holds where the code stands."""

    test: cst.BaseExpression
    holds: bool


class _Guards:
    """The conditions around one ``m.bias``, or another attribute, inside its function."""

    def __init__(self, parsed: Parsed, names: Names, attribute: cst.Attribute) -> None:
        self._parsed = parsed
        self._names = names
        self._attribute = attribute

    def _around(self) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
        """What the attribute stands in, up to its function; each after the part it stands in."""
        for part, node in self._parsed.ancestors(self._attribute):
            yield part, node
            if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
                return

    def ask_for_it(self) -> bool:
        """Whether the code asks for the attribute before, only replaces it, or stands an error."""
        for part, node in self._around():
            if isinstance(node, cst.Comparison):
                return True
            if isinstance(node, cst.AssignTarget) and node.target is self._attribute:
                return True
            if isinstance(node, (cst.Try, cst.TryStar)) and part is node.body:
                return True
            for condition in self._conditions(part, node):
                if self._mentions_it(condition.test):
                    return True
        return False

    def _mentions_it(self, test: cst.CSTNode) -> bool:
        return any(
            isinstance(each, cst.Attribute) and each.deep_equals(self._attribute)
            for each in below(test)
        )

    def ranks(self) -> frozenset[int]:
        """The dimensions of the convolutions that get here."""
        ranks: frozenset[int] | None = None
        for part, node in self._around():
            for condition in self._conditions(part, node):
                ranks = _in_both(ranks, self._passing(condition.test, condition.holds))
            if isinstance(node, cst.MatchCase):
                ranks = self._ranks_of_pattern(node)
        if ranks is not None:
            return ranks
        return ALL_RANKS if self._is_walked() else frozenset()

    # -- the conditions

    def _conditions(self, part: cst.CSTNode, node: cst.CSTNode) -> Iterator[_Condition]:
        """The conditions under which the part of a node runs, the nearest first."""
        if isinstance(node, (cst.If, cst.IfExp)):
            yield _Condition(node.test, part is node.body)
        elif isinstance(node, cst.BooleanOperation) and part is node.right:
            yield _Condition(node.left, isinstance(node.operator, cst.And))
        elif isinstance(node, _COMPREHENSIONS):
            for each in below(node.for_in):
                if isinstance(each, cst.CompIf):
                    yield _Condition(each.test, True)
        elif isinstance(node, (cst.IndentedBlock, cst.Module)):
            yield from self._conditions_before(part, node)

    def _conditions_before(
        self, part: cst.CSTNode, block: cst.IndentedBlock | cst.Module
    ) -> Iterator[_Condition]:
        """What earlier statements of the block have asserted, or left the block for."""
        for statement in block.body:
            if statement is part:
                return
            if isinstance(statement, cst.If):
                if statement.orelse is None and _leaves(statement.body):
                    yield _Condition(statement.test, False)
            elif m.matches(statement, m.SimpleStatementLine(body=[m.Assert()])):
                line = cst.ensure_type(statement, cst.SimpleStatementLine)
                yield _Condition(cst.ensure_type(line.body[0], cst.Assert).test, True)

    # -- what a condition says about the type

    def _passing(self, test: cst.BaseExpression, holds: bool) -> frozenset[int] | None:
        """The dimensions of the convolutions of which a test holds, or does not.

        None if the test tells nothing about the type.
        """
        if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
            return self._passing(test.expression, not holds)
        if isinstance(test, cst.BooleanOperation):
            return self._passing_both(test, holds)
        check = type_check(test)
        if check is not None and check.subject.deep_equals(self._attribute.value):
            return conv_ranks(check.types, self._names) if check.positive is holds else None
        return self._passing_by_name(test) if _is_positive(test) is holds else None

    def _passing_both(self, test: cst.BooleanOperation, holds: bool) -> frozenset[int] | None:
        left, right = self._passing(test.left, holds), self._passing(test.right, holds)
        # by De Morgan: "a and b" holds if both do, "a or b" fails if both do
        if isinstance(test.operator, cst.And) is holds:
            return _in_both(left, right)
        # else one half is enough
        if left is not None and right is not None:
            return left | right
        # of any module that the half without a type lets through, in a walk over all of them
        if self._is_walked():
            return None
        return left if right is None else right

    def _passing_by_name(self, test: cst.BaseExpression) -> frozenset[int] | None:
        """As ``_passing``, of a test of the class's name: ``classname.find("Conv") != -1``."""
        ranks: set[int] = set()
        texts = [each for each in below(test) if isinstance(each, cst.SimpleString)]
        for text in texts:
            match = _CONV_NAME.search(str(text.evaluated_value))
            if match is not None:
                ranks |= ALL_RANKS if match[1] is None else {int(match[1])}
        # a text without "Conv" tells something only if it is held against a class's name
        if ranks or (texts and self._names_a_class(test)):
            return frozenset(ranks)
        return None

    def _names_a_class(self, test: cst.BaseExpression) -> bool:
        asked: list[cst.BaseExpression | None] = [test]
        asked += [self._names.value(each) for each in below(test) if isinstance(each, cst.Name)]
        return any(
            _NAMES_A_CLASS.search(self._parsed.code(each)) for each in asked if each is not None
        )

    def _ranks_of_pattern(self, case: cst.MatchCase) -> frozenset[int]:
        ranks: set[int] = set()
        for each in below(case.pattern):
            if isinstance(each, cst.MatchClass):
                ranks |= conv_ranks(each.cls, self._names)
        return frozenset(ranks)

    # -- what no condition tells

    def _is_walked(self) -> bool:
        """Whether the name stands for every module of a model in turn."""
        name = cst.ensure_type(self._attribute.value, cst.Name).value
        for _, node in self._around():
            for loop in _loops(node):
                if any(m.matches(each, m.Name(name)) for each in below(loop.target)):
                    return any(m.matches(each, _WALK) for each in below(loop.iter))
            if isinstance(node, cst.FunctionDef):
                takes_it = any(each.name.value == name for each in node.params.params)
                return takes_it and self._is_applied(node)
        return False

    def _is_applied(self, function: cst.FunctionDef) -> bool:
        """Whether the file calls ``model.apply(function)``."""
        name = function.name.value
        applied = m.Call(
            func=m.Attribute(attr=m.Name("apply")),
            args=[m.Arg(m.Name(name) | m.Attribute(attr=m.Name(name)))],
        )
        return any(m.matches(node, applied) for node in self._parsed.nodes(cst.Call))


def _in_both(left: frozenset[int] | None, right: frozenset[int] | None) -> frozenset[int] | None:
    """What two conditions leave; None is a condition that tells nothing."""
    if left is None:
        return right
    return left if right is None else left & right


def _leaves(body: cst.BaseSuite) -> bool:
    """Whether a block ends in a statement that leaves it."""
    last: cst.CSTNode = body.body[-1]
    if isinstance(last, cst.SimpleStatementLine):
        last = last.body[-1]
    return m.matches(last, _LEAVES)


def _loops(node: cst.CSTNode) -> list[cst.For | cst.CompFor]:
    if isinstance(node, cst.For):
        return [node]
    if isinstance(node, _COMPREHENSIONS):
        return [each for each in below(node) if isinstance(each, cst.CompFor)]
    return []


def _is_positive(test: cst.BaseExpression) -> bool:
    """Whether a test of a text holds if that is found.

    ``!= -1`` and ``in`` do, ``== -1`` and ``not in`` do not.
    """
    if not isinstance(test, cst.Comparison):
        return True
    operator, other = test.comparisons[0].operator, test.comparisons[0].comparator
    if isinstance(other, cst.UnaryOperation):
        return not isinstance(operator, cst.Equal)
    return not isinstance(operator, (cst.NotIn, cst.NotEqual, cst.LessThan))
