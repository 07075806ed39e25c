"""The kernel's own faults, from live evidence: what it has logged since boot about itself.

A log line names the class and the function; which lock cycle or which leak is behind it, only a crash dump tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from rca.faults.shared import times
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View
from wardround.models.diagnosis import Culprit, CulpritKind, SeverityLevel
from wardround.models.records import LogRecord

_FUNCTION = re.compile(r"(?:RIP: \w+:|RIP: |Workqueue: \w+ |in |at )([A-Za-z_][\w.]*)\+0x")
_LOCKUP = re.compile(
    r"(?:watchdog: )?BUG: soft lockup|Watchdog detected hard LOCKUP|rcu: INFO: rcu_\w+ (?:self-)?detected stall"
)
_HUNG = re.compile(r"INFO: task (\S+?):(\d+) blocked (?:in I/O wait )?for more than (\d+) seconds")
_DEADLOCK = re.compile(
    r"possible (?:circular locking|recursive locking)|"
    r"INFO: task (\S+?):(\d+) is blocked on a (?:mutex|rw-semaphore)[^\n]*likely owned by task (\S+?):(\d+)"
)


def _lines(view: View, pattern: re.Pattern[str]) -> list[LogRecord]:
    """Kernel log lines since boot that match.

    Only the kernel's own ring is believed, since anyone may write a log file.
    """
    return [
        r for r in view.observation.logs if r.source == "kmsg" and r.unit in ("", "kernel") and pattern.search(r.text)
    ]


def _function_near(view: View, line: LogRecord) -> str:
    """The function the kernel names in the report that a line opens (within two seconds)."""
    for record in view.observation.logs:
        if record.source == "kmsg" and 0 <= record.time - line.time <= 2.0 and (m := _FUNCTION.search(record.text)):
            return m.group(1)
    return "unknown function"


def _suspects(pattern: re.Pattern[str], kind: CulpritKind) -> Callable[[View], Sequence[Culprit]]:
    def find(view: View) -> list[Culprit]:
        lines = _lines(view, pattern)
        if not lines:
            return []
        last = lines[-1]
        if kind == "host":
            return [Culprit("host", view.host.name)]
        match = pattern.search(last.text)
        if kind == "kernel_task" and match and match.group(1):
            return [Culprit("kernel_task", match.group(1), int(match.group(2)))]
        return [Culprit("kernel_function", _function_near(view, last))]

    return find


def _logged(pattern: re.Pattern[str], what: str) -> Feature:
    def measure(view: View, _: Culprit) -> Finding | None:
        lines = _lines(view, pattern)
        if not lines:
            return None
        age = view.observation.end - lines[-1].time
        return Finding(
            value=float(len(lines)),
            statement=f"the kernel reported {what} {times(len(lines))}, last {age:.0f} s ago",
            values={"reports": len(lines), "seconds_ago": age},
            unit="{event}",
            reproduce="dmesg -T -l emerg,alert,crit,err,warn",
            source="collectors.kmsg",
            kind="log",
            onset=lines[0].time,
        )

    return Feature("reported", "log.kernel", measure, Curve((0.0, -3.0), (1.0, 3.5), (3.0, 4.5)), needed=True)


def _fault(
    fault: str,
    pattern: re.Pattern[str],
    what: str,
    kind: CulpritKind,
    chain: tuple[str, ...],
    actions: tuple[str, ...],
    symptoms: tuple[str, ...] = ("proc.hung", "proc.crash_loop", "engine.down"),
    severity: SeverityLevel = "critical",
) -> FaultModel:
    return FaultModel(
        fault=fault,
        culprit=kind,
        prior=0.15,
        suspects=_suspects(pattern, kind),
        features=(_logged(pattern, what),),
        headline=lambda c, f: (
            f"the kernel reported {what} ({c.name}): {f['reported'].statement.partition('reported ')[2]}."
        ),
        symptoms=symptoms,
        effects=("linux.tasks.blocked",),
        chain=chain,
        severity=severity,
        actions=actions,
    )


_NULL = re.compile(
    r"BUG: kernel NULL pointer dereference|Unable to handle kernel NULL pointer|"
    r"unable to handle page fault for address: 0{8,}"
)
_CORRUPTION = re.compile(
    r"list_(?:add|del) corruption|KASAN: |slab-use-after-free|"
    r"BUG \S+ \(.*\): (?:Poison|Redzone|Object)|"
    r"general protection fault|double free|stack-protector"
)
_REFCOUNT = re.compile(r"refcount_t: (?:underflow|overflow|saturated|addition on 0)|atomic64? leak")
_NO_MEMORY = re.compile(r"Kernel panic - not syncing: (?:Out of memory|System is deadlocked on memory)")
_REQUESTED = re.compile(
    r"sysrq: Trigger a crash|Kernel panic - not syncing: (?:sysrq triggered|panic_on_|hung_task: blocked tasks)"
)


# --- a task that the kernel itself calls hung; live counters stand beside the log ---


def _blocked(view: View, culprit: Culprit) -> Finding | None:
    process = view.processes.get(culprit.pid or 0)
    state = process.state if process else "gone"
    return Finding(
        value=1.0 if state == "D" else 0.0,
        statement=f"{culprit.name} (pid {culprit.pid}) is now in state {state}",
        values={},
        unit="1",
        reproduce=f"cat /proc/{culprit.pid}/stack /proc/{culprit.pid}/wchan",
        source="collectors.topology",
        kind="topology",
    )


_HUNG_TASK = _fault(
    "kernel.hung_task",
    _HUNG,
    "a hung task",
    "kernel_task",
    ("a task sleeps in the kernel", "what it waits for does not come", "its callers wait too"),
    ("process.capture_stacks", "host.collect_vmcore"),
)
HUNG_TASK = replace(
    _HUNG_TASK,
    features=(
        *_HUNG_TASK.features,
        Feature("still_blocked", "topology.threads", _blocked, Curve((0.0, -2.5), (1.0, 1.0))),
    ),
)

_DUMP = ("host.collect_vmcore", "host.update_kernel")

MODELS = (
    _fault(
        "kernel.null_dereference",
        _NULL,
        "a null-pointer dereference",
        "kernel_function",
        ("the kernel followed a null pointer", "the task died inside the kernel", "its locks may be held for ever"),
        _DUMP,
    ),
    _fault(
        "kernel.memory_corruption",
        _CORRUPTION,
        "corrupted memory",
        "kernel_function",
        ("kernel memory was overwritten or used after it was freed", "any later use can fail"),
        _DUMP,
    ),
    _fault(
        "kernel.deadlock",
        _DEADLOCK,
        "a lock cycle",
        "kernel_task",
        ("tasks hold each other's locks", "none can go on"),
        _DUMP,
        symptoms=("proc.hung", "kernel.hung_task", "engine.down"),
    ),
    _fault(
        "kernel.lockup",
        _LOCKUP,
        "a CPU that does not schedule",
        "kernel_function",
        ("a CPU spins in the kernel", "nothing else runs on it"),
        _DUMP,
        symptoms=("cpu.saturation", "proc.hung", "engine.down"),
    ),
    HUNG_TASK,
    _fault(
        "kernel.refcount",
        _REFCOUNT,
        "a broken reference count",
        "kernel_function",
        ("a count went below zero or over its limit", "an object is freed too early or never"),
        _DUMP,
    ),
    _fault(
        "kernel.out_of_memory",
        _NO_MEMORY,
        "a panic for lack of memory",
        "kernel_function",
        ("no memory could be freed", "the kernel gave up"),
        _DUMP,
    ),
    _fault(
        "kernel.panic_requested",
        _REQUESTED,
        "a crash that was asked for",
        "host",
        ("someone or a setting asked for the crash",),
        ("host.collect_vmcore",),
        symptoms=(),
    ),
)
