"""The search of stacks for waiters, on made-up memory: true lists, leftovers, loops, damage; names are whole names."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from collectors.vmcore.stackmem import Stacks
from collectors.vmcore.waiters import Scan, Shape, Waits, bare, waiting_in
from tests.vmcore.opened import program
from wardround.models.vmcore import StackFrame, Task

BASE = 0xFFFF888000000000
STACK, TASKS, LOCK = BASE + 0x10000, BASE + 0x40000, BASE + 0x50000
SIZE = 0x4000
SHAPE = Shape("completion", -8, 16)  # struct swait_queue: the task stands before the link


class Memory:
    """Stacks of three tasks, and a page where the lock lies."""

    def __init__(self) -> None:
        self.bytes = bytearray(0x60000)

    def put(self, address: int, *words: int) -> None:
        struct.pack_into(f"<{len(words)}Q", self.bytes, address - BASE, *words)

    def ring(self, *nodes: int) -> None:
        for n, node in enumerate(nodes):
            self.put(node, nodes[(n + 1) % len(nodes)], nodes[n - 1])

    def scan(self, *tasks: Task) -> tuple[Scan, list[Waits]]:
        prog = program({BASE: bytes(self.bytes)})
        stacks = Stacks(prog, SIZE, {TASKS + n: STACK + n * SIZE for n in range(3)}, None)
        scan = Scan(prog, stacks, {"completion": SHAPE})
        return scan, scan.run(tasks)


def waiting(number: int, *functions: str, state: str = "D") -> Task:
    names = functions or ("__schedule", "schedule_timeout", "__wait_for_common", "probe")
    return Task(TASKS + number, number, number, f"t{number}", state, 0, stack=tuple(map(StackFrame, names)))


def link(number: int, at: int = 0x3000) -> int:
    return STACK + number * SIZE + at


def waiter(memory: Memory, number: int, at: int = 0x3000) -> int:
    memory.put(link(number, at) - 8, TASKS + number)
    return link(number, at)


def test_waiters_are_found_in_their_order_and_lead_to_the_lock() -> None:
    memory = Memory()
    memory.ring(LOCK + 16, waiter(memory, 1), waiter(memory, 0))
    scan, found = memory.scan(waiting(0), waiting(1))
    assert found == [Waits("completion", LOCK, (TASKS + 1, TASKS))]
    assert not scan.unsolved


def test_a_waiter_left_over_from_an_earlier_wait_is_passed_over() -> None:
    """Its links still point into the list, whose nodes no longer point back to it."""
    memory = Memory()
    stale = waiter(memory, 0, at=0x1000)
    memory.put(stale, LOCK + 0x116, LOCK + 0x116)
    memory.ring(LOCK + 16, waiter(memory, 0))
    memory.put(stale, LOCK + 16, LOCK + 16)
    _, found = memory.scan(waiting(0))
    assert [waits.lock for waits in found] == [LOCK]


def test_a_lock_on_a_stack_is_found_too() -> None:
    memory = Memory()
    head = link(0, at=0x3800)
    memory.ring(head, waiter(memory, 0))
    _, found = memory.scan(waiting(0))
    assert [waits.lock for waits in found] == [head - 16]


@pytest.mark.parametrize("damage", ["loop", "no_head", "two_heads", "outside"])
def test_a_damaged_list_leaves_the_task_unsolved(damage: str) -> None:
    memory = Memory()
    one, two, head = waiter(memory, 0), waiter(memory, 1), LOCK + 16
    memory.ring(head, one, two)
    if damage == "loop":  # the list runs between the waiters and never comes back
        memory.put(two, two, one)
    elif damage == "no_head":
        memory.ring(one, two)
    elif damage == "two_heads":
        memory.ring(head, one, LOCK + 0x200, two)
    else:
        memory.put(two, BASE + 0x100000, one)
    scan, found = memory.scan(waiting(0))
    assert not found
    assert scan.unsolved == [TASKS]


def test_who_is_in_no_waiting_function_or_runs_is_not_looked_at() -> None:
    memory = Memory()
    memory.ring(LOCK + 16, waiter(memory, 0))
    for task in (
        waiting(0, "__schedule", "worker_thread"),
        replace(waiting(0), on_cpu=True),
        waiting(0, state="R"),
    ):
        scan, found = memory.scan(task)
        assert not found
        assert not scan.unsolved


def test_functions_are_known_by_their_whole_names_and_only_the_kernels_own() -> None:
    """__down begins __down_read_common, and a module may name a function of its own as it likes."""

    def kind(function: str, module: str = "") -> str | None:
        found = waiting_in([StackFrame("schedule"), StackFrame(function, module=module)])
        return found[0] if found else None

    assert kind("__down") == kind("down_timeout") == "semaphore"
    assert kind("__down_read_common") == kind("rwsem_down_write_slowpath") == "rwsem"
    assert kind("__mutex_lock.constprop.0") == kind("__ww_mutex_lock.isra.0") == "mutex"
    assert kind("wait_for_completion_interruptible_timeout") == "completion"
    assert kind("__down_trylock_extra") is None
    assert kind("down", module="tide") is None
    assert bare("shrink.part.0.cold") == "shrink"


def test_the_innermost_waiting_function_counts() -> None:
    stack = [StackFrame(name) for name in ("schedule", "__mutex_lock", "flush", "wait_for_completion")]
    assert waiting_in(stack) == ("mutex", 1)
