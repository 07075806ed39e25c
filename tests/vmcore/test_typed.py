"""Values that types forbid."""

from __future__ import annotations

import struct

from drgn import Program, Type, TypeEnumerator, TypeMember

from collectors.vmcore.typed import like_named, saturated, wrong_values
from tests.vmcore.opened import program

BASE = 0xFFFF888000000000


def made(prog: Program) -> tuple[Type, Type]:
    """(a structure with a counter, two states, a truth value and an array of counters; one of its enumerations)"""
    number = prog.int_type("unsigned int", 4, False)
    counter = prog.typedef_type("refcount_t", prog.struct_type("refcount_struct", 4, [TypeMember(number, "refs")]))
    state = prog.enum_type("link_state", number, [TypeEnumerator("LINK_DOWN", 0), TypeEnumerator("LINK_UP", 1)])
    flags = prog.enum_type("link_flags", number, [TypeEnumerator(f"F{n}", 1 << n) for n in range(4)])
    truth = prog.bool_type("_Bool", 1)
    members = [
        TypeMember(counter, "users", 0),
        TypeMember(state, "state", 32),
        TypeMember(flags, "flags", 64),
        TypeMember(truth, "open", 96),
        TypeMember(prog.array_type(counter, 2), "each", 128),
    ]
    return prog.struct_type("link", 24, members), state


def found(raw: bytes) -> dict[str, str]:
    prog = program({BASE: raw.ljust(4096, b"\0")})
    return {one.path: one.kind for one in wrong_values(prog, made(prog)[0], BASE)}


def test_what_is_allowed_is_not_told() -> None:
    assert found(struct.pack("<IIIIII", 3, 1, 0b1011, 1, 0, 1)) == {}


def test_what_is_forbidden_is_told_by_its_member() -> None:
    assert found(struct.pack("<IIIIII", 0xC0000000, 5, 0x10, 0x6B, 1, 0xFFFFFFFF)) == {
        ".users": "refcount_saturated",
        ".state": "impossible_state",
        ".flags": "impossible_state",
        ".open": "impossible_state",
        ".each[1]": "refcount_negative",
    }


def test_memory_that_is_not_there_tells_nothing() -> None:
    prog = program({BASE: bytes(8)})
    assert list(wrong_values(prog, made(prog)[0], BASE + 4096)) == []


def test_a_variable_is_compared_with_the_enumeration_whose_name_it_bears() -> None:
    _, state = made(program({BASE: bytes(8)}))
    assert [one.value for one in like_named([state], "uplink_link_state", 4, 7)] == [7]
    assert list(like_named([state], "current_link_state", 4, 1)) == []
    assert list(like_named([state], "current_state", 4, 7)) == []  # not all of its words
    assert list(like_named([state], "link_state", 8, 7)) == []  # not its size


def test_saturated_counts_are_told_from_halves_of_pointers() -> None:
    assert list(saturated([0x1_C000_0000], BASE, 8)) == [BASE]
    assert list(saturated([0xC000_0000_0000_0001], BASE, 8)) == [BASE + 4]
    assert list(saturated([0xFFFF_FFFF_C000_0000], BASE, 8)) == []  # the address of a module without KASLR
    assert list(saturated([0xC000_0000_0000_0001], BASE, 4)) == []  # behind the variable's end
