"""Source files: kept to the byte, and written at one stroke."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_dwsconv.errors import SourceError
from pytest_dwsconv.source.files import decode, read, write


@pytest.mark.parametrize(
    "data",
    [
        b"x = 1\n",
        b"x = 1",
        b"",
        b"x = 1\r\ny = 2\r\n",
        b"x = 1\ry = 2\n\x0c\n",
        b"\xef\xbb\xbfx = '\xc3\xa4'\n",
        b"# -*- coding: latin-1 -*-\nx = '\xe4'\n",
        b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\nx = '\x80'\n",
    ],
)
def test_text_comes_back_to_the_byte(data: bytes) -> None:
    source = decode(data)
    assert source.encode(source.text) == data
    assert not source.text.startswith("\ufeff")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x = 1\n\n\nx = '\xe4'\n", "not utf-8 text .byte 13"),
        (b"x = '\xe4'\n", "encoding cannot be told"),
        (b"# coding: klingon\n", "encoding cannot be told: unknown encoding: klingon"),
        (b"# coding: rot13\n", "encoding cannot be told: 'rot13' is not a text encoding"),
        (b"# coding: punycode\n", "encoding cannot be told: "),
        (b"# coding: undefined\n", "encoding cannot be told: "),
        (
            b"# coding: unicode_escape\nx = 1\n",
            "unicode_escape, would not keep it as it is: save it as UTF-8",
        ),
    ],
)
def test_what_cannot_be_decoded_is_one_sentence(data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        decode(data)


def test_a_diff_is_fit_for_patch() -> None:
    source = decode(b"# coding: latin-1\r\na\x0cb\r\n'\xe4'")
    assert source.diff(source.text, "m.py") == b""
    assert source.diff("# coding: latin-1\r\nc\r\n'ä'", "m.py") == (
        b"--- m.py\n+++ m.py\n@@ -1,3 +1,3 @@\n # coding: latin-1\r\n-a\x0cb\r\n+c\r\n '\xe4'\n"
        b"\\ No newline at end of file\n"
    )


def test_a_diff_has_the_bytes_of_the_name() -> None:
    assert (
        decode(b"a\n")
        .diff("b\n", os.fsdecode(b"\xf6.py"))
        .startswith(b"--- \xf6.py\n+++ \xf6.py\n")
    )


def test_control_characters_of_a_name_are_spelled_out_in_a_diff() -> None:
    diff = decode(b"a\n").diff("b\n", "x\n\x1b[31m\xe4.py")
    assert diff.startswith("--- x\\n\\x1b[31m\xe4.py\n+++ x\\n\\x1b[31m\xe4.py\n@@".encode())


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no such file"):
        read(tmp_path / "m.py")
    with pytest.raises(SourceError, match="it cannot be read: "):
        read(tmp_path)
    with pytest.raises(SourceError, match="it cannot be written: No such file or directory"):
        write(tmp_path / "no" / "m.py", b"")


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_bytes(b"old")
    (tmp_path / "m.py").chmod(0o444)
    with pytest.raises(SourceError, match=r"^it cannot be written: it is read-only$"):
        write(tmp_path / "m.py", b"new")
    assert (tmp_path / "m.py").read_bytes() == b"old"
