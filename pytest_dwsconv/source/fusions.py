"""What one file of a project puts in the place of convolutions that another file makes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import libcst as cst
import libcst.matchers as m

from pytest_dwsconv.core.rules import Judgement
from pytest_dwsconv.errors import SourceError
from pytest_dwsconv.source.callables import Callables
from pytest_dwsconv.source.files import read
from pytest_dwsconv.source.finder import judge_last
from pytest_dwsconv.source.reading.names import Names
from pytest_dwsconv.source.reading.syntax import Parsed, below
from pytest_dwsconv.source.sites import Fusion, by_rule
from pytest_dwsconv.source.typechecks import members, type_check

_FUSES = re.compile(
    r"^[ \t]*(?!self\.)(\w+)\.(\w+)[ \t]*=[ \t]*[\w.]+\(\s*\1\.\2\b"
    r"""|\bsetattr\(\s*(\w+),\s*["'](\w+)["'],\s*[\w.]+\(\s*\3\.\4\b""",
    re.MULTILINE,
)
"""``m.conv = fuse_conv_and_bn(m.conv, m.bn)``, as detectors have it in a walk over all modules.

Or ``setattr(m, "conv", fuse_conv_and_bn(m.conv, m.bn))``.
"""

_SETS = m.Call(
    func=m.Name("setattr"), args=[m.Arg(m.Name()), m.Arg(m.SimpleString()), m.Arg(m.Call())]
)


def find_fusions(files: Iterable[Path]) -> tuple[Fusion, ...]:
    """What any of the files does to attributes of objects whose classes other files may have."""
    found: list[Fusion] = []
    for file in files:
        try:
            text = read(file).text
            if _FUSES.search(text):
                found += _Fusions(Parsed(text), file).search()
        except (SourceError, RecursionError):
            continue  # reason: it is complained of when its turn comes
    return tuple(found)


class _Fusions:
    def __init__(self, parsed: Parsed, file: Path) -> None:
        self._parsed = parsed
        self._file = file
        self._names = Names(parsed, frozenset())
        self._callables = Callables(file, judge_last)

    def search(self) -> Iterator[Fusion]:
        for call in self._parsed.nodes(cst.Call):
            for argument in call.args:
                given = argument.value
                if not (isinstance(given, cst.Attribute) and isinstance(given.value, cst.Name)):
                    continue
                judgement = self._judgement(call, argument) if self._returns(call, given) else None
                if judgement is not None:
                    classes = frozenset(self._classes(given.value))
                    yield Fusion(given.attr.value, classes, judgement)

    def _returns(self, call: cst.Call, given: cst.Attribute) -> bool:
        """Whether the result of a call takes the place of an attribute that it is given."""
        user = self._parsed.parents[call]
        if isinstance(user, cst.Assign):
            return user.targets[0].target.deep_equals(given)
        setter = self._parsed.parents.get(user)
        if not (isinstance(setter, cst.Call) and m.matches(setter, _SETS)):
            return False
        owner, name = (each.value for each in setter.args[:2])
        written = cst.ensure_type(name, cst.SimpleString).evaluated_value
        return owner.deep_equals(given.value) and written == given.attr.value

    def _judgement(self, call: cst.Call, handed: cst.Arg) -> Judgement | None:
        """What stands against handing a convolution to this call, if anything does."""
        place = f"line {self._parsed.line(call)} of {self._file.name}"
        hands = f"{place} hands it to {self._parsed.code(call.func)}"
        name = self._names.certain_name(call.func)
        outcome = self._callables.outcome(name or self._own_name(call), call, handed)
        if outcome is None:
            return by_rule("DWS205", f"{hands}, which no file shows: it may fuse it")
        if outcome.judgement is None:
            return None
        reason = f"{hands}, and {outcome.judgement.reason} (in {outcome.file.name})"
        return replace(outcome.judgement, reason=reason)

    def _own_name(self, call: cst.Call) -> str:
        """The name that other files would have for a function of this one."""
        return f".{self._file.stem}.{self._parsed.code(call.func)}"

    def _classes(self, module: cst.Name) -> Iterator[str]:
        """The classes for which the conditions around ask, by their own names."""
        for _, above in self._parsed.ancestors(module):
            for node in below(above.test) if isinstance(above, cst.If) else ():
                check = type_check(node)
                if check is None or not check.subject.deep_equals(module):
                    continue
                for member in members(check.types):
                    if isinstance(member, (cst.Name, cst.Attribute)):
                        yield self._parsed.code(member).rpartition(".")[2]
