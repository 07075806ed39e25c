"""Which report, task and function a crash is laid to: what came first, whom it names, what was only the detector."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collectors.vmcore.fromlog import first_cause, from_log, panic
from collectors.vmcore.sections import _elsewhere
from rca.vmcore.classify import Judgement, classify
from wardround.models.vmcore import DumpHeader, Lock, Panic, StackFrame, Task, Vmcore

_TRACE = "Call Trace:\n <TASK>\n"
_END = "---[ end trace 0000000000000000 ]---\n"


def _judged(log: str, start: float = 10.0) -> Judgement:
    """Judge a log whose lines without a stamp follow each other by a microsecond."""
    return classify(from_log(_stamped(log, start)), 0.0)


def _stamped(log: str, start: float = 10.0) -> bytes:
    lines = []
    for number, line in enumerate(log.splitlines()):
        lines.append(line if line.startswith("[") else f"[{start + number / 1e6:12.6f}] {line}")
    return ("\n".join(lines) + "\n").encode()


def _page_fault(address: str, code: str, rdi: str, words: str = "error_code(0x0000) - not-present page") -> str:
    return (
        f"BUG: unable to handle page fault for address: {address}\n#PF: supervisor "
        f"{'write' if 'violation' in words else 'read'} access in kernel mode\n#PF: {words}\n"
        "Oops: 0000 [#1] PREEMPT SMP\nCPU: 1 PID: 40 Comm: frobd Tainted: G OE 6.1.0 #1\n"
        f"RIP: 0010:frob_age+0x5/0x30 [frob]\nCode: {code}\n"
        f"RAX: 0000000000000005 RBX: ffff888012345678 RCX: ffff888012345680\nRDI: {rdi}\n{_TRACE}"
        f" frob_sweep+0x1b/0x30 [frob]\n kthread+0xda/0x100\n </TASK>\nModules linked in: frob(OE)\n{_END}"
        "Kernel panic - not syncing: Fatal exception\n"
    )


@pytest.mark.parametrize("code", ["90 90 <8b> 47 e0 c3", "Unable to access opcode bytes at 0xffffffffc05bbfeb."])
def test_an_address_just_below_zero_off_a_null_register_is_a_null_pointer(code: str) -> None:
    first = _judged(_page_fault("ffffffffffffffe0", code, "0000000000000000")).hypotheses[0]
    assert (first.fault, first.culprit.name) == ("kernel.null_dereference", "frob_age")
    assert "a null pointer less 0x20" in first.headline
    assert "EPIPE" not in first.headline


def test_a_register_that_holds_a_small_negative_number_is_an_error_code() -> None:
    vmcore = from_log(_stamped(_page_fault("fffffffffffffff4", "90 <8b> 07 c3", "fffffffffffffff4")))
    assert vmcore.panic is not None
    assert vmcore.panic.kind == "bad_pointer"
    assert vmcore.panic.context is not None
    assert vmcore.panic.context.meaning == "the error code -ENOMEM taken for a pointer"


def test_a_write_that_was_not_permitted_is_a_wild_write() -> None:
    words = "error_code(0x0003) - permissions violation"
    first = _judged(_page_fault("ffffffffc04020b0", "90 <c7> 47 10 01 00", "ffffffffc04020a0", words)).hypotheses[0]
    assert (first.fault, first.verdict) == ("kernel.memory_corruption", "confirmed")
    assert "permissions violation" in first.headline


def test_text_in_place_of_a_pointer_shows_that_it_was_overwritten() -> None:
    log = _page_fault("762d646e612d7465", "90 <8b> 07 c3", "762d646e612d7465").replace(
        "BUG: unable to handle page fault for address: 762d646e612d7465",
        "general protection fault, probably for non-canonical address 0x762d646e612d7465: 0000 [#1] PREEMPT SMP",
    )
    first = _judged(log).hypotheses[0]
    assert first.fault == "kernel.memory_corruption"
    assert "et-and-v" in first.headline


_OOPS = (
    "BUG: kernel NULL pointer dereference, address: 0000000000000008\nOops: 0000 [#1] PREEMPT SMP\n"
    "CPU: 0 PID: 149 Comm: trimmer Tainted: G OE 6.1.0 #1\nRIP: 0010:wick_size+0x5/0x10 [wick]\n"
    f"RAX: 0000000000000000\n{_TRACE} wick_trim+0x1d/0x30 [wick]\n vfs_write+0xf8/0x450\n </TASK>\n{_END}"
)


_SYSRQ = "[   90.000000] sysrq: Trigger a crash\n[   90.100000] Kernel panic - not syncing: sysrq triggered crash\n"
_WATCHDOG = (
    "[   90.000000] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [stat:77]\n"
    "[   90.100000] CPU: 1 PID: 77 Comm: stat Not tainted 6.1.0 #1\n[   90.200000] Call Trace:\n"
    "[   90.300000]  vfs_read+0x1/0x2\n[   90.400000] Kernel panic - not syncing: softlockup: hung tasks\n"
)


@pytest.mark.parametrize("end", [_SYSRQ, _WATCHDOG], ids=["sysrq", "watchdog"])
def test_an_oops_that_killed_a_task_before_is_the_cause_and_the_end_is_told(end: str) -> None:
    judged = _judged(_OOPS + end)
    first = judged.hypotheses[0]
    assert (first.fault, first.culprit.name, first.verdict) == ("kernel.null_dereference", "wick_size", "confirmed")
    assert "killed trimmer (pid 149)" in first.headline
    assert "80 s later" in first.headline
    assert "kernel.panic_requested" not in {r.fault for r in judged.ruled_out} or "sysrq" not in end


def test_of_a_dump_the_stack_of_the_task_that_died_before_is_taken_from_the_log() -> None:
    vmcore = from_log(
        _stamped(
            _OOPS + "[   90.000000] sysrq: Trigger a crash\n"
            "[   90.100000] Kernel panic - not syncing: sysrq triggered crash\n"
        )
    )
    logged = panic(vmcore.log, vmcore.reports)
    assert logged is not None
    shell = Task(0xFF01, 154, 154, "bash", "R", 0, on_cpu=True)
    found = Panic("sysrq triggered crash", "null_pointer", cpu=0, task=shell.address, stack=(StackFrame("panic"),))
    taken = _elsewhere(found, logged, first_cause(vmcore.reports), replace(vmcore, tasks=(shell,)))
    assert taken.stack[0].function == "wick_size"
    assert taken.task is None


_STALL = (
    "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\nrcu: \t1-...0: (6 ticks this GP) idle=35b4/1/0x4\n"
    "\t(detected by 0, t=1002 jiffies)\nSending NMI from CPU 0 to CPUs 1:\n"
)
_DETECTOR = (
    "Kernel panic - not syncing: RCU Stall\nCPU: 0 PID: 0 Comm: swapper/0 Not tainted 6.1.0 #1\nCall Trace:\n <IRQ>\n"
    " dump_stack_lvl+0x44/0x5c\n panic+0x118/0x2f4\n panic_on_rcu_stall+0x30/0x35\n"
    " rcu_sched_clock_irq.cold+0x2d3/0x459\n"
    " </IRQ>\n <TASK>\nRIP: 0010:native_safe_halt+0xb/0x10\n amd_e400_idle+0x3d/0x50\n do_idle+0x206/0x2b0\n </TASK>\n"
)


def test_a_stall_is_laid_to_the_cpu_it_names_not_to_the_one_that_noticed() -> None:
    vmcore = from_log(_stamped(_STALL + _DETECTOR))
    report, logged = vmcore.reports[0], vmcore.panic
    assert (report.cpu, report.pid, report.stack) == (1, None, ())
    assert logged is not None
    keeper = Task(
        1, 94, 94, "keeper", "R", 1, on_cpu=True,
        stack=(StackFrame("stop_this_cpu"), StackFrame("end_repeat_nmi"), StackFrame("gate_poll", module="gate",
               exception=True), StackFrame("gate_open", module="gate")),
    )  # fmt: skip
    idle = Task(2, 0, 0, "swapper/0", "R", 0, on_cpu=True)
    found = Panic(
        "RCU Stall", "rcu_stall", report.title, cpu=0, task=2,
        stack=(StackFrame("panic"), StackFrame("panic_on_rcu_stall"), StackFrame("amd_e400_idle")),
    )  # fmt: skip
    known = Vmcore(DumpHeader("vmcore", "elf", 1, "dump"), tasks=(keeper, idle), reports=vmcore.reports)
    taken = _elsewhere(found, logged, report, known)
    assert (taken.cpu, taken.task) == (1, 1)
    first = classify(replace(known, panic=taken), 0.0).hypotheses[0]
    assert (first.fault, first.culprit.name) == ("kernel.lockup", "gate_poll")


def test_a_detector_alone_is_no_culprit() -> None:
    first = _judged(_STALL + _DETECTOR).hypotheses[0]
    assert first.fault == "kernel.lockup"
    assert first.culprit.name == "unknown function"
    assert first.verdict == "possible"


def test_the_work_item_is_accused_where_only_machinery_is_left_on_the_stack() -> None:
    log = (
        "kernel BUG at mm/slub.c:419!\ninvalid opcode: 0000 [#1] SMP\n"
        "CPU: 0 PID: 49 Comm: kworker/0:2 Tainted: G OE 6.1.0 #1\n"
        "Workqueue: events stub_work [stub]\nRIP: 0010:__kmem_cache_free+0x284/0x2a0\n"
        f"{_TRACE} process_one_work+0x1c7/0x380\n worker_thread+0x4d/0x380\n ? rescuer_thread+0x3a0/0x3a0\n"
        f" kthread+0xda/0x100\n ? kthread_complete_and_exit+0x20/0x20\n </TASK>\n{_END}"
        "Kernel panic - not syncing: Fatal exception\n"
    )
    first = _judged(log).hypotheses[0]
    assert (first.fault, first.culprit.name) == ("kernel.memory_corruption", "stub_work")
    assert first.culprit.label("module") == "stub"


def test_an_assertion_names_its_function_file_and_line() -> None:
    log = (
        "kernel BUG at /build/belt/belt.c:26!\ninvalid opcode: 0000 [#1] SMP\n"
        "CPU: 0 PID: 94 Comm: ctl Tainted: G OE 6.1.0 #1\n"
        f"RIP: 0010:belt_take+0x13/0x20 [belt]\n{_TRACE} belt_write+0x16/0x30 [belt]\n </TASK>\n{_END}"
        "Kernel panic - not syncing: Fatal exception\n"
    )
    judged = _judged(log)
    first = judged.hypotheses[0]
    assert (first.fault, first.culprit.name, first.verdict) == ("kernel.refcount", "belt_take", "likely")
    assert "belt.c:26" in judged.summary
    assert "/build" not in judged.summary
    assert judged.severity == "critical"


def test_the_lines_of_two_cpus_are_kept_apart_by_their_times() -> None:
    log = (
        "[   10.900] watchdog: BUG: soft lockup - CPU#0 stuck for 8s! [swapper/0:0]\n[   10.901] CPU: 0 PID: 0 Comm: "
        "swapper/0 Not tainted 6.1.0 #1\n[   10.902] RIP: 0010:native_queued_spin_lock_slowpath+0x30/0x2a0\n"
        "[   10.905] Call Trace:\n[   10.918] watchdog: BUG: soft lockup - CPU#1 stuck for 8s! [bar_sw:92]\n"
        "[   10.919] CPU: 1 PID: 92 Comm: bar_sw Not tainted 6.1.0 #1\n[   10.920] Call Trace:\n"
        "[   10.921]  bar_join+0x31/0x60 [bar]\n"
        "[   10.906]  <IRQ>\n[   10.922]  kthread+0xda/0x100\n"
        "[   10.922] Kernel panic - not syncing: softlockup: hung tasks\n[   10.906]  bar_part+0x31/0x60 [bar]\n"
    )
    one, other = from_log(log.encode()).reports
    assert [f.function for f in one.stack] == ["native_queued_spin_lock_slowpath", "bar_part"]
    assert [f.function for f in other.stack] == ["bar_join", "kthread"]


def test_who_called_panic_is_the_first_sure_frame_behind_it_in_an_interrupt_too() -> None:
    log = (
        "Kernel panic - not syncing: pump: no pressure\nCPU: 1 PID: 0 Comm: swapper/1 Tainted: G OE 6.1.0 #1\n"
        "Call Trace:\n <IRQ>\n dump_stack_lvl+0x44/0x5c\n panic+0x118/0x2f4\n ? 0xffffffffc03cb000\n"
        " pump_stop+0x14/0x14 [pump]\n"
        " call_timer_fn+0x27/0x130\n </IRQ>\n <TASK>\nRIP: 0010:native_safe_halt+0xb/0x10\n"
        " amd_e400_idle+0x3d/0x50\n </TASK>\n"
    )
    vmcore = from_log(_stamped(log))
    assert vmcore.panic is not None
    assert (vmcore.panic.kind, vmcore.panic.function, vmcore.panic.module) == ("requested", "pump_stop", "pump")
    assert "in pump_stop [pump]" in classify(vmcore, 0.0).summary


def _hung(comm: str, pid: int, primitive: str) -> str:
    return (
        f"INFO: task {comm}:{pid} blocked for more than 120 seconds.\n"
        f"task:{comm}          state:D stack:0     pid:{pid}    ppid:1      flags:0x00004002\n{_TRACE}"
        f" __schedule+0x34d/0x9e0\n schedule+0x5a/0xd0\n {primitive}+0x39d/0x720\n key_find+0x15/0x40 [key]\n"
        " key_turn+0x1b/0x40 [key]\n vfs_write+0xc7/0x3f0\n </TASK>\n"
    )


def test_hung_tasks_before_a_crash_that_was_asked_for_are_told_and_weighed() -> None:
    sysrq = "sysrq: Trigger a crash\nKernel panic - not syncing: sysrq triggered crash\n"
    alone, after = _judged(sysrq), _judged(_hung("poster", 95, "rwsem_down_write_slowpath") + sysrq)
    assert after.hypotheses[0].probability < alone.hypotheses[0].probability
    assert "poster:95 blocked" in after.summary
    assert "kernel.hung_task" in {h.fault for h in after.hypotheses}


def test_one_task_alone_that_waits_for_a_mutex_most_likely_holds_it_itself() -> None:
    log = _hung("turner", 93, "__mutex_lock.constprop.0") + "Kernel panic - not syncing: hung_task: blocked tasks\n"
    first = _judged(log).hypotheses[0]
    assert (first.fault, first.verdict) == ("kernel.deadlock", "likely")
    assert "possibly holds itself" in first.headline
    assert not any("different orders" in step for step in first.causal_chain)


def test_what_was_not_seen_is_not_explained() -> None:
    first = _judged(_page_fault("ffffffffffffffe0", "90 <8b> 47 e0 c3", "0000000000000000")).hypotheses[0]
    assert first.explains == ()


def test_a_broken_rule_that_killed_nobody_is_not_the_cause_of_the_lockup_after_it() -> None:
    log = (
        "BUG: scheduling while atomic: lifter/144/0x00000002\nCPU: 1 PID: 144 Comm: lifter Not tainted 6.1.0 #1\n"
        "Call Trace:\n lift_lower+0x10/0x20 [lift]\n"
    )
    assert _judged(log + _WATCHDOG.replace("stat", "lifter").replace("77", "144"), 80.0).hypotheses[0].fault == (
        "kernel.lockup"
    )


def test_a_cpu_that_waits_for_another_s_answer_is_no_culprit() -> None:
    """The other one spins for a lock with interrupts off: its function is accused, not the caller of all CPUs."""
    called = (StackFrame("smp_call_function_many_cond", exception=True), StackFrame("tlb_shoot"), StackFrame("do_exec"))
    spins = (StackFrame("_raw_spin_lock_irqsave", exception=True), StackFrame("frob_weigh", module="frob"))
    tasks = (
        Task(1, 93, 93, "loader", "R", 0, on_cpu=True, stack=called),
        Task(2, 94, 94, "frobd", "R", 1, on_cpu=True, stack=spins),
    )
    lock = Lock("spinlock", 0xFF00, owner=2, waiters=(2,), certainty="inferred")
    panic = Panic("softlockup: hung tasks", "soft_lockup", cpu=0, task=1, stack=called)
    header = DumpHeader("vmcore", "elf", 1, "dump")
    first = classify(Vmcore(header, panic, tasks, (lock,)), 0.0).hypotheses[0]
    assert (first.fault, first.culprit.name, first.culprit.label("module")) == ("kernel.lockup", "frob_weigh", "frob")
