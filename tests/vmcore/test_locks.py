"""Locks of real dumps: what tasks wait for, who holds it, and what follows."""

from __future__ import annotations

import pytest

from collectors.vmcore.locks import LockFindings, read_locks
from collectors.vmcore.tasks import read_tasks
from tests.vmcore.conftest import SERIES, Dump, Vmcores
from tests.vmcore.opened import opened
from wardround.models.vmcore import Lock, Task

DEADLOCKED = ("abba", "rwsem", "semaphore")
SPINNING = ("spinself", "spinabba")


class Read:
    """The locks of one dump with the tasks' names at hand."""

    def __init__(self, dump: Dump) -> None:
        found = opened(dump.path)
        self.tasks: dict[int, Task] = {task.address: task for task in read_tasks(found)}
        self.found: LockFindings = read_locks(found, tuple(self.tasks.values()))

    def names(self, addresses: tuple[int, ...]) -> list[str]:
        return sorted(self.tasks[address].comm for address in addresses)

    def lock(self, symbol: str) -> Lock:
        return next(lock for lock in self.found.locks if lock.symbol.partition("+")[0] == symbol)

    def owner(self, symbol: str) -> str:
        owner = self.lock(symbol).owner
        return self.tasks[owner].comm if owner is not None else ""


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("scenario", DEADLOCKED)
def test_a_deadlock_is_found_with_its_tasks_locks_and_bystanders(vmcores: Vmcores, series: str, scenario: str) -> None:
    dump = vmcores.get(scenario, series)
    read = Read(dump)
    (cycle,) = read.found.cycles
    assert read.names(cycle.tasks) == sorted(dump.expected["tasks"])
    assert read.names(cycle.bystanders) == sorted(dump.expected["bystanders"])
    symbols = {lock.address: lock.symbol for lock in read.found.locks}
    assert sorted(symbols[address] for address in cycle.locks) == sorted(dump.expected["locks"])
    assert not read.found.blockers
    assert not read.found.unsolved


@pytest.mark.parametrize("series", SERIES)
def test_mutexes_say_who_holds_them(vmcores: Vmcores, series: str) -> None:
    read = Read(vmcores.get("abba", series))
    assert read.owner("index_lock") == "jt_compact"
    assert read.owner("journal_lock") == "jt_commit"
    assert {lock.certainty for lock in read.found.locks} == {"read"}
    waiters = [read.tasks[task] for task in read.lock("index_lock").waiters]
    assert sorted(task.comm for task in waiters) == ["jt_commit", "jt_report"]
    # in the order in which they came: the first has waited longest
    assert [task.waiting for task in waiters] == sorted((task.waiting for task in waiters), reverse=True)


@pytest.mark.parametrize("series", SERIES)
def test_a_reader_that_holds_is_inferred_from_the_code_it_is_in_and_no_more(vmcores: Vmcores, series: str) -> None:
    read = Read(vmcores.get("rwsem", series))
    lock = read.lock("map_sem")
    assert (lock.kind, lock.readers, lock.certainty) == ("rwsem", 1, "inferred")
    assert read.owner("map_sem") == "vol_scan"
    assert "volmap_scan_volumes" in lock.clue
    assert lock.state == "held by 1 to read; 1 wait to write, 2 to read"
    assert read.found.cycles[0].certainty == "inferred"


@pytest.mark.parametrize("series", SERIES)
def test_a_semaphore_has_no_owner_so_its_holder_is_inferred_with_the_clue(vmcores: Vmcores, series: str) -> None:
    read = Read(vmcores.get("semaphore", series))
    lock = read.lock("spool_slots")
    assert (lock.kind, lock.certainty, lock.state) == ("semaphore", "inferred", "count 0")
    assert read.owner("spool_slots") == "spool_print"
    assert "spool_print [spoolq], which takes it" in lock.clue


@pytest.mark.parametrize("series", SERIES)
def test_a_lost_wake_up_shows_as_a_completion_that_nobody_holds(vmcores: Vmcores, series: str) -> None:
    dump = vmcores.get("hung", series)
    read = Read(dump)
    lock = read.lock(dump.expected["locks"][0])
    assert lock.kind == "completion"
    assert read.names(lock.waiters) == dump.expected["tasks"]
    assert lock.owner is None
    assert not read.found.cycles
    assert not read.found.blockers


def test_no_dump_has_a_deadlock_that_was_not_put_there(dump: Dump) -> None:
    read = Read(dump)
    assert not read.found.unsolved
    assert bool(read.found.cycles) == (dump.scenario in (*DEADLOCKED, *SPINNING))


@pytest.mark.parametrize("series", SERIES)
def test_a_yard_of_entangled_tasks_is_untangled(vmcores: Vmcores, series: str) -> None:
    """Semaphores in allocated objects and behind helpers, self-deadlock, flushed work, a stopped thread, readers."""
    dump = vmcores.get("dockyard", series)
    read = Read(dump)
    found: dict[str, list[list[str]]] = {}
    for cycle in read.found.cycles:
        names = sorted(name.partition("/")[0] for name in read.names(cycle.tasks))
        found.setdefault(cycle.certainty, []).append(names)
    assert {sure: sorted(pairs) for sure, pairs in found.items()} == {
        sure: sorted(pairs) for sure, pairs in dump.expected["cycles"].items()
    }
    (root,) = read.found.blockers
    assert read.tasks[root.task].comm == dump.expected["blocker"]
    assert read.names(root.waiters) == dump.expected["behind"]
    assert root.doing.startswith("waits for the wait queue kmalloc-")
    assert not read.found.unsolved


def test_the_remembered_reader_and_the_one_in_the_cycle_are_both_told(vmcores: Vmcores) -> None:
    """The rw_semaphore remembers the last reader that came; the one that matters came earlier."""
    read = Read(vmcores.get("dockyard"))
    lock = read.lock("chart_sem")
    assert lock.readers == 2
    assert read.owner("chart_sem") == "dock_late"
    assert read.names(lock.holders) == ["dock_late", "dock_pilot"]


def test_locks_in_allocated_objects_are_named_by_object_and_offset(vmcores: Vmcores) -> None:
    read = Read(vmcores.get("dockyard"))
    gates = [lock for lock in read.found.locks if lock.kind == "mutex" and " object 0x" in lock.symbol]
    assert len(gates) == 3
    assert {lock.symbol.rpartition("+")[2] for lock in gates} == {"0x38"}
    (flushed,) = [lock for lock in read.found.locks if lock.symbol.startswith("on the stack of dock_survey")]
    assert "which runs inspection_work" in flushed.clue
