"""What stands above the first replaced convolution of a file, and the classes that are put there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

import libcst as cst
import libcst.matchers as m
from libcst.metadata import QualifiedNameSource, ScopeProvider

from pytest_dwsconv.source.parsing import Parsed, Span, is_inserted
from pytest_dwsconv.source.template import class_text

_CLASS_NAME = "DepthwiseSeparableConv{rank}d"
_BLANK_LINES = re.compile(r"(?:[ \t\f]*(?:\r\n?|\n))*")

_IMPORT = m.SimpleStatementLine(body=[m.ZeroOrMore(), m.Import() | m.ImportFrom(), m.ZeroOrMore()])
_FUTURE = m.SimpleStatementLine(body=[m.ImportFrom(module=m.Name("__future__")), m.ZeroOrMore()])
_STRING = m.Expr(m.SimpleString() | m.ConcatenatedString())
_DOCSTRING = m.SimpleStatementLine(body=[_STRING])
_DOCSTRING_AND_MORE = m.SimpleStatementLine(body=[_STRING, m.AtLeastN(n=1)])
_GUARDED = m.If() | m.Try() | m.TryStar() | m.With()


class Header:
    """The top-level statements before the one that holds the character ``first_use``."""

    def __init__(self, parsed: Parsed, first_use: int) -> None:
        self._parsed = parsed
        *above, (self._end, _) = parsed.statements_until(first_use)
        self._starts = [start for start, _ in above]
        self._statements = [statement for _, statement in above]
        self._scope = parsed.wrapper.resolve(ScopeProvider)[parsed.module]
        self._taken = {node.value for node in parsed.parents if isinstance(node, cst.Name)}
        self._own = {
            statement.name.value
            for statement in self._statements
            if isinstance(statement, cst.ClassDef) and is_inserted(statement)
        }

    def class_name(self, rank: int) -> str:
        """The name of a class inserted earlier, else the first one that nothing in the file has."""
        names = _numbered(_CLASS_NAME.format(rank=rank))
        return next(name for name in names if name in self._own or name not in self._taken)

    def insertion(self, class_names: dict[int, str]) -> tuple[Span, str]:
        """The classes that are not there yet, and the place after the imports where they belong."""
        new = {rank: name for rank, name in class_names.items() if name not in self._own}
        above = [index for index, each in enumerate(self._statements) if _is_heading(each, index)]
        position = [*self._starts, self._end][above[-1] + 1 if above else 0]
        if not new:
            return (position, position), ""
        torch, nn, lines = self._spellings()
        if lines and above and m.matches(self._statements[above[-1]], _DOCSTRING | _FUTURE):
            lines = f"\n{lines}"
        text = lines + "".join(
            f"\n\n{class_text(rank, name, torch, nn)}" for rank, name in new.items()
        )
        text += "\n" * (2 - self._blank_lines(position))
        if (span := self._after_docstring()) is not None:
            return span, self._in_style(f"\n\n{text}")
        return (position, position), self._in_style(text)

    def _after_docstring(self) -> Span | None:
        """What is between the module's docstring and the first use, where both are on the first
        line.
        """
        first = self._parsed.module.body[0]
        if self._statements or not m.matches(first, _DOCSTRING_AND_MORE):
            return None
        docstring, after, *_ = cst.ensure_type(first, cst.SimpleStatementLine).body
        return self._parsed.span(docstring)[1], self._parsed.span(after)[0]

    def _spellings(self) -> tuple[str, str, str]:
        """How the file calls ``torch`` and ``torch.nn`` at this point, and the import that this
        still needs.
        """
        bound = [(name, self._meaning(name)) for name in self._imported()]
        torch = next((name for name, meaning in bound if meaning == "torch"), None)
        nn = next((name for name, meaning in bound if meaning == "torch.nn"), None)
        if torch is not None:
            return torch, nn or f"{torch}.nn", ""
        if self._meaning("torch") in ("torch", None) and not self._is_defined("torch"):
            return "torch", nn or "torch.nn", "import torch\n"
        other = next(name for name in _numbered("torch") if name not in self._taken)
        return other, nn or f"{other}.nn", f"import torch as {other}\n"

    def _imported(self) -> Iterator[str]:
        """Names that are certainly bound here: by imports that stand in no block."""
        for statement in self._statements:
            if m.matches(statement, _IMPORT):
                for alias in m.findall(statement, m.ImportAlias()):
                    yield _bound_name(cst.ensure_type(alias, cst.ImportAlias))

    def _meaning(self, name: str) -> str | None:
        """The qualified name that an imported name has wherever it is bound in the file's outer
        scope.
        """
        meanings = self._scope.get_qualified_names_for(name) if self._scope is not None else set()
        imported = {each.name for each in meanings if each.source is QualifiedNameSource.IMPORT}
        return imported.pop() if len(imported) == len(meanings) == 1 else None

    def _is_defined(self, name: str) -> bool:
        return self._scope is not None and name in self._scope and self._meaning(name) is None

    def _blank_lines(self, position: int) -> int:
        """How many of two blank lines are there already."""
        match = _BLANK_LINES.match(self._parsed.text, position)
        return min(2, len(re.findall(r"\r\n?|\n", match.group()))) if match else 0

    def _in_style(self, text: str) -> str:
        """With the file's own indentation and line ends."""
        module = self._parsed.module
        text = re.sub(
            r"^(?: {4})+",
            lambda m: module.default_indent * (len(m.group()) // 4),
            text,
            flags=re.MULTILINE,
        )
        return text.replace("\n", module.default_newline)


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in count(2):
        yield f"{name}_{number}"


def _is_heading(statement: cst.BaseStatement | cst.SimpleStatementLine, index: int) -> bool:
    if m.matches(statement, _IMPORT) or (not index and m.matches(statement, _DOCSTRING)):
        return True
    return m.matches(statement, _GUARDED) and bool(
        m.findall(statement, m.Import() | m.ImportFrom())
    )


def _bound_name(alias: cst.ImportAlias) -> str:
    if alias.asname is not None:
        return alias.evaluated_alias or ""
    return alias.evaluated_name.partition(".")[0]
