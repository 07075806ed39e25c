"""What is told of faults: who handed over what was bad, where a lost CPU came from, what points to freed memory."""

from __future__ import annotations

from dataclasses import replace

from rca.vmcore.classify import classify
from wardround.models.diagnosis import Hypothesis
from wardround.models.vmcore import Anomaly, CrashContext, DumpHeader, Panic, Report, StackFrame, Task, Vmcore

HEADER = DumpHeader("/dump", "elf", 0, "dump")
WORKER = Task(
    0xA1, 7, 7, "kworker/0:1", "R", 0, on_cpu=True, worker_function="fold", stack=(StackFrame("process_one_work"),)
)


def first(panic: Panic, *anomalies: Anomaly, reports: tuple[Report, ...] = ()) -> Hypothesis:
    return classify(Vmcore(HEADER, panic, tasks=(WORKER,), anomalies=anomalies, reports=reports), 0.0).hypotheses[0]


def test_a_caller_of_another_module_is_named() -> None:
    stack = (StackFrame("weigh", module="scale", exception=True), StackFrame("hand_over", module="mail"))
    context = CrashContext({"RDI": 0}, "weigh", "scale", 0, "a null pointer", "read")
    told = first(Panic("Fatal exception", "null_pointer", task=0xA1, stack=stack, context=context))
    assert told.headline.startswith("weigh [scale], called by hand_over [mail], followed a null pointer")
    same = (stack[0], StackFrame("balance", module="scale"))
    assert "called by" not in first(Panic("", "null_pointer", task=0xA1, stack=same, context=context)).headline


def test_a_cpu_that_ran_no_code_is_told_by_what_its_task_runs() -> None:
    stack = (StackFrame("0x7171717171717171", exception=True, sure=False),)
    context = CrashContext(
        {"RIP": 0x7171717171717171}, "", "", 0x7171717171717171, "no valid address at all", "execute"
    )
    told = first(Panic("Fatal exception", "general_protection", task=0xA1, stack=stack, context=context))
    assert (told.fault, told.culprit.name) == ("kernel.memory_corruption", "fold")
    assert "the CPU ran at 0x7171717171717171, which is no code" in told.headline


def test_the_checker_that_noticed_first_names_the_function_not_the_later_stop() -> None:
    early = Report("out_of_bounds", "memcpy: detected field-spanning write", function="label", module="steam")
    late = Report("bad_pointer", "BUG: unable to handle page fault", 1.0, fatal=True)
    stack = (StackFrame("turn", module="steam", exception=True),)
    panic = Panic(
        "Fatal exception", "out_of_bounds", early.title, function="turn", module="steam", task=0xA1, stack=stack
    )
    assert first(panic, reports=(early, late)).culprit.name == "label"


def test_the_allocator_that_follows_a_bad_link_proves_a_write_into_a_free_object() -> None:
    stack = (StackFrame("__kmem_cache_alloc_node", exception=True), StackFrame("fill", module="pond"))
    context = CrashContext({"RCX": 0xC196BE07D57FC3E0}, "__kmem_cache_alloc_node", "", 0xC196BE07D57FC3E0, "", "read")
    stale = Anomaly("freed_object", "drop", "drop [pond] points to an object which is free", "0x1", module="pond")
    told = first(Panic("Fatal exception", "general_protection", task=0xA1, stack=stack, context=context), stale)
    assert told.probability > 0.85
    assert "the allocator itself met the bad pointer" in told.headline
    assert "drop [pond] points to an object which is free" in told.headline


def test_general_machinery_that_calls_through_null_is_named_with_the_module_it_ran_for() -> None:
    stack = (StackFrame("seq_read_iter", exception=True), StackFrame("proc_reg_read_iter"), StackFrame("do_splice"))
    meaning = "a null pointer; RSI holds data of module pantry (jars+0x0)"
    context = CrashContext({"RIP": 0}, "seq_read_iter", "", 0, meaning, "execute", repaired=True)
    panic = Panic("Fatal exception", "null_pointer", task=0xA1, stack=stack, context=context)
    told = first(panic)
    assert told.culprit.name == "seq_read_iter"
    assert "data of module pantry (jars+0x0)" in told.headline
    read = replace(panic, context=replace(context, access="read"))
    assert first(read).culprit.name == "do_splice"


def test_a_stack_whose_end_was_overwritten_met_no_guard_page() -> None:
    title = "Kernel panic - not syncing: corrupted stack end detected inside scheduler"
    stack = (StackFrame("__schedule"), StackFrame("gnaw", module="worm"))
    panic = Panic("corrupted stack end detected inside scheduler", "stack_overflow", title, task=0xA1, stack=stack)
    told = first(panic, reports=(Report("stack_overflow", title, stack=stack, fatal=True),))
    assert "the scheduler found its mark gone" in told.causal_chain
