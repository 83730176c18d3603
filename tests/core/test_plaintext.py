from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dwsconv.core.plaintext import plain


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("layer1.0.conv1", "layer1.0.conv1"),
        ("свёртка→卷积", "свёртка→卷积"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\r\nb\tc\x00", "a\\r\\nb\\tc\\x00"),
        ("a\u202eb\u2028c\ud800", "a\\u202eb\\u2028c\\ud800"),
        ("::error::x", "\\x3a:error::x"),
        ("  ::error::x", "  \\x3a:error::x"),
        ("a ::error::x", "a \\x3a:error::x"),
        ("##[error]x", "#\\x23[error]x"),
        ("a##vso[task.complete]", "a#\\x23vso[task.complete]"),
        ("tests/test_a.py::TestB::test_c[1-2]", "tests/test_a.py::TestB::test_c[1-2]"),
        ("## heading", "## heading"),
    ],
)
def test_what_would_be_obeyed_is_spelt_out(text: str, printed: str) -> None:
    assert plain(text) == printed


@given(st.text())
def test_any_text_is_one_printable_line_and_stays_so(text: str) -> None:
    printed = plain(text)
    assert printed.isprintable()
    assert not any(word.startswith("::") for word in printed.split())
    assert plain(printed) == printed
