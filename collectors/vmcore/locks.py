"""The locks that tasks wait for: which they are, who holds them, and what follows (see `lockgraph`).

Owners: a mutex, an rt_mutex and an rw_semaphore held to write have theirs in a word of their own. An rw_semaphore held
to read has the number of its readers and remembers the last one that came, which may long be gone: a hint. A semaphore
has none before Linux 6.16, a completion never: `enders` knows a few. Where the lock does not say, `holders` looks for
clues in what the tasks run and keep on their stacks.
Measured cost: 6 to 40 ms a dump of 60 tasks, 15 ms for 1,560 tasks with two mutexes; a search for holders takes 80 ms
once and 10 ms a lock more with 1,560 tasks, at most for 32 locks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from collectors.vmcore import lockgraph
from collectors.vmcore.enders import Enders
from collectors.vmcore.holders import Clues, module_of
from collectors.vmcore.layout import layout
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.places import place_of
from collectors.vmcore.spin import read_spins
from collectors.vmcore.stackmem import Stacks
from collectors.vmcore.tasks import cpus
from collectors.vmcore.waiters import Scan, Waits
from collectors.vmcore.words import words
from wardround.models.vmcore import Lock, LockCycle, RootBlocker, Task

_CLOCKS_DIFFER = 0.2  # seconds between the scheduler's clock and the one that a task's start is told by
_FLAGS = 7
_MOST_SEARCHED = 32  # locks whose holders clues are looked for, each by a look at every task
_WRITE_LOCKED, _READER_SHIFT, _READFAIL = 1, 8, 1 << 63


@dataclass(frozen=True, slots=True)
class LockFindings:
    """`unsolved` are the tasks that wait in a lock's function but whose waiter was not found."""

    locks: tuple[Lock, ...] = ()
    cycles: tuple[LockCycle, ...] = ()
    blockers: tuple[RootBlocker, ...] = ()
    unsolved: tuple[int, ...] = ()


def read_locks(dump: Dump, tasks: Sequence[Task]) -> LockFindings:
    """Find the locks that tasks wait for, asleep or spinning. Tasks need their stacks and states.

    :raises LookupError: the dump has no types
    """
    stacks = Stacks.of(dump.prog, (task.address for task in tasks))
    scan = Scan(dump.prog, stacks)
    found = scan.run(tasks)
    reader = _Reader(dump, tasks, stacks)
    found.sort(key=lambda waits: -len(waits.tasks))
    asleep = _with_neighbours([reader.lock(waits) for waits in found], reader.tasks)
    locks = (*asleep, *read_spins(dump.prog, tasks, stacks, reader.clues))
    return LockFindings(
        locks=locks,
        cycles=lockgraph.cycles(locks),
        blockers=lockgraph.blockers(locks, reader.tasks),
        unsolved=tuple(scan.unsolved),
    )


class _Reader:
    """Reads the locks' own words."""

    def __init__(self, dump: Dump, tasks: Sequence[Task], stacks: Stacks) -> None:
        self.prog, self.memory, self.stacks = dump.prog, words(dump.prog), stacks
        self.tasks: Mapping[int, Task] = {task.address: task for task in tasks}
        self.clues = Clues(dump.prog, tasks, stacks)
        self.enders = Enders(dump.prog, tasks)
        self._searches = _MOST_SEARCHED
        self.now = max((cpu.clock for cpu in cpus(dump)), default=0)

    def lock(self, waits: Waits) -> Lock:
        lock = Lock(waits.kind, waits.lock, symbol=self._name(waits.lock), waiters=waits.tasks)
        try:
            if waits.kind == "mutex":
                return self._owned(lock, self._word(lock, "struct mutex", "owner"))
            if waits.kind == "rt_mutex":
                base = "rt_mutex_base" if self._knows("struct rt_mutex_base") else "rt_mutex"
                return self._owned(lock, self._word(lock, f"struct {base}", "owner"))
            if waits.kind == "rwsem":
                return self._rwsem(lock, waits)
            if waits.kind == "semaphore":
                return self._semaphore(lock)
            return self._awaited(lock)
        except DAMAGE as error:
            return replace(lock, state=f"its words cannot be read ({error})")

    def _name(self, address: int) -> str:
        task = self.stacks.task_of(address)
        return f"on the stack of {self.tasks[task].name}" if task is not None else place_of(self.prog, address).name

    def _knows(self, type_name: str) -> bool:
        try:
            return bool(layout(self.prog, type_name))
        except LookupError:
            return False

    def _word(self, lock: Lock, type_name: str, member: str) -> int:
        return self.memory.u64(lock.address + layout(self.prog, type_name).at(member))

    def _owned(self, lock: Lock, word: int) -> Lock:
        """A lock whose owner word names its holder."""
        owner = word & ~_FLAGS
        if owner in self.tasks and self._younger(owner, lock):
            state = (
                f"its owner word points to {self.tasks[owner].name}, which began after the wait: the task that took "
            )
            state += "it ended while it held the lock, and its memory was used again"
            return replace(lock, state=state, abandoned=True)
        if owner in self.tasks:
            return replace(lock, owner=owner, holders=(owner,))
        if owner == 0:
            return replace(lock, state="nobody holds it: it is being handed over")
        state = f"its owner {owner:#x} is no task that lives: it ended while it held the lock"
        return replace(lock, state=state, abandoned=True)

    def _younger(self, owner: int, lock: Lock) -> bool:
        """Whether a task began after all that wait for the lock last ran: it cannot have taken it before them.

        Had it taken the lock since, the first that waits would have run when the lock was let go.
        """
        waited = [task.waiting for waiter in lock.waiters if (task := self.tasks.get(waiter)) is not None]
        if not self.now or not waited or None in waited:
            return False
        shortest = min(seconds for seconds in waited if seconds is not None)
        started = self.memory.u64(owner + layout(self.prog, "struct task_struct").at("start_time"))
        return started > self.now - (shortest - _CLOCKS_DIFFER) * 1e9

    def _rwsem(self, lock: Lock, waits: Waits) -> Lock:
        count = self._word(lock, "struct rw_semaphore", "count")
        word = self._word(lock, "struct rw_semaphore", "owner")
        if count & _WRITE_LOCKED:
            return self._owned(replace(lock, state="held to write"), word)
        readers = (count & ~_READFAIL) >> _READER_SHIFT
        if not readers:
            return replace(lock, state="nobody holds it: it is being handed over")
        writers = sum(task in waits.writers for task in waits.tasks)
        state = f"held by {readers} to read; {writers} wait to write, {len(waits.tasks) - writers} to read"
        return self._inferred(replace(lock, readers=readers, state=state), word & ~_FLAGS, readers)

    def _semaphore(self, lock: Lock) -> Lock:
        shape = layout(self.prog, "struct semaphore")
        lock = replace(lock, state=f"count {self.memory.u32(lock.address + shape.at('count'))}")
        last = shape.has("last_holder")  # since Linux 6.16, where the kernel looks for blockers itself
        return self._inferred(lock, self._word(lock, "struct semaphore", last) & ~_FLAGS if last else 0, None)

    def _inferred(self, lock: Lock, remembered: int, most: int | None) -> Lock:
        """A lock that does not say who holds it: the task it remembers, and those that clues point to."""
        found = self.clues.holders(lock, remembered)[:most] if self._searches > 0 else []
        self._searches -= 1
        if found and (found[0].certainty != "hint" or remembered not in self.tasks):
            sure = found[0].certainty
            holders = tuple(one.task for one in found if one.certainty == sure)
            return replace(lock, owner=holders[0], holders=holders, certainty=sure, clue=found[0].text)
        if remembered in self.tasks:
            clue = "the lock remembers it as the last that took it"
            return replace(lock, owner=remembered, holders=(remembered,), certainty="hint", clue=clue)
        return lock

    def _awaited(self, lock: Lock) -> Lock:
        """A completion that a certain task is known to end."""
        ender = self.enders.of(lock) if lock.kind == "completion" else None
        if ender is None:
            return lock
        return replace(lock, owner=ender.task, holders=(ender.task,), certainty=ender.certainty, clue=ender.text)


def _with_neighbours(locks: Sequence[Lock], tasks: Mapping[int, Task]) -> tuple[Lock, ...]:
    """Where a semaphore's holder left no clue: a task of the same module that waits for one of its waiters is one."""
    held_by = {waiter: lock.owner for lock in locks for waiter in lock.waiters if lock.owner is not None}
    out = []
    for lock in locks:
        if lock.kind == "semaphore" and lock.owner is None:
            modules = {module for waiter in lock.waiters if (module := module_of(tasks, waiter))}
            found = [t for t, owner in held_by.items() if owner in lock.waiters and module_of(tasks, t) in modules]
            if found:
                clue = f"{tasks[found[0]].name} is in the same module and waits for a task that waits for this"
                lock = replace(lock, owner=found[0], holders=(found[0],), certainty="hint", clue=clue)
        out.append(lock)
    return tuple(out)
