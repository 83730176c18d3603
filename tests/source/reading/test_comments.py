"""``# dws: skip`` and ``# noqa: CODE``: what they leave alone, and what they silence."""

from __future__ import annotations

import pytest

from pytest_dwsconv.source.edit import rewrite_text


@pytest.mark.parametrize(
    ("comment", "code", "silenced"),
    [
        ("# dws: skip", "DWS101", False),
        ("# noqa: DWS001", "DWS101", True),
        ("# noqa: E501, dws001", "DWS101", True),
        ("# NOQA:E501 DWS001 as is", "DWS101", True),
        ("# noqa", "DWS101", True),
        ("# type: ignore  # noqa: DWS001", "DWS101", True),
        ("# noqa: E501", "DWS001", False),
        ("# noqa: DWS203", "DWS001", False),
        ("# noqable", "DWS001", False),
        ("", "DWS001", False),
    ],
)
def test_what_a_comment_does_to_a_candidate(comment: str, code: str, silenced: bool) -> None:
    text = f"from torch import nn\nx = nn.Conv2d(32, 64, 3)  {comment}\n"
    (site,) = rewrite_text(text).sites
    assert (site.judgement.code, site.is_silenced) == (code, silenced)


def test_a_comment_silences_what_is_left_alone_by_its_code() -> None:
    text = "from torch import nn\nx = nn.Conv2d(3, 64, k)  # noqa: DWS203\n"
    (site,) = rewrite_text(text).sites
    assert (site.judgement.code, site.is_silenced) == ("DWS203", True)


def test_any_line_of_a_call_may_have_the_comment() -> None:
    text = "from torch import nn\nx = nn.Conv2d(\n    32,\n    64,  # noqa: DWS001\n    3,\n)\n"
    (site,) = rewrite_text(text).sites
    assert site.is_silenced


@pytest.mark.parametrize("words", ["# dws: skip", "# noqa: DWS001"])
@pytest.mark.parametrize("quote", ['"', '"""', 'f"', "'"])
def test_the_same_words_in_a_string_are_no_comment(words: str, quote: str) -> None:
    end = quote.lstrip("f")
    text = f"from torch import nn\nx = nn.Conv2d(32, 64, 3), {quote}{words}{end}\n"
    (site,) = rewrite_text(text).sites
    assert site.is_candidate
