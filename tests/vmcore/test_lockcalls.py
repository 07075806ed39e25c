"""Which locks a function takes before a point, read from its machine code."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from collectors.vmcore.lockcalls import Code
from collectors.vmcore.machinecode import Function
from tests.vmcore.opened import program

TEXT = 0xFFFFFFFFA0000000
SEM = 0xFFFFFFFFA0004010
DOWN, UP, OTHER, HELPER = TEXT + 0x800, TEXT + 0x900, TEXT + 0xA00, TEXT + 0x400
SYMBOLS = {"spool": (TEXT, 0x200), "grab": (HELPER, 0x40), "down": (DOWN, 16), "up": (UP, 16), "other": (OTHER, 16)}
MOV_RDI = b"\x48\xc7\xc7"  # mov $imm32,%rdi


def call(at: int, target: int) -> bytes:
    return b"\xe8" + struct.pack("<i", target - (at + 5))


def mov(address: int) -> bytes:
    return MOV_RDI + struct.pack("<I", address & 0xFFFFFFFF)


def lea(at: int, address: int) -> bytes:
    return b"\x48\x8d\x3d" + struct.pack("<i", address - (at + 7))


def code(parts: list[bytes | int | Callable[[int], bytes]], start: int = TEXT) -> bytes:
    """Put instructions in a row: bytes, the target of a call, or what depends on its own address."""
    text = b""
    for part in parts:
        at = start + len(text)
        text += call(at, part) if isinstance(part, int) else part if isinstance(part, bytes) else part(at)
    return text


def made(text: bytes, helper: bytes = b"") -> Code:
    memory = bytearray(b"\x90" * 0x1000)
    memory[: len(text)] = text
    memory[HELPER - TEXT : HELPER - TEXT + len(helper)] = helper
    return Code(program({TEXT: bytes(memory)}, SYMBOLS))


def holds(parts: list[bytes | int | Callable[[int], bytes]], helper: bytes = b"") -> bool | None:
    text = code(parts)
    return made(text, helper).holds(TEXT + len(text), "semaphore", SEM, helpers=True)


def test_a_lock_taken_and_not_released_is_held() -> None:
    assert holds([mov(SEM), DOWN, b"\x90" * 9, OTHER]) is True


def test_a_lock_released_again_is_not() -> None:
    assert holds([mov(SEM), DOWN, mov(SEM), UP, OTHER]) is False


def test_addresses_relative_to_the_code_are_understood() -> None:
    assert holds([lambda at: lea(at, SEM), DOWN, OTHER]) is True


def test_another_lock_says_nothing_of_this_one() -> None:
    assert holds([mov(SEM + 0x40), DOWN, OTHER]) is None
    assert holds([mov(SEM), OTHER, b"\x90"]) is None


def test_the_call_that_has_not_come_back_does_not_count() -> None:
    """A task that waits for a semaphore does not hold it by that."""
    assert holds([mov(SEM), DOWN]) is None


def test_a_lock_kept_in_a_register_is_followed_from_where_it_was_named() -> None:
    keep = b"\x48\xc7\xc3" + struct.pack("<I", SEM & 0xFFFFFFFF)  # mov $sem,%rbx
    use = b"\x48\x89\xdf"  # mov %rbx,%rdi
    assert holds([keep, b"\x90" * 60, use, DOWN, b"\x90" * 60, OTHER]) is True


def test_what_a_helper_left_taken_is_held() -> None:
    taking = code([mov(SEM), DOWN, b"\x90"], HELPER)
    assert holds([HELPER, OTHER], taking) is True
    assert holds([HELPER, mov(SEM), UP, OTHER], taking) is False


@pytest.mark.parametrize(
    ("before", "offset"),
    [
        (b"\x48\x8d\x7b\x48", 0x48),  # lea 0x48(%rbx),%rdi
        (b"\x49\x8d\x7c\x24\x48", 0x48),  # lea 0x48(%r12),%rdi
        (b"\x48\x8d\xbd\x00\x01\x00\x00", 0x100),  # lea 0x100(%rbp),%rdi
        (b"\x48\x83\xc7\x48", 0x48),  # add $0x48,%rdi
        (b"\x48\x8d\x6f\x48\x90\x48\x89\xef", 0x48),  # lea 0x48(%rdi),%rbp; …; mov %rbp,%rdi
        (b"\x4c\x89\xe7", 0),  # mov %r12,%rdi
    ],
)
def test_how_far_into_an_object_a_lock_lies_is_read_from_its_argument(before: bytes, offset: int) -> None:
    text = code([before, DOWN, OTHER])
    found = made(text)
    assert found.takes_at(TEXT + len(text), "semaphore", offset)
    assert found.takes_at(TEXT + len(text), "semaphore")
    assert not found.takes_at(TEXT + len(text), "semaphore", 0x58)


def test_code_that_is_missing_or_cut_gives_nothing() -> None:
    assert made(b"").holds(TEXT + 0x100000, "semaphore", SEM) is None
    for length in range(6):
        short = Function(TEXT, mov(SEM)[:length])
        assert not list(short.calls())
        assert short.mentions(SEM) == []
