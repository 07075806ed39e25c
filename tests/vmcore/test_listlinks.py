"""Broken lists are told from whole ones and from what is no list."""

from __future__ import annotations

import struct

import pytest

from collectors.vmcore.listlinks import check, heads, is_deleted, walk
from collectors.vmcore.words import Words
from tests.vmcore.opened import program

BASE = 0xFFFF888000000000
NEXT, PREV = 0xDEAD000000000100, 0xDEAD000000000122


def memory(links: dict[int, tuple[int, int]]) -> Words:
    """Entries by their offset: (next, prev), offsets too unless they are addresses."""
    raw = bytearray(4096)
    for at, pair in links.items():
        raw[at : at + 16] = struct.pack("<QQ", *(value if value > 4096 else BASE + value for value in pair))
    return Words(program({BASE: bytes(raw)}))


def broken(words: Words, at: int) -> str:
    found = check(words, BASE + at, words.u64(BASE + at), words.u64(BASE + at + 8))
    return found.link if found else ""


WHOLE = {0: (64, 192), 64: (128, 0), 128: (192, 64), 192: (0, 128)}


def test_whole_lists_are_whole() -> None:
    words = memory(WHOLE)
    assert [broken(words, at) for at in WHOLE] == ["", "", "", ""]
    assert walk(words, BASE) is None
    assert broken(memory({0: (0, 0)}), 0) == ""  # an empty list


@pytest.mark.parametrize(
    ("changed", "at", "link"),
    [
        ({128: (192, 0)}, 64, "next"),  # the neighbour's prev was overwritten
        ({128: (NEXT, PREV)}, 64, "next"),  # the neighbour was deleted, and is still linked
        ({128: (NEXT, PREV)}, 192, "prev"),
        ({64: (0x6B6B6B6B6B6B6B68, 0)}, 128, "prev"),  # the neighbour was freed
    ],
)
def test_a_link_that_does_not_come_back_is_broken(changed: dict[int, tuple[int, int]], at: int, link: str) -> None:
    words = memory({**WHOLE, **changed})
    assert broken(words, at) == link


def test_a_break_behind_a_whole_head_is_found() -> None:
    words = memory({**WHOLE, 128: (192, 0x41414141)})
    found = walk(words, BASE)
    assert found is not None
    assert (found.entry, found.target, found.found) == (BASE + 64, BASE + 128, 0x41414141)
    assert "whose prev is" in found.statement


def test_a_list_that_runs_in_a_circle_ends() -> None:
    assert walk(memory({0: (64, 128), 64: (128, 0), 128: (64, 64)}), BASE) is not None


def test_two_pointers_are_no_list() -> None:
    """A structure whose first member points to another with a pointer back: only one side agrees, by chance."""
    words = memory({0: (64, 256), 64: (512, 0), 256: (640, 704), 512: (1, 1)})
    assert broken(words, 0) == ""
    assert heads([BASE + 64, 5, BASE], BASE) == []


def test_heads_of_a_hash_table_side_by_side_are_no_entry() -> None:
    words = memory({0: (64, 128), 64: (256, 0), 128: (320, 8), 256: (1, 64), 320: (1, 128)})
    assert broken(words, 0) == ""


def test_a_chain_with_a_single_head_ends_with_a_null_pointer() -> None:
    raw = bytearray(4096)
    struct.pack_into("<QQQQQQ", raw, 0, BASE + 16, BASE + 32, BASE + 32, BASE, 0, BASE + 16)
    assert walk(Words(program({BASE: bytes(raw)})), BASE) is None


def test_poison_pairs_are_deleted_entries() -> None:
    assert is_deleted(NEXT, PREV)
    assert is_deleted(0x100, 0x122)  # where the architecture adds nothing
    assert not is_deleted(PREV, NEXT)
