"""Spinlocks that CPUs spin for: which, and who may hold them.

A spinning task is on a CPU; its stack holds the slow path of the lock, interrupted by the timer, an IPI or an NMI that
saved all registers there, the lock's address in the first argument's among them. A spinlock has no owner word; its
word says whether it is taken and who queues. So a holder is always inferred, by the clues of `holders`: of the tasks on
CPUs first, the spinner itself among them (it spins for a lock that it took further down its own stack), of sleeping
ones else (they should not hold one). Where no clue is found the lock was never released, or its holder cannot be seen.
It cannot know: locks passed through code that changed all registers; the holders of read locks by number.
Cost: 1 ms a task on a CPU; the tasks that sleep are not looked at unless a lock's holder is on no CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from drgn import Object, Program, StackTrace, offsetof

from collectors.vmcore.holders import Clue, Clues, told
from collectors.vmcore.open import DAMAGE
from collectors.vmcore.places import place_of
from collectors.vmcore.stackmem import Stacks
from collectors.vmcore.waiters import bare
from collectors.vmcore.words import words
from wardround.models.vmcore import Certainty, Lock, StackFrame, Task

_SLOW = frozenset(["native_queued_spin_lock_slowpath", "__pv_queued_spin_lock_slowpath", "queued_spin_lock_slowpath"])
_SLOW_RW = frozenset(["queued_read_lock_slowpath", "queued_write_lock_slowpath"])
_FAST = (
    "_raw_spin_lock", "_raw_read_lock", "_raw_write_lock", "do_raw_spin_lock", "do_raw_read_lock", "do_raw_write_lock",
    "__raw_spin_lock", "__raw_callee_save___pv_queued_spin",
)  # fmt: skip
# The first argument's register, then those that a function keeps for its caller: x86-64, arm64, riscv.
_ARGUMENT = ("rdi", "x0", "a0")
_KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15", "x19", "x20", "x21", "x22", "s1", "s2", "s3")
_ALL = 8  # registers of a frame that an interrupt saved; other frames have only those the unwinder follows
_KERNEL = 1 << 63
_MOST_CPUS = 8192


@dataclass(frozen=True, slots=True)
class Spinner:
    """A task that spins: the lock's address, how sure that is, the frames outside of the lock's own functions, and
    where the stack of the first of these begins."""

    task: Task
    lock: int
    shared: bool
    certainty: Certainty
    outer: tuple[StackFrame, ...]
    outer_sp: int


def read_spins(prog: Program, tasks: Sequence[Task], stacks: Stacks, clues: Clues) -> tuple[Lock, ...]:
    """Return the spinlocks that tasks on CPUs spin for."""
    running = [task for task in tasks if task.on_cpu]
    spinners = {task.address: found for task in running if (found := _spinner(prog, task, stacks)) is not None}
    # an idle CPU's task is looked at only where an interrupt on top of it spins
    busy = [task for task in running if task.pid or task.address in spinners]
    finder = _Holders(prog, busy, spinners, stacks, clues)
    by_lock: dict[int, list[Spinner]] = {}
    for spinner in spinners.values():
        by_lock.setdefault(spinner.lock, []).append(spinner)
    return tuple(finder.lock(address, waiting) for address, waiting in by_lock.items())


def _spinner(prog: Program, task: Task, stacks: Stacks) -> Spinner | None:
    try:
        trace = prog.stack_trace(Object(prog, "struct task_struct *", value=task.address))
        names = [bare(frame.name or "") for frame in trace]
        at = next((i for i, name in enumerate(names) if name in _SLOW or name in _SLOW_RW), None)
        if at is None:
            return None
        found = _address(prog, trace, at, names[at] in _SLOW_RW)
        if found is None:
            return None
        lock, certainty = found
        outside = at + 1
        shared = names[at] in _SLOW_RW
        while outside < len(names) and (names[outside] in _SLOW_RW or names[outside].startswith(_FAST)):
            if names[outside] in _SLOW_RW and not shared:
                # a reader-writer lock's slow path spins for the lock inside it
                lock -= offsetof(prog.type("struct qrwlock"), "wait_lock")
                shared = True
            outside += 1
        outer, sp = _outer(task, trace, outside, stacks)
        return Spinner(task, lock, shared, certainty, outer, sp)
    except DAMAGE:
        return None


def _outer(task: Task, trace: StackTrace, first: int, stacks: Stacks) -> tuple[tuple[StackFrame, ...], int]:
    """The task's frames from one of the trace on, by their addresses, and the first stack pointer among them that is on
    the task's own stack: interrupts have stacks of their own."""
    if first >= len(trace):
        return (), 0
    addresses = [frame.address for frame in task.stack]
    pc = trace[first].pc
    pointers = (trace[number].sp for number in range(first, len(trace)))
    own = next((pointer for pointer in pointers if stacks.holds(task.address, pointer)), 0)
    return (task.stack[addresses.index(pc) :] if pc in addresses else (), own)


def _address(prog: Program, trace: StackTrace, at: int, shared: bool) -> tuple[int, Certainty] | None:
    """The lock's address out of the registers of the slow path, or of what it called last."""
    for frame in (trace[i] for i in range(at, -1, -1)):
        registers = frame.registers()
        if len(registers) < _ALL:
            continue
        for names, certainty in ((_ARGUMENT, "derived"), (_KEPT, "inferred")):
            for name in names:
                value = registers.get(name, 0)
                if value >= _KERNEL and value % 4 == 0 and _plausible(prog, value, shared):
                    return value, certainty  # type: ignore[return-value] # both are certainties
        return None
    return None


def _plausible(prog: Program, address: int, shared: bool) -> bool:
    """Whether a word can be that of a lock which is taken or queued for."""
    try:
        word = words(prog).u32(address)
    except DAMAGE:
        return False
    if shared:
        return word != 0
    return word != 0 and word & 0xFF in (0, 1, 3) and word >> 8 & 0xFF in (0, 1) and word >> 18 <= _MOST_CPUS


def describe(word: int, shared: bool = False) -> str:
    """Say what a queued spinlock's word means.

    >>> describe(0x00080101)
    'taken, one waits next, CPU 1 is last in the queue'
    """
    if shared:
        writer = {0: "no writer", 0xFF: "a writer holds it"}.get(word & 0xFF, "a writer waits")
        return f"reader-writer lock: {writer}, {word >> 9} readers"
    parts = ["taken" if word & 0xFF else "free"]
    if word >> 8 & 0xFF:
        parts.append("one waits next")
    if word >> 18:
        parts.append(f"CPU {(word >> 18) - 1} is last in the queue")
    return ", ".join(parts)


class _Holders:
    """Infers who holds a spinlock."""

    def __init__(
        self, prog: Program, busy: list[Task], spinners: dict[int, Spinner], stacks: Stacks, clues: Clues
    ) -> None:
        self.prog, self.busy, self.spinners, self.stacks, self.clues = prog, busy, spinners, stacks, clues

    def lock(self, address: int, waiting: list[Spinner]) -> Lock:
        place = place_of(self.prog, address)
        word = words(self.prog).u32(address)
        lock = Lock(
            "spinlock",
            address,
            symbol=place.name,
            waiters=tuple(spinner.task.address for spinner in waiting),
            state=describe(word, waiting[0].shared),
        )
        waiters = {spinner.task.address for spinner in waiting}
        found = self._clues(lock, (task for task in self.busy if task.address not in waiters), place.base)
        # Where nobody else on a CPU knows the lock, one of those that spin for it has taken it before.
        found += self._clues(lock, (spinner.task for spinner in waiting), place.base, shared=bool(found))
        if not found:
            found = [clue for clue in self.clues.holders(lock) if clue.certainty == "inferred"]
        if found:
            best = min(found, key=lambda clue: clue.certainty == "hint")
            return replace(lock, owner=best.task, holders=(best.task,), certainty=best.certainty, clue=best.text)
        others = len(self.busy) - len(waiting)
        why = "no other CPU runs a task" if not others else f"{others} other CPUs run tasks that do not name it"
        return replace(lock, clue=f"holder not known: {why}; it may never have been released")

    def _clues(self, lock: Lock, tasks: Iterable[Task], base: int, shared: bool = False) -> list[Clue]:
        """Clues for tasks on CPUs. Callers know a lock that they handed down to where it is spun for, taken or not: a
        spinner's own stack says nothing by its words alone, and little (`shared`) where another task knows it too."""
        found = []
        for task in tasks:
            own = task.address in lock.waiters
            spinner = self.spinners.get(task.address)
            outer = spinner.outer if spinner else task.stack
            named, frame = self.clues.by_code(lock, outer)
            clue = told(task, frame) if frame is not None else None
            if not named and (stack := self.stacks.base.get(task.address)) is not None:
                words = self.stacks.above(task.address, spinner.outer_sp if spinner else stack)
                clue = self.clues.by_stack(lock, task, outer, words, base)
                if clue is not None and own:
                    if clue.certainty == "hint":
                        continue
                    clue = replace(clue, certainty="hint") if shared else clue
            if clue is not None:
                found.append(clue)
        return found
