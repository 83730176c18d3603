"""Code that changes convolutions by their type: whether it asks for a bias, and what it does to
both parts alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.source.names import Names
from pytest_dwsconv.source.parsing import Parsed, below
from pytest_dwsconv.source.typechecks import conv_ranks, type_check

_NAMES_A_CLASS = re.compile(r"__name__|__class__|\btype\(")
_LEAVES = m.Continue() | m.Return() | m.Raise() | m.Break()
_RANKS = frozenset({1, 2, 3})


class UnguardedBias(NamedTuple):
    """``m.bias`` taken for granted of every convolution of these dimensions."""

    attribute: cst.Attribute
    name: str
    ranks: frozenset[int]


class _Condition(NamedTuple):
    """A test, and whether it holds where the code stands."""

    test: cst.BaseExpression
    holds: bool


def unguarded_biases(parsed: Parsed, names: Names) -> Iterator[UnguardedBias]:
    """Every use of ``m.bias`` that convolutions get to by the type of ``m``, and without a check of
    the bias.
    """
    for node in parsed.parents:
        if m.matches(node, _BIAS_OF_A_NAME):
            bias = cst.ensure_type(node, cst.Attribute)
            ranks = _Guards(parsed, names, bias).ranks()
            if ranks:
                yield UnguardedBias(bias, cst.ensure_type(bias.value, cst.Name).value, ranks)


class ForAll(NamedTuple):
    """Something done to every convolution of these dimensions, which the parts of a replacement do
    not stand.
    """

    node: cst.CSTNode
    what: str
    ranks: frozenset[int]


def done_to_all(parsed: Parsed, names: Names) -> Iterator[ForAll]:
    """Every ``m.stride = 1`` and ``nn.init.zeros_(m.weight)`` that convolutions get to by the type
    of ``m``.
    """
    for node in parsed.parents:
        if m.matches(node, _SETTING_OF_A_NAME) and is_target(parsed, node):
            attribute = cst.ensure_type(node, cst.Attribute)
            what = f"sets the {attribute.attr.value} of every such convolution, and would set that of both parts"
        elif m.matches(node, _WEIGHT_OF_A_NAME) and _is_zeroed(parsed, node):
            attribute = cst.ensure_type(node, cst.Attribute)
            what = "zeroes the weight of every such convolution, and two parts that are both zero cannot learn"
        else:
            continue
        ranks = _Guards(parsed, names, attribute).ranks(whatever_is_asked=True)
        if ranks:
            yield ForAll(attribute, what, ranks)


SETTINGS = frozenset(
    "stride padding dilation kernel_size groups padding_mode forward _conv_forward in_channels "
    "out_channels".split()
)
"""What a replacement hands to its parts once."""

_SETTING_OF_A_NAME = m.Attribute(value=m.Name(), attr=m.OneOf(*map(m.Name, sorted(SETTINGS))))
_WEIGHT_OF_A_NAME = m.Attribute(value=m.Name(), attr=m.Name("weight"))
_ZERO = m.Integer("0") | m.Float()
_ZEROED = (
    m.Call(func=m.Attribute(attr=m.Name("zeros_")))
    | m.Call(func=m.Attribute(attr=m.Name("constant_")), args=[m.Arg(), m.Arg(_ZERO)])
    | m.Call(func=m.Attribute(attr=m.Name("zero_")))
    | m.Call(func=m.Attribute(attr=m.Name("fill_")), args=[m.Arg(_ZERO)])
)


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
            return all(
                float(each.value) == 0 for each in below(above) if isinstance(each, cst.Float)
            )
        if isinstance(above, cst.BaseSmallStatement):
            break
    return False


_BIAS_OF_A_NAME = m.Attribute(value=m.Name(), attr=m.Name("bias"))


class _Guards:
    """What stands around one ``m.bias``, or another attribute."""

    def __init__(self, parsed: Parsed, names: Names, attribute: cst.Attribute) -> None:
        self._parsed = parsed
        self._names = names
        self._attribute = attribute

    def ranks(self, whatever_is_asked: bool = False) -> frozenset[int]:
        """Of the convolutions that get here, whether they have the attribute or not unless the code
        has asked.
        """
        ranks: frozenset[int] | None = None
        for part, node in self._parsed.ancestors(self._attribute):
            if not whatever_is_asked and self._is_no_use(part, node):
                return frozenset()
            for condition in self._conditions(part, node):
                if not whatever_is_asked and self._asks(condition.test):
                    return frozenset()
                ranks = self._narrowed(ranks, condition)
            if isinstance(node, cst.MatchCase):
                ranks = self._of_pattern(node)
            if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
                break
        if ranks is None and self._walked():
            return _RANKS
        return ranks or frozenset()

    def _is_no_use(self, part: cst.CSTNode, node: cst.CSTNode) -> bool:
        """Where it is compared, replaced, or where errors are caught."""
        if isinstance(node, cst.Comparison) or (
            isinstance(node, cst.AssignTarget) and node.target is self._attribute
        ):
            return True
        return isinstance(node, (cst.Try, cst.TryStar)) and part is node.body

    def _conditions(self, part: cst.CSTNode, node: cst.CSTNode) -> Iterator[_Condition]:
        """The conditions under which the part of a node runs, the nearest first."""
        if isinstance(node, (cst.If, cst.IfExp)):
            yield _Condition(node.test, part is node.body)
        elif isinstance(node, cst.BooleanOperation) and part is node.right:
            yield _Condition(node.left, isinstance(node.operator, cst.And))
        elif isinstance(node, (cst.ListComp, cst.SetComp, cst.GeneratorExp, cst.DictComp)):
            yield from (
                _Condition(each.test, True)
                for each in below(node.for_in)
                if isinstance(each, cst.CompIf)
            )
        elif isinstance(node, (cst.IndentedBlock, cst.Module)):
            yield from self._before(part, node)

    def _before(
        self, part: cst.CSTNode, block: cst.IndentedBlock | cst.Module
    ) -> Iterator[_Condition]:
        """Conditions that an earlier statement of the same block has left the block for, or
        asserted.
        """
        for statement in block.body:
            if statement is part:
                return
            if (
                isinstance(statement, cst.If)
                and statement.orelse is None
                and self._leaves(statement.body)
            ):
                yield _Condition(statement.test, False)
            elif m.matches(statement, m.SimpleStatementLine(body=[m.Assert()])):
                yield _Condition(
                    cst.ensure_type(
                        cst.ensure_type(statement, cst.SimpleStatementLine).body[0], cst.Assert
                    ).test,
                    True,
                )

    def _leaves(self, body: cst.BaseSuite) -> bool:
        last = body.body[-1]
        return m.matches(
            last.body[-1] if isinstance(last, cst.SimpleStatementLine) else last, _LEAVES
        )

    def _asks(self, test: cst.CSTNode) -> bool:
        return any(
            isinstance(each, cst.Attribute) and each.deep_equals(self._attribute)
            for each in below(test)
        )

    # -- what a condition says about the type

    def _narrowed(
        self, ranks: frozenset[int] | None, condition: _Condition
    ) -> frozenset[int] | None:
        told = self._told(condition.test, condition.holds)
        return ranks if told is None else told if ranks is None else ranks & told

    def _told(self, test: cst.BaseExpression, holds: bool) -> frozenset[int] | None:
        """The dimensions of the convolutions that pass, None where the test tells nothing about
        that.
        """
        if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
            return self._told(test.expression, not holds)
        if isinstance(test, cst.BooleanOperation):
            both = [
                told
                for each in (test.left, test.right)
                if (told := self._told(each, holds)) is not None
            ]
            if not both:
                return None
            every = isinstance(test.operator, cst.And) is holds
            return both[0].intersection(*both) if every else both[0].union(*both) if holds else None
        check = type_check(test)
        if check is not None and check.subject.deep_equals(self._attribute.value):
            return conv_ranks(check.types, self._names) if check.positive is holds else None
        return self._told_by_name(test) if holds is _is_positive(test) else None

    def _told_by_name(self, test: cst.BaseExpression) -> frozenset[int] | None:
        """Of a test of the class's name: ``classname.find("Conv") != -1`` and the like."""
        texts = [
            str(each.evaluated_value) for each in below(test) if isinstance(each, cst.SimpleString)
        ]
        found = [match for text in texts if (match := _CONV_NAME.search(text)) is not None]
        if found:
            return frozenset().union(
                *(_RANKS if match[1] is None else {int(match[1])} for match in found)
            )
        return frozenset() if texts and self._names_a_class(test) else None

    def _names_a_class(self, test: cst.BaseExpression) -> bool:
        values = [self._names.value(each) for each in below(test) if isinstance(each, cst.Name)]
        return any(
            _NAMES_A_CLASS.search(self._parsed.code(each))
            for each in (test, *values)
            if each is not None
        )

    def _of_pattern(self, case: cst.MatchCase) -> frozenset[int]:
        classes = [each.cls for each in below(case.pattern) if isinstance(each, cst.MatchClass)]
        return frozenset().union(*(conv_ranks(each, self._names) for each in classes))

    # -- what no condition tells

    def _walked(self) -> bool:
        """Whether the name stands for every module of a model in turn."""
        name = cst.ensure_type(self._attribute.value, cst.Name).value
        for _, node in self._parsed.ancestors(self._attribute):
            loops: list[cst.For | cst.CompFor] = [node] if isinstance(node, cst.For) else []
            if isinstance(node, (cst.ListComp, cst.SetComp, cst.GeneratorExp, cst.DictComp)):
                loops = [each for each in below(node) if isinstance(each, cst.CompFor)]
            for loop in loops:
                if any(m.matches(each, m.Name(name)) for each in below(loop.target)):
                    return any(m.matches(each, _WALK) for each in below(loop.iter))
            if isinstance(node, cst.FunctionDef):
                return any(
                    each.name.value == name for each in node.params.params
                ) and self._is_applied(node)
        return False

    def _is_applied(self, function: cst.FunctionDef) -> bool:
        name = function.name.value
        applied = m.Call(
            func=m.Attribute(attr=m.Name("apply")),
            args=[m.Arg(m.Name(name) | m.Attribute(attr=m.Name(name)))],
        )
        return any(m.matches(node, applied) for node in self._parsed.parents)


_WALK = m.Call(func=m.Attribute(attr=m.Name("modules") | m.Name("named_modules")))
_CONV_NAME = re.compile(r"Conv(?!Transpose)(?:(\d)d)?")


def _is_positive(test: cst.BaseExpression) -> bool:
    """Whether a test of a text holds where that is found: ``!= -1`` and ``in`` do, ``== -1`` and
    ``not in`` do not.
    """
    if not isinstance(test, cst.Comparison):
        return True
    operator, other = test.comparisons[0].operator, test.comparisons[0].comparator
    if isinstance(other, cst.UnaryOperation):
        return not isinstance(operator, cst.Equal)
    return not isinstance(operator, (cst.NotIn, cst.NotEqual, cst.LessThan))
