"""What a file does with its convolutions that a replacement would not stand."""

from __future__ import annotations

import re

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.core.rules import Judgement, Verdict
from pytest_dwsconv.source.callables import Callables
from pytest_dwsconv.source.loops import SAME_OF_ANY, SETTINGS
from pytest_dwsconv.source.reading.flow import Flow
from pytest_dwsconv.source.reading.names import Names
from pytest_dwsconv.source.reading.syntax import Parsed, below
from pytest_dwsconv.source.reading.values import UNKNOWN, WALK, is_self, pattern_of, template
from pytest_dwsconv.source.sites import by_rule
from pytest_dwsconv.source.typechecks import conv_ranks, type_check

_REPARAMETRIZE = re.compile(
    r"torch\.nn\.utils\.(\w+\.)?(\w+_norm|orthogonal|register_parametrization)"
    r"|torch\.nn\.utils\.prune\.\w+"
)
_REPARAMETRIZER = re.compile(
    r"(?i)(.*\.)?((weight|spectral)_?norm|orthogonal|register_parametrization|prune)"
)
"""What others call those functions."""

_FUSE = re.compile(
    r"torch\.nn\.utils\.(fusion\.)?fuse_\w+"
    r"|torch\.(ao\.)?quantization\.(fuse_modules\.)?fuse_\w+"
)

_STATE = frozenset({"load_state_dict", "state_dict", "get_parameter", "register_parameter"})
_PARAMETERS = frozenset({"parameters", "named_parameters"})
_WRITTEN = re.compile(r"(?!requires_grad_|share_memory_)\w*[a-z]_")
"""Methods of tensors that write into them."""

_VECTORS = re.compile(r"torch\.nn\.utils\.(\w+\.)?(parameters_to_vector|vector_to_parameters)")
_SAME_ITEMS = frozenset({"builtins.list", "builtins.tuple", "builtins.iter", "builtins.next"})
"""Functions of parameters whose result is some of them."""

_KEY = re.compile(r"(?:[\w\0]*\.)*([A-Za-z_\0][\w\0]*)\.weight")
"""The name of a weight in a state_dict, or its end, after the attribute that holds its layer."""

_MAPPING = re.compile(r"(?i)state|dict|\bsd\b|ckpt|checkpoint|weights|params")
"""Names of what holds a checkpoint."""

_BY_NAME = m.Subscript(slice=[m.SubscriptElement(m.Index(m.SimpleString()))])

_INNER = frozenset({"_reversed_padding_repeated_twice", "_conv_forward"})
"""What PyTorch's classes have for themselves."""

_FORWARDING = frozenset(
    "append appendleft extend insert add update setdefault add_module register_module to cuda cpu "
    "half float train eval apply __init__".split()
)
"""Methods, of modules and containers, that change no weight of what they are given."""

_HARMLESS = ("torch.", "builtins.", "collections.", "copy.", "itertools.")

_ATTRIBUTE_FUNCTIONS = frozenset({"builtins.getattr", "builtins.setattr", "builtins.delattr"})

_SEARCHED: tuple[type[cst.CSTNode], ...] = (
    cst.Attribute,
    cst.BinaryOperation,
    cst.Call,
    cst.Comparison,
    cst.ConcatenatedString,
    cst.FormattedString,
    cst.SimpleString,
)
"""The kinds of nodes that use something."""

_NO_WEIGHT = "and a replacement has none of its own"


def judge_uses(
    parsed: Parsed, names: Names, flow: Flow, callables: Callables
) -> dict[cst.CSTNode, Judgement]:
    """What stands against a replacement, of each call whose convolution has something."""
    uses = _Uses(parsed, names, flow, callables)
    uses.search()
    return uses.judgements


class _Uses:
    def __init__(self, parsed: Parsed, names: Names, flow: Flow, callables: Callables) -> None:
        self._parsed = parsed
        self._names = names
        self._flow = flow
        self._callables = callables
        self.judgements: dict[cst.CSTNode, Judgement] = {}

    def search(self) -> None:
        for node in self._parsed.nodes(*_SEARCHED):
            if isinstance(node, cst.Attribute):
                self._look_at_attribute(node)
            elif isinstance(node, cst.Call):
                self._look_at_call(node)
                if not self._is_harmless(node):
                    self._look_at_unknown_call(node)
                    self._look_at_reparametrizer_of_others(node)
            elif isinstance(node, cst.Comparison):
                self._look_at_type_check(node)
            if not isinstance(node, cst.Attribute):
                self._look_at_text(node)

    # -- against which convolutions

    def _note(
        self,
        of: cst.BaseExpression,
        code: str,
        node: cst.CSTNode,
        what: str,
        through_classes: bool = True,
    ) -> bool:
        """Note what ``node`` does against all that the expression reaches.

        False if that is nothing, and may be anything.
        """
        if is_self(of):
            return True
        # reason: a name stands for one object; of an index or a call it is open which one is meant
        named = isinstance(of, (cst.Name, cst.Attribute))
        reach = self._flow.reach(of, through_classes and not named)
        judgement = by_rule(code, f"{self._line(node)} {what}")
        if not named and len(reach.calls) > 1:
            judgement = by_rule("DWS205", f"{self._line(node)} {what}, this one or another")
        for call in reach.calls:
            self._against(call, judgement)
        if self._is_any_module(of):
            what = f"{what}, of this one or another"
            self._against_all(by_rule("DWS205", f"{self._line(node)} {what}"))
        return reach.resolved

    def _is_any_module(self, node: cst.BaseExpression) -> bool:
        """Whether it is taken out of a model's modules by its number: ``list(m.modules())[1]``."""
        source: cst.BaseExpression | None = None
        if isinstance(node, cst.Subscript) and not m.matches(node, _BY_NAME):
            source = node.value
        elif isinstance(node, cst.Call) and self._names.certain_name(node.func) == "builtins.next":
            source = node
        if isinstance(source, cst.Name):
            source = self._names.value(source)
        return source is not None and any(m.matches(each, WALK) for each in below(source))

    def _against_all(self, judgement: Judgement) -> None:
        if self._callables.from_elsewhere:
            return
        for call in self._flow.convolutions:
            self._against(call, judgement)

    def _note_attribute(self, name: str, node: cst.CSTNode, what: str) -> None:
        """Note what ``node`` does against all that an attribute of this name may be."""
        judgement = by_rule("DWS110", f"{self._line(node)} {what}")
        for call in self._flow.reach_attribute(name).calls:
            self._against(call, judgement)

    def _against(self, call: cst.Call, judgement: Judgement) -> None:
        """What is certain goes before what is not; else the first."""
        old = self.judgements.get(call)
        was_open = old is not None and old.verdict is Verdict.CANNOT_TELL
        if old is None or (was_open and judgement.verdict is Verdict.INELIGIBLE):
            self.judgements[call] = judgement

    def _line(self, node: cst.CSTNode) -> str:
        return f"line {self._parsed.line(node)}"

    # -- weights

    def _look_at_attribute(self, node: cst.Attribute) -> None:
        name = node.attr.value
        if name == "weight":
            parent = self._parsed.parents[node]
            if not (isinstance(parent, cst.Attribute) and parent.attr.value in SAME_OF_ANY):
                self._note(node.value, "DWS110", node, f"uses its weight by name, {_NO_WEIGHT}")
        elif name == "_parameters":
            what = "uses its parameters, and a replacement has others"
            self._note(node.value, "DWS110", node, what)
        elif self._parsed.is_target(node):
            self._look_at_setting(node, name, node.value)
        elif name in _INNER:
            self._note(node.value, "DWS110", node, f"uses its {name}, {_NO_WEIGHT}")

    def _look_at_setting(self, node: cst.CSTNode, name: str, of: cst.BaseExpression) -> None:
        """``of.name = ...``, or the same with ``setattr``."""
        if name in SETTINGS or (name == "bias" and isinstance(self._parsed.parents[node], cst.Del)):
            what = f"sets or deletes its {name}, which a replacement does not follow"
            self._note(of, "DWS110", node, what)

    def _look_at_call(self, node: cst.Call) -> None:
        name = self._names.certain_name(node.func) or ""
        method = node.func.attr.value if isinstance(node.func, cst.Attribute) else ""
        if method in _PARAMETERS:
            self._look_at_parameters(node)
        elif _REPARAMETRIZE.fullmatch(name) and node.args:
            self._look_at_reparametrizer(node)
        elif _FUSE.fullmatch(name):
            self._look_at_fusion(node)
        elif method in _STATE:
            what = f"calls its {method}, and a replacement has other parameters"
            of = cst.ensure_type(node.func, cst.Attribute).value
            self._note(of, "DWS110", node, what, through_classes=False)
        elif name in _ATTRIBUTE_FUNCTIONS and node.args:
            self._look_at_attribute_function(node, name)
        elif name != "builtins.hasattr" and "weight" in _texts(node):
            self._look_at_named_weight(node, name)

    def _look_at_named_weight(self, node: cst.Call, name: str) -> None:
        """``prune(conv, "weight")``, ``attrgetter("weight")``."""
        what = f"uses its weight by name, {_NO_WEIGHT}"
        for argument in node.args:
            self._note(argument.value, "DWS110", node, what)
        if name == "operator.attrgetter":
            what = "uses the weight of some module by name, maybe of this one"
            self._against_all(by_rule("DWS205", f"{self._line(node)} {what}"))

    def _look_at_attribute_function(self, node: cst.Call, name: str) -> None:
        """``getattr(conv, "weight")``, and ``getattr(conv, x)`` whatever ``x`` is."""
        of, texts = node.args[0].value, _texts(node)
        if name == "builtins.setattr" and texts:
            self._look_at_setting(node, texts[0], of)
        if "weight" in texts:
            self._note(of, "DWS110", node, f"uses its weight by name, {_NO_WEIGHT}")
        elif not texts:
            what = "uses an attribute of it that is named at run time, which may be its weight"
            self._note(of, "DWS205", node, what)

    def _look_at_text(self, node: cst.CSTNode) -> None:
        """The end of a state_dict's key: ``"stem.conv.weight"``, ``f"{stem}.conv{i}.weight"``."""
        # reason: every sum and call is asked, and to join the parts of a long one takes a while
        if "weight" not in self._parsed.code(node):
            return
        key = _KEY.fullmatch(template(node))
        if key is None or not key[1].strip(UNKNOWN) or self._asks_a_mapping(node):
            return
        if UNKNOWN not in key[1]:
            self._note_attribute(key[1], node, f"names its weight, {_NO_WEIGHT}")
            return
        judgement = by_rule("DWS205", f"{self._line(node)} may name its weight, {_NO_WEIGHT}")
        for call in self._flow.reach_attributes(pattern_of(key[1])):
            self._against(call, judgement)

    def _asks_a_mapping(self, text: cst.CSTNode) -> bool:
        """``"stem.conv.weight" in state_dict``: a replacement's state dict has that key, too."""
        comparison = self._parsed.parents[text]
        if not isinstance(comparison, cst.Comparison) or comparison.left is not text:
            return False
        asked = comparison.comparisons[0]
        is_in = isinstance(asked.operator, (cst.In, cst.NotIn))
        # reason: a text as "stem.conv.weight" in name picks that parameter
        return is_in and _MAPPING.search(self._parsed.code(asked.comparator)) is not None

    def _look_at_fusion(self, node: cst.Call) -> None:
        what = "fuses it with what follows, which a replacement cannot be"
        for argument in node.args:
            self._note(argument.value, "DWS110", node, what, through_classes=False)
            for text in below(argument.value):
                if isinstance(text, cst.SimpleString):
                    name = str(text.evaluated_value).rpartition(".")[2]
                    self._note_attribute(name, node, what)

    def _look_at_parameters(self, node: cst.Call) -> None:
        """``conv.parameters()``: ``for p in ...: p.zero_()``, ``w, b = ...``, ``next(...).data``.

        Most loops over parameters only freeze or count them, and do not matter.
        """
        if self._takes_some(node):
            what = "writes or names its parameters, and a replacement has others"
            of = cst.ensure_type(node.func, cst.Attribute).value
            self._note(of, "DWS110", node, what, through_classes=False)

    def _takes_some(self, parameters: cst.Call) -> bool:
        """Whether the code around takes single parameters out, or writes into them."""
        user = self._parsed.parents[parameters]
        name = ""
        # out of list(conv.parameters()) and next(iter(...)) come the same parameters
        while isinstance(user, cst.Arg) and name != "builtins.next":
            call = cst.ensure_type(self._parsed.parents[user], cst.Call)
            name = self._names.certain_name(call.func) or ""
            if name not in _SAME_ITEMS:
                return _VECTORS.fullmatch(name) is not None
            user = self._parsed.parents[call]
        is_single = name == "builtins.next"
        if isinstance(user, cst.Subscript):
            user, is_single = self._parsed.parents[user], True
        if is_single:
            return not (isinstance(user, cst.Attribute) and user.attr.value in SAME_OF_ANY)
        return self._unpacks_or_writes(user)

    def _unpacks_or_writes(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Assign):
            return any(isinstance(each.target, cst.Tuple) for each in node.targets)
        if isinstance(node, cst.For):
            return any(_writes(each) for each in below(node.body))
        if isinstance(node, cst.CompFor):
            return any(_writes(each) for each in below(self._parsed.parents[node]))
        return False

    # -- reparametrizations

    def _look_at_reparametrizer(self, node: cst.Call) -> None:
        what = "computes its weight from other parameters; take that out to include it"
        if self._note(node.args[0].value, "DWS108", node, what):
            return
        # what it is given is not to be seen in this file, so it may be any of its convolutions
        judgement = by_rule(
            "DWS205",
            f"{self._line(node)} computes the weight of some convolution from other parameters, "
            "maybe of this one",
        )
        self._against_all(judgement)

    def _look_at_unknown_call(self, node: cst.Call) -> None:
        """``zero_module(nn.Conv2d(...))``, where the function is an argument or imported."""
        name = self._names.certain_name(node.func)
        hands = f"{self._line(node)} hands it to {self._parsed.code(node.func)}"
        for argument, convolution in self._flow.handed(node):
            outcome = self._callables.outcome(name, node, argument) if name else None
            if outcome is None:
                what = f"{hands}, which this file does not show: it may wrap, change or fuse it"
                self._against(convolution, by_rule("DWS205", what))
            elif outcome.judgement is not None:
                code, reason = outcome.judgement.code, outcome.judgement.reason
                what = f"{hands}, and {reason} (in {outcome.file.name})"
                self._against(convolution, by_rule(code, what))

    def _look_at_reparametrizer_of_others(self, node: cst.Call) -> None:
        """``spectral_norm(self.conv)``, imported from another package than torch."""
        if _REPARAMETRIZER.fullmatch(self._parsed.code(node.func)) and not self._flow.shows(node):
            what = "hands it to a function that may compute its weight from other parameters"
            for argument in node.args:
                self._note(argument.value, "DWS205", node, what, through_classes=False)

    def _is_harmless(self, node: cst.Call) -> bool:
        if node in self._flow.convolutions:
            return True
        if (self._names.certain_name(node.func) or "").startswith(_HARMLESS):
            return True
        return isinstance(node.func, cst.Attribute) and node.func.attr.value in _FORWARDING

    # -- types

    def _look_at_type_check(self, node: cst.CSTNode) -> None:
        check = type_check(node)
        if check is not None and check.exact and conv_ranks(check.types, self._names):
            what = "asks whether it is of this very class, and a replacement is not"
            self._note(check.subject, "DWS205", node, what)


def _texts(call: cst.Call) -> list[str]:
    """The arguments that are written as strings."""
    return [
        str(argument.value.evaluated_value)
        for argument in call.args
        if isinstance(argument.value, cst.SimpleString)
    ]


def _writes(node: cst.CSTNode) -> bool:
    """Whether it is ``x.data = ...`` or the call of a method that writes, as ``x.zero_()``."""
    if isinstance(node, cst.AssignTarget):
        return m.matches(node.target, m.Attribute(attr=m.Name("data")))
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        return _WRITTEN.fullmatch(node.func.attr.value) is not None
    return False
