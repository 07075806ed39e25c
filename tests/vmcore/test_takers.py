"""Which modules' functions take from a kmalloc cache, told by their code."""

from __future__ import annotations

import struct

from drgn import Program

from collectors.vmcore.modules import AddressMap, Region
from collectors.vmcore.takers import of_cache, of_pages
from tests.vmcore.opened import program

TEXT, TABLE = 0xFFFFFFFFA0000000, 0xFFFFFFFFA0002000
SMALL, LARGE = 0xFFFF888000001000, 0xFFFF888000002000
SYMBOLS = {
    "kmalloc_caches": (TABLE, 0x40),
    "kstrdup": (TEXT + 0x800, 0x20),
    "alloc_pages_noprof": (TEXT + 0x900, 0x20),
    "accept": (TEXT, 0x40),
    "copy": (TEXT + 0x40, 0x40),
    "map": (TEXT + 0x80, 0x40),
}
AREAS = AddressMap([Region(TEXT, TEXT + 0x200, "mail", "code"), Region(TEXT + 0x800, TEXT + 0xA00, "", "code")])


def made(*parts: tuple[str, bytes, int]) -> Program:
    """`parts`: function, opcode, the address that the 32 bits behind it mean as a distance."""
    memory = bytearray(b"\x90" * 0x3000)
    for name, opcode, target in parts:
        at = SYMBOLS[name][0]
        code = opcode + struct.pack("<i", target - (at + len(opcode) + 4))
        memory[at - TEXT : at - TEXT + len(code)] = code
    memory[TABLE - TEXT : TABLE - TEXT + 24] = struct.pack("<QQQ", 0, SMALL, LARGE)
    return program({TEXT: bytes(memory)}, SYMBOLS)


LOAD, CALL = b"\x48\x8b\x3d", b"\xe8"  # mov distance(%rip),%rdi


def test_code_that_loads_the_caches_slot_takes_from_it() -> None:
    prog = made(("accept", LOAD, TABLE + 16), ("map", LOAD, TABLE + 8))
    assert of_cache(prog, AREAS, LARGE, {"mail"}) == ("accept [mail]",)
    assert of_cache(prog, AREAS, SMALL, {"mail"}) == ("map [mail]",)


def test_where_no_code_takes_that_size_what_takes_any_size_is_told() -> None:
    prog = made(("copy", CALL, SYMBOLS["kstrdup"][0]), ("map", LOAD, TABLE + 8))
    assert of_cache(prog, AREAS, LARGE, {"mail"}) == ("copy [mail]",)


def test_a_cache_of_its_own_and_modules_not_in_question_are_left_alone() -> None:
    prog = made(("accept", LOAD, TABLE + 16))
    assert of_cache(prog, AREAS, 0xFFFF888000009000, {"mail"}) == ()
    assert of_cache(prog, AREAS, LARGE, set()) == ()


def test_pages_are_taken_by_the_page_allocators_callers() -> None:
    prog = made(("map", CALL, SYMBOLS["alloc_pages_noprof"][0]))
    assert of_pages(prog, AREAS, {"mail"}) == ("map [mail]",)
