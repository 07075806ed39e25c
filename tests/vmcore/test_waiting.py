"""What is told of waits: a completion is held by nobody, a semaphore may have no holder that lives."""

from __future__ import annotations

from dataclasses import replace

from rca.vmcore.classify import classify
from wardround.models.diagnosis import Hypothesis
from wardround.models.vmcore import DumpHeader, Lock, LockCycle, Panic, RootBlocker, StackFrame, Task, Vmcore

HEADER = DumpHeader("/dump", "elf", 0, "dump")
PANIC = Panic("hung_task: blocked tasks", "hung_task")


def asleep(address: int, comm: str, *functions: str, module: str = "pump") -> Task:
    inner = (StackFrame("__schedule"), StackFrame("schedule"), *(StackFrame(name) for name in functions[:-1]))
    stack = (*inner, StackFrame(functions[-1], module=module))
    return Task(address, address & 0xFF, 0, comm, "D", 0, waiting=200.0, stack=stack)


def first(*tasks: Task, locks: tuple[Lock, ...], **more: object) -> Hypothesis:
    vmcore = Vmcore(HEADER, PANIC, tasks=tasks, locks=locks, ran=("vmcore.locks",), **more)  # type: ignore[arg-type]
    return classify(vmcore, 0.0).hypotheses[0]


def test_the_blocker_of_a_lock_is_told_with_its_function_and_the_lock() -> None:
    filler = asleep(0xA1, "filler", "wait_for_completion", "pump_ask")
    reader = asleep(0xA2, "reader", "__mutex_lock.constprop.0", "pump_peek")
    told = first(
        filler, reader,
        locks=(Lock("mutex", 0x10, "level_lock", 0xA1, (0xA2,)), Lock("completion", 0x20, "reply", None, (0xA1,))),
        blockers=(RootBlocker(0xA1, (0x10,), (0xA2,), "waits for the completion reply"),),
    )  # fmt: skip
    assert (told.fault, told.culprit.name) == ("kernel.hung_task", "filler")
    assert told.headline == (
        "filler (pid 161), in pump_ask [pump], holds the mutex level_lock that 1 task waits for, "
        "and waits for the completion reply."
    )


def test_a_completion_is_completed_and_not_held() -> None:
    stopper = asleep(0xA1, "stopper", "wait_for_completion", "kthread_stop", "pump_stop")
    worker = asleep(0xA2, "worker", "__mutex_lock.constprop.0", "pump_peek")
    told = first(
        stopper, worker,
        locks=(
            Lock("completion", 0x20, "gone", 0xA2, (0xA1,), certainty="derived"),
            Lock("mutex", 0x10, "m", 0xA1, (0xA2,)),
        ),
        cycles=(LockCycle((0xA1, 0xA2), (0x20, 0x10), certainty="derived"),),
    )  # fmt: skip
    assert told.fault == "kernel.deadlock"
    assert "stopper (pid 161) waits for completion gone to be completed by worker (pid 162)" in told.headline
    assert "worker (pid 162) waits for mutex m held by stopper (pid 161)" in told.headline


def test_a_semaphore_that_nobody_is_seen_to_hold_is_a_wait_that_does_not_end() -> None:
    ship = asleep(0xA1, "ship", "__down", "down", "harbour_dock")
    told = first(ship, locks=(Lock("semaphore", 0x10, "berth", None, (0xA1,), state="count 0"),))
    assert (told.fault, told.culprit.name) == ("kernel.hung_task", "ship")
    assert "semaphore berth (count 0), which no task that lives is seen to hold" in told.headline
    assert told.probability > 0.9


def test_a_lock_whose_holder_ended_will_not_be_let_go() -> None:
    clerk = asleep(0xA1, "clerk", "__mutex_lock", "cellar_fill")
    held = Lock("mutex", 0x10, "key", None, (0xA1,), state="its owner 0x99 is no task that lives")
    gone = first(clerk, locks=(replace(held, abandoned=True),))
    assert "mutex key, whose holder ended without letting go of it" in gone.headline
    assert gone.verdict == "confirmed"
    assert first(clerk, locks=(held,)).probability < gone.probability
