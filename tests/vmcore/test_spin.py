"""Spinlocks of real dumps: which lock a CPU spins for, and who is taken for its holder."""

from __future__ import annotations

import pytest

from collectors.vmcore.spin import describe
from tests.vmcore.conftest import SERIES, Vmcores
from tests.vmcore.test_locks import Read
from wardround.models.vmcore import Lock


def spinlocks(read: Read) -> list[Lock]:
    return [lock for lock in read.found.locks if lock.kind == "spinlock"]


@pytest.mark.parametrize("series", SERIES)
def test_a_task_that_spins_for_its_own_lock_is_found_with_the_function_that_took_it(
    vmcores: Vmcores, series: str
) -> None:
    read = Read(vmcores.get("spinself", series))
    (lock,) = spinlocks(read)
    assert (lock.symbol, read.names(lock.waiters), read.owner("meter")) == ("meter", ["meterctl"], "meterctl")
    assert lock.certainty == "inferred"
    assert "pktmeter_rotate" in lock.clue
    assert lock.state.startswith("taken")
    (cycle,) = read.found.cycles
    assert read.names(cycle.tasks) == ["meterctl"]


@pytest.mark.parametrize("series", SERIES)
def test_two_cpus_that_spin_for_each_other_are_a_cycle(vmcores: Vmcores, series: str) -> None:
    """Both locks are in one array, of which each task has only its own bucket's address."""
    dump = vmcores.get("spinabba", series)
    read = Read(dump)
    assert [lock.symbol.partition("+")[0] for lock in spinlocks(read)] == dump.expected["locks"] * 2
    (cycle,) = read.found.cycles
    assert read.names(cycle.tasks) == dump.expected["tasks"]
    assert set(cycle.locks) == {lock.address for lock in spinlocks(read)}
    assert cycle.certainty == "inferred"


@pytest.mark.parametrize(("scenario", "series"), [("spinheap", "6.1"), ("spintimer", "6.12")])
def test_a_lock_reached_by_pointers_is_traced_to_the_function_below_that_took_it(
    vmcores: Vmcores, scenario: str, series: str
) -> None:
    """In the second the task was interrupted by a timer that wants its lock."""
    dump = vmcores.get(scenario, series)
    read = Read(dump)
    (lock,) = spinlocks(read)
    assert dump.expected["holder"] in lock.clue
    assert lock.certainty == "inferred"
    (cycle,) = read.found.cycles
    assert read.names(cycle.tasks) == dump.expected["tasks"]


def test_a_lock_that_was_never_released_is_not_called_a_deadlock(vmcores: Vmcores) -> None:
    read = Read(vmcores.get("spinleak", "6.12"))
    (lock,) = spinlocks(read)
    assert lock.owner is None
    assert "may never have been released" in lock.clue
    assert not read.found.cycles


def test_the_lock_word_is_put_into_words() -> None:
    assert describe(0x1) == "taken"
    assert describe(0x0) == "free"
    assert describe(0x101) == "taken, one waits next"
    assert describe(0x000C0101) == "taken, one waits next, CPU 2 is last in the queue"
    assert describe(0x4FF, shared=True) == "reader-writer lock: a writer holds it, 2 readers"
