"""What is read out of a dump, in which order, and how long each part may take.

A section is on its own: one that fails or runs out of time leaves its part empty and is named in `Vmcore.skipped`;
those that need its part do with what there is. The kernel's log comes first: it tells most for least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from collectors.vmcore.open import Dump
from wardround.models.vmcore import Panic, Report, Vmcore

_MISSED = frozenset(("rcu_stall", "soft_lockup", "hard_lockup"))  # one CPU tells of another
Part = Mapping[str, Any]  # fields of `Vmcore`


@dataclass(frozen=True, slots=True)
class Section:
    """`read` returns the fields of `Vmcore` it fills; `seconds` is how long it may take by the clock."""

    name: str
    read: Callable[[Dump, Vmcore], Part]
    seconds: float = 20.0


def _log(dump: Dump, known: Vmcore) -> Part:
    from collectors.vmcore.log import read_log

    return {"log": read_log(dump)}


def _reports(dump: Dump, known: Vmcore) -> Part:
    from collectors.vmcore.fromlog import panic
    from collectors.vmcore.reports import reports

    found = reports(known.log)
    return {"reports": found, "panic": panic(known.log, found)}


def _host(dump: Dump, known: Vmcore) -> Part:
    from collectors.vmcore.host import read_host

    return {"header": read_host(dump, known.header, known.log)}


def _modules(dump: Dump, known: Vmcore) -> Part:
    from collectors.vmcore.modules import read_modules

    return {"modules": read_modules(dump)}


def _tasks(dump: Dump, known: Vmcore) -> Part:
    from collectors.vmcore.tasks import read_tasks

    return {"tasks": read_tasks(dump)}


def _panic(dump: Dump, known: Vmcore) -> Part:
    from collectors.vmcore.fromlog import first_cause
    from collectors.vmcore.panic import read_panic

    logged = known.panic
    found = _with_jumped(dump, read_panic(dump, logged.kind if logged is not None else None, known.log), known)
    if logged is None:
        return {"panic": found}
    report = first_cause(known.reports)
    if found is None:  # a dump taken live after an oops: only the log tells of it
        return {"panic": replace(logged, task=_address_of(report, known))}
    return {"panic": _elsewhere(_joined(found, logged), logged, report, known)}


def _with_jumped(dump: Dump, found: Panic | None, known: Vmcore) -> Panic | None:
    """A panic with the functions in its stack that left no frame."""
    from collectors.vmcore.stacks import unwinder
    from collectors.vmcore.tailcalls import with_jumped

    if found is None:
        return None
    task = known.task(found.task)
    runs = task.worker_function if task is not None else ""
    return replace(found, stack=with_jumped(dump.prog, unwinder(dump).addresses, found.stack, runs))


def _elsewhere(found: Panic, logged: Panic, report: Report | None, known: Vmcore) -> Panic:
    """A panic whose task only noticed it: the report names another task or CPU, whose stack is that of the crash.

    That is a task killed by an oops before (only the log has its stack), or one that holds a CPU which another CPU
    misses. The dump's stack of the CPU is taken where the task is still the one that the report names.
    """
    panicking = known.task(found.task)
    if report is None or (report.fatal and report.kind not in _MISSED):
        return found
    same = panicking is not None and panicking.pid == report.pid and (report.pid != 0 or report.cpu == found.cpu)
    if same or (report.pid is None and report.cpu in (None, found.cpu)):
        return found
    task, stack = None, report.stack
    if report.kind in _MISSED:
        task = next((task for task in known.tasks if task.on_cpu and task.cpu == report.cpu), None)
        if task is not None and task.stack and report.pid in (None, task.pid):
            stack = task.stack
    else:
        task = known.task(_address_of(report, known))
    if not stack:
        return found
    return replace(
        found,
        cpu=report.cpu,
        task=task.address if task is not None else None,
        function=report.function,
        module=report.module,
        stack=stack,
        context=logged.context,
    )


def _address_of(report: Report | None, known: Vmcore) -> int | None:
    """The task that a report names by its number, where that is still the same one."""
    if report is None or not report.pid:
        return None
    return next((task.address for task in known.tasks if (task.pid, task.comm) == (report.pid, report.comm)), None)


def _joined(found: Panic, logged: Panic) -> Panic:
    """What memory tells of the panic, with the report's words where memory has none."""
    null = (found.kind, logged.kind) == ("null_pointer", "bad_pointer")  # the instruction tells what the log could not
    return replace(
        found,
        kind=logged.kind if logged.kind != "unknown" and not null else found.kind,
        report=found.report or logged.report,
        message=found.message or logged.message,
        function=found.function or logged.function,
        module=found.module or logged.module,
        stack=found.stack if len(found.stack) > 1 or not logged.stack else logged.stack,
        context=found.context or logged.context,
    )


def _locks(dump: Dump, known: Vmcore) -> Part:
    from collectors.vmcore.locks import read_locks

    found = read_locks(dump, known.tasks)
    if found.unsolved:
        tasks = [task for address in found.unsolved if (task := known.task(address)) is not None]
        named = ", ".join(f"{task.comm} ({task.pid})" for task in tasks[:3]) + (", …" if len(tasks) > 3 else "")
        dump.lost["some locks"] = (
            f"what {named} waits for cannot be told: the lock's list of waiters is broken or not in the dump"
        )
    return {"locks": found.locks, "cycles": found.cycles, "blockers": found.blockers}


def _memory(dump: Dump, known: Vmcore) -> Part:
    from collectors.vmcore.oom import read_oom

    names = {task.address: task.name for task in known.tasks}
    short = any(report.kind == "oom" for report in known.reports)
    suspected = [module.name for module in known.modules if module.foreign and short]
    return {"memory": read_oom(dump, names, suspected)}


def _work(dump: Dump, known: Vmcore) -> Part:
    from collectors.vmcore.modules import address_map
    from collectors.vmcore.work import read_work

    return {"work": read_work(dump, address_map(dump))}


def _anomalies(dump: Dump, known: Vmcore) -> Part:
    """Looked for where the trouble is: in modules not of the kernel's own, and in what the crash passed through."""
    from collectors.vmcore.anomalies import read_anomalies
    from collectors.vmcore.modules import address_map

    panic = known.panic
    suspected = {module.name for module in known.modules if module.taints}
    if panic is not None:
        suspected |= {panic.module, *(frame.module for frame in panic.stack)}
    registers = panic.context.registers if panic is not None and panic.context is not None else {}
    found = read_anomalies(dump, address_map(dump), sorted(suspected - {""}), registers)
    return {"anomalies": found.anomalies, "variables": found.variables}


SECTIONS: tuple[Section, ...] = (
    Section("log", _log),
    Section("reports", _reports),
    Section("host", _host),
    Section("modules", _modules),
    Section("tasks", _tasks, 40.0),
    Section("panic", _panic),
    Section("locks", _locks),
    Section("memory", _memory),
    Section("work", _work),
    Section("anomalies", _anomalies),
)
