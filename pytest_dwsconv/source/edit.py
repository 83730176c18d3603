"""The rewrite of one file's text: callees replaced, classes inserted, all else as it was."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import libcst as cst
import libcst.matchers as m
from libcst.metadata import QualifiedNameSource

from pytest_dwsconv.configuration import ImportedClass
from pytest_dwsconv.core.conv import Form
from pytest_dwsconv.core.policy import Policy
from pytest_dwsconv.errors import SourceError
from pytest_dwsconv.source.checkpoints import first_load
from pytest_dwsconv.source.finder import find_places
from pytest_dwsconv.source.imports import edited, without_unused_imports
from pytest_dwsconv.source.loops import changes_to_all
from pytest_dwsconv.source.reading.calls import CALLEES
from pytest_dwsconv.source.reading.names import Names
from pytest_dwsconv.source.reading.spans import Span
from pytest_dwsconv.source.reading.stack import with_large_stack
from pytest_dwsconv.source.reading.syntax import Parsed, check_compiles, is_inserted
from pytest_dwsconv.source.sites import BuildEvidence, Fusion, SourceSite, judge_places
from pytest_dwsconv.source.template import (
    GUARD,
    Inserted,
    class_name,
    class_of_other_size,
    class_text,
)
from pytest_dwsconv.source.typechecks import ALL_RANKS

_MENTION = re.compile(r"\b(?:(?:Lazy)?Conv(?:Transpose)?|conv(?:_transpose)?)[123]d\b")
_CONFIGURED = re.compile(
    r"^[^#\n\r]*?(?<!def )(?<!class )\b"
    r"(build_conv_layer|build_from_cfg|ConvModule|parse_model|\w*(?:MODELS|LAYERS|REGISTRY)\.build)"
    r"[ \t]*\(",
    re.MULTILINE,
)
"""What makes layers of names in a configuration, in the packages that many networks come from."""

_BLANK_LINES = re.compile(r"(?:[ \t\f]*(?:\r\n?|\n))*")

_IMPORT = m.SimpleStatementLine(body=[m.ZeroOrMore(), m.Import() | m.ImportFrom(), m.ZeroOrMore()])
_FUTURE = m.SimpleStatementLine(body=[m.ImportFrom(module=m.Name("__future__")), m.ZeroOrMore()])
_STRING = m.Expr(m.SimpleString() | m.ConcatenatedString())
_DOCSTRING = m.SimpleStatementLine(body=[_STRING])
_DOCSTRING_AND_MORE = m.SimpleStatementLine(body=[_STRING, m.AtLeastN(n=1)])
_GUARD_METHOD = m.FunctionDef(name=m.Name(GUARD))
_BLOCKS = m.If() | m.Try() | m.TryStar() | m.With()


_Wanted = tuple[int, Inserted]
"""A class by its dimensions and its form."""


def _wanted(site: SourceSite) -> _Wanted:
    return site.place.spec.rank, site.inserted


@dataclass(frozen=True)
class Rewrite:
    """The new text, the sites found in the old one, and the names of the classes in the new one.

    ``configured`` is the first line that makes layers from a configuration, with what it calls.
    ``loads_at`` is the line of the old one where weights are loaded that fit no more, if any.
    ``takes_all`` is the first line that takes something of every convolution, those of other files
    too, which does not suit a replacement, with what it does; of files that nothing is replaced in.
    """

    text: str
    sites: tuple[SourceSite, ...]
    class_names: Mapping[_Wanted, str]
    configured: tuple[int, str] | None = None
    loads_at: int | None = None
    takes_all: tuple[int, str] | None = None

    def replacement(self, site: SourceSite) -> str | None:
        """What is called in the new text at a candidate site; None at others."""
        if not site.is_candidate:
            return None
        name = self.class_names[_wanted(site)]
        return f"{name}.{GUARD}" if site.guarded else name


def rewrite_text(
    text: str,
    policy: Policy = Policy(),
    evidence: BuildEvidence = BuildEvidence(),
    classes: Mapping[int, ImportedClass] | None = None,
    guards: bool = True,
    path: Path | None = None,
    fusions: Sequence[Fusion] = (),
) -> Rewrite:
    """Replace the callee at every candidate site. A second rewrite of the result changes nothing.

    ``classes``, by dimensions, are imported; for other dimensions a class is inserted, one for each
    form and size that the policy or the plan of the ``evidence`` has. With ``guards``, an
    inserted class decides when the code runs what the arguments leave open. With the ``path`` of
    the file, functions and classes of the project's other files are looked up; ``fusions`` are
    what those do to this one's objects.

    Raises:
        SourceError: the text, or what would come of it, is not Python.
    """
    configured = _configured(text)
    # reason: reading the tree takes most of the time, and most files need none
    if "torch" not in text or not _MENTION.search(text):
        return Rewrite(text, (), {}, configured)
    rewrite = partial(
        _rewrite,
        policy=policy,
        evidence=evidence,
        classes=classes or {},
        guards=guards,
        path=path,
        fusions=fusions,
    )
    # reason: a tree is many objects that all live until its end; to look for garbage among them
    # takes a fifth of the time
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return replace(_rewrite_deep(text, rewrite), configured=configured)
    finally:
        if was_enabled:
            gc.enable()


def _configured(text: str) -> tuple[int, str] | None:
    match = _CONFIGURED.search(text)
    return None if match is None else (len(text[: match.start(1)].splitlines()), match[1])


def _rewrite_deep(text: str, rewrite: Callable[[Parsed], Rewrite]) -> Rewrite:
    """Rewrite the text, however deeply it is nested."""
    try:
        return rewrite(Parsed(text))
    except RecursionError:
        pass  # reason: outside of this clause, the frames of the first try are gone
    try:
        return with_large_stack(lambda: rewrite(Parsed(text)))
    except RecursionError as error:
        raise SourceError("its expressions are nested too deeply to be read") from error


def _rewrite(
    parsed: Parsed,
    policy: Policy,
    evidence: BuildEvidence,
    classes: Mapping[int, ImportedClass],
    guards: bool,
    path: Path | None,
    fusions: Sequence[Fusion],
) -> Rewrite:
    # a class of the user's own has no guard
    guarded_ranks = ALL_RANKS.difference(classes) if guards else frozenset[int]()
    places = find_places(parsed, path, fusions)
    sites = judge_places(places, policy, evidence, guarded_ranks)
    wanted = [site for site in sites if site.is_candidate]
    if not wanted:
        return Rewrite(parsed.text, sites, {}, takes_all=_takes_all(parsed))
    header = _Header(parsed, min(site.place.callee[0] for site in wanted), classes, policy)
    guarded = {_wanted(site) for site in wanted if site.guarded}
    names = {
        each: header.class_name(*each, each in guarded)
        for each in sorted({_wanted(site) for site in wanted})
    }
    edits = [header.insertion(names)]
    for site in wanted:
        edits += _edits(site, names[_wanted(site)])
    result = edited(parsed.text, without_unused_imports(parsed, edits))
    check_compiles(result)
    return Rewrite(result, sites, names, loads_at=first_load(parsed))


def _takes_all(parsed: Parsed) -> tuple[int, str] | None:
    changes = changes_to_all(parsed, Names(parsed, frozenset(CALLEES)))
    lines = [(parsed.line(change.node), change.what) for change in changes]
    return min(lines, default=None)


def _edits(site: SourceSite, class_name: str) -> list[tuple[Span, str]]:
    if not site.guarded:
        return [(site.place.callee, class_name)]
    edits = []
    for start, end in site.place.calls:
        edits += [((start, start), f"{class_name}.{GUARD}("), ((end, end), ")")]
    return edits


class _Header:
    """The top-level statements before the one that holds the character ``first_use``."""

    def __init__(
        self,
        parsed: Parsed,
        first_use: int,
        classes: Mapping[int, ImportedClass],
        policy: Policy,
    ) -> None:
        self._parsed = parsed
        self._classes = classes
        self._policy = policy
        *above, (self._end, _) = parsed.statements_until(first_use)
        self._starts = [start for start, _ in above]
        self._statements = [statement for _, statement in above]
        self._scope = parsed.scopes[parsed.module]
        self._taken = {node.value for node in parsed.nodes(cst.Name)}
        self._own: dict[str, bool] = {}  # inserted classes, and whether they have a guard
        for statement in self._statements:
            if isinstance(statement, cst.ClassDef) and _is_convolution(statement):
                self._own[statement.name.value] = self._decides(statement)
        self._guarded: set[str] = set()

    def _decides(self, of: cst.ClassDef) -> bool:
        """Whether an inserted class, or that of another size which it is of, has a guard."""
        inherited = any(self._own.get(self._parsed.code(base.value), False) for base in of.bases)
        return inherited or bool(m.findall(of, _GUARD_METHOD))

    def class_name(self, rank: int, inserted: Inserted, guarded: bool) -> str:
        """The name of a class inserted earlier, else the first one that nothing in the file has.

        If ``guarded``, the class has to decide when the code runs.
        """
        if rank in self._classes:
            return self._imported_name(*self._classes[rank])
        for name in _numbered(class_name(rank, inserted)):
            is_usable = name in self._own and (self._own[name] or not guarded)
            if is_usable or name not in self._taken:
                break
        if guarded:
            self._guarded.add(name)
        return name

    def _imported_name(self, module: str, name: str) -> str:
        """The name that a class of the user's own has, or is to have."""
        full = f"{module}.{name}"
        found = next((each for each in self._imported() if self._meaning(each) == full), None)
        return found or next(each for each in _numbered(name) if each not in self._taken)

    def _import_of(self, module: str, name: str, alias: str) -> str:
        if self._meaning(alias) == f"{module}.{name}":
            return ""
        return f"from {module} import {name}" + (f" as {alias}\n" if alias != name else "\n")

    def insertion(self, class_names: Mapping[_Wanted, str]) -> tuple[Span, str]:
        """The classes that are not there yet, and the place after the imports where they belong."""
        heading = 0  # how many statements stand above the classes
        for index, statement in enumerate(self._statements):
            if _is_heading(statement, index):
                heading = index + 1
        position = [*self._starts, self._end][heading]
        imports, classes = self._missing(class_names)
        if not imports and not classes:
            return (position, position), ""
        text = imports + classes
        if imports and heading and m.matches(self._statements[heading - 1], _DOCSTRING | _FUTURE):
            text = f"\n{text}"
        if classes:
            text += "\n" * (2 - self._blank_lines(position))
        between = self._after_docstring()
        if between is not None:
            return between, self._in_style(f"\n\n{text}")
        return (position, position), self._in_style(text)

    def _missing(self, class_names: Mapping[_Wanted, str]) -> tuple[str, str]:
        """The imports, and the classes, that the names still need."""
        imports = classes = import_of_torch = ""
        bases: dict[tuple[int, Form], str] = {}
        guarded = {
            (rank, inserted.form)
            for (rank, inserted), name in class_names.items()
            if name in self._guarded
        }
        for (rank, inserted), name in class_names.items():
            if rank in self._classes:
                imports += self._import_of(*self._classes[rank], name)
                continue
            if name in self._own:
                continue
            torch, nn, import_of_torch = self._spellings()
            kind = rank, inserted.form
            if kind in bases:
                text = class_of_other_size(name, bases[kind], inserted.size)
            else:
                guard = self._policy if kind in guarded else None
                text = class_text(rank, name, torch, nn, inserted, guard)
            if inserted.is_sized:
                bases.setdefault(kind, name)
            classes += f"\n\n{text}"
        return import_of_torch + imports, classes

    def _after_docstring(self) -> Span | None:
        """What separates the module's docstring from a first use on the same line."""
        first = self._parsed.module.body[0]
        if self._statements or not m.matches(first, _DOCSTRING_AND_MORE):
            return None
        docstring, after, *_ = cst.ensure_type(first, cst.SimpleStatementLine).body
        return self._parsed.span(docstring)[1], self._parsed.span(after)[0]

    def _spellings(self) -> tuple[str, str, str]:
        """The file's names for ``torch`` and ``torch.nn`` here, and the import they still need."""
        bound = [(name, self._meaning(name)) for name in self._imported()]
        torch = next((name for name, meaning in bound if meaning == "torch"), None)
        nn = next((name for name, meaning in bound if meaning == "torch.nn"), None)
        if torch is not None:
            return torch, nn or f"{torch}.nn", ""
        # an import further down, or in a block, may bind the name to nothing but torch
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
        """The qualified name of an imported name, if every binding in the outer scope agrees."""
        meanings = self._scope.get_qualified_names_for(name)
        imported = {each.name for each in meanings if each.source is QualifiedNameSource.IMPORT}
        return imported.pop() if len(imported) == len(meanings) == 1 else None

    def _is_defined(self, name: str) -> bool:
        return name in self._scope and self._meaning(name) is None

    def _blank_lines(self, position: int) -> int:
        """How many of two blank lines are there already."""
        match = _BLANK_LINES.match(self._parsed.text, position)
        assert match is not None  # reason: the pattern matches the empty text too
        return min(2, len(re.findall(r"\r\n?|\n", match.group())))

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


def _is_convolution(statement: cst.ClassDef) -> bool:
    """Whether it is a class that was inserted, and not one of two modules, as they once were."""
    base = statement.bases[0].value if statement.bases else statement.name
    return is_inserted(statement) and not m.matches(base, m.Attribute(attr=m.Name("Module")))


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in count(2):
        yield f"{name}_{number}"


def _is_heading(statement: cst.BaseStatement | cst.SimpleStatementLine, index: int) -> bool:
    """Whether the classes go below it: an import, in a block too, or the module's docstring."""
    if index == 0 and m.matches(statement, _DOCSTRING):
        return True
    if m.matches(statement, _BLOCKS):
        return bool(m.findall(statement, m.Import() | m.ImportFrom()))
    return m.matches(statement, _IMPORT)


def _bound_name(alias: cst.ImportAlias) -> str:
    if alias.asname is not None:
        return alias.evaluated_alias or ""
    return alias.evaluated_name.partition(".")[0]
