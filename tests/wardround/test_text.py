"""Host text made safe."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.text import CUT, LIMIT, clean, clean_bytes


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain line", "plain line"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07rest", "rest"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "red"),
        ("a\x00b\x07c\x7f", "abc"),
        ("pay\u202egnp.exe\u2069", "paygnp.exe"),
        ("zero\u200bwidth\ufeff\U000e0041", "zerowidth"),
        ("two\nlines\r\n", "two lines"),
        ("größe 日本", "größe 日本"),
        ("lone \ud800 surrogate", "lone  surrogate"),
        ("\x1b", ""),
    ],
)
def test_only_what_can_be_seen_is_left(raw, shown):
    """Control sequences go with their text, invisible characters go, letters of any script stay."""
    assert clean(raw) == shown


def test_a_long_line_is_cut_with_a_mark():
    """A megabyte becomes four kilobytes, and says so; one that fits is left alone."""
    assert len(clean("x" * 1_000_000)) == LIMIT
    assert clean("x" * 1_000_000).endswith(CUT)
    assert clean("x" * LIMIT) == "x" * LIMIT
    assert clean_bytes(b"\x00" * 1_000_000 + b"x").endswith(CUT)


@given(st.text(max_size=300), st.integers(16, 64))
def test_nothing_invisible_survives_and_cleaning_twice_changes_nothing(raw, limit):
    """For any text: bounded, one line, no control or format character, idempotent."""
    once = clean(raw, limit)
    assert len(once) <= limit
    assert not [c for c in once if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn")]
    assert clean(once, limit) == once
