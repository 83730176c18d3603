"""The rewrite of one file's text: callees replaced, one class for each rank inserted, all else as
it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_dwsconv.core.rules import Policy
from pytest_dwsconv.errors import SourceError
from pytest_dwsconv.source.finder import Annotation, find_places
from pytest_dwsconv.source.header import Header
from pytest_dwsconv.source.parsing import Parsed, Span, check_compiles
from pytest_dwsconv.source.sites import Evidence, Site, judge_places

_MENTION = re.compile(r"[Cc]onv\w*[123]d")


@dataclass(frozen=True)
class Rewrite:
    """The new text, all sites found in the old one, and the name each rank's replacement has in the
    new one.
    """

    text: str
    sites: tuple[Site, ...]
    class_names: dict[int, str]


def rewrite_text(text: str, policy: Policy = Policy(), evidence: Evidence | None = None) -> Rewrite:
    """Replace the callee at every candidate site. A second rewrite of the result changes nothing.

    Raises:
        SourceError: the text, or what would come of it, is no Python.
    """
    # reason: reading the tree takes most of the time, and most files need none
    if not _MENTION.search(text):
        check_compiles(text)
        return Rewrite(text, (), {})
    try:
        return _rewrite(Parsed(text), policy, evidence or {})
    except RecursionError as error:
        raise SourceError("its expressions are nested too deeply to be read") from error


def _rewrite(parsed: Parsed, policy: Policy, evidence: Evidence) -> Rewrite:
    text = parsed.text
    places, annotations = find_places(parsed)
    sites = judge_places(places, policy, evidence)
    wanted = [site for site in sites if site.is_candidate]
    if not wanted:
        return Rewrite(text, sites, {})
    header = Header(parsed, first_use=min(site.place.callee[0] for site in wanted))
    names = {
        rank: header.class_name(rank) for rank in sorted({site.place.spec.rank for site in wanted})
    }
    edits = [(site.place.callee, names[site.place.spec.rank]) for site in wanted]
    edits += _annotation_edits(annotations, wanted, names)
    edits.append(header.insertion(names))
    result = _apply(text, edits)
    check_compiles(result)
    return Rewrite(result, sites, names)


def _annotation_edits(
    annotations: list[Annotation], wanted: list[Site], names: dict[int, str]
) -> list[tuple[Span, str]]:
    """A type written for nothing but replaced convolutions is replaced as well: it would no longer
    be true.
    """
    ranks = {site.place.callee[0]: site.place.spec.rank for site in wanted}
    return [
        (annotation.span, names[ranks[annotation.calls[0]]])
        for annotation in annotations
        if ranks.keys() >= set(annotation.calls)
    ]


def _apply(text: str, edits: list[tuple[Span, str]]) -> str:
    for (start, end), replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text
