"""Words of a dump's memory, across pages and where pages are missing."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from drgn import FaultError

from collectors.vmcore.layout import each_node
from collectors.vmcore.words import Words
from tests.vmcore.opened import program

BASE = 0xFFFF888000000000


def test_words_are_read_across_pages_and_end_where_the_dump_does() -> None:
    memory = Words(program({BASE: bytes(range(256)) * 32}))
    assert memory.u64(BASE + 8) == int.from_bytes(bytes(range(8, 16)), "little")
    assert memory.u64(BASE + 4092) == int.from_bytes(bytes([252, 253, 254, 255, 0, 1, 2, 3]), "little")
    assert memory.u32(BASE + 4094) == int.from_bytes(bytes([254, 255, 0, 1]), "little")
    assert len(memory.some(BASE + 8000, 1000)) == 24
    for missing in (BASE + 8192, BASE - 8, 0, 1 << 63):
        with pytest.raises(FaultError):
            memory.u64(missing)


def test_signed_words_and_bit_fields() -> None:
    raw = struct.pack("<iqI", -2, -3, 5 | 7 << 16 | 1 << 31).ljust(4096, b"\0")
    memory = Words(program({BASE: raw}))
    assert memory.s32(BASE) == -2
    assert memory.s64(BASE + 4) == -3
    assert [memory.bits(BASE + 12, place) for place in ((0, 16), (16, 15), (31, 1))] == [5, 7, 1]


def test_text_ends_at_nul_or_its_bound_and_is_cleaned() -> None:
    memory = Words(program({BASE: b"eth\x1b[31m0\0rest".ljust(4096, b"x")}))
    assert memory.text(BASE) == "eth?[31m0"
    assert len(memory.text(BASE + 16, 40)) == 40


def test_lists_that_run_in_circles_or_break_end() -> None:
    def ring(*nodes: int) -> bytes:
        raw = bytearray(4096)
        for node, after in pairwise(nodes):
            raw[node : node + 8] = struct.pack("<Q", BASE + after)
        return bytes(raw)

    def walked(raw: bytes, most: int = 100) -> list[int]:
        return [node - BASE for node in each_node(program({BASE: raw}), BASE, most)]

    assert walked(ring(0, 16, 32, 0)) == [16, 32]
    assert walked(ring(0, 16, 32, 48, 32)) == [16, 32, 48]  # a circle without the head
    assert walked(ring(0, 16, 9000)) == [16, 9000]  # leads out of the dump
    assert walked(ring(*range(0, 4000, 16)), most=10) == list(range(16, 176, 16))
