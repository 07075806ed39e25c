"""What is told of CPUs that spin: for each other's locks, for one of their own, in a loop."""

from __future__ import annotations

from dataclasses import replace

from rca.vmcore.classify import classify
from wardround.models.diagnosis import Hypothesis
from wardround.models.vmcore import DumpHeader, Lock, LockCycle, Panic, Report, StackFrame, Task, Vmcore

HEADER = DumpHeader("/dump", "elf", 0, "dump")
SPINS = StackFrame("native_queued_spin_lock_slowpath", exception=True)
RAIL, GATE = 0xFF10, 0xFF20


def spinner(address: int, comm: str, cpu: int, function: str, *above: str) -> Task:
    panicking = tuple(StackFrame(name, exception=name == "panic_smp_self_stop") for name in above)
    stack = (*panicking, SPINS, StackFrame("_raw_spin_lock"), StackFrame(function, module="yard"))
    return Task(address, address & 0xFF, 0, comm, "R", cpu, on_cpu=True, stack=stack)


def first(vmcore: Vmcore) -> Hypothesis:
    return classify(vmcore, 0.0).hypotheses[0]


def test_two_cpus_that_spin_for_each_others_locks_are_both_told() -> None:
    switch = spinner(0xA1, "switchd", 1, "yard_connect")
    timer = replace(spinner(0xA0, "swapper/0", 0, "yard_release", "exc_nmi", "panic_smp_self_stop", "panic"), pid=0)
    locks = (
        Lock("spinlock", RAIL, "rail", 0xA0, (0xA1,), certainty="inferred"),
        Lock("spinlock", GATE, "gate", 0xA1, (0xA0,), certainty="inferred"),
    )
    told = first(
        Vmcore(
            HEADER,
            Panic("softlockup: hung tasks", "soft_lockup", task=0xA0, stack=timer.stack),
            tasks=(switch, timer),
            locks=locks,
            cycles=(LockCycle((0xA0, 0xA1), (GATE, RAIL), certainty="inferred"),),
        )
    )
    assert (told.fault, told.culprit.name) == ("kernel.lockup", "yard_release")
    assert "switchd (pid 161) on CPU 1, in yard_connect [yard]" in told.headline
    assert "swapper/0 (pid 0) on CPU 0, in yard_release [yard]" in told.headline
    assert "swapper/0 (pid 0) spins for spinlock gate held by switchd (pid 161)" in told.headline
    assert told.causal_chain[0] == "CPUs took spinlocks in different orders"


def test_a_task_that_spins_for_its_own_lock_is_told_so_unless_that_is_only_a_hint() -> None:
    clerk = spinner(0xA1, "clerk", 0, "yard_count")
    lock = Lock("spinlock", RAIL, "rail", 0xA1, (0xA1,), certainty="inferred")
    vmcore = Vmcore(
        HEADER,
        Panic("softlockup: hung tasks", "soft_lockup", task=0xA1, stack=clerk.stack),
        tasks=(clerk,),
        locks=(lock,),
    )
    assert "waits for spinlock rail, which that task most likely took before" in first(vmcore).headline
    hint = replace(vmcore, locks=(replace(lock, certainty="hint"),))
    assert "waits for a spinlock that is never released" in first(hint).headline


def test_a_stall_whose_cpus_stack_is_known_is_as_sure_as_a_lockup() -> None:
    stack = (StackFrame("asm_sysvec_apic_timer_interrupt"), StackFrame("yard_weigh", module="yard"))
    panic = Panic("RCU Stall", "rcu_stall", report="rcu: INFO: rcu_sched self-detected stall on CPU", stack=stack)
    report = Report("rcu_stall", panic.report, stack=stack, comm="weighd", pid=7, fatal=True)
    told = first(Vmcore(HEADER, panic, reports=(report,)))
    assert (told.culprit.name, told.verdict) == ("yard_weigh", "confirmed")
    assert told.probability >= 0.9


def test_cpus_that_all_spin_are_stuck_whatever_stopped_them() -> None:
    """No watchdog saw it: an operator's NMI stopped the kernel. A CPU that runs something else could let go."""
    one, other = spinner(0xA1, "porter", 0, "yard_raise"), spinner(0xA2, "porter2", 1, "yard_raise")
    vmcore = Vmcore(
        HEADER,
        Panic("NMI: Not continuing", "requested", task=0xA1, stack=one.stack),
        tasks=(one, other),
        locks=(Lock("spinlock", GATE, "gate", None, (0xA1, 0xA2)),),
    )
    told = first(vmcore)
    assert (told.fault, told.culprit.name, told.verdict) == ("kernel.lockup", "yard_raise", "confirmed")
    assert "waits for a spinlock that is never released" in told.headline
    busy = replace(
        vmcore, tasks=(replace(one, stack=one.stack[2:]), other), locks=(Lock("spinlock", GATE, "gate", None, (0xA2,)),)
    )
    told = first(busy)
    assert told.fault == "kernel.panic_requested"
    assert told.headline.startswith("An NMI from outside")
