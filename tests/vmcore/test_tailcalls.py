"""Functions that jumped on and left no frame are put back into a stack by their code and their caller's."""

from __future__ import annotations

import struct

import pytest
from drgn import Program

from collectors.vmcore.modules import AddressMap, Region
from collectors.vmcore.tailcalls import with_jumped
from tests.vmcore.opened import program
from wardround.models.vmcore import StackFrame

TEXT = 0xFFFFFFFFA0000000
SYMBOLS = {
    "worker": (TEXT, 0x100),  # the kernel's own
    "release": (TEXT + 0x100, 0x100),
    "expire": (TEXT + 0x800, 0x20),  # the module's
    "cancel": (TEXT + 0x820, 0x20),
    "discard": (TEXT + 0x840, 0x20),
    "process_one_work": (TEXT + 0x200, 0x100),
}
AREAS = AddressMap([Region(TEXT, TEXT + 0x800, "", "code"), Region(TEXT + 0x800, TEXT + 0x900, "tickets", "code")])


def far(opcode: bytes, at: int, name: str) -> bytes:
    return opcode + struct.pack("<i", SYMBOLS[name][0] - (at + 5))


def jump(at: int, name: str) -> bytes:
    return far(b"\xe9", at, name)


def near(at: int, name: str) -> bytes:
    return b"\xeb" + struct.pack("<b", SYMBOLS[name][0] - (at + 2))


def made(**text: bytes) -> Program:
    memory = bytearray(b"\x90" * 0x1000)
    for name, code in text.items():
        at = SYMBOLS[name][0] - TEXT
        memory[at : at + len(code)] = code
    return program({TEXT: bytes(memory)}, SYMBOLS)


def frame(name: str, offset: int, **more: bool) -> StackFrame:
    return StackFrame(name, offset, SYMBOLS[name][0] + offset, AREAS.module(SYMBOLS[name][0]), **more)


def names(prog: Program, *stack: StackFrame, runs: str = "") -> list[str]:
    return [one.function for one in with_jumped(prog, AREAS, stack, runs)]


def test_the_function_that_was_called_and_jumped_on_is_put_back() -> None:
    prog = made(worker=far(b"\xe8", TEXT, "expire"), expire=jump(SYMBOLS["expire"][0], "release"))
    found = with_jumped(prog, AREAS, (frame("release", 9, exception=True), frame("worker", 5)))
    assert [(one.function, one.module, one.jumped) for one in found] == [
        ("release", "", False), ("expire", "tickets", True), ("worker", "", False),
    ]  # fmt: skip


def test_a_call_of_the_frame_that_is_there_changes_nothing() -> None:
    prog = made(worker=far(b"\xe8", TEXT, "release"))
    assert names(prog, frame("release", 9), frame("worker", 5)) == ["release", "worker"]


def test_a_work_item_is_followed_through_short_jumps_from_the_function_that_the_worker_runs() -> None:
    expire, cancel = SYMBOLS["expire"][0], SYMBOLS["cancel"][0]
    prog = made(expire=b"\x90" + near(expire + 1, "cancel"), cancel=jump(cancel, "release"))
    stack = (frame("release", 9, exception=True), frame("process_one_work", 7))
    assert names(prog, *stack, runs="expire") == ["release", "cancel", "expire", "process_one_work"]
    assert names(prog, *stack) == ["release", "process_one_work"]


def test_of_several_ways_only_the_functions_that_all_of_them_pass_are_told() -> None:
    start = SYMBOLS["expire"][0]
    prog = made(
        worker=far(b"\xe8", TEXT, "expire"),
        expire=jump(start, "cancel") + jump(start + 5, "discard"),
        cancel=jump(SYMBOLS["cancel"][0], "release"),
        discard=jump(SYMBOLS["discard"][0], "release"),
    )
    assert names(prog, frame("release", 9), frame("worker", 5)) == ["release", "expire", "worker"]


def test_what_an_exception_interrupted_called_nothing() -> None:
    prog = made(worker=far(b"\xe8", TEXT, "expire"), expire=jump(SYMBOLS["expire"][0], "release"))
    stack = (frame("release", 9), frame("worker", 5, exception=True))
    assert names(prog, *stack) == ["release", "worker"]


@pytest.mark.parametrize("address", [None, 0x10])
def test_a_stack_without_readable_code_stays_as_it_is(address: int | None) -> None:
    stack = (StackFrame("release", address=address), StackFrame("worker", address=address))
    assert with_jumped(made(), AREAS, stack) == stack


def test_jumps_in_a_circle_end() -> None:
    expire, cancel = SYMBOLS["expire"][0], SYMBOLS["cancel"][0]
    prog = made(worker=far(b"\xe8", TEXT, "expire"), expire=jump(expire, "cancel"), cancel=jump(cancel, "expire"))
    assert names(prog, frame("release", 9), frame("worker", 5)) == ["release", "expire", "worker"]
