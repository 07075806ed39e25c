"""A crash as far as its kernel log tells it: a `Vmcore` of the tier ``log``.

Tasks that hang become tasks in state D with the stack the kernel printed; no address is known, so a task's pid stands
for it. Who holds a lock is told by kernels that print "likely owned by" (6.16 and later); on others a cycle can only be
guessed from what all hung tasks wait for, which is the classifier's business.
"""

from __future__ import annotations

import re
import time as clocks
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from collectors.vmcore import frames, klog, oomlog
from collectors.vmcore.reports import panic_message, reports
from wardround.models.diagnosis import Skipped
from wardround.models.vmcore import (
    DumpHeader,
    Lock,
    LockCycle,
    LockKind,
    LogLine,
    ModuleInfo,
    Panic,
    Report,
    StackFrame,
    Task,
    Vmcore,
)

_VERSION = re.compile(r"Linux version (\S{1,128})")
_RELEASE = re.compile(r"(?:Not tainted|Tainted: [A-Z ]+?) +(\d+\.\S{1,128})")
_HOST = re.compile(r"(?:systemd\[1\]: Hostname set to|Set hostname to) <?([\w.-]{1,253})>?")
_CPUS = re.compile(r"smp: Brought up \d+ nodes?, (\d{1,5}) CPUs?")
_MEMORY = re.compile(r"Memory: \d+K/(\d{1,15})K available")
_CLOCK = re.compile(r"setting system clock to \S+ UTC \((\d{9,11})\)")
_OFFSET = re.compile(r"Kernel Offset: (0x[0-9a-f]{1,16}|disabled)")
_LOCKS: dict[str, LockKind] = {"mutex": "mutex", "rw-semaphore": "rwsem", "rwsem": "rwsem", "semaphore": "semaphore"}

# Corruption shows late: a report of these kinds may be the cause of one that follows within a minute.
_CAUSES = frozenset(
    {
        *("use_after_free", "out_of_bounds", "list_corruption", "refcount", "slab_corruption", "stack_protector"),
        *("null_pointer", "bad_pointer", "general_protection", "bug", "stack_overflow", "double_fault", "oom"),
    }
)
_EFFECTS = _CAUSES | {"unknown", "soft_lockup", "hard_lockup", "rcu_stall", "hung_task", "invalid_opcode", "divide"}
_FAMILIES = (
    frozenset({"hung_task"}),
    frozenset({"soft_lockup", "hard_lockup", "rcu_stall"}),
    frozenset({"oom"}),
)
# How a kernel comes to its end that an oops before did not stop (panic_on_oops=0).
_ENDED_BY = frozenset({"sysrq", "hung_task", "soft_lockup", "hard_lockup", "rcu_stall"})
_LATE = 60.0  # seconds between a cause and what it brings about


def read_log(path: Path) -> Vmcore:
    """Read a kernel log file, or all files of a folder (pstore). :raises OSError: it cannot be read"""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return from_log(b"\n".join(_tail(file) for file in files if file.is_file()), str(path))


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        size = path.stat().st_size
        if size > klog.MOST_BYTES + 1:
            file.seek(size - klog.MOST_BYTES - 1)
        return file.read(klog.MOST_BYTES + 1)


def from_log(data: bytes, path: str = "") -> Vmcore:
    """Read a kernel log; never raises."""
    began = clocks.process_time()
    log = klog.parse(data)
    found = reports(log.lines)
    told = Vmcore(
        header=_header(log, path, len(data)),
        panic=panic(log.lines, found),
        log=log.lines,
        reports=found,
        ran=("kernel_log",),
        skipped=tuple(_skipped(log)),
    )
    return replace(with_what_the_log_tells(told), seconds=clocks.process_time() - began)


def with_what_the_log_tells(vmcore: Vmcore) -> Vmcore:
    """Fill from the log's reports what no memory told: tasks, locks, the memory's use, modules."""
    found = vmcore.reports
    out_of_memory = any(report.kind == "oom" for report in found)
    tasks = _tasks(found) or (oomlog.tasks(vmcore.log) if out_of_memory else ())
    locks, cycles = _locks(found, tasks)
    return replace(
        vmcore,
        tasks=tasks,
        locks=locks,
        cycles=cycles,
        memory=oomlog.memory(vmcore.log) if out_of_memory else None,
        modules=modules(vmcore.log),
    )


def _skipped(log: klog.KernelLog) -> Iterator[Skipped]:
    reason = "only the kernel log was given"
    yield Skipped("memory_image", reason, "give the vmcore itself: kdump writes it to /var/crash")
    if log.truncated:
        yield Skipped("start_of_log", f"only the last {klog.MOST_BYTES >> 20} MiB of the log were read")


def _header(log: klog.KernelLog, path: str, size: int) -> DumpHeader:
    lines = log.lines
    release = _first(_VERSION, lines) or _first(_RELEASE, lines)
    offset = _first(_OFFSET, lines)
    last = lines[-1].time if lines else None
    start = log.start if log.start is not None else _start(lines)
    return DumpHeader(
        path=path,
        format="log",
        size=size,
        tier="log",
        architecture=_architecture(lines),
        release=release,
        kaslr=int(offset, 16) if offset.startswith("0x") else None,
        cpus=int(_first(_CPUS, lines) or 0),
        memory=1024 * int(_first(_MEMORY, lines) or 0),
        hostname=_first(_HOST, lines),
        time=start + last if start is not None and last is not None else None,
        uptime=last,
    )


def _first(pattern: re.Pattern[str], lines: Sequence[LogLine]) -> str:
    return next((found[1] for line in lines if (found := pattern.search(line.text))), "")


def _start(lines: Sequence[LogLine]) -> float | None:
    """The Unix time of second zero, from the line with which the kernel sets its clock."""
    clock = next(((float(f[1]), line.time) for line in lines if (f := _CLOCK.search(line.text))), None)
    return clock[0] - clock[1] if clock else None


_SIGNS = (
    ("x86_64", r"RIP: [0-9a-f]{4}:|BIOS-e820|x86/"),
    ("aarch64", r"pc : \S+\+0x|Booting Linux on physical CPU 0x[0-9a-f]{10}"),
)


def _architecture(lines: Sequence[LogLine]) -> str:
    return next((name for name, sign in _SIGNS if _found(sign, lines)), "")


def _found(sign: str, lines: Sequence[LogLine]) -> bool:
    pattern = re.compile(sign)
    return any(pattern.search(line.text) for line in lines)


def panic(lines: Sequence[LogLine], found: Sequence[Report]) -> Panic | None:
    """How it ended: built from the first report of the chain that ended in the panic, not from the panic's own line."""
    message = panic_message(lines)
    first = first_cause(found)
    if first is None:
        return Panic(message=message, kind="unknown", certainty="read") if message else None
    return Panic(
        message=message or first.title,
        kind=_requested(first),
        report=first.title,
        cpu=first.cpu,
        task=first.pid,
        function=first.function,
        module=first.module,
        tainted=first.tainted,
        stack=first.stack,
        context=first.context,
        certainty="read",
    )


def _requested(report: Report) -> str:
    """A panic that no report led to was called for by the code that made it."""
    by_itself = report.kind == "unknown" and report.title.startswith("Kernel panic")
    return "requested" if by_itself and any(f.function == "panic" for f in report.stack) else report.kind


def first_cause(found: Sequence[Report]) -> Report | None:
    """The first report of the chain that led to the panic; without a panic, of the chain that led to the last.

    Reports far before it (a warning at boot) are not part of it.
    """
    if not found:
        return None
    fatal = next((n for n, report in enumerate(found) if report.fatal), None)
    if fatal is None:
        grave = [n for n, report in enumerate(found) if report.kind != "warning"]
        fatal = grave[-1] if grave else len(found) - 1
    first = found[fatal]
    for earlier in reversed(found[:fatal]):
        if _leads(earlier, first):
            first = earlier
    return first


def _leads(earlier: Report, later: Report) -> bool:
    if earlier.kind == "bug" and not earlier.detail("oops"):
        return False  # a rule broken (a sleep where none may be); the kernel went on with the task
    if any(earlier.kind in family and later.kind in family for family in _FAMILIES):
        return True
    if earlier.detail("oops") and int(later.detail("oops") or 0) > int(earlier.detail("oops")):
        return True  # the kernel counts its oopses
    if earlier.detail("oops") and later.kind in _ENDED_BY:
        return True  # it killed a task with what that held; the crash only came (or was asked for) later
    near = later.time - earlier.time <= _LATE
    related = bool(_modules_of(earlier) & _modules_of(later))
    related = related or (earlier.pid is not None and earlier.pid == later.pid and earlier.pid != 0)
    return near and earlier.kind in _CAUSES and later.kind in _EFFECTS and (related or later.time - earlier.time < 1.0)


def _modules_of(report: Report) -> set[str]:
    return {report.module, *(frame.module for frame in report.stack)} - {""}


def modules(lines: Sequence[LogLine]) -> tuple[ModuleInfo, ...]:
    """Modules named in the last "Modules linked in" line; their addresses are not in the log."""
    return tuple(ModuleInfo(name, 0, 0, taints) for name, taints in frames.modules(line.text for line in lines))


def _tasks(found: Sequence[Report]) -> tuple[Task, ...]:
    """Tasks that hang (one entry a pid, the last report's stack) and owners whose stacks were shown beside."""
    by_pid: dict[int, Task] = {}
    for report in found:
        if report.kind != "hung_task" or report.pid is None:
            continue
        waiting = float(report.detail("seconds") or 0)
        by_pid[report.pid] = _task(report.pid, report.comm, "D", report.stack, waiting)
        for name, stack in report.others:
            comm, _, pid = name.rpartition(":")
            if pid.isdigit() and int(pid) not in by_pid:
                by_pid[int(pid)] = _task(int(pid), comm, "D" if _sleeps(stack) else "R", stack, None)
    return tuple(by_pid.values())


def _sleeps(stack: Sequence[StackFrame]) -> bool:
    return any(frame.function in ("__schedule", "schedule", "__switch_to") for frame in stack[:3])


def _task(pid: int, comm: str, state: str, stack: tuple[StackFrame, ...], waiting: float | None) -> Task:
    return Task(pid, pid, pid, comm, state, -1, on_cpu=state == "R", waiting=waiting, stack=stack)


def _locks(found: Sequence[Report], tasks: Sequence[Task]) -> tuple[tuple[Lock, ...], tuple[LockCycle, ...]]:
    """Locks whose likely owner the kernel told, numbered, and the cycles they form."""
    owners: dict[int, tuple[int, LockKind]] = {}
    for report in found:
        owner = report.detail("owner_pid")
        if report.pid is not None and owner:
            owners[report.pid] = (int(owner), _LOCKS.get(report.detail("lock"), "mutex"))
    numbers = {waiter: number for number, waiter in enumerate(owners, 1)}
    locks = tuple(
        Lock(kind, numbers[waiter], owner=owner, waiters=(waiter,), certainty="hint")
        for waiter, (owner, kind) in owners.items()
    )
    return locks, tuple(_cycles({waiter: owner for waiter, (owner, _) in owners.items()}, numbers))


def _cycles(owner_of: dict[int, int], numbers: dict[int, int]) -> Iterator[LockCycle]:
    """Follow each waiter to the owner of its lock: who comes back to itself is in a cycle."""
    told: set[int] = set()
    for start in owner_of:
        path = [start]
        while path[-1] in owner_of and owner_of[path[-1]] not in path:
            path.append(owner_of[path[-1]])
        back = owner_of.get(path[-1])
        if back is None or back in told:
            continue
        ring = path[path.index(back) :]
        if told.isdisjoint(ring):
            told.update(ring)
            behind = tuple(task for task in owner_of if task not in ring and _reaches(task, owner_of, ring))
            yield LockCycle(tuple(ring), tuple(numbers[task] for task in ring), behind, "hint")


def _reaches(task: int, owner_of: dict[int, int], ring: Sequence[int]) -> bool:
    seen: set[int] = set()
    while task in owner_of and task not in seen:
        seen.add(task)
        task = owner_of[task]
        if task in ring:
            return True
    return False
