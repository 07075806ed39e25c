"""The kernel stacks of sleeping tasks as raw words, and where each lies.

Source: ``task_struct.stack`` and the stack pointer that the scheduler saved; the size is that of the kernel's own
``init_stack``. Only what lies above the saved pointer is live: below it are leftovers of calls that have returned.
Cost: 15 µs a stack.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from drgn import Program, sizeof
from numpy.typing import NDArray

from collectors.vmcore.layout import layout
from collectors.vmcore.open import DAMAGE
from collectors.vmcore.words import words

_USUAL_SIZE = 16384
_MOST = 1 << 18  # no architecture's stack is larger


@dataclass
class Stacks:
    """Stacks by task address. `base` holds those that could be found; a stack's words are read when asked for."""

    prog: Program
    size: int
    base: dict[int, int]
    _sp_at: int | None
    _read: dict[int, tuple[int, NDArray[np.uint64]]] = field(default_factory=dict)

    @classmethod
    def of(cls, prog: Program, tasks: Iterable[int]) -> Stacks:
        """Find the stacks of tasks; one that cannot be read is left out."""
        stack_at = layout(prog, "struct task_struct").at("stack")
        memory = words(prog)
        base = {}
        for address in tasks:
            try:
                base[address] = memory.u64(address + stack_at)
            except DAMAGE:
                continue
        return cls(prog, _size(prog), base, _saved_pointer(prog))

    def holds(self, task: int, address: int) -> bool:
        """Whether an address lies on a task's stack."""
        base = self.base.get(task)
        return base is not None and base <= address < base + self.size

    def words(self, task: int) -> tuple[int, NDArray[np.uint64]]:
        """Return (address of the first word, the words) of the live part, as far as it is in the dump.

        :raises KeyError, FaultError: the stack was not found
        """
        if task not in self._read:
            base = self.base[task]
            start = base
            if self._sp_at is not None:
                pointer = words(self.prog).u64(task + self._sp_at) & ~7
                start = pointer if self.holds(task, pointer) else base
            self._read[task] = start, self.above(task, start)
        return self._read[task]

    def above(self, task: int, address: int) -> NDArray[np.uint64]:
        """Return the words of a stack from an address to its end; none where the address is not on it."""
        count = (self.base[task] + self.size - address) // 8 if self.holds(task, address) else 0
        return np.array(words(self.prog).some(address, count), np.uint64)

    def task_of(self, address: int) -> int | None:
        """Return the task on whose stack an address lies."""
        return next((task for task in self.base if self.holds(task, address)), None)

    def find(self, task: int, value: int) -> list[int]:
        """Return the addresses of a stack's words that hold a value, lowest first."""
        start, stack = self.words(task)
        return [start + 8 * int(index) for index in np.flatnonzero(stack == np.uint64(value))]


def _size(prog: Program) -> int:
    for end in ("__end_init_task", "__end_init_stack"):
        try:
            size: int = prog.symbol(end).address - prog.symbol("init_stack").address
        except LookupError:
            continue
        if 4096 <= size <= _MOST and size & (size - 1) == 0:
            return size
    try:
        size = sizeof(prog.type("union thread_union"))
    except LookupError:
        return _USUAL_SIZE
    return size


def _saved_pointer(prog: Program) -> int | None:
    """Where a task keeps the stack pointer while it does not run: x86, then arm64 and riscv."""
    shape = layout(prog, "struct task_struct")
    member = shape.has("thread.sp", "thread.cpu_context.sp")
    return shape.at(member) if member else None
