"""Code that reaches convolutions by their type, and does to all what a replacement cannot take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.source.reading.names import Names
from pytest_dwsconv.source.reading.syntax import Parsed, below
from pytest_dwsconv.source.reading.values import WALK
from pytest_dwsconv.source.typechecks import ALL_RANKS, conv_ranks, type_check

SETTINGS = frozenset("kernel_size groups in_channels out_channels forward _conv_forward".split())
"""What a replacement uses in another way, or not at all."""

SAME_OF_ANY = frozenset({"dtype", "device", "is_cuda"})
"""What any parameter of a module tells, whichever it is."""

_NEW_VALUES = re.compile(
    r"(?!copy_|set_|resize_|dirac_)\w*[a-z]_|.*(init|fan).*|(xavier|kaiming).*"
)
"""What gives a weight new values whatever its shape is, or asks for its fans."""

_SAME_WEIGHT = m.Attribute(attr=m.Name("data") | m.Name("grad"))
_ASK = (cst.Comparison, cst.BooleanOperation, cst.AugAssign, cst.If)
_ENDS = (cst.FunctionDef, cst.ClassDef, cst.Module)
_CONV_NAME = re.compile(r"Conv(?!Transpose)(?:(\d)d)?")
_NAME_OF_A_CLASS = m.Attribute(attr=m.Name("__name__"))


class ChangeToAll(NamedTuple):
    """What is done to every convolution of these dimensions, and does not suit a replacement."""

    node: cst.CSTNode
    what: str
    ranks: frozenset[int]


def changes_to_all(parsed: Parsed, names: Names) -> Iterator[ChangeToAll]:
    """Every ``m.weight`` taken for a kernel, and ``m.forward = ...``, of any convolution ``m``."""
    for node in parsed.nodes(cst.Attribute):
        if not isinstance(node.value, cst.Name):
            continue
        name = node.attr.value
        if name == "weight" and not _fits_any_shape(parsed, node):
            what = (
                "takes the weight of every such convolution for a kernel, which has another shape"
            )
        elif name in SETTINGS and parsed.is_target(node):
            what = f"sets the {name} of every such convolution, which a replacement does not follow"
        else:
            continue
        ranks = _ranks(parsed, names, node.value)
        if ranks:
            yield ChangeToAll(node, what, ranks)


def _fits_any_shape(parsed: Parsed, weight: cst.Attribute) -> bool:
    """Whether what is done with ``m.weight`` can be done with a weight of two dimensions."""
    node: cst.CSTNode = weight
    above = parsed.parents[node]
    while m.matches(above, _SAME_WEIGHT):
        node, above = above, parsed.parents[above]
    if isinstance(above, cst.Attribute):
        name = above.attr.value
        if name in SAME_OF_ANY or _NEW_VALUES.fullmatch(name):
            return True
    if isinstance(above, cst.AssignTarget):
        return any(
            weight.deep_equals(each) for each in below(parsed.parents[above]) if each is not weight
        )
    return isinstance(above, _ASK) or _gets_new_values(parsed, weight)


def _gets_new_values(parsed: Parsed, weight: cst.Attribute) -> bool:
    """Whether it is an argument of an initialisation, or in what is assigned to itself."""
    for part, above in parsed.ancestors(weight):
        if isinstance(above, cst.Call) and part is not above.func:
            if _NEW_VALUES.fullmatch(_last_name(above.func)):
                return True
        elif isinstance(above, cst.Assign) and part is above.value:
            targets = [each for target in above.targets for each in below(target.target)]
            return any(weight.deep_equals(each) for each in targets)
    return False


def _last_name(callee: cst.BaseExpression) -> str:
    name = callee.attr if isinstance(callee, cst.Attribute) else callee
    return name.value if isinstance(name, cst.Name) else ""


def _ranks(parsed: Parsed, names: Names, module: cst.Name) -> frozenset[int]:
    """The dimensions of the convolutions that a name stands for where types are asked.

    Those that its function asks it for, by class or by the class's name; all where it asks nothing
    and goes through all modules.
    """
    around = list(below(parsed.enclosing(module, *_ENDS) or parsed.module))
    ranks: set[int] = set()
    asks = False
    for node in around:
        check = type_check(node)
        if check is not None and check.subject.deep_equals(module):
            asks = True
            ranks |= conv_ranks(check.types, names)
        elif isinstance(node, cst.MatchClass):
            ranks |= conv_ranks(node.cls, names)
    if any(m.matches(node, _NAME_OF_A_CLASS) for node in around):
        asks = True
        ranks |= _ranks_in_texts(around)
    if not asks and any(_walks(node, module) for node in around):
        return ALL_RANKS
    return frozenset(ranks)


def _ranks_in_texts(nodes: list[cst.CSTNode]) -> frozenset[int]:
    """The dimensions of ``"Conv2d"``, as in ``classname.find("Conv2d")``; of ``"Conv"`` all."""
    ranks: set[int] = set()
    for node in nodes:
        if isinstance(node, cst.SimpleString):
            match = _CONV_NAME.search(str(node.evaluated_value))
            if match is not None:
                ranks |= ALL_RANKS if match[1] is None else {int(match[1])}
    return frozenset(ranks)


def _walks(node: cst.CSTNode, module: cst.Name) -> bool:
    """Whether it is a loop over all modules of a model, with the name for each in turn."""
    if not isinstance(node, (cst.For, cst.CompFor)):
        return False
    is_target = any(module.deep_equals(each) for each in below(node.target))
    return is_target and any(m.matches(each, WALK) for each in below(node.iter))
