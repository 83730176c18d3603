"""Imports of a rewritten file: those that nothing needs any more go."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import itemgetter

import libcst as cst

from pytest_dwsconv.source.reading.spans import Span
from pytest_dwsconv.source.reading.syntax import Parsed

Edit = tuple[Span, str]
"""Characters of the text, and what takes their place."""

_LINE_END = re.compile(r"\r\n?|\n|\Z")


def without_unused_imports(parsed: Parsed, edits: Sequence[Edit]) -> list[Edit]:
    """The edits, and those that take out imports that nothing but replaced code has used.

    A name that occurs anywhere in the new text, in a string or comment too, counts as used.
    """
    roots = {parsed.text[start:end].partition(".")[0].strip() for (start, end), _ in edits}
    unused: dict[cst.Import | cst.ImportFrom, list[cst.ImportAlias]] = defaultdict(list)
    aliases = list(_top_level_aliases(parsed))
    for root in sorted(roots - {""}):
        binding = [(node, alias) for node, alias in aliases if _bound_name(alias) == root]
        if len(binding) == 1:
            node, alias = binding[0]
            rest = edited(parsed.text, [*edits, (parsed.span(node), "")])
            if not re.search(rf"(?<![\w.]){root}\b", rest):
                unused[node].append(alias)
    removals: list[Edit] = []
    for node, its_aliases in unused.items():
        removals += _removal(parsed, node, its_aliases)
    return [*edits, *removals]


def edited(text: str, edits: Sequence[Edit]) -> str:
    """The text after all edits, which do not overlap; of those at one place the first is first."""
    pieces, done = [], 0
    for (start, end), replacement in sorted(edits, key=itemgetter(0)):
        pieces += [text[done:start], replacement]
        done = end
    return "".join([*pieces, text[done:]])


def _top_level_aliases(
    parsed: Parsed,
) -> Iterator[tuple[cst.Import | cst.ImportFrom, cst.ImportAlias]]:
    """The imported names, without those of blocks, with the statement that imports each."""
    for statement in parsed.module.body:
        if not isinstance(statement, cst.SimpleStatementLine):
            continue
        for node in statement.body:
            if not isinstance(node, (cst.Import, cst.ImportFrom)):
                continue
            if not isinstance(node.names, cst.ImportStar):
                for alias in node.names:
                    yield node, alias


def _bound_name(alias: cst.ImportAlias) -> str:
    """The name that an import binds; empty for ``import torch.nn``, which also loads a module."""
    if alias.asname is not None:
        return alias.evaluated_alias or ""
    return "" if "." in alias.evaluated_name else alias.evaluated_name


def _removal(
    parsed: Parsed, node: cst.Import | cst.ImportFrom, unused: Sequence[cst.ImportAlias]
) -> Iterator[Edit]:
    """What takes names out of an import; nothing where a comment or a ``;`` is beside them."""
    start, end = parsed.span(node)
    text = parsed.text
    match = _LINE_END.search(text, end)
    assert match is not None  # reason: the pattern matches the end of the text
    before = text[:start].rpartition("\n")[2].rpartition("\r")[2]
    beside = before + text[end : match.start()]
    if beside.strip() or "#" in text[start:end] or isinstance(node.names, cst.ImportStar):
        return
    kept = [alias for alias in node.names if alias not in unused]
    if not kept:
        yield (start, match.end()), ""
        return
    names = list(node.names)
    written = ""
    for alias in kept:
        first, last = parsed.span(alias)
        number = names.index(alias)
        if written:
            written += text[parsed.span(names[number - 1])[1] : first]
        written += text[first:last]
    yield (parsed.span(names[0])[0], parsed.span(names[-1])[1]), written
