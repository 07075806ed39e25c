"""Processes: crash loops, hangs, open-file exhaustion, fork storms, zombies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rca.faults.shared import over_group, process_culprit, rise, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, filled
from wardround.models.diagnosis import Culprit
from wardround.models.topology import FutexWait, Process, Thread

# --- crash loop ---

_SEGFAULT = re.compile(r"(?:traps: )?([^\s\[\]]{1,64})\[(\d+)\]:? (?:segfault|general protection|trap )")


@dataclass(frozen=True, slots=True)
class Ends:
    """How the children of one parent that ran one program ended in the window. `lived` is their mean life, seconds."""

    parent: int
    name: str
    count: int
    failed: int
    by_signal: int
    how: str
    number: int
    lived: float


def ends(view: View) -> list[Ends]:
    """Ends of children by parent and program, from tracing, those with most failures first."""
    window = view.window
    ended = window.columns("linux.process.children.ended")
    if not ended:
        return []
    amounts = np.nansum(np.diff(filled(window.values[:, ended]), axis=0).clip(min=0), axis=0)
    outcomes: dict[tuple[int, str], Counter[str]] = {}
    for column, amount in zip(ended, amounts, strict=True):
        labels = dict(window.series[column].labels)
        parent = int(labels["pid"])
        if amount > 0 and parent not in view.observation.own_pids:
            outcomes.setdefault((parent, labels["comm"]), Counter())[labels["outcome"]] += int(round(amount))
    found = [_ends(view, parent, name, seen) for (parent, name), seen in outcomes.items()]
    return sorted(found, key=lambda e: -e.failed)


def _ends(view: View, parent: int, name: str, seen: Counter[str]) -> Ends:
    failures = [(outcome, n) for outcome, n in seen.most_common() if outcome != "ok"]
    worst = failures[0][0] if failures else "ok"
    lived = rise(view, "linux.process.children.lived", pid=parent, comm=name)
    number = worst.rpartition(" ")[2]
    return Ends(
        parent=parent,
        name=name,
        count=sum(seen.values()),
        failed=sum(n for _, n in failures),
        # SIGINT, SIGKILL, SIGPIPE and SIGTERM are how programs are asked to end.
        by_signal=sum(n for o, n in failures if o.startswith("signal") and o not in _ASKED),
        how=f"by signal {number}" if worst.startswith("signal") else f"with exit status {number}",
        number=int(number) if number.isdigit() else 0,
        lived=lived / max(sum(seen.values()), 1),
    )


_ASKED = ("signal 2", "signal 9", "signal 13", "signal 15")


def _crash_suspects(view: View) -> list[Culprit]:
    found = [(float(e.failed), _dying(view, e)) for e in ends(view) if e.failed >= 2]
    for unit in view.observation.after.units.values():
        before = view.observation.before.units.get(unit.name)
        if before is not None and unit.restarts > before.restarts:
            culprit = Culprit("process", unit.name, unit.main_pid or None, (("unit", unit.name),))
            found.append((1000.0 * (unit.restarts - before.restarts), culprit))
    if not found:
        found = _logged_faults(view)
    return [culprit for _, culprit in sorted(found, key=lambda f: -f[0])[:3]]


def _dying(view: View, e: Ends) -> Culprit:
    """Name a dying program; its pid is that of the instance last seen, else of who restarts it."""
    seen = {**view.observation.before.processes, **view.observation.after.processes}
    alive = [p for p in seen.values() if p.ppid == e.parent and p.name[:15] == e.name[:15]]
    latest = max(alive, key=lambda p: p.start).pid if alive else None
    return Culprit(
        "process", e.name, latest, (("parent", f"{view.name(e.parent)} (pid {e.parent})"), ("ppid", str(e.parent)))
    )


def _logged_faults(view: View) -> list[tuple[float, Culprit]]:
    """Without tracing: programs whose faults the kernel logged under changing pids."""
    seen: dict[str, set[int]] = {}
    for record in view.observation.logs:
        if (
            record.source == "kmsg"
            and record.time >= view.observation.start - 60
            and (m := _SEGFAULT.search(record.text))
        ):
            seen.setdefault(m.group(1), set()).add(int(m.group(2)))
    return [(float(len(pids)), Culprit("process", name, max(pids))) for name, pids in seen.items() if len(pids) >= 2]


def _ends_of(view: View, culprit: Culprit) -> Ends | None:
    parent = culprit.label("ppid")
    return next((e for e in ends(view) if e.name == culprit.name and str(e.parent) == parent), None)


def _crashes(view: View, culprit: Culprit) -> Finding | None:
    """How often it died in the window."""
    values: dict[str, float | int | None] = {}
    mine, unit = _ends_of(view, culprit), culprit.label("unit")
    now, was = (s.units.get(unit or "") for s in (view.observation.after, view.observation.before))
    if now is not None and was is not None:
        count, how, source = now.restarts - was.restarts, f"systemd says {now.result}", "collectors.units"
    elif mine is not None:
        count, how, source = mine.failed, mine.how, "collectors.ebpf"
        values = {"outcome": mine.number}
    else:
        count = int(next((n for n, c in _logged_faults(view) if c.name == culprit.name), 0.0))
        how, source = "by a fault the kernel logged", "collectors.kmsg"
    return Finding(
        value=float(count),
        statement=f"{culprit.name} died {count} times in {view.seconds:.0f} s, {how}",
        values={"deaths": count, "seconds": view.seconds, **values},
        unit="{process}",
        reproduce=f"systemctl status {unit}"
        if unit
        else f"dmesg -T | grep {culprit.name}; journalctl -e -g {culprit.name}",
        source=source,
        kind="event",
        series=(f"linux.process.children.ended{{comm={culprit.name}, outcome={_outcome(mine)}, pid={mine.parent}}}",)
        if mine
        else (),
    )


def _outcome(mine: Ends) -> str:
    return f"{'signal' if mine.how.startswith('by') else 'exit'} {mine.number}"


def _fatal(view: View, culprit: Culprit) -> Finding | None:
    """How it ends: a fatal signal is a crash; a failure status may be a program's way to say no (grep, test)."""
    mine = _ends_of(view, culprit)
    if mine is None or not mine.failed:
        return None
    by_signal = mine.by_signal / mine.failed
    return Finding(
        value=by_signal if by_signal else (0.5 if mine.lived > 0.02 else 0.15),
        statement=f"{by_signal:.0%} of its failures were fatal signals; it lived {mine.lived:.2f} s on average",
        values={"by_signal": by_signal, "mean_lifetime": mine.lived},
        unit="1",
        reproduce="dmesg -T | grep -E 'segfault|traps:'",
        source="collectors.ebpf",
        kind="event",
    )


def _only_fails(view: View, culprit: Culprit) -> Finding | None:
    """Failed ends against all its ends: a loop of a program that mostly succeeds is a script at work."""
    mine = _ends_of(view, culprit)
    if mine is None:
        return None
    return Finding(
        value=mine.failed / mine.count,
        statement=f"{mine.failed} of its {mine.count} ends in the window were failures",
        values={"failed": mine.failed, "ends": mine.count},
        unit="{process}",
        reproduce=f"journalctl -e -g {culprit.name}",
        source="collectors.ebpf",
        kind="event",
    )


CRASH_LOOP = FaultModel(
    fault="proc.crash_loop",
    culprit="process",
    prior=0.1,
    suspects=_crash_suspects,
    features=(
        Feature(
            "deaths",
            "topology.deaths",
            _crashes,
            Curve((1.0, -2.5), (2.0, 0.3), (3.0, 1.5), (6.0, 2.5)),
            needed=True,
            ask="it dies again within minutes: watch its restarts",
        ),
        Feature("fatal", "topology.deaths", _fatal, Curve((0.1, -2.0), (0.3, -0.5), (0.5, 0.8), (0.9, 2.0))),
        Feature("only_fails", "topology.deaths", _only_fails, Curve((0.3, -3.0), (0.7, -0.5), (0.95, 1.2))),
    ),
    headline=lambda c, f: (
        f"{c.name} (pid {c.pid}) dies and is restarted again and again: {f['deaths'].statement.partition(' died ')[2]}."
    ),
    symptoms=("engine.down", "proc.zombies", "proc.fork_storm"),
    effects=("system.process.created",),
    chain=("the program dies", "its supervisor starts it again", "it dies of the same cause"),
    severity="critical",
    actions=("service.stop_restart_loop", "host.inspect_coredump"),
)


# --- hung ---


@dataclass(frozen=True, slots=True)
class Stuck:
    """Why a process makes no progress. `certainty` 0..1; `threads` are those concerned."""

    kind: str
    certainty: float
    threads: tuple[int, ...]
    detail: str


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
    actions=("process.continue", "process.capture_stacks", "service.restart"),
)


# --- open files ---


def _fd_use(view: View) -> dict[int, tuple[float, float]]:
    """(open, limit) by process, from the series where seen, else from the snapshot."""
    opened, limits = view.per_pid("process.open_file_descriptor.count"), view.per_pid("linux.process.fd.limit")
    out = {}
    for pid, process in view.users.items():
        count, limit = opened.get(pid, process.fds), limits.get(pid, process.fd_limit)
        if count is not None and limit:
            out[pid] = (float(count), float(limit))
    return out


def syscall_errors(view: View, *names: str) -> dict[int, float]:
    """Failing calls by process and second, for some errno names."""
    total: dict[int, float] = {}
    for name in names:
        for pid, rate in view.per_pid("linux.process.syscall.errors", errno=name).items():
            total[pid] = total.get(pid, 0.0) + rate
    return total


def _fd_suspects(view: View) -> list[Culprit]:
    use, refused = _fd_use(view), syscall_errors(view, "EMFILE", "ENFILE")
    share = {pid: count / limit for pid, (count, limit) in use.items()}
    found = [
        (refused.get(pid, 0.0) + share.get(pid, 0.0), view.users[pid])
        for pid in {*share, *refused}
        if pid in view.users and (share.get(pid, 0.0) > 0.9 or refused.get(pid, 0.0) > 0)
    ]
    return [process_culprit(p) for _, p in sorted(found, key=lambda f: -f[0])[:3]]


def _fds_used(view: View, culprit: Culprit) -> Finding | None:
    known = _fd_use(view).get(culprit.pid or 0)
    if known is None:
        return None
    count, limit = known
    return Finding(
        value=count / limit,
        statement=f"{who(culprit)} has {count:.0f} of {limit:.0f} allowed files open",
        values={"open": count, "limit": limit},
        unit="{fd}",
        reproduce=f"ls /proc/{culprit.pid}/fd | wc -l; grep 'open files' /proc/{culprit.pid}/limits",
        source="collectors.process",
        series=(f"process.open_file_descriptor.count{{pid={culprit.pid}}}",),
    )


def _fds_refused(view: View, culprit: Culprit) -> Finding | None:
    if not view.window.columns("linux.process.syscall.errors"):
        return None
    rate = syscall_errors(view, "EMFILE", "ENFILE").get(culprit.pid or 0, 0.0)
    return Finding(
        value=rate,
        statement=f"{rate:.1f} of its calls a second fail for want of a file descriptor (EMFILE or ENFILE)",
        values={"refused": rate},
        unit="{error}/s",
        reproduce=f"strace -f -p {culprit.pid} -e trace=desc,network 2>&1 | grep -E 'EMFILE|ENFILE'",
        source="collectors.ebpf",
        kind="event",
        series=(f"linux.process.syscall.errors{{errno=EMFILE, pid={culprit.pid}}}",),
    )


FD_EXHAUSTION = FaultModel(
    fault="proc.fd_exhaustion",
    culprit="process",
    prior=0.12,
    suspects=_fd_suspects,
    features=(
        Feature(
            "fds_used",
            "metric.process_fd",
            _fds_used,
            Curve((0.5, -3.5), (0.85, -1.0), (0.95, 1.8), (0.99, 3.0)),
            needed=True,
        ),
        Feature(
            "fds_refused",
            "metric.syscalls",
            _fds_refused,
            Curve((0.0, -1.5), (0.1, 1.5), (5.0, 3.0)),
            ask="calls fail with EMFILE: strace or the program's own log",
        ),
    ),
    headline=lambda c, f: (
        f"{who(c)} is out of file descriptors: {f['fds_used'].values['open']:.0f} of "
        f"{f['fds_used'].values['limit']:.0f} are open."
    ),
    symptoms=("net.backlog", "engine.down", "proc.crash_loop", "engine.errors"),
    effects=("process.open_file_descriptor.count", "linux.process.syscall.errors", "linux.tcp.listen.queue"),
    chain=("files or sockets are opened and not closed", "the limit is reached", "open, accept and connect fail"),
    severity="critical",
    actions=("process.raise_fd_limit", "service.restart"),
)


# --- fork storm ---


def _forks(view: View) -> dict[int, float]:
    """Children created by second, by the process that stands for the forking group."""
    out: dict[int, float] = {}
    for pid, rate in view.per_pid("linux.process.forks").items():
        leader = view.leader(view.users[pid]).pid if pid in view.users else pid
        out[leader] = out.get(leader, 0.0) + rate
    return out


def _fork_suspects(view: View) -> list[Culprit]:
    forks = _forks(view)
    if not forks:
        forks = {pid: rate / 300.0 for pid, rate in view.per_pid("linux.process.children.reaped_faults").items()}
    growth = _task_growth(view)
    for pid, rate in growth.items():
        forks[pid] = max(forks.get(pid, 0.0), rate)
    found = [(rate, pid) for pid, rate in forks.items() if rate > 40 and pid in view.users]
    return [process_culprit(view.users[pid]) for _, pid in sorted(found, reverse=True)[:3]]


def _task_growth(view: View) -> dict[int, float]:
    """Tasks (children and threads) gained between the snapshots, by leader and second."""

    def count(processes: dict[int, Process]) -> Counter[int]:
        tasks: Counter[int] = Counter()
        for process in processes.values():
            if process.pid in view.users:
                tasks[view.leader(process).pid] += process.thread_count
        return tasks

    before, after = count(view.observation.before.processes), count(view.observation.after.processes)
    return {pid: (n - before.get(pid, 0)) / view.seconds for pid, n in after.items()}


def _fork_rate(view: View, culprit: Culprit) -> Finding | None:
    traced = _forks(view)
    created = rise(view, "system.process.created") / view.seconds
    own = (
        traced.get(culprit.pid or 0, 0.0)
        if traced
        else min(created, over_group(view, culprit, view.per_pid("linux.process.children.reaped_faults")) / 300.0)
    )
    own = max(own, _task_growth(view).get(culprit.pid or 0, 0.0))
    usual = view.window.since_boot(view.uptime, "system.process.created")
    return Finding(
        value=own,
        statement=f"{who(culprit)} creates {own:.0f} tasks a second, of {created:.0f} on the host",
        values={"own_rate": own, "host_rate": created},
        unit="{process}/s",
        baseline={"host_rate_since_boot": usual},
        reproduce="vmstat -f; sleep 1; vmstat -f; ps -eo ppid= | sort | uniq -c | sort -rn | head",
        source="collectors.ebpf" if traced else "collectors.host",
        series=("system.process.created",),
    )


def _tasks_used(view: View, culprit: Culprit) -> Finding | None:
    """How near the tasks are to their limit: the host's, or that of the culprit's cgroup."""
    window = view.window
    share = window.last("linux.tasks.count") / window.last("linux.tasks.limit")
    where, refused = "the host", 0.0
    process = view.users.get(culprit.pid or 0)
    for path in window.entities("linux.cgroup.pids.limit", "cgroup"):
        if process and any(own == path for _, own in process.cgroups):
            inside = window.last("linux.cgroup.pids", cgroup=path) / window.last("linux.cgroup.pids.limit", cgroup=path)
            refused += rise(view, "linux.cgroup.pids.refused", cgroup=path)
            if not np.isnan(inside) and not inside <= share:
                share, where = inside, path
    if np.isnan(share):
        return None
    return Finding(
        value=1.0 if refused else share,
        statement=f"{where} uses {share:.0%} of its task limit; {refused:.0f} forks were refused",
        values={"share": share, "refused": refused},
        unit="1",
        reproduce="cat /proc/sys/kernel/pid_max /proc/sys/kernel/threads-max; ps -eLf | wc -l",
        source="collectors.cgroup" if where != "the host" else "collectors.host",
        series=("linux.tasks.count",),
    )


def _fork_work(view: View, culprit: Culprit) -> Finding | None:
    """What its children do: real work takes CPU time of its own (a build), a storm is mostly fork and exit."""
    rate = _forks(view).get(culprit.pid or 0) or _task_growth(view).get(culprit.pid or 0, 0.0)
    spent = over_group(view, culprit, view.per_pid("linux.process.children.cpu_time"))
    if not rate or rate <= 0:
        return None
    each = 1000.0 * spent / rate
    return Finding(
        value=each,
        statement=f"each of its children takes {each:.1f} ms of CPU time",
        values={"cpu_ms_per_child": each},
        unit="ms",
        reproduce=f"awk '{{print $16+$17}}' /proc/{culprit.pid}/stat   # ticks of waited-for children",
        source="collectors.process",
    )


FORK_STORM = FaultModel(
    fault="proc.fork_storm",
    culprit="process",
    prior=0.08,
    suspects=_fork_suspects,
    features=(
        Feature(
            "fork_rate",
            "metric.forks",
            _fork_rate,
            Curve((50.0, -3.0), (150.0, -0.5), (300.0, 1.2), (800.0, 2.5), (2000.0, 3.5)),
            needed=True,
        ),
        Feature("task_limit", "metric.forks", _tasks_used, Curve((0.1, 0.0), (0.6, 0.5), (0.9, 2.5))),
        Feature("child_work", "metric.process_cpu", _fork_work, Curve((2.0, 1.2), (5.0, 0.3), (15.0, -2.0))),
    ),
    headline=lambda c, f: f"{who(c)} creates {f['fork_rate'].value:.0f} tasks a second.",
    symptoms=("cpu.saturation", "proc.zombies", "proc.crash_loop", "lock.contention", "mem.exhaustion"),
    effects=("system.process.created", "linux.tasks.count", "system.context_switches", "linux.psi.cpu.some"),
    chain=("tasks are created without end", "the kernel is busy with fork and exit", "other tasks wait"),
    severity="critical",
    actions=("cgroup.set_pids_limit", "process.terminate"),
)


# --- zombies ---


def _dead_children(view: View) -> dict[int, int]:
    """Zombies by parent, counted where they were dead at both ends of the window or the number grew."""
    after = Counter(p.ppid for p in view.observation.after.processes.values() if p.state == "Z")
    lasting = Counter(
        p.ppid
        for pid, p in view.observation.after.processes.items()
        if p.state == "Z" and (old := view.observation.before.processes.get(pid)) and old.state == "Z"
    )
    return {ppid: n for ppid, n in after.items() if lasting[ppid] >= 3 or n >= lasting[ppid] + 20}


def _zombie_suspects(view: View) -> list[Culprit]:
    found = [(n, view.users[ppid]) for ppid, n in _dead_children(view).items() if ppid in view.users and n >= 5]
    return [process_culprit(p) for _, p in sorted(found, key=lambda f: -f[0])[:3]]


def _unreaped(view: View, culprit: Culprit) -> Finding | None:
    count = _dead_children(view).get(culprit.pid or 0, 0)
    before = sum(1 for p in view.observation.before.processes.values() if p.state == "Z" and p.ppid == culprit.pid)
    return Finding(
        value=float(count),
        statement=f"{count} dead children of {who(culprit)} wait to be reaped ({before} when the window began)",
        values={"zombies": count, "zombies_before": before},
        unit="{process}",
        reproduce=f"ps --ppid {culprit.pid} -o pid,stat,etimes,comm | grep ' Z'",
        source="collectors.topology",
        kind="topology",
        series=("linux.processes.zombie",),
    )


ZOMBIES = FaultModel(
    fault="proc.zombies",
    culprit="process",
    prior=0.15,
    suspects=_zombie_suspects,
    features=(
        Feature(
            "unreaped",
            "topology.processes",
            _unreaped,
            Curve((3.0, -2.0), (8.0, 0.5), (20.0, 2.5), (100.0, 4.0)),
            needed=True,
        ),
    ),
    headline=lambda c, f: f"{who(c)} does not reap its children: {f['unreaped'].values['zombies']} are zombies.",
    effects=("linux.processes.zombie", "linux.tasks.count"),
    chain=("children exit", "their parent never waits for them", "each keeps its pid until the table is full"),
    severity="warning",
    actions=("process.signal_parent_reap", "service.restart"),
)


MODELS = (CRASH_LOOP, HUNG, FD_EXHAUSTION, FORK_STORM, ZOMBIES)
