"""Host text made safe to show: no control sequences, nothing invisible, bounded length.

Log lines, command lines and file names are written by whoever can make a program log. What they contain is data:
terminal control sequences, characters that reorder or hide text, and endless lines must not reach a terminal, a
report or a model.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

LIMIT = 4096
CUT = "…[cut]"

# CSI, OSC and other escape sequences with their text, then any escape left over
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\x9c|$)|\x1b[ -/]*[0-~]?", re.DOTALL
)
_PLAIN = re.compile(r"[\x20-\x7e]*")
_KEPT = {"\t": " ", "\n": " ", "\r": " ", "\v": " ", "\f": " ", "\x85": " ", "\u2028": " ", "\u2029": " "}
# Cc control, Cf format (bidi, zero width, tags), Cs surrogates, Co private, Cn unassigned
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_BLANKS = "\u115f\u1160\u3164\uffa0\u2800\u034f"  # letters and marks that print as nothing


def clean(text: str, limit: int = LIMIT) -> str:
    """Return one line of at most `limit` characters; what was cut is marked.

    >>> clean("disk \\x1b[31mfull\\x1b[0m\\x00 at /srv")
    'disk full at /srv'
    """
    was_cut = len(text) > limit
    if was_cut:
        text = text[: 2 * limit]  # escape sequences take room that does not count
    if not _PLAIN.fullmatch(text):
        text = _ESCAPES.sub("", text)
        if not _PLAIN.fullmatch(text):
            text = "".join(_visible(character) for character in text)
    text = text.strip()
    if len(text) > limit or was_cut:
        return text[: limit - len(CUT)] + CUT
    return text


def _visible(character: str) -> str:
    if character in _KEPT:
        return _KEPT[character]
    if character in _BLANKS or unicodedata.category(character) in _HIDDEN:
        return ""
    return character


def clean_bytes(data: bytes, limit: int = LIMIT) -> str:
    """Clean what may not be UTF-8; at most the first 8 `limit` bytes are looked at."""
    window = 8 * limit
    text = clean(data[:window].decode("utf-8", "replace"), limit)
    return text if len(data) <= window or text.endswith(CUT) else text[: limit - len(CUT)] + CUT


def encodable(value: Any) -> Any:
    """Return `value` with what UTF-8 cannot carry (parts of foreign file names) replaced, inside containers too."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {encodable(key): encodable(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [encodable(each) for each in value]
    return value
