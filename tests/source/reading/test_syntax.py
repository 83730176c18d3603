"""The tree's spans and scopes are those that libcst's own, slower providers tell."""

from __future__ import annotations

import inspect

import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider, ScopeProvider

from pytest_dwsconv.source.reading import syntax
from pytest_dwsconv.source.reading.syntax import Parsed, below

ODD = '''\
import a.b as c, d.e
from f import (g as h, i)

j: int = 1; (k), [l, *m.n] = o[p] = (q := 2)


@decorated
class Q(base, metaclass=r):
    """ä"""
    s = [t for u in v if w for t in u]

    def y(self, z: "Q", *a, b=j, **c) -> None:
        global k
        del k
        with open(a) as f, g() as (h, i):
            nonlocal_ = lambda k, *, l=m: {k: l for k, l in f}
        try:
            pass
        except E as e:
            k += 1
        return (  # two
            a
            .b
        )
'''
TEXTS = [ODD, inspect.getsource(syntax)]


@pytest.mark.parametrize("text", TEXTS)
def test_spans_are_the_positions_that_libcst_gives(text: str) -> None:
    parsed = Parsed(text)
    positions = MetadataWrapper(parsed.module, unsafe_skip_copy=True).resolve(PositionProvider)
    for node in below(parsed.module):
        start, end = (parsed.place(offset) for offset in parsed.span(node))
        expected = positions[node]
        assert start == (expected.start.line, expected.start.column + 1)
        assert end == (expected.end.line, expected.end.column + 1)


@pytest.mark.parametrize("text", TEXTS)
def test_names_have_the_scopes_and_meanings_that_libcst_gives(text: str) -> None:
    parsed = Parsed(text)
    expected = MetadataWrapper(parsed.module, unsafe_skip_copy=True).resolve(ScopeProvider)
    for node in below(parsed.module):
        if isinstance(node, (cst.Name, cst.Attribute)):
            ours, theirs = parsed.scopes.get(node), expected.get(node)
            assert type(ours) is type(theirs)
            if ours is not None and theirs is not None:
                assert ours.get_qualified_names_for(node) == theirs.get_qualified_names_for(node)
                if isinstance(node, cst.Name):
                    nodes = {getattr(each, "node", None) for each in theirs[node.value]}
                    assert {getattr(each, "node", None) for each in ours[node.value]} == nodes
