"""The locks that tasks wait for: which they are, who holds them, and what follows (see `lockgraph`).

Owners: a mutex and an rw_semaphore held to write have theirs in a word of their own. An rw_semaphore held to read has
the number of its readers and remembers the last one that came, which may long be gone: a hint. A semaphore has none
before Linux 6.16, a completion never. Where the lock does not say, `holders` looks for clues in what the tasks run.
Cost: 1 ms, and 10 ms for the stack of every task that waits (a dump of 60 tasks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from drgn import offsetof

from collectors.vmcore import lockgraph
from collectors.vmcore.holders import Clues
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.places import place_of
from collectors.vmcore.spin import read_spins
from collectors.vmcore.stackmem import Stacks
from collectors.vmcore.waiters import Scan, Waits
from wardround.models.vmcore import Certainty, Lock, LockCycle, RootBlocker, Task

_FLAGS = 7
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
    locks = (*(reader.lock(waits) for waits in found), *read_spins(dump.prog, tasks, stacks, reader.clues))
    return LockFindings(
        locks=locks,
        cycles=lockgraph.cycles(locks),
        blockers=lockgraph.blockers(locks, reader.tasks),
        unsolved=tuple(scan.unsolved),
    )


class _Reader:
    """Reads the locks' own words."""

    def __init__(self, dump: Dump, tasks: Sequence[Task], stacks: Stacks) -> None:
        self.prog = dump.prog
        self.tasks: Mapping[int, Task] = {task.address: task for task in tasks}
        self.clues = Clues(dump.prog, tasks, stacks)

    def lock(self, waits: Waits) -> Lock:
        lock = Lock(waits.kind, waits.lock, symbol=place_of(self.prog, waits.lock).name, waiters=waits.tasks)
        readers = {"mutex": self._mutex, "rwsem": self._rwsem, "semaphore": self._semaphore}
        read = readers.get(waits.kind)
        try:
            return lock if read is None else read(lock, waits)
        except DAMAGE as error:
            return replace(lock, state=f"its words cannot be read ({error})")

    def _word(self, lock: int, type_name: str, member: str) -> int:
        return self.prog.read_u64(lock + offsetof(self.prog.type(type_name), member))

    def _owned(self, lock: Lock, word: int) -> Lock:
        """A lock whose owner word names its holder."""
        owner = word & ~_FLAGS
        if owner in self.tasks:
            return replace(lock, owner=owner, holders=(owner,))
        if owner == 0:
            return replace(lock, state="nobody holds it: it is being handed over")
        return replace(lock, state=f"its owner {owner:#x} is no task that lives: it ended while it held the lock")

    def _mutex(self, lock: Lock, _: Waits) -> Lock:
        return self._owned(lock, self._word(lock.address, "struct mutex", "owner"))

    def _rwsem(self, lock: Lock, waits: Waits) -> Lock:
        count = self._word(lock.address, "struct rw_semaphore", "count")
        word = self._word(lock.address, "struct rw_semaphore", "owner")
        if count & _WRITE_LOCKED:
            return self._owned(replace(lock, state="held to write"), word)
        readers = (count & ~_READFAIL) >> _READER_SHIFT
        if not readers:
            return replace(lock, state="nobody holds it: it is being handed over")
        writers = sum(task in waits.writers for task in waits.tasks)
        state = f"held by {readers} to read; {writers} wait to write, {len(waits.tasks) - writers} to read"
        lock = replace(lock, readers=readers, state=state)
        remembered = word & ~_FLAGS
        return self._inferred(lock, remembered if remembered in self.tasks else None, readers)

    def _semaphore(self, lock: Lock, _: Waits) -> Lock:
        kind = self.prog.type("struct semaphore")
        lock = replace(lock, state=f"count {self.prog.read_u32(lock.address + offsetof(kind, 'count'))}")
        last = None
        if any(member.name == "last_holder" for member in kind.members or ()):
            last = self._word(lock.address, "struct semaphore", "last_holder") & ~_FLAGS
        return self._inferred(lock, last if last in self.tasks else None, None)

    def _inferred(self, lock: Lock, remembered: int | None, most: int | None) -> Lock:
        """A lock that does not say who holds it: the task it remembers, and those that clues point to."""
        found = self.clues.holders(lock, remembered)[:most]
        if not found:
            if remembered is None:
                return lock
            clue = "the lock remembers it as the last that took it"
            return replace(lock, owner=remembered, holders=(remembered,), certainty="hint", clue=clue)
        sure: Certainty = found[0].certainty
        holders = tuple(one.task for one in found if one.certainty == sure)
        return replace(lock, owner=found[0].task, holders=holders, certainty=sure, clue=found[0].text)
