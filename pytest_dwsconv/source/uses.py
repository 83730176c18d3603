"""What a file does with its convolutions that a replacement would not stand: by name, and through
other names.
"""

from __future__ import annotations

import re

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.core.rules import Judgement, Verdict
from pytest_dwsconv.source.flow import Flow, is_self
from pytest_dwsconv.source.guards import SETTINGS, is_target
from pytest_dwsconv.source.judging import by_rule
from pytest_dwsconv.source.names import Names
from pytest_dwsconv.source.parsing import Parsed, below
from pytest_dwsconv.source.typechecks import TypeCheck, conv_ranks, type_check

_REPARAMETRIZE = re.compile(
    r"torch\.nn\.utils\.(parametriz\w+\.)?(\w+_norm|orthogonal|register_parametrization)|torch\.nn\.utils\.prune\.\w+"
)
_REPARAMETRIZER = re.compile(
    r"(?i)(weight|spectral)_?norm|orthogonal|register_parametrization|prune"
)
"""What files call those functions, torch's or their own."""

_FUSE = re.compile(
    r"torch\.nn\.utils\.(fusion\.)?fuse_\w+|torch\.(ao\.)?quantization\.fuse_modules\w*"
)

_STATE = frozenset({"load_state_dict", "state_dict", "get_parameter", "register_parameter"})
_PARAMETERS = m.Call(func=m.Attribute(attr=m.Name("parameters") | m.Name("named_parameters")))
_WRITTEN = re.compile(r"(?!requires_grad_|share_memory_)\w*[a-z]_")
"""Methods of tensors that write into them."""

_KEY = re.compile(r"(?:\w+\.)*([A-Za-z_]\w*)\.weight")
"""The name of a weight in a state_dict, after the attribute that holds its layer."""
_FORWARDING = frozenset(
    "append extend insert add_module register_module to cuda cpu half float train eval apply "
    "__init__".split()
)
"""Methods, of modules and containers, that change no weight of what they are given."""

_HARMLESS = ("torch.", "builtins.", "collections.", "copy.", "itertools.")


def judge_uses(parsed: Parsed, names: Names, flow: Flow) -> dict[cst.CSTNode, Judgement]:
    """What stands against a replacement, of each call whose convolution has something."""
    uses = _Uses(parsed, names, flow)
    uses.search()
    return uses.judgements


class _Uses:
    def __init__(self, parsed: Parsed, names: Names, flow: Flow) -> None:
        self._parsed = parsed
        self._names = names
        self._flow = flow
        self.judgements: dict[cst.CSTNode, Judgement] = {}

    def search(self) -> None:
        mentioned = any(self._mentions_reparametrizer(node) for node in self._parsed.parents)
        for node in self._parsed.parents:
            if isinstance(node, cst.Attribute):
                self._look_at_attribute(node)
            elif isinstance(node, cst.Call):
                self._look_at_call(node)
                if mentioned:
                    self._look_at_wrapper(node)
            elif isinstance(node, cst.SimpleString):
                self._look_at_text(node)
            elif isinstance(node, (cst.For, cst.CompFor, cst.Assign)):
                self._look_at_parameters(node)
            self._look_at_type_check(node)

    def _note_attribute(self, name: str, code: str, what: str) -> None:
        """Note ``what`` against all that an attribute of this name may be."""
        for call in self._flow.reach_attribute(name).calls:
            self._against(call, by_rule(code, what))

    def _note(
        self, of: cst.BaseExpression, code: str, what: str, through_classes: bool = True
    ) -> bool:
        """Note ``what`` against all that the expression reaches; False where that is nothing and
        may be anything.
        """
        if is_self(of):
            return True
        named = isinstance(of, (cst.Name, cst.Attribute))
        reach = self._flow.reach(of, through_classes and not named)
        certain = named or len(reach.calls) == 1
        for call in reach.calls:
            self._against(
                call,
                by_rule(code, what)
                if certain
                else by_rule("DWS205", f"{what}, this one or another"),
            )
        return reach.resolved

    def _against(self, call: cst.Call, judgement: Judgement) -> None:
        """What is certain goes before what is not; else the first."""
        old = self.judgements.get(call)
        if old is None or (old.verdict, judgement.verdict) == (
            Verdict.CANNOT_TELL,
            Verdict.INELIGIBLE,
        ):
            self.judgements[call] = judgement

    def _line(self, node: cst.CSTNode) -> str:
        return f"line {self._parsed.line(node)}"

    # -- weights

    def _look_at_attribute(self, node: cst.Attribute) -> None:
        name = node.attr.value
        parent = self._parsed.parents[node]
        if name == "weight" and not (
            isinstance(parent, cst.Attribute) and parent.attr.value in _SAME
        ):
            reason = (
                f"{self._line(node)} uses its weight by name, and a replacement has none of its own"
            )
            self._note(node.value, "DWS110", reason)
        elif name == "_parameters":
            self._note(
                node.value,
                "DWS110",
                f"{self._line(node)} uses its parameters, and a replacement has others",
            )
        elif is_target(self._parsed, node):
            self._look_at_setting(node, name, node.value)

    def _look_at_setting(self, node: cst.CSTNode, name: str, of: cst.BaseExpression) -> None:
        if name == "bias":
            self._note(
                of,
                "DWS110",
                f"{self._line(node)} sets its bias, and a replacement has none of its own",
            )
        elif name in SETTINGS:
            self._note(
                of,
                "DWS110",
                f"{self._line(node)} sets its {name}, which the parts of a replacement do not see",
            )

    def _look_at_call(self, node: cst.Call) -> None:
        qualified = self._names.qualified(node.func) or ""
        if _REPARAMETRIZE.fullmatch(qualified) and node.args:
            self._look_at_reparametrizer(node)
        elif _FUSE.fullmatch(qualified):
            self._look_at_fusion(node)
        elif isinstance(node.func, cst.Attribute) and node.func.attr.value in _STATE:
            what = f"{self._line(node)} calls its {node.func.attr.value}, and a replacement has other parameters"
            self._note(node.func.value, "DWS110", what, through_classes=False)
        elif qualified != "builtins.hasattr":
            self._look_at_named_weight(node, qualified)

    def _look_at_named_weight(self, node: cst.Call, qualified: str) -> None:
        """``f(conv, "weight")``, and ``getattr(conv, name)`` whatever the name is."""
        texts = [each.value for each in node.args if isinstance(each.value, cst.SimpleString)]
        if qualified == "builtins.setattr" and texts and node.args:
            self._look_at_setting(node, str(texts[0].evaluated_value), node.args[0].value)
        dynamic = qualified in _ATTRIBUTE_FUNCTIONS
        if any(text.evaluated_value == "weight" for text in texts):
            reason = (
                f"{self._line(node)} uses its weight by name, and a replacement has none of its own"
            )
        elif dynamic and not texts:
            reason = f"{self._line(node)} uses an attribute of it that is named at run time, which may be its weight"
        else:
            return
        for argument in node.args[:1] if dynamic else node.args:
            self._note(argument.value, "DWS205" if dynamic and not texts else "DWS110", reason)

    def _look_at_text(self, node: cst.SimpleString) -> None:
        """A key of a state_dict, as ``"stem.conv.weight"``."""
        key = _KEY.fullmatch(str(node.evaluated_value))
        if key is not None:
            what = f"{self._line(node)} names its weight, and a replacement has none of its own"
            self._note_attribute(key[1], "DWS110", what)

    def _look_at_fusion(self, node: cst.Call) -> None:
        what = f"{self._line(node)} fuses it with what follows, which a replacement cannot be"
        for argument in node.args:
            self._note(argument.value, "DWS110", what, through_classes=False)
            for text in below(argument.value):
                if isinstance(text, cst.SimpleString):
                    self._note_attribute(
                        str(text.evaluated_value).rpartition(".")[2], "DWS110", what
                    )

    def _look_at_parameters(self, node: cst.For | cst.CompFor | cst.Assign) -> None:
        """``for p in conv.parameters(): p.zero_()`` and ``w, b = conv.parameters()``; most loops
        only freeze.
        """
        source = node.value if isinstance(node, cst.Assign) else node.iter
        if not m.matches(source, _PARAMETERS):
            return
        tuples = isinstance(node, cst.Assign) and any(
            isinstance(each.target, cst.Tuple) for each in node.targets
        )
        if tuples or (
            isinstance(node, cst.For) and any(self._writes(each) for each in below(node.body))
        ):
            of = cst.ensure_type(cst.ensure_type(source, cst.Call).func, cst.Attribute).value
            what = (
                f"{self._line(node)} writes or names its parameters, and a replacement has others"
            )
            self._note(of, "DWS110", what, through_classes=False)

    def _writes(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.AssignTarget):
            return m.matches(node.target, m.Attribute(attr=m.Name("data")))
        if not isinstance(node, cst.Call):
            return False
        method = node.func.attr.value if isinstance(node.func, cst.Attribute) else ""
        return _WRITTEN.fullmatch(method) is not None

    # -- reparametrizations

    def _mentions_reparametrizer(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.ImportAlias):
            return _REPARAMETRIZER.fullmatch(node.evaluated_name.rpartition(".")[2]) is not None
        return isinstance(node, cst.Name) and _REPARAMETRIZER.fullmatch(node.value) is not None

    def _look_at_reparametrizer(self, node: cst.Call) -> None:
        reason = f"{self._line(node)} computes its weight from other parameters; take that out to include it"
        if self._note(node.args[0].value, "DWS108", reason):
            return
        reason = f"{self._line(node)} computes the weight of some convolution from other parameters, maybe of this one"
        for call in self._flow.convolutions:
            self._against(call, by_rule("DWS205", reason))

    def _look_at_wrapper(self, node: cst.Call) -> None:
        """In a file with reparametrizations, any function that is not known may be one."""
        if self._is_harmless(node):
            return
        code = self._parsed.code(node.func)
        for argument in node.args:
            for call in self._flow.reach(argument.value, through_classes=False).calls:
                reason = f"{self._line(node)} hands it to {code}, which may compute its weight from other parameters"
                self._against(call, by_rule("DWS205", reason))

    def _is_harmless(self, node: cst.Call) -> bool:
        if (self._names.qualified(node.func) or "").startswith(
            _HARMLESS
        ) or node in self._flow.convolutions:
            return True
        return isinstance(node.func, cst.Attribute) and node.func.attr.value in _FORWARDING

    # -- types

    def _look_at_type_check(self, node: cst.CSTNode) -> None:
        check = type_check(node)
        checks = [check] if check is not None else []
        if isinstance(node, cst.Match):
            classes = [each.cls for each in below(node) if isinstance(each, cst.MatchClass)]
            checks = [TypeCheck(node.subject, each) for each in classes]
        for subject, types, _ in checks:
            if conv_ranks(types, self._names):
                what = f"line {self._parsed.line(node)} asks whether it is of this class, and a replacement is not"
                self._note(subject, "DWS205", what)


_SAME = frozenset({"dtype", "device", "shape"})
"""What the weight that a replacement computes tells as well."""

_ATTRIBUTE_FUNCTIONS = frozenset({"builtins.getattr", "builtins.setattr", "builtins.delattr"})
