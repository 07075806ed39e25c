"""Playbook of a CPU that spins: for a spinlock, in a loop, or for another CPU's answer.

The watchdog tells which CPU is stuck; where the dump shows that others only wait for it, or that two each hold what the
other spins for, that is told. A spinlock names no holder: one that is known is inferred from code and stacks.
"""

from __future__ import annotations

from collections.abc import Mapping

from rca.model import Curve, Finding
from rca.vmcore.facts import Facts, function_of
from rca.vmcore.playbook import Clue, Playbook
from rca.vmcore.story import blame
from rca.vmcore.waiting import count, cycle_tasks, lock_name, told_cycle
from wardround.models.diagnosis import Culprit
from wardround.models.vmcore import Lock, StackFrame, Task, plain

_MOST_NAMED = 4
_CALLS_TO_CPUS = ("smp_call_function", "csd_lock_wait", "generic_exec_single", "on_each_cpu")
_LOCKUPS = frozenset(("soft_lockup", "hard_lockup", "rcu_stall"))
_PANICKING = ("panic", "stop_this_cpu", "crash_")  # where an NMI stops a CPU that has panicked second
_FOR_A_LOCK = ("native_queued", "queued_", "_raw_", "__pv_queued", "pv_", "do_raw", "__raw")


def _spinning(facts: Facts) -> list[Culprit]:
    if facts.kind not in _LOCKUPS and not any(lock.kind == "spinlock" for lock in facts.vmcore.locks):
        return []
    guilty = _running_holder(facts) or _deaf_spinner(facts)
    found = blame(guilty.stack, facts.foreign) if guilty else facts.accused
    if found is None:
        return [Culprit("kernel_function", "unknown function")]
    accused = function_of(found.frame)
    cycle = facts.cycle(spinning=True)
    if cycle is None or len(cycle.tasks) < 2:
        return [accused]
    tasks = ", ".join(task.name for task in cycle_tasks(facts, cycle))
    return [Culprit(accused.kind, accused.name, None, (*accused.labels, ("tasks", tasks)))]


def _stuck_at(facts: Facts) -> StackFrame | None:
    """Where the watchdog found the CPU: what it interrupted, not the panic that another CPU's NMI interrupted."""
    interrupted = (frame for frame in facts.stack if frame.exception)
    found = next((frame for frame in interrupted if not plain(frame.function).startswith(_PANICKING)), None)
    if found is None and facts.kind == "rcu_stall" and facts.accused is not None:
        return facts.accused.frame
    return found


def _spun(facts: Facts) -> list[Lock]:
    """The spinlocks that CPUs spin for."""
    return [lock for lock in facts.vmcore.locks if lock.kind == "spinlock" and lock.waiters]


def _running_holder(facts: Facts) -> Task | None:
    """Who holds the lock that the reported CPU spins for and runs on, spinning for none: the one that does not let go.

    An owner that is only a hint is left out.
    """
    locks = _spun(facts)
    spinning = {task for lock in locks for task in lock.waiters}
    stuck = facts.panic.task if facts.panic else None
    lock = next((lock for lock in locks if stuck in lock.waiters and lock.certainty != "hint"), None)
    owner = facts.vmcore.task(lock.owner) if lock else None
    return owner if owner is not None and owner.on_cpu and owner.address not in spinning else None


def _deaf_spinner(facts: Facts) -> Task | None:
    """Who spins on another CPU with interrupts off, where the reported CPU only waits for that one's answer."""
    at = _stuck_at(facts)
    if at is None or not plain(at.function).startswith(_CALLS_TO_CPUS):
        return None
    stuck = facts.panic.task if facts.panic else None
    waiters = (facts.vmcore.task(task) for lock in _spun(facts) for task in lock.waiters)
    return next((task for task in waiters if task is not None and task.on_cpu and task.address != stuck), None)


def _unreleasable(facts: Facts) -> list[Lock]:
    """Spinlocks that nobody can let go of: whatever runs on a CPU spins itself. Who holds one may not sleep, so what
    sleeps does not hold it, or holds it for ever."""
    locks = _spun(facts)
    spinning = {task for lock in locks for task in lock.waiters}
    running = [task for task in facts.vmcore.tasks if task.on_cpu and task.pid]
    return locks if all(task.address in spinning for task in running) else []


def _lockup(facts: Facts, _: Culprit) -> Finding | None:
    stuck = _unreleasable(facts)
    if facts.kind not in _LOCKUPS and stuck:
        named = ", ".join(lock_name(lock) for lock in stuck[:_MOST_NAMED])
        told = f"all that runs on a CPU spins, for {named}: nothing is left that could let go of it"
        return facts.finding(0.9, told, "spinlock", show=("--lock", f"{stuck[0].address:#x}"))
    seconds = facts.report.detail("seconds") if facts.report else ""
    return facts.first_report(float(facts.kind in _LOCKUPS), {"seconds": float(seconds)} if seconds else None, _LOCKUPS)


def _spins(facts: Facts, _: Culprit) -> Finding | None:
    """Whether the stuck CPU waits for a spinlock or runs the accused itself."""
    at = _stuck_at(facts)
    if at is None:
        return None
    words = "waits for a spinlock" if plain(at.function).startswith(_FOR_A_LOCK) else "runs"
    also = facts.report.detail("also") if facts.report else ""
    more = f"; as stuck at the same time: {also}" if also else ""
    return facts.finding(1.0, f"the stuck CPU {words} at {at.name}{more}", at.function, show=facts.show_stack())


def _busy(facts: Facts, _: Culprit) -> Finding | None:
    """Locks that CPUs spin for, from the dump."""
    locks = _spun(facts)
    if not locks:
        return None
    if (cycle := facts.cycle(spinning=True)) is not None:
        return told_cycle(facts, cycle)
    spinners = sum(len(lock.waiters) for lock in locks)
    named = ", ".join(_held_by(facts, lock) for lock in locks[:_MOST_NAMED])
    return facts.finding(
        1.0,
        f"{count(spinners, 'task')} spin{'s' * (spinners == 1)} for {count(len(locks), 'spinlock')}: {named}",
        "spinlock",
        {"spinners": spinners, "locks": len(locks)},
        "{task}",
        ("--lock", f"{locks[0].address:#x}"),
    )


def _held_by(facts: Facts, lock: Lock) -> str:
    owner = facts.vmcore.task(lock.owner)
    if owner is None:
        return lock_name(lock)
    return f"{lock_name(lock)} held by {owner.name} ({lock.certainty})"


def _lockup_headline(facts: Facts, culprit: Culprit, findings: Mapping[str, Finding]) -> str:
    report = facts.report
    where = f"{culprit.name} [{culprit.label('module')}]" if culprit.label("module") else culprit.name
    cycle = facts.cycle(spinning=True)
    if cycle is not None and len(tasks := cycle_tasks(facts, cycle)) == len(cycle.tasks) > 1:
        told = " and ".join(_place(facts, task) for task in tasks)
        return f"{told} spin for each other's spinlock: {findings['busy'].statement}."
    seconds = report.detail("seconds") if report else ""
    spins = findings.get("spins")
    lock = (spins is not None and "spinlock" in spins.statement) or bool(_unreleasable(facts))
    also = report.detail("also") if report else ""
    who = f" by {facts.who()}" + (f" and {also}" if also else "") if facts.who() else ""
    holder = _running_holder(facts)
    if holder is not None:
        return f"{where}, run by {holder.name}, holds a spinlock for which {facts.who()} spins."
    spinner = _deaf_spinner(facts)
    if spinner is not None:
        return (
            f"{where}, run by {spinner.name}, waits for a spinlock that is never released; "
            f"{facts.who()} waited for that CPU to answer."
        )
    how = "waits for a spinlock that is never released" if lock else "does not let go of the CPU"
    if (own := _own_lock(facts)) is not None:
        how = f"waits for {lock_name(own)}, which that task most likely took before"
    return f"{where}, called{who}, {how}" + (f": stuck for {seconds} s." if seconds else ".")


def _own_lock(facts: Facts) -> Lock | None:
    """The spinlock that the stuck CPU's task spins for and is taken to hold itself; a hint is not enough."""
    stuck = facts.panic.task if facts.panic else None
    spun = (lock for lock in _spun(facts) if stuck in lock.waiters)
    return next((lock for lock in spun if lock.owner == stuck and lock.certainty != "hint"), None)


def _place(facts: Facts, task: Task) -> str:
    found = blame(task.stack, facts.foreign)
    where = f", in {found.frame.name}" if found else ""
    return f"{task.name} on CPU {task.cpu}{where}"


def _lockup_chain(facts: Facts, culprit: Culprit) -> tuple[str, ...]:
    cycle = facts.cycle(spinning=True)
    if cycle is not None and len(cycle.tasks) > 1:
        return (
            "CPUs took spinlocks in different orders",
            "each spins for what another holds",
            "nothing else runs there",
        )
    return (f"{culprit.name} spins with preemption or interrupts off", "nothing else runs on that CPU")


LOCKUP = Playbook(
    fault="kernel.lockup",
    culprit="kernel_function",
    prior=0.12,
    suspects=_spinning,
    clues=(
        Clue("reported", _lockup, Curve((0.0, -3.0), (1.0, 3.5)), needed=True),
        Clue("spins", _spins, Curve((0.0, 0.0), (1.0, 0.8)), ask="where the other CPUs were: the dump knows"),
        Clue("busy", _busy, Curve((0.0, 0.0), (1.0, 1.2))),
    ),
    headline=_lockup_headline,
    chain=_lockup_chain,
    symptoms=("kernel.hung_task", "kernel.panic_requested"),
)
PLAYBOOKS = (LOCKUP,)
