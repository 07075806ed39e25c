"""Processes that make no progress: stopped, in uninterruptible sleep, or deadlocked in user space.

Deadlocks are proven from the locks themselves: a cycle of owners, or threads that all sleep on locks which only
they could release. A busy loop that gets nowhere looks like work and is not found here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rca.faults.shared import process_culprit, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, per_view
from wardround.models.diagnosis import Culprit
from wardround.models.topology import FutexWait, Process, Thread


@dataclass(frozen=True, slots=True)
class Stuck:
    """Why a process makes no progress. `certainty` 0..1; `threads` are those concerned."""

    kind: str
    certainty: float
    threads: tuple[int, ...]
    detail: str


@per_view
def stuck(view: View, pid: int) -> Stuck | None:
    """Judge one process from both snapshots: stopped, in uninterruptible sleep, or deadlocked in user space."""
    pair = view.both(pid)
    if pair is None or pair[1].kernel:
        return None
    first, last = pair
    if first.state == last.state == "T":
        return Stuck("stopped", 1.0, (pid,), "stopped by a signal (state T)")
    frozen = {t.tid for t in _still(first, last)}
    asleep = [t for t in last.threads if t.state == "D" and t.tid in frozen]
    if first.state == last.state == "D" and (asleep or not last.threads) and _no_cpu(first, last):
        where = asleep[0].wchan if asleep else "the kernel"
        return Stuck(
            "uninterruptible",
            0.95,
            tuple(t.tid for t in asleep),
            f"in uninterruptible sleep in {where or 'the kernel'}",
        )
    return _deadlock(first, last, frozen)


def _no_cpu(first: Process, last: Process) -> bool:
    return last.cpu_time - first.cpu_time < 0.02


def _still(first: Process, last: Process) -> list[Thread]:
    """Threads that neither ran nor switched between the snapshots."""
    then = {t.tid: t for t in first.threads}
    return [
        t
        for t in last.threads
        if t.tid in then and t.switches == then[t.tid].switches and t.cpu_time - then[t.tid].cpu_time < 0.01
    ]


def _deadlock(first: Process, last: Process, frozen: set[int]) -> Stuck | None:
    """A cycle of lock owners proves it; so do threads that all sleep, untimed, on locks only they could release."""
    then = {w.tid: w for w in first.locks}
    waits = {w.tid: w for w in last.locks if w.tid in frozen and w.tid in then and then[w.tid].address == w.address}
    if cycle := _cycle(waits):
        told = " -> ".join(str(tid) for tid in (*cycle, cycle[0]))
        return Stuck("deadlock", 1.0, cycle, f"threads hold each other's locks: {told}")
    closed = {tid for tid, w in waits.items() if w.private and not w.timed}
    everyone = {t.tid for t in last.threads}
    if everyone and everyone == closed and len(everyone) >= 2:
        told = f"all {len(everyone)} threads sleep, without time-out, on locks that only they could release"
        return Stuck("deadlock", 0.95, tuple(sorted(everyone)), told)
    return None


def _cycle(waits: Mapping[int, FutexWait]) -> tuple[int, ...]:
    """Return the threads of an owner cycle, in order; empty if there is none."""
    for start in waits:
        path: list[int] = []
        tid: int | None = start
        while tid is not None and tid in waits and tid not in path:
            path.append(tid)
            tid = waits[tid].owner
        if tid is not None and tid in path:
            return tuple(path[path.index(tid) :])
    return ()


def _hung_suspects(view: View) -> list[Culprit]:
    found = []
    for pid, process in view.users.items():
        if (why := stuck(view, pid)) is not None and not process.traced:
            found.append((why.certainty, process))
    found.sort(key=lambda f: (-f[0], -f[1].thread_count, f[1].pid))
    return [process_culprit(process) for _, process in found[:4]]


def _stuck_finding(view: View, culprit: Culprit) -> Finding | None:
    why = stuck(view, culprit.pid or 0)
    if why is None:
        return None
    return Finding(
        value=why.certainty,
        statement=f"{who(culprit)} is {why.detail}"
        if why.kind != "deadlock"
        else f"deadlock in {who(culprit)}: {why.detail}",
        values={"threads": len(why.threads)} | {f"tid{i}": tid for i, tid in enumerate(why.threads[:16])},
        unit="{thread}",
        reproduce=f"for t in /proc/{culprit.pid}/task/*; do cat $t/stat $t/wchan $t/syscall; echo; done",
        source="collectors.topology",
        kind="topology",
    )


def _no_progress(view: View, culprit: Culprit) -> Finding | None:
    why, pair = stuck(view, culprit.pid or 0), view.both(culprit.pid or 0)
    if why is None or pair is None:
        return None
    used = pair[1].cpu_time - pair[0].cpu_time
    if why.kind == "deadlock":
        told = f"its {len(why.threads)} deadlocked threads neither ran nor switched in {view.seconds:.0f} s"
    else:
        told = f"it used {used:.2f} s of CPU in {view.seconds:.0f} s"
    return Finding(
        value=0.0 if why.kind == "deadlock" else used / view.seconds,
        statement=told,
        values={"cpu_seconds": used, "threads": len(why.threads), "seconds": view.seconds},
        unit="s",
        reproduce=f"ps -L -o tid,stat,time,wchan:32 -p {culprit.pid}",
        source="collectors.process",
        series=(f"process.cpu.time{{pid={culprit.pid}, state=user}}",),
    )


def _waits_on_storage(view: View, culprit: Culprit) -> Finding | None:
    """Uninterruptible sleep in the block layer or a filesystem is usually slow storage, not a hang of its own."""
    process = view.users.get(culprit.pid or 0)
    if process is None or process.state != "D":
        return None
    places = [t.wchan for t in process.threads if t.state == "D" and t.wchan]
    storage = any(
        w.startswith(("io_schedule", "blk_", "bit_wait", "folio_wait", "wait_on_page", "rq_qos", "jbd2", "throtl"))
        for w in places
    )
    return Finding(
        value=1.0 if storage else 0.0,
        statement=f"it sleeps in {', '.join(sorted(set(places))[:3]) or 'the kernel'}",
        values={},
        unit="1",
        reproduce=f"cat /proc/{culprit.pid}/wchan /proc/{culprit.pid}/stack",
        source="collectors.topology",
        kind="topology",
    )


HUNG = FaultModel(
    fault="proc.hung",
    culprit="process",
    prior=0.15,
    suspects=_hung_suspects,
    features=(
        Feature(
            "stuck",
            "topology.threads",
            _stuck_finding,
            Curve((0.3, -2.0), (0.5, 0.0), (0.9, 2.5), (1.0, 3.5)),
            needed=True,
            ask="threads neither run nor switch: `ps -L -o tid,stat,wchan -p PID` twice",
        ),
        Feature(
            "no_progress",
            "metric.process_cpu",
            _no_progress,
            Curve((0.0, 1.0), (0.005, 0.0), (0.02, -3.0)),
            needed=True,
        ),
        Feature("storage_wait", "topology.threads", _waits_on_storage, Curve((0.0, 0.0), (1.0, -1.5))),
    ),
    headline=lambda c, f: f"{f['stuck'].statement}; it makes no progress.",
    symptoms=("net.backlog", "engine.down", "proc.zombies", "lock.contention"),
    effects=("process.cpu.time", "linux.tcp.listen.queue"),
    chain=("the process stands still", "what depends on it waits"),
    severity="critical",
    actions=("process.continue", "process.capture_stacks", "service.restart", "process.terminate"),
)


MODELS = (HUNG,)
