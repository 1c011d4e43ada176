from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.system.printable import make_encodable, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fast = 5 → 50 %, naïve, 東京", "fast = 5 → 50 %, naïve, 東京"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\rb\nc\td\0", r"a\rb\nc\td\x00"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("x\u2028y\u2029", r"x\u2028y\u2029"),
        ("d\udcff.csv", r"d\xff.csv"),
        ("[red]\U000e0001", r"[red]\U000e0001"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_whatever_comes_is_printable_and_stays_so(text: str) -> None:
    once = printable(text)
    assert once.isprintable()
    assert printable(once) == once


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_stream_of_any_encoding_takes_our_text(encoding: str) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding)
    make_encodable(stream)
    stream.write("2 ≤ 3 → 東 \udcff …")
    stream.flush()
    got = written.getvalue().decode(encoding)
    if encoding == "ascii":
        assert got == r"2 <= 3 -> \u6771 \udcff ..."
    assert r"\udcff" in got
