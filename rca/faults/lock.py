"""The user-space lock: threads that wait for each other rather than for CPU or I/O.

Told from an idle pool by hand-overs (voluntary switches), by waiting on one lock that records its owner (a mutex),
and by the absence of a thread that feeds the others; from saturation by the run queue. It names the lock's
address and owner, not the line of code; a stack sample does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from rca.faults.shared import process_culprit, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, per_view
from wardround.models.diagnosis import Culprit


@per_view
def _futex_share(view: View) -> dict[int, float]:
    """Threads' worth of futex waiting, by process: traced where eBPF runs, else off the snapshots' wait channels."""
    traced = view.per_pid("linux.process.futex.wait")
    if traced:
        return traced
    waiting: dict[int, float] = {}
    for snapshot in (view.observation.before, view.observation.after):
        for pid, process in snapshot.processes.items():
            asleep = sum("futex" in thread.wchan for thread in process.threads)
            waiting[pid] = waiting.get(pid, 0.0) + asleep / 2.0
    return waiting


def _switches(view: View) -> dict[int, float]:
    return view.per_pid("process.context_switches", type="voluntary")


def _lock_suspects(view: View) -> list[Culprit]:
    waits, switches = _futex_share(view), _switches(view)
    found = [
        (waits[pid], view.users[pid])
        for pid in waits
        if pid in view.users and waits[pid] >= 0.5 and view.users[pid].thread_count >= 2 and switches.get(pid, 0) > 50
    ]
    return [process_culprit(process) for _, process in sorted(found, key=lambda f: -f[0])[:3]]


def _lock_wait(view: View, culprit: Culprit) -> Finding | None:
    """How many of its threads wait for locks at any moment, against how many it has."""
    process = view.users.get(culprit.pid or 0)
    waits = _futex_share(view).get(culprit.pid or 0)
    if process is None or waits is None:
        return None
    others = max(process.thread_count - 1, 1)
    waiting = min(waits, float(process.thread_count))
    return Finding(
        value=waiting / others,
        statement=f"{waiting:.1f} of its {process.thread_count} threads wait for a user-space lock at any moment",
        values={"waiting_threads": waiting, "threads": process.thread_count},
        unit="{thread}",
        reproduce=f"for t in /proc/{process.pid}/task/*; do cat $t/wchan; echo; done | sort | uniq -c",
        source="collectors.ebpf" if view.window.columns("linux.process.futex.wait") else "collectors.topology",
        series=(f"linux.process.futex.wait{{pid={process.pid}}}",),
    )


def _lock_traffic(view: View, culprit: Culprit) -> Finding | None:
    """Voluntary switches: a contended lock hands over again and again, an idle pool sleeps."""
    rate = _switches(view).get(culprit.pid or 0)
    if rate is None:
        return None
    return Finding(
        value=rate,
        statement=f"its threads give up the CPU {rate:.0f} times a second",
        values={"voluntary_switches": rate},
        unit="{switch}/s",
        reproduce=f"grep ctxt_switches /proc/{culprit.pid}/task/*/status",
        source="collectors.process",
        series=(f"process.context_switches{{pid={culprit.pid}, type=voluntary}}",),
    )


def _lock_waste(view: View, culprit: Culprit) -> Finding | None:
    """How far it waits for CPU rather than for the lock; where CPUs idle, a wait for CPU is only a hand-over."""
    pid = culprit.pid or 0
    process = view.users.get(pid)
    if process is None or pid not in view.cpu:
        return None
    could = min(process.thread_count, view.cpus)
    used, waited = view.cpu[pid], view.run_delay.get(pid, 0.0)
    return Finding(
        value=waited / max(used + waited, 0.05) * (1.0 - min(np.nan_to_num(view.idle) / 0.2, 1.0)),
        statement=f"it uses {used:.2f} CPUs of the {could} its threads could use and waits for {waited:.2f}",
        values={"cpus_used": used, "cpus_possible": could, "cpus_waited_for": waited},
        unit="{cpu}",
        reproduce=f"pidstat -t -p {pid} 1 5 || cat /proc/{pid}/schedstat",
        source="collectors.process",
        series=(f"process.cpu.time{{pid={pid}, state=system}}",),
    )


# Calls in which a thread waits for work from outside: read poll select accept recvfrom recvmsg epoll (x86_64, aarch64).
_FEEDING = frozenset({"0", "7", "23", "43", "45", "47", "232", "270", "271", "281", "288", "22", "63", "72", "73"})


def _one_lock(view: View, culprit: Culprit) -> Finding | None:
    """Whether the waiting threads wait for one and the same lock, and whether that lock records an owner."""
    snapshots = (view.observation.before, view.observation.after)
    seen = [s.processes[culprit.pid] for s in snapshots if culprit.pid in s.processes]
    waits = [wait for process in seen for wait in process.locks]
    if len(waits) < 2:
        return None
    (address, count), *_ = Counter(wait.address for wait in waits).most_common(1)
    owners = [w.owner for w in waits if w.address == address and w.owner is not None]
    fed = any(t.syscall.split(" ", 1)[0] in _FEEDING for process in seen for t in process.threads)
    share = count / len(waits)
    if share < 0.5:
        value = 0.0
    elif owners:
        value = 1.0
    else:
        value = 0.25 if fed else 0.5
    held = f", held by thread {owners[-1]}" if owners else ""
    return Finding(
        value=value,
        statement=f"{share:.0%} of the waiting threads wait for one lock, at address {address:#x}{held}",
        values={"share": share, "owner": owners[-1] if owners else None},
        unit="1",
        reproduce=f"cat /proc/{culprit.pid}/task/*/syscall | sort | uniq -c   # 202: futex, address, operation",
        source="collectors.topology",
        kind="topology",
    )


def _lock_headline(culprit: Culprit, findings: Mapping[str, Finding]) -> str:
    wait = findings["lock_wait"].values
    return (
        f"threads of {who(culprit)} wait for each other's lock: {wait['waiting_threads']:.1f} of "
        f"{wait['threads']} stand still at any moment, not for CPU or I/O."
    )


CONTENTION = FaultModel(
    fault="lock.contention",
    culprit="process",
    prior=0.08,
    suspects=_lock_suspects,
    features=(
        Feature(
            "lock_wait",
            "metric.futex",
            _lock_wait,
            Curve((0.1, -3.0), (0.35, 0.0), (0.6, 1.5), (0.9, 2.2)),
            needed=True,
            ask="threads asleep in futex calls: `perf trace -s -p PID` or the wait channels",
        ),
        Feature(
            "lock_traffic",
            "metric.process_cpu",
            _lock_traffic,
            Curve((50.0, -3.0), (150.0, -0.8), (300.0, 0.4), (1000.0, 1.3), (5000.0, 2.5)),
            needed=True,
            ask="many voluntary context switches: `pidstat -w -p PID 1`",
        ),
        Feature("one_lock", "topology.threads", _one_lock, Curve((0.0, -1.5), (0.25, -1.0), (0.5, 0.2), (1.0, 1.6))),
        Feature("lock_not_cpu", "metric.process_cpu", _lock_waste, Curve((0.2, 0.5), (0.5, 0.0), (0.8, -2.0))),
    ),
    headline=_lock_headline,
    symptoms=("net.backlog", "engine.down"),
    effects=("linux.process.futex.wait", "process.context_switches"),
    chain=("threads share one lock", "each waits for the others", "more threads bring no more work"),
    severity="warning",
    actions=("process.capture_stacks",),
)


MODELS = (CONTENTION,)
