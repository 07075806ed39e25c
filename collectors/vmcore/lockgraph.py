"""Who waits for whom: cycles, those stuck behind them, and the one at the end of a chain that is no cycle.

Input are locks with their waiters and holders. A task waits for one lock at a time; a lock may have several holders
(readers). A chain is as sure as its weakest link: a cycle over an inferred holder is inferred, never more.
It cannot know of waits that are none for a lock: a task that sleeps for I/O ends the chain, and is then its root.
Cost: linear in the tasks that wait, but for those in cycles.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wardround.models.vmcore import Certainty, Lock, LockCycle, LockKind, RootBlocker, Task

_RANK: dict[Certainty, int] = {"read": 0, "derived": 1, "inferred": 2, "hint": 3}
# What a chain of waits for is told of in words, where it ends in something that nobody holds.
_WORDS: dict[LockKind, str] = {
    "mutex": "mutex",
    "rt_mutex": "rt_mutex",
    "rwsem": "rw_semaphore",
    "semaphore": "semaphore",
    "completion": "completion",
    "wait_queue": "wait queue",
    "spinlock": "spinlock",
}


@dataclass(frozen=True, slots=True)
class Graph:
    """`lock_of` maps each waiting task to its lock, `blocked_by` to the tasks that hold it."""

    lock_of: Mapping[int, Lock]
    blocked_by: Mapping[int, tuple[int, ...]]

    @classmethod
    def of(cls, locks: Iterable[Lock]) -> Graph:
        lock_of: dict[int, Lock] = {}
        for lock in locks:
            for waiter in lock.waiters:
                lock_of.setdefault(waiter, lock)
        return cls(lock_of, {task: holders(lock) for task, lock in lock_of.items()})

    def reached(self, starts: Iterable[int]) -> dict[int, int]:
        """Tasks that wait, at whatever distance, behind others: distance by task, the starts themselves at 0."""
        behind: dict[int, list[int]] = defaultdict(list)
        for task, blockers in self.blocked_by.items():
            for blocker in blockers:
                behind[blocker].append(task)
        distance = dict.fromkeys(starts, 0)
        queue = deque(distance)
        while queue:
            task = queue.popleft()
            for waiter in behind[task]:
                if waiter not in distance:
                    distance[waiter] = distance[task] + 1
                    queue.append(waiter)
        return distance


def holders(lock: Lock) -> tuple[int, ...]:
    if lock.holders:
        return lock.holders
    return () if lock.owner is None else (lock.owner,)


def weakest(certainties: Iterable[Certainty]) -> Certainty:
    """The least sure of several.

    >>> weakest(["read", "inferred", "derived"])
    'inferred'
    """
    return max(certainties, key=_RANK.__getitem__, default="read")


def certainty_of(lock: Lock, holder: int) -> Certainty:
    """How sure it is that a task holds a lock: of further holders never more than inferred."""
    return lock.certainty if holder == lock.owner else weakest((lock.certainty, "inferred"))


def cycles(locks: Iterable[Lock]) -> tuple[LockCycle, ...]:
    """Find the cycles, the surest and shortest first; no task stands in two. Those behind one are its bystanders."""
    graph = Graph.of(locks)
    found = {frozenset(way): way for task in _core(graph) if (way := _shortest(graph, task))}
    chosen: list[LockCycle] = []
    taken: set[int] = set()
    made = [_cycle(graph, way) for way in found.values()]
    for cycle in sorted(made, key=lambda c: (_RANK[c.certainty], len(c.tasks), c.tasks)):
        if taken.isdisjoint(cycle.tasks):
            chosen.append(cycle)
            taken.update(cycle.tasks)
    return _with_bystanders(graph, chosen, taken)


def _core(graph: Graph) -> list[int]:
    """The tasks that can stand in a cycle: the others fall away from the ends, again and again."""
    blocked_by = {task: set(blockers) & graph.lock_of.keys() for task, blockers in graph.blocked_by.items()}
    waiters: dict[int, set[int]] = defaultdict(set)
    for task, blockers in blocked_by.items():
        for blocker in blockers:
            waiters[blocker].add(task)
    ends = deque(task for task in blocked_by if not blocked_by[task] or not waiters[task])
    left = set(blocked_by)
    while ends:
        task = ends.popleft()
        if task not in left:
            continue
        left.discard(task)
        for waiter in waiters[task] & left:
            blocked_by[waiter].discard(task)
            if not blocked_by[waiter]:
                ends.append(waiter)
        for blocker in blocked_by[task] & left:
            waiters[blocker].discard(task)
            if not waiters[blocker]:
                ends.append(blocker)
    return sorted(left)


def _shortest(graph: Graph, start: int) -> tuple[int, ...] | None:
    """The shortest way from a task back to itself, smallest address first."""
    came: dict[int, int] = {}
    queue = deque([start])
    while queue:
        task = queue.popleft()
        for blocker in graph.blocked_by.get(task, ()):
            if blocker == start:
                way = [task]
                while way[-1] != start:
                    way.append(came[way[-1]])
                way.reverse()
                turn = way.index(min(way))
                return tuple(way[turn:] + way[:turn])
            if blocker not in came and blocker in graph.lock_of:
                came[blocker] = task
                queue.append(blocker)
    return None


def _cycle(graph: Graph, tasks: tuple[int, ...]) -> LockCycle:
    links = list(zip(tasks, (*tasks[1:], tasks[0]), strict=True))
    return LockCycle(
        tasks=tasks,
        locks=tuple(graph.lock_of[task].address for task in tasks),
        certainty=weakest(certainty_of(graph.lock_of[task], holder) for task, holder in links),
    )


def _with_bystanders(graph: Graph, chosen: list[LockCycle], taken: set[int]) -> tuple[LockCycle, ...]:
    told: set[int] = set(taken)
    out = []
    for cycle in chosen:
        distance = graph.reached(cycle.tasks)
        behind = sorted((task for task in distance if task not in told), key=lambda t: (distance[t], t))
        told.update(behind)
        out.append(LockCycle(cycle.tasks, cycle.locks, tuple(behind), cycle.certainty))
    return tuple(out)


def blockers(locks: Iterable[Lock], tasks: Mapping[int, Task]) -> tuple[RootBlocker, ...]:
    """Find the tasks that others wait for and that are in no cycle nor behind one; those with most behind them first.

    `tasks` says what they do: those that are not in it are left out.
    """
    graph = Graph.of(locks)
    stuck = graph.reached(task for cycle in cycles(graph.lock_of.values()) for task in cycle.tasks)
    roots = {
        holder
        for task, held_by in graph.blocked_by.items()
        if task not in stuck
        for holder in held_by
        if not graph.blocked_by.get(holder) and holder in tasks
    }
    found = []
    for root in sorted(roots):
        distance = graph.reached([root])
        waiters = sorted((t for t in distance if t != root), key=lambda t: (distance[t], t))
        used = dict.fromkeys(graph.lock_of[waiter].address for waiter in waiters)
        sure = weakest(
            certainty_of(graph.lock_of[waiter], holder)
            for waiter in waiters
            for holder in graph.blocked_by[waiter]
            if holder in distance
        )
        found.append(RootBlocker(root, tuple(used), tuple(waiters), doing(tasks[root], graph.lock_of.get(root)), sure))
    return tuple(sorted(found, key=lambda b: (-len(b.waiters), b.task)))


def doing(task: Task, waits_for: Lock | None) -> str:
    """What a task does, in words: runs, waits for something nobody is known to hold, or sleeps in a function."""
    if task.on_cpu:
        return f"runs on CPU {task.cpu}"
    if waits_for is not None:
        name = waits_for.symbol or f"{waits_for.address:#x}"
        whose = "" if waits_for.kind in ("completion", "wait_queue") else ", whose holder is not known"
        return f"waits for the {_WORDS[waits_for.kind]} {name}{whose}"
    where = next((f.name for f in task.stack if not f.function.startswith(_SCHEDULING)), "")
    inside = f" in {where}" if where else ""
    return {
        "D": f"sleeps uninterruptibly{inside}",
        "R": "is ready to run",
        "Z": "has ended",
        "X": "has ended",
        "T": f"is stopped{inside}",
        "t": f"is traced{inside}",
    }.get(task.state, f"sleeps{inside}")


_SCHEDULING = ("__schedule", "schedule", "io_schedule", "preempt_schedule", "__cond_resched")
