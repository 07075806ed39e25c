"""What a kernel crash dump (or only the kernel log of a crash) told, as the classifier reads it.

Every item says where it was read and how sure that is: ``read`` straight out of the dump, ``derived`` by rules that
cannot err where the dump is whole, ``inferred`` from several clues, or only a ``hint``. Addresses are kernel virtual
addresses. Text out of a dump (log lines, task names) is data: it is cleaned before it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wardround.models.diagnosis import Skipped

Certainty = Literal["read", "derived", "inferred", "hint"]
DumpFormat = Literal["elf", "kdump", "flattened", "log"]
# What could be used: the kernel log alone, the dump alone (symbols, types and unwind tables lie in it), module files
# beside it, a vmlinux with debug information.
Tier = Literal["log", "dump", "modules", "debuginfo"]
LockKind = Literal["mutex", "rt_mutex", "rwsem", "semaphore", "completion", "wait_queue", "spinlock"]


_SUFFIX = re.compile(r"(?:\.(?:cold|constprop|isra|part|llvm|lto_priv|localalias|warm)(?:\.\d+)*|\.\d+)+$")


def plain(function: str) -> str:
    """Return a function's name without what the compiler appended.

    >>> plain("ring_flush.isra.0.cold"), plain("flow_release.constprop.0")
    ('ring_flush', 'flow_release')
    """
    return _SUFFIX.sub("", function)


@dataclass(frozen=True, slots=True)
class DumpHeader:
    """What the file is. `kaslr` is the offset of the kernel's text, `time` the crash in Unix seconds, where known."""

    path: str
    format: DumpFormat
    size: int
    tier: Tier
    architecture: str = ""
    release: str = ""
    build_id: str = ""
    kaslr: int | None = None
    cpus: int = 0
    memory: int = 0
    hostname: str = ""
    time: float | None = None
    uptime: float | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the kernel log: seconds since boot, level 0 (emergency) to 7, text.

    `caller` is the task (``T64``) or CPU (``C1``) that wrote it, where the kernel tells."""

    time: float
    text: str
    level: int | None = None
    caller: str = ""


@dataclass(frozen=True, slots=True)
class StackFrame:
    """One frame, innermost first in a stack. `module` is empty for the kernel itself; `file` and `line` need debug
    information. `exception` marks the frame whose registers the exception saved; `sure` is False where the unwinder
    guessed (the log's frames with a question mark). `jumped` marks a function that ended by jumping into the frame
    above it and left none itself: its code and its caller's tell it."""

    function: str
    offset: int = 0
    address: int | None = None
    module: str = ""
    file: str = ""
    line: int | None = None
    exception: bool = False
    sure: bool = True
    variables: tuple[tuple[str, str], ...] = ()
    jumped: bool = False

    @property
    def name(self) -> str:
        return f"{self.function} [{self.module}]" if self.module else self.function


@dataclass(frozen=True, slots=True)
class Task:
    """One task: `state` in ps letters, `waiting` seconds since it last ran, `stack` innermost frame first.

    Where only the log is there, no address is known: its pid stands for it."""

    address: int
    pid: int
    tgid: int
    comm: str
    state: str
    cpu: int
    on_cpu: bool = False
    waiting: float | None = None
    stack: tuple[StackFrame, ...] = ()
    worker_function: str = ""

    @property
    def name(self) -> str:
        return f"{self.comm} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class CrashContext:
    """The registers at the fault and what they mean. `address` is the one that could not be accessed (CR2), or None;
    `meaning` says in words what the address is; `repaired` where the call through a bad pointer was unwound again."""

    registers: Mapping[str, int]
    function: str
    module: str = ""
    address: int | None = None
    meaning: str = ""
    access: Literal["read", "write", "execute", ""] = ""
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Panic:
    """How it ended: the panic message, the task and CPU, the first report that led there and its class.

    `kind` is the class of the first report (``null_pointer``, ``bad_pointer``, ``bug``, ``list_corruption``,
    ``refcount``, ``slab_corruption``, ``hung_task``, ``soft_lockup``, ``hard_lockup``, ``rcu_stall``, ``oom``,
    ``sysrq``, ``double_fault``, ``stack_overflow``, ``stack_protector``, ``out_of_bounds``, ``warning``, ``requested``,
    ``general_protection``, ``divide``, ``invalid_opcode``, ``use_after_free``, ``lock_order``, ``machine_check``,
    ``unknown``).
    """

    message: str
    kind: str
    report: str = ""
    cpu: int | None = None
    task: int | None = None
    function: str = ""
    module: str = ""
    tainted: str = ""
    stack: tuple[StackFrame, ...] = ()
    context: CrashContext | None = None
    certainty: Certainty = "read"


@dataclass(frozen=True, slots=True)
class Report:
    """One report in the kernel log (oops, BUG, WARNING, lockup, hung task, out of memory …), as `Panic.kind` has it.

    `title` is the line that says what happened, `function` and `module` where (of the fault, or of the accused);
    `details` are what else the report names (``seconds``, ``owner``, ``cache``, ``allocated_in``, ``freed_in`` …).
    `fatal` marks the one the panic followed on, `others` the stacks shown beside it (other CPUs, the lock's owner).
    """

    kind: str
    title: str
    time: float = 0.0
    function: str = ""
    module: str = ""
    cpu: int | None = None
    pid: int | None = None
    comm: str = ""
    tainted: str = ""
    hardware: str = ""
    stack: tuple[StackFrame, ...] = ()
    context: CrashContext | None = None
    details: tuple[tuple[str, str], ...] = ()
    others: tuple[tuple[str, tuple[StackFrame, ...]], ...] = ()
    fatal: bool = False

    def detail(self, name: str) -> str:
        return dict(self.details).get(name, "")


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock that tasks wait for. `owner` and `waiters` are task addresses; `readers` counts those that hold an
    rwsem. `certainty` is of the owner: the reader an rwsem remembers is only a hint. `holders` are all that are taken
    to hold it, the owner first; `clue` says by what an owner was inferred, `state` the lock's own words. `abandoned`:
    the task that took it ended without letting go. A completion and a wait queue are no locks, but what a task may wait
    for just as well."""

    kind: LockKind
    address: int
    symbol: str = ""
    owner: int | None = None
    waiters: tuple[int, ...] = ()
    readers: int = 0
    certainty: Certainty = "read"
    holders: tuple[int, ...] = ()
    clue: str = ""
    state: str = ""
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class LockCycle:
    """Tasks that wait for each other: `tasks[i]` waits for `locks[i]`, which `tasks[i + 1]` (the last: the first)
    holds. `bystanders` wait behind it. `certainty` is that of its weakest link."""

    tasks: tuple[int, ...]
    locks: tuple[int, ...]
    bystanders: tuple[int, ...] = ()
    certainty: Certainty = "read"


@dataclass(frozen=True, slots=True)
class RootBlocker:
    """The task at the end of a chain that is no cycle: `waiters` wait behind it, the nearest first, by way of `locks`,
    of which it holds the first. `doing` says in words what it does meanwhile; `certainty` is of the weakest link."""

    task: int
    locks: tuple[int, ...]
    waiters: tuple[int, ...]
    doing: str
    certainty: Certainty = "read"


@dataclass(frozen=True, slots=True)
class CacheUse:
    """One slab cache: objects in use and in all, bytes of both; `merged` counts the caches merged into it and `aliases`
    names them, those of `module` first. `owners` names functions or variables that its objects point to, with how many
    of `sampled` do, `allocators` the functions that allocated them (where slab debugging stores that). `variables`
    of modules point to the cache or to its objects. `module` is the one that the objects are of, empty where unknown
    or the kernel itself; `certainty` is of that: inferred where only variables that reach the objects tell it. `alike`
    is what nearly all sampled objects hold at the same place, in words."""

    name: str
    address: int
    object_size: int
    active: int
    total: int
    bytes: int
    merged: int = 0
    sampled: int = 0
    owners: tuple[tuple[str, int], ...] = ()
    module: str = ""
    reclaimable: bool = False
    aliases: tuple[str, ...] = ()
    allocators: tuple[tuple[str, int], ...] = ()
    variables: tuple[str, ...] = ()
    certainty: Certainty = "derived"
    alike: str = ""


@dataclass(frozen=True, slots=True)
class MemoryHolder:
    """Who holds memory, ranked: `kind` is ``slab``, ``process``, ``vmalloc``, or a part of `MemoryUse.parts`; `name`
    the cache (its alias where merged), the process' task address in hexadecimal, the function that allocated, or the
    part. `share` is of all memory; `functions` are those its objects point to or that allocated them, `takers` those of
    modules whose code takes such memory, where nothing surer is known."""

    kind: str
    name: str
    bytes: int
    share: float
    module: str = ""
    functions: tuple[str, ...] = ()
    statement: str = ""
    certainty: Certainty = "derived"
    takers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Where the memory is, bytes by owner (``free``, ``anonymous``, ``page_cache``, ``slab_unreclaimable`` …), what is
    left over as ``unaccounted``; largest tasks as (task address, bytes resident); who holds it, most first."""

    total: int
    parts: tuple[tuple[str, int], ...] = ()
    caches: tuple[CacheUse, ...] = ()
    largest_tasks: tuple[tuple[int, int], ...] = ()
    holders: tuple[MemoryHolder, ...] = ()


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """One loaded module; `taints` in the kernel's letters (``OE``: out of tree, unsigned)."""

    name: str
    address: int
    size: int
    taints: str = ""
    build_id: str = ""

    @property
    def foreign(self) -> bool:
        """Whether it is not of the kernel's own tree: proprietary, out of tree, forced, unsigned, staging."""
        return bool(set("POFEC") & set(self.taints))


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something impossible or telling in memory: a reference count below zero, a poisoned pointer, a broken list, a
    state outside its enumeration. `subject` is the symbol or object it was found in."""

    kind: str
    subject: str
    statement: str
    source: str
    values: Mapping[str, int | float] = field(default_factory=dict)
    module: str = ""
    certainty: Certainty = "derived"


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of a module in question: `value` as an unsigned number of `size` bytes, `meaning` of an address,
    `type` empty where the dump does not tell."""

    name: str
    module: str
    address: int
    size: int
    value: int
    meaning: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One work item, running (`task` is its worker) or queued (`task` None)."""

    function: str
    queue: str
    task: int | None = None
    module: str = ""


@dataclass(frozen=True, slots=True)
class Vmcore:
    """All that was read. A part that could not be read is empty and named in `skipped`; `seconds` are CPU seconds."""

    header: DumpHeader
    panic: Panic | None = None
    tasks: tuple[Task, ...] = ()
    locks: tuple[Lock, ...] = ()
    cycles: tuple[LockCycle, ...] = ()
    blockers: tuple[RootBlocker, ...] = ()
    memory: MemoryUse | None = None
    modules: tuple[ModuleInfo, ...] = ()
    work: tuple[WorkItem, ...] = ()
    anomalies: tuple[Anomaly, ...] = ()
    variables: tuple[Variable, ...] = ()
    log: tuple[LogLine, ...] = ()
    reports: tuple[Report, ...] = ()
    ran: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0

    def task(self, address: int | None) -> Task | None:
        return next((task for task in self.tasks if task.address == address), None)


@dataclass(frozen=True, slots=True)
class PastCrash:
    """A crash that left files on a host that runs again.

    `time` is its Unix time: the crash's own where it was read and told it, else the files'. `dump` and `log` are paths,
    empty where there is none; `size` is the dump's in bytes. `vmcore` is what was read of it, None where it was only
    listed; `why` says why it was not, or not in full.
    """

    time: float
    dump: str = ""
    log: str = ""
    size: int = 0
    vmcore: Vmcore | None = None
    why: str = ""

    @property
    def path(self) -> str:
        return self.dump or self.log
