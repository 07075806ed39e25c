"""The graph of who waits for whom, on made-up locks: cycles, bystanders, root blockers."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from collectors.vmcore.lockgraph import blockers, certainty_of, cycles, weakest
from wardround.models.vmcore import Lock, StackFrame, Task


def lock(address: int, owner: int | None, *waiters: int, **other: object) -> Lock:
    return replace(Lock("mutex", address, owner=owner, waiters=waiters), **other)


def task(address: int, state: str = "D", on_cpu: bool = False, *functions: str) -> Task:
    stack = tuple(StackFrame(name) for name in functions)
    return Task(address, address, address, f"task{address}", state, 1, on_cpu, stack=stack)


def tasks_of(locks: list[Lock]) -> dict[int, Task]:
    addresses = {one for lock in locks for one in (*lock.waiters, lock.owner, *lock.holders) if one is not None}
    return {address: task(address) for address in addresses}


def test_two_tasks_that_wait_for_each_other_are_a_cycle_and_the_third_a_bystander() -> None:
    (cycle,) = cycles([lock(100, 2, 1, 3), lock(200, 1, 2)])
    assert cycle.tasks == (1, 2)
    assert cycle.locks == (100, 200)
    assert cycle.bystanders == (3,)
    assert cycle.certainty == "read"


def test_a_task_that_waits_for_its_own_lock_is_a_cycle_of_one() -> None:
    (cycle,) = cycles([lock(100, 7, 7, 8)])
    assert (cycle.tasks, cycle.locks, cycle.bystanders) == ((7,), (100,), (8,))


def test_bystanders_are_told_nearest_first_even_behind_each_other() -> None:
    (cycle,) = cycles([lock(100, 2, 1), lock(200, 1, 2, 5), lock(300, 5, 4), lock(400, 4, 3)])
    assert cycle.bystanders == (5, 4, 3)


def test_a_cycle_is_as_sure_as_its_weakest_link() -> None:
    (cycle,) = cycles([lock(100, 2, 1), lock(200, 1, 2, certainty="inferred")])
    assert cycle.certainty == "inferred"
    (cycle,) = cycles([lock(100, 2, 1, certainty="hint"), lock(200, 1, 2, certainty="derived")])
    assert cycle.certainty == "hint"


def test_a_further_reader_closes_a_cycle_but_never_surely() -> None:
    """The reader that the lock remembers sleeps elsewhere; another one waits for the writer."""
    readers = lock(100, 9, 1, kind="rwsem", holders=(9, 2), readers=2, certainty="derived")
    (cycle,) = cycles([readers, lock(200, 1, 2)])
    assert cycle.tasks == (1, 2)
    assert cycle.certainty == certainty_of(readers, 2) == "inferred"


def test_the_surer_of_two_cycles_over_one_task_is_told() -> None:
    readers = lock(100, 2, 1, kind="rwsem", holders=(2, 3), certainty="inferred")
    found = cycles([readers, lock(200, 1, 2, 3)])
    assert [(cycle.tasks, cycle.bystanders) for cycle in found] == [((1, 2), (3,))]
    surer = lock(100, 3, 1, certainty="read")
    found = cycles([surer, lock(200, 1, 3, 2)])
    assert [(cycle.tasks, cycle.bystanders) for cycle in found] == [((1, 3), (2,))]


def test_two_cycles_apart_are_both_told() -> None:
    found = cycles([lock(1, 11, 10), lock(2, 10, 11), lock(3, 21, 20), lock(4, 20, 21), lock(5, 20, 30)])
    assert [cycle.tasks for cycle in found] == [(10, 11), (20, 21)]
    assert [cycle.bystanders for cycle in found] == [(), (30,)]


def test_without_a_cycle_the_owner_at_the_end_is_the_root_with_what_it_does() -> None:
    locks = [lock(100, 2, 1), lock(200, 3, 2)]
    known = {**tasks_of(locks), 3: task(3, "D", False, "__schedule", "schedule", "io_schedule", "folio_wait_bit")}
    assert not cycles(locks)
    (root,) = blockers(locks, known)
    assert (root.task, root.locks, root.waiters) == (3, (200, 100), (2, 1))
    assert root.doing == "sleeps uninterruptibly in folio_wait_bit"


def test_a_root_that_waits_for_something_nobody_holds_says_for_what() -> None:
    event = Lock("completion", 300, symbol="probe_done", waiters=(2,))
    locks = [lock(100, 2, 1), event]
    (root,) = blockers(locks, tasks_of(locks))
    assert (root.task, root.doing) == (2, "waits for the completion probe_done")
    held = [lock(100, 2, 1), Lock("semaphore", 300, waiters=(2,))]
    (root,) = blockers(held, tasks_of(held))
    assert root.doing == "waits for the semaphore 0x12c, whose holder is not known"


def test_a_running_owner_is_told_as_running() -> None:
    locks = [lock(100, 2, 1)]
    (root,) = blockers(locks, {1: task(1), 2: task(2, "R", True)})
    assert root.doing == "runs on CPU 1"


def test_who_stands_in_a_cycle_is_no_root_blocker_nor_who_is_behind_one() -> None:
    locks = [lock(100, 2, 1, 3), lock(200, 1, 2), lock(300, 3, 4)]
    assert not blockers(locks, tasks_of(locks))


def test_an_owner_that_is_no_known_task_is_left_out() -> None:
    assert not blockers([lock(100, 666, 1)], {1: task(1)})


def test_nothing_comes_of_nothing() -> None:
    assert cycles([]) == ()
    assert blockers([], {}) == ()
    assert weakest([]) == "read"


def test_a_chain_of_thousands_is_walked_without_recursion() -> None:
    locks = [lock(10_000 + n, n + 1, n) for n in range(5000)]
    (root,) = blockers(locks, tasks_of(locks))
    assert (root.task, len(root.waiters)) == (5000, 5000)
    (cycle,) = cycles([*locks, lock(99_999, 0, 5000)])
    assert len(cycle.tasks) == 5001


SMALL = st.integers(1, 9)
GRAPHS = st.lists(st.tuples(st.none() | SMALL, st.lists(SMALL, max_size=4, unique=True), st.lists(SMALL, max_size=3)))


@given(GRAPHS)
def test_any_graph_gives_true_cycles_and_misses_none(raw: list[tuple[int | None, list[int], list[int]]]) -> None:
    """A cycle's links are those of the locks, no task is in two, and who can reach himself is in one or behind one."""
    locks = []
    waiting: set[int] = set()
    for number, (owner, waiters, more) in enumerate(raw):
        fresh = tuple(task for task in waiters if task not in waiting)
        waiting.update(fresh)
        holders = tuple(dict.fromkeys([owner, *more])) if owner is not None else ()
        locks.append(lock(100 + number, owner, *fresh, holders=holders))
    held_by = {task: (set(one.holders), one.address) for one in locks for task in one.waiters}
    found = cycles(locks)
    inside = [task for cycle in found for task in cycle.tasks]
    assert len(inside) == len(set(inside))
    for cycle in found:
        for n, address in enumerate(cycle.tasks):
            holders, waits_for = held_by[address]
            assert waits_for == cycle.locks[n]
            assert cycle.tasks[(n + 1) % len(cycle.tasks)] in holders
        assert not set(cycle.bystanders) & set(inside)
    told = set(inside) | {task for cycle in found for task in cycle.bystanders}
    assert {task for task in held_by if _reaches_itself(task, held_by)} <= told
    roots = blockers(locks, tasks_of(locks))
    for root in roots:
        assert root.task not in told
        assert not held_by.get(root.task, (set(), 0))[0]
        assert root.waiters


def _reaches_itself(start: int, held_by: dict[int, tuple[set[int], int]]) -> bool:
    seen: set[int] = set()
    ahead = [start]
    while ahead:
        for holder in held_by.get(ahead.pop(), (set(), 0))[0]:
            if holder == start:
                return True
            if holder not in seen:
                seen.add(holder)
                ahead.append(holder)
    return False
