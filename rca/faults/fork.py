"""Fork storms: tasks created at a rate that occupies the host or nears a limit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from rca.faults.shared import over_group, process_culprit, rise, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.topology import in_cgroup
from rca.view import View, per_view
from wardround.models.diagnosis import Culprit
from wardround.models.topology import Process


@per_view
def _forks(view: View) -> dict[int, float]:
    """Children created by second, by the process that stands for the forking group."""
    out: dict[int, float] = {}
    for pid, rate in view.per_pid("linux.process.forks").items():
        leader = view.leader(view.users[pid]).pid if pid in view.users else pid
        out[leader] = out.get(leader, 0.0) + rate
    return out


def _fork_suspects(view: View) -> list[Culprit]:
    forks = dict(_forks(view))
    if not forks:
        forks = {pid: rate / 300.0 for pid, rate in view.per_pid("linux.process.children.reaped_faults").items()}
    growth = _task_growth(view)
    for pid, rate in growth.items():
        forks[pid] = max(forks.get(pid, 0.0), rate)
    found = [(rate, pid) for pid, rate in forks.items() if rate > 40 and pid in view.users]
    found += [(1e6, pid) for pid in _at_task_limit(view)]
    return [process_culprit(view.users[pid]) for _, pid in sorted(found, reverse=True)[:3]]


def _at_task_limit(view: View) -> list[int]:
    """Who holds most tasks of each cgroup that is at its limit of tasks or was refused more."""
    window, crowded = view.window, []
    for path in window.entities("linux.cgroup.pids.limit", "cgroup"):
        share = window.last("linux.cgroup.pids", cgroup=path) / window.last("linux.cgroup.pids.limit", cgroup=path)
        if share > 0.9 or rise(view, "linux.cgroup.pids.refused", cgroup=path) > 0:
            tasks: Counter[int] = Counter()
            for process in view.users.values():
                if in_cgroup(process, path):
                    tasks[view.leader(process).pid] += process.thread_count
            crowded += [pid for pid, _ in tasks.most_common(1)]
    return crowded


def _occupies(view: View, culprit: Culprit) -> Finding | None:
    """Whether tasks occupy the host: by the rate of their creation or by the limit they have reached."""
    rate, limit = _fork_rate(view, culprit), _tasks_used(view, culprit)
    by_rate = rate.value / 800.0 if rate is not None else 0.0
    by_limit = max(limit.value - 0.8, 0.0) / 0.2 if limit is not None else 0.0
    told = limit if by_limit > by_rate else rate
    return replace(told, value=max(by_rate, by_limit)) if told is not None else None


@per_view
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
            "occupies", "metric.forks", _occupies, Curve((0.1, -3.0), (0.3, -0.4), (0.5, 1.2), (1.0, 2.2)), needed=True
        ),
        Feature(
            "fork_rate", "metric.forks", _fork_rate, Curve((50.0, -0.5), (200.0, 0.0), (1000.0, 1.2), (3000.0, 2.0))
        ),
        Feature("task_limit", "metric.forks", _tasks_used, Curve((0.1, 0.0), (0.6, 0.5), (0.9, 2.5))),
        Feature("child_work", "metric.process_cpu", _fork_work, Curve((2.0, 1.2), (5.0, 0.3), (15.0, -2.0))),
    ),
    headline=lambda c, f: f"tasks of {who(c)} occupy the host: {f['occupies'].statement}.",
    symptoms=("cpu.saturation", "proc.zombies", "proc.crash_loop", "lock.contention", "mem.exhaustion"),
    effects=("system.process.created", "linux.tasks.count", "system.context_switches", "linux.psi.cpu.some"),
    chain=("tasks are created without end", "the kernel is busy with fork and exit", "other tasks wait"),
    severity="critical",
    actions=("cgroup.set_pids_limit", "process.terminate"),
)


MODELS = (FORK_STORM,)
