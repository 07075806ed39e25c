"""What is read out of a dump, in which order, and how long each part may take.

A section is on its own: one that fails or runs out of time leaves its part empty and is named in `Vmcore.skipped`;
those that need its part do with what there is. The kernel's log comes first: it tells most for least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from collectors.vmcore.open import Dump
from wardround.models.vmcore import Vmcore

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
    from collectors.vmcore.panic import read_panic

    logged = known.panic
    found = read_panic(dump, logged.kind if logged is not None else None, known.log)
    return {"panic": found if logged is None or found is None else _joined(found, logged)}


def _joined(found: Any, logged: Any) -> Any:
    """What memory tells of the panic, with the report's words where memory has none."""
    return replace(
        found,
        kind=logged.kind if logged.kind != "unknown" else found.kind,
        report=found.report or logged.report,
        message=found.message or logged.message,
        function=found.function or logged.function,
        module=found.module or logged.module,
        stack=found.stack or logged.stack,
        context=found.context or logged.context,
    )


def _locks(dump: Dump, known: Vmcore) -> Part:
    from collectors.vmcore.locks import read_locks

    found = read_locks(dump, known.tasks)
    return {"locks": found.locks, "cycles": found.cycles, "blockers": found.blockers}


def _memory(dump: Dump, known: Vmcore) -> Part:
    from collectors.vmcore.oom import read_oom

    names = {task.address: task.name for task in known.tasks}
    return {"memory": read_oom(dump, names)}


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
