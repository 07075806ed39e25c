"""The crash as a report shows it: when, where, the telling frames of the tasks it is about, who waits for whom.

Nothing is judged here; what is shown was read. Frames of general machinery are left out, since they are alike in every
crash; a stack of which nothing else is left is shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from rca.vmcore.facts import Facts
from rca.vmcore.story import Suspect, from_fault, telling
from wardround.models.diagnosis import Crash, CrashStack
from wardround.models.vmcore import Certainty, Lock, StackFrame, Task, Vmcore

MOST_FRAMES = 8
MOST_STACKS = 4
MOST_WAITS = 8
_PAGE = 4096


def told(facts: Facts) -> Crash:
    """Return the crash in words. Text of the host in it is not cleaned yet."""
    header, panic = facts.vmcore.header, facts.panic
    return Crash(
        host=header.hostname,
        source=header.path,
        tier=header.tier,
        release=header.release,
        time=header.time,
        uptime=header.uptime,
        message=panic.message if panic is not None else "",
        task=facts.who(),
        stacks=tuple(_stacks(facts))[:MOST_STACKS],
        waits=tuple(_waits(facts.vmcore))[:MOST_WAITS],
    )


def _stacks(facts: Facts) -> Iterator[CrashStack]:
    """The tasks of a cycle, or who blocks the others, or the task in which it arose."""
    vmcore = facts.vmcore
    cycle = facts.cycle() or facts.cycle(spinning=True)
    about = [*cycle.tasks] if cycle is not None else []
    if not about and facts.kind == "hung_task":
        about = [blocker.task for blocker in vmcore.blockers[:1]] or [task.address for task in facts.hung()[:1]]
    named = [task for address in about if (task := vmcore.task(address)) is not None and task.stack]
    for task in named:
        yield CrashStack(task.name, _frames(task.stack))
    if not named and facts.stack:
        yield CrashStack(facts.who() or "the task that crashed", _frames(facts.stack, facts.accused))


def _frames(stack: tuple[StackFrame, ...], accused: Suspect | None = None) -> tuple[str, ...]:
    sure = [frame for frame in from_fault(stack) if frame.sure]
    frames = list(telling(stack)) or sure or list(from_fault(stack))
    if accused is not None and accused.frame in sure and accused.frame not in frames:
        frames.insert(0, accused.frame)
    return tuple(frame_words(frame) for frame in frames[:MOST_FRAMES])


def frame_words(frame: StackFrame) -> str:
    """Return a frame as one word or a few: ``jt_commit+0x7d [jtable] (jtable.c:42)``."""
    offset = f"+{frame.offset:#x}" if frame.offset else ""
    module = f" [{frame.module}]" if frame.module else ""
    place = f" ({frame.file}:{frame.line})" if frame.file and frame.line else ""
    return f"{frame.function}{offset}{module}{place}"


def _waits(vmcore: Vmcore) -> Iterator[str]:
    """A line a lock: first those of cycles, then those with most waiters."""
    locks = {lock.address: lock for lock in vmcore.locks}
    ringed: set[int] = set()
    for cycle in vmcore.cycles:
        for n, (task, address) in enumerate(zip(cycle.tasks, cycle.locks, strict=False)):
            ringed.add(address)
            owner = cycle.tasks[(n + 1) % len(cycle.tasks)]
            lock = locks.get(address)
            holder = f"{bond(lock)} {_name(vmcore, owner)}{_doubt(cycle.certainty)}"
            yield f"{_name(vmcore, task)} {waits_for(lock)} {lock_words(lock)}, {holder}"
    held = [lock for lock in vmcore.locks if lock.owner is not None and lock.waiters and lock.address not in ringed]
    for lock in sorted(held, key=lambda lock: -len(lock.waiters)):
        first, more = _name(vmcore, lock.waiters[0]), len(lock.waiters) - 1
        waiting = f"{first} and {more} more wait for" if more else f"{first} {waits_for(lock)}"
        yield f"{waiting} {lock_words(lock)}, {bond(lock)} {_name(vmcore, lock.owner)}{_doubt(lock.certainty)}"
    for lock in vmcore.locks:
        if lock.abandoned and lock.waiters:
            yield f"{_name(vmcore, lock.waiters[0])} waits for {lock_words(lock)}; {lock.state}"


def _doubt(certainty: Certainty) -> str:
    return "" if certainty in ("read", "derived") else f" ({certainty})"


def lock_words(lock: Lock | None) -> str:
    """Return a lock by its symbol or its address; of a log neither is known, its locks are only numbered."""
    if lock is None:
        return "a lock"
    if lock.symbol:
        return f"{lock.kind} {lock.symbol}"
    return f"{lock.kind} at {lock.address:#x}" if lock.address >= _PAGE else f"a {lock.kind}"


def bond(lock: Lock | None) -> str:
    """Return what ties a lock to the task named after it: a completion and a wait queue are held by nobody."""
    kind = lock.kind if lock is not None else ""
    return {"completion": "to be completed by", "wait_queue": "to be woken by"}.get(kind, "held by")


def waits_for(lock: Lock | None) -> str:
    """Return what a task does about a lock."""
    return "spins for" if lock is not None and lock.kind == "spinlock" else "waits for"


def _name(vmcore: Vmcore, address: int | None) -> str:
    task: Task | None = vmcore.task(address)
    return task.name if task is not None else "a task not found"
