"""Playbooks of waiting: a cycle of sleeping locks, a wait that never ends.

A cycle read from a dump is proof. From a log alone a cycle is only likely: every hung task waits for a lock and none
for anything else. Where one waits for something that is no lock, the others may simply queue behind it.
"""

from __future__ import annotations

from collections.abc import Mapping

from rca.model import Curve, Finding
from rca.vmcore.facts import LOCKS, Facts, Wait, WaitKind, waits
from rca.vmcore.playbook import TREATMENT, Clue, Playbook
from rca.vmcore.story import blame
from rca.vmcore.told import bond, waits_for
from wardround.models.diagnosis import Culprit
from wardround.models.vmcore import Lock, LockCycle, RootBlocker, Task, plain

_SURE = {"read": 1.0, "derived": 1.0, "inferred": 0.85, "hint": 0.75}
_MOST_NAMED = 4
_LOCK_WAITS: Mapping[str, WaitKind] = {
    "mutex": "mutex",
    "rt_mutex": "mutex",
    "rwsem": "rwsem",
    "semaphore": "semaphore",
    "completion": "completion",
    "wait_queue": "event",
}


def _waiting(facts: Facts, task: Task) -> Wait:
    """What a task waits for: the lock graph knows better than its stack."""
    shown = waits(task.stack)
    lock = _lock_of(facts, task)
    kind = _LOCK_WAITS.get(lock.kind) if lock else None
    if shown.kind == "rcu":
        return shown  # a grace period is waited for by a completion of its own
    return Wait(kind, shown.caller, shown.through) if kind else shown


def _lock_of(facts: Facts, task: Task) -> Lock | None:
    """The lock that a task waits for, by the lock graph."""
    return next((lock for lock in facts.vmcore.locks if task.address in lock.waiters), None)


def _caller(facts: Facts, task: Task) -> str:
    found = blame(task.stack, facts.foreign)
    if found is None:
        return ""
    name = plain(found.frame.function)
    return f"{name} [{found.frame.module}]" if found.frame.module else name


def _by_module(facts: Facts, task: Task) -> str:
    found = blame(task.stack, facts.foreign)
    return found.frame.module if found else ""


def _together(facts: Facts, tasks: list[Task]) -> Culprit:
    """Several tasks as one culprit: it bears the name and pid of the first, its labels tell all of them."""
    functions = list(dict.fromkeys(name for task in tasks if (name := _caller(facts, task))))
    modules = list(dict.fromkeys(name for task in tasks if (name := _by_module(facts, task))))
    labels = [("tasks", ", ".join(task.name for task in tasks))]
    labels += [("functions", ", ".join(functions))] if functions else []
    labels += [("module", ", ".join(modules))] if modules else []
    return Culprit("kernel_task", tasks[0].comm, tasks[0].pid, tuple(labels))


# --- deadlock


def cycle_tasks(facts: Facts, cycle: LockCycle) -> list[Task]:
    return [task for address in cycle.tasks if (task := facts.vmcore.task(address)) is not None]


def _lock_waiters(facts: Facts) -> list[Task]:
    return [task for task in facts.hung() if _waiting(facts, task).kind in LOCKS]


def _deadlocked(facts: Facts) -> list[Culprit]:
    cycle = facts.cycle()
    if cycle is not None and (tasks := cycle_tasks(facts, cycle)):
        return [_together(facts, tasks)]
    waiting = _lock_waiters(facts)
    return [_together(facts, _likely_members(facts, waiting)[:_MOST_NAMED])] if waiting else []


def _likely_members(facts: Facts, waiting: list[Task]) -> list[Task]:
    """Without owners: one task for each place that waits; many tasks at one place queue for the same lock."""
    by_place: dict[str, list[Task]] = {}
    for task in waiting:
        by_place.setdefault(_caller(facts, task), []).append(task)
    alone = [tasks[0] for tasks in by_place.values() if len(tasks) == 1]
    return alone if len(alone) >= 2 else [tasks[0] for tasks in by_place.values()]


def _cycle(facts: Facts, _: Culprit) -> Finding | None:
    """The cycle itself, or from a log alone how far the hung tasks look like one."""
    cycle = facts.cycle()
    if cycle is not None:
        return told_cycle(facts, cycle)
    if facts.vmcore.header.tier != "log" and "locks" in " ".join(facts.vmcore.ran):
        return facts.finding(0.0, "the lock graph of the dump holds no cycle", "locks")
    hung = facts.hung()
    waiting = _lock_waiters(facts)
    if not waiting:
        return None
    others = len(hung) - len(waiting)
    places = {_caller(facts, task) for task in waiting}
    alone = len(hung) == 1 and _waiting(facts, hung[0]).kind == "mutex"  # nobody else hangs: who else should hold it?
    value = 0.1 if others else 0.6 if len(places) >= 2 else 0.5 if alone else 0.35
    rest = "none waits for anything else" if not others else f"{others} more for something that is no lock"
    return facts.finding(
        value,
        f"{count(len(waiting), 'hung task')} in all wait for sleeping locks, "
        f"at {count(len(places), 'place')} in the code; {rest}",
        "blocked for more than",
        {"waiting_for_locks": len(waiting), "others": others, "places": len(places)},
        "{task}",
    )


def told_cycle(facts: Facts, cycle: LockCycle) -> Finding:
    locks = {lock.address: lock for lock in facts.vmcore.locks}
    parts = []
    for n, (address, lock_address) in enumerate(zip(cycle.tasks, cycle.locks, strict=False)):
        task, owner = facts.vmcore.task(address), facts.vmcore.task(cycle.tasks[(n + 1) % len(cycle.tasks)])
        lock = locks.get(lock_address)
        parts.append(f"{_name(task)} {waits_for(lock)} {lock_name(lock)} {bond(lock)} {_name(owner)}")
    told = "likely " if cycle.certainty in ("hint", "inferred") else ""
    return facts.finding(
        _SURE[cycle.certainty],
        f"a {told}cycle of {count(len(cycle.tasks), 'task')}: " + "; ".join(parts),
        "owned by task" if facts.vmcore.header.tier == "log" else "locks",
        {"tasks": len(cycle.tasks), "bystanders": len(cycle.bystanders)},
        "{task}",
        ("--lock", f"{cycle.locks[0]:#x}") if cycle.locks else (),
    )


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def _name(task: Task | None) -> str:
    return task.name if task else "a task not found"


def lock_name(lock: Lock | None) -> str:
    if lock is None:
        return "a lock"
    return f"{lock.kind} {lock.symbol}" if lock.symbol else f"a {lock.kind}"


def _reported_hung(facts: Facts, _: Culprit) -> Finding | None:
    hung = facts.hung()
    if not hung:
        value = 0.3 if facts.kind == "lock_order" else 0.0
        return facts.finding(value, "no task was found that sleeps beyond the limit", "blocked for more than")
    longest = max(task.waiting or 0.0 for task in hung)
    names = ", ".join(task.name for task in hung[:_MOST_NAMED])
    return facts.finding(
        1.0,
        f"{count(len(hung), 'task')} in uninterruptible sleep for {longest:.0f} s or more: {names}",
        "blocked for more than",
        {"tasks": len(hung), "seconds": longest},
        "s",
        ("--stack", str(hung[0].pid)),
    )


HUNG = Clue("hung", _reported_hung, Curve((0.0, -3.0), (0.3, -1.0), (1.0, 0.5)))


def _first(facts: Facts, *kinds: str) -> Finding | None:
    return facts.first_report(1.0 if facts.kind in kinds else 0.0)


def _hung_first(facts: Facts, _: Culprit) -> Finding | None:
    before = facts.kind == "sysrq" and any(report.kind == "hung_task" for report in facts.vmcore.reports)
    return facts.first_report(0.6 if before else 1.0 if facts.kind in ("hung_task", "lock_order") else 0.0)


def _deadlock_chain(_: Facts, culprit: Culprit) -> tuple[str, ...]:
    if ", " not in (culprit.label("tasks") or culprit.name):
        return (f"{culprit.name} asked again for a lock that it holds", "it waits for itself", "others queue behind")
    return (
        f"{culprit.label('tasks')} took locks in different orders",
        "each waits for the other",
        "others queue behind",
    )


HUNG_FIRST = Clue("reported", _hung_first, Curve((0.0, -1.5), (1.0, 1.0)))


def _deadlock_headline(facts: Facts, culprit: Culprit, findings: Mapping[str, Finding]) -> str:
    tasks = culprit.label("tasks") or culprit.name
    functions = culprit.label("functions")
    where = f", in {functions}" if functions else ""
    proof = findings["cycle"].statement
    if ", " not in tasks:
        sure = "" if facts.cycle() is not None else "possibly "
        return f"{tasks} waits for a lock that it {sure}holds itself{where}: {proof}."
    if facts.cycle() is None:
        return f"{tasks} most likely wait for each other's locks{where}: {proof}."
    return f"{tasks} wait for each other's locks{where}: {proof}."


DEADLOCK = Playbook(
    fault="kernel.deadlock",
    culprit="kernel_task",
    prior=0.15,
    suspects=_deadlocked,
    clues=(
        Clue(
            "cycle",
            _cycle,
            Curve((0.0, -3.5), (0.1, -2.0), (0.35, 0.2), (0.6, 1.8), (0.75, 1.9), (1.0, 4.0)),
            needed=True,
            ask="the owners of the locks: from the dump, or from a kernel that prints them",
        ),
        HUNG,
        HUNG_FIRST,
    ),
    headline=_deadlock_headline,
    chain=_deadlock_chain,
    symptoms=("kernel.hung_task", "kernel.panic_requested"),
)


# --- a wait that never ends


def _root(facts: Facts) -> Task | None:
    """Whom the others wait for: the end of the dump's longest chain; else a hung task that itself waits for no lock."""
    hung = facts.hung()
    known = {task.address for task in hung}
    chains = [b for b in facts.vmcore.blockers if known & {b.task, *b.waiters}]
    chains.sort(key=lambda b: (-len(b.waiters), b.task))
    if chains and (task := facts.vmcore.task(chains[0].task)) is not None:
        return task
    roots = [task for task in hung if _waiting(facts, task).kind not in LOCKS] or list(hung)
    return min(roots, key=lambda t: -(t.waiting or 0.0), default=None)


def _blocked(facts: Facts) -> list[Culprit]:
    task = _root(facts)
    if task is None:
        return []
    function = _caller(facts, task)
    module = _by_module(facts, task)
    labels = [("function", function)] * bool(function) + [("module", module)] * bool(module)
    return [Culprit("kernel_task", task.comm, task.pid, tuple(labels))]


def _waits_for(facts: Facts, culprit: Culprit) -> Finding | None:
    task = next((task for task in (*facts.hung(), *facts.vmcore.tasks) if task.pid == culprit.pid), None)
    if task is None:
        return None
    behind = next((b for b in facts.vmcore.blockers if b.task == task.address and b.waiters), None)
    if behind is not None:
        return _root_blocker(facts, task, behind)
    wait = _waiting(facts, task)
    words = {
        "completion": "a completion that is not signalled",
        "io": "I/O that does not end",
        "rcu": "a grace period that does not end",
        "timer": "a timer",
        "event": "an event that does not come",
        "running": "nothing: its stack shows no wait",
    }.get(wait.kind, f"a {wait.kind}")
    value = 0.0 if wait.kind in LOCKS else 0.5 if wait.kind in ("running", "timer") else 1.0
    lock = _lock_of(facts, task)
    if wait.kind == "semaphore":  # it has no owner: whoever should raise it may long be gone
        value, words = (0.5, words) if facts.vmcore.header.tier == "log" else (1.0, _unheld(lock))
    if lock is not None and lock.abandoned:
        value, words = 1.0, f"{lock_name(lock)}, whose holder ended without letting go of it"
    caller = _caller(facts, task) or (wait.caller.name if wait.caller else "")
    told = f"{task.name} waits for {words}" + (f", in {caller}" if caller else "")
    return facts.finding(value, told, f"{task.comm}:{task.pid}", show=("--stack", str(task.pid)))


def _unheld(lock: Lock | None) -> str:
    """A semaphore, in words, that no task is known to hold."""
    state = f" ({lock.state})" if lock is not None and lock.state else ""
    return f"{lock_name(lock)}{state}, which no task that lives is seen to hold"


def _root_blocker(facts: Facts, task: Task, behind: RootBlocker) -> Finding:
    """Others wait for a task that itself waits for none of them: what ties them to it, and what it does instead."""
    held = next((lock for lock in facts.vmcore.locks if behind.locks and lock.address == behind.locks[0]), None)
    caller = _caller(facts, task)
    where = f", in {caller}," if caller else ""
    waiters = count(len(behind.waiters), "task")
    wait = "waits" if len(behind.waiters) == 1 else "wait"
    if held is not None and held.kind in ("completion", "wait_queue"):
        told = f"{waiters} {wait} for {lock_name(held)}, {bond(held)} {task.name}, which{where} {behind.doing}"
    else:
        holds = {"inferred": "most likely holds", "hint": "may hold"}.get(behind.certainty, "holds")
        lock = lock_name(held).removeprefix("a ")
        told = f"{task.name}{where} {holds} the {lock} that {waiters} {wait} for, and {behind.doing}"
    return facts.finding(1.0, told, task.comm, {"waiters": len(behind.waiters)}, "{task}", ("--stack", str(task.pid)))


def _hung_headline(facts: Facts, culprit: Culprit, findings: Mapping[str, Finding]) -> str:
    wait = findings.get("waits_for")
    if wait and "waiters" in wait.values:
        return f"{wait.statement}."
    told = wait.statement.partition(" waits for ")[2] if wait else "something that does not come"
    waited = findings["hung"].values.get("seconds") or 0.0
    since = f" for more than {waited:.0f} s" if waited else ""
    return f"{culprit.name} (pid {culprit.pid}) waits{since} for {told}."


HUNG_TASK = Playbook(
    fault="kernel.hung_task",
    culprit="kernel_task",
    prior=0.15,
    suspects=_blocked,
    clues=(
        Clue(
            HUNG.name,
            _reported_hung,
            Curve((0.0, -3.5), (1.0, 1.8)),
            needed=True,
        ),
        HUNG_FIRST,
        Clue(
            "waits_for",
            _waits_for,
            Curve((0.0, -1.0), (0.5, 0.3), (1.0, 1.5)),
            ask="what should have woken it: the completion's or request's other side",
        ),
    ),
    headline=_hung_headline,
    chain=lambda _, c: (f"{c.name} sleeps in the kernel", "what it waits for does not come", "its callers wait too"),
    symptoms=("kernel.panic_requested",),
    actions=TREATMENT,
)


PLAYBOOKS = (DEADLOCK, HUNG_TASK)
