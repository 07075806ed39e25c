"""What is told of memory that ran out, and of crashes that were asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rca.vmcore.classify import Judgement, classify
from wardround.models.vmcore import (
    DumpHeader,
    MemoryHolder,
    MemoryUse,
    ModuleInfo,
    Panic,
    Report,
    StackFrame,
    Task,
    Vmcore,
)

HEADER = DumpHeader("/dump", "elf", 0, "dump")
MIB = 1 << 20
MODULES = (ModuleInfo("mail", 0, 0, taints="OE"), ModuleInfo("fax", 0, 0, taints="OE"))


def short(holder: MemoryHolder, *tasks: Task) -> Judgement:
    panic = Panic("Out of memory: compulsory panic_on_oom is enabled", "oom", report="init invoked oom-killer")
    return classify(
        Vmcore(
            HEADER, panic, tasks=tasks, modules=MODULES, memory=MemoryUse(100 * MIB, holders=(holder,)),
            reports=(Report("oom", panic.report, fatal=True),),
        ),
        0.0,
    )  # fmt: skip


def leak(*takers: str, kind: str = "slab") -> MemoryHolder:
    return MemoryHolder(kind, "kmalloc-512", 70 * MIB, 0.7, statement="slab cache kmalloc-512: 70 MiB", takers=takers)


def task(number: int, comm: str, function: str, module: str = "", runs: str = "") -> Task:
    return Task(
        number, number, 0, comm, "D", 0, stack=(StackFrame(function, 5, number & 0, module),), worker_function=runs
    )


@pytest.mark.parametrize("kind", ["slab", "unaccounted"])
def test_the_only_module_whose_code_takes_such_memory_is_accused(kind: str) -> None:
    judged = short(leak("accept [mail]", kind=kind), task(7, "postman", "accept", "mail"))
    first = judged.hypotheses[0]
    assert (first.fault, first.culprit.name, first.culprit.label("module")) == (
        "kernel.out_of_memory",
        "accept",
        "mail",
    )
    assert "accept [mail] (run by postman (pid 7)) most likely took the memory, by its code" in first.headline
    assert any(
        "only mail has code that takes from" in e.statement and "(inferred)" in e.statement for e in judged.evidence
    )


def test_of_several_modules_the_one_that_a_task_runs_is_accused_else_the_cache() -> None:
    both = leak("accept [mail]", "send [fax]")
    assert short(both, task(7, "faxer", "send", "fax")).hypotheses[0].culprit.name == "send"
    judged = short(both)
    assert judged.hypotheses[0].culprit.name == "kmalloc-512"
    assert any("fax, mail have code" in e.statement and "(hint)" in e.statement for e in judged.evidence)


@pytest.mark.parametrize(("kind", "name"), [("kernel_stacks", "kernel_stacks"), ("slab", "task_struct")])
def test_stacks_and_structures_of_many_alike_tasks_name_their_function(kind: str, name: str) -> None:
    helpers = [task(n, f"help/{n}", "helper", "mail", "helper_main") for n in range(100, 140)]
    stacks = MemoryHolder(kind, name, 40 * MIB, 0.4, statement="kernel stacks: 40 MiB")
    first = short(stacks, task(1, "init", "do_wait"), *helpers).hypotheses[0]
    assert (first.culprit.name, first.culprit.label("module")) == ("helper", "mail")
    assert "40 tasks named help/* are in helper [mail], all with one and the same stack" in first.headline
    assert "thread function helper_main" in first.headline


def test_figures_of_memory_are_no_evidence_where_it_did_not_run_out() -> None:
    vmcore = Vmcore(
        HEADER, Panic("Fatal exception", "null_pointer"), memory=MemoryUse(100 * MIB, holders=(leak(),)),
        reports=(Report("null_pointer", "BUG: kernel NULL pointer dereference", fatal=True),),
    )  # fmt: skip
    assert not any("kmalloc" in evidence.statement for evidence in classify(vmcore, 0.0).evidence)


def test_a_panic_that_code_called_for_is_critical_and_one_asked_for_by_sysrq_a_warning() -> None:
    panic = Panic("guard: no heartbeat", "requested", stack=(StackFrame("guard_check", module="guard"),))
    judged = classify(Vmcore(HEADER, panic), 0.0)
    assert judged.severity == "critical"
    assert "guard_check [guard]" in judged.summary
    assert judged.hypotheses[0].probability > 0.85
    assert (
        classify(Vmcore(HEADER, replace(panic, kind="sysrq", message="sysrq triggered crash")), 0.0).severity
        == "warning"
    )
