"""Lists and memory of damaged dumps."""

from __future__ import annotations

import struct

from collectors.vmcore.walk import broken, nodes, read_lossy
from tests.vmcore.opened import program

BASE = 0x10000


def ring(*links: tuple[int, int]) -> dict[int, bytes]:
    """A page of list nodes of 16 bytes, each (next, previous) by number; -1 is a null pointer."""
    at = lambda number: BASE + 16 * number if number >= 0 else 0  # noqa: E731 - one line says it
    raw = b"".join(struct.pack("<QQ", at(forward), at(back)) for forward, back in links)
    return {BASE: raw.ljust(4096, b"\0")}


def numbers(memory: dict[int, bytes], most: int = 100) -> list[int]:
    return [(node - BASE) // 16 for node in nodes(program(memory), BASE, most)]


def test_a_whole_list_gives_each_node_once_in_order() -> None:
    assert numbers(ring((1, 3), (2, 0), (3, 1), (0, 2))) == [1, 2, 3]


def test_an_empty_list_gives_nothing() -> None:
    assert numbers(ring((0, 0))) == []


def test_a_list_that_runs_in_a_circle_without_its_head_ends() -> None:
    assert numbers(ring((1, 3), (2, 0), (1, 1), (0, 2))) == [1, 2, 3]


def test_behind_a_broken_link_the_rest_is_found_from_the_other_end() -> None:
    assert numbers(ring((1, 4), (-1, 0), (3, 1), (4, 2), (0, 3))) == [1, 4, 3, 2]


def test_a_link_into_missing_memory_is_an_end() -> None:
    memory = ring((1, 1), (0, 0))
    memory[BASE] = memory[BASE][:16] + struct.pack("<QQ", 0xDEAD000000000100, BASE) + memory[BASE][32:]
    assert numbers(memory)[0] == 1
    assert len(numbers(memory)) == 2


def test_a_long_list_is_bounded() -> None:
    memory = ring(*((number + 1 if number < 49 else 0, number - 1) for number in range(50)))
    assert len(numbers(memory, most=10)) <= 20


def _told(memory: dict[int, bytes], most: int = 100) -> list[str]:
    prog = program(memory)
    assert list(nodes(prog, BASE, most, "modules"))
    return list(broken(prog).values())


def test_a_list_that_does_not_end_is_told_by_its_name() -> None:
    assert _told(ring((1, 3), (2, 0), (3, 1), (0, 2))) == []
    assert _told(ring((1, 3), (2, 0), (1, 1), (0, 2))) == ["the list of modules loops after 2 entries"]
    assert _told(ring((1, 4), (-1, 0), (3, 1), (4, 2), (0, 3))) == ["the list of modules breaks off after 1 entry"]
    assert _told(ring((2, 1), (2, 0), (0, 1))) == ["the list of modules ends too early after 1 entry"]
    long = ring(*((number + 1 if number < 49 else 0, number - 1) for number in range(50)))
    assert _told(long, most=10) == ["the list of modules goes on after 10 entries"]


def test_missing_pages_are_zeros_and_counted() -> None:
    prog = program({BASE: b"a" * 4096, BASE + 8192: b"c" * 4096})
    data, missing = read_lossy(prog, BASE, 3 * 4096)
    assert (data[0:1], data[4096:4097], data[8192:8193], missing) == (b"a", b"\0", b"c", 4096)
