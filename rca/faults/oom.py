"""The OOM killer: whom it ended, how much that program used, and whether it is the present fault or history."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rca.faults.room import largest_in
from rca.faults.shared import process_culprit, rise, size, times
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, filled, per_view, series_onset
from wardround.models.diagnosis import Culprit

_KILLED = re.compile(r"(?:Out of memory|Memory cgroup out of memory): Killed process (\d+) \(([^)]*)\)")
_RSS = re.compile(r"anon-rss:(\d+)kB")
_PLACE = re.compile(r"oom-kill:.*task_memcg=([^,]*),task=.*,pid=(\d+)")
# A kill this long ago is history, not the present fault; one younger than FRESH is fully present.
FRESH, RECENT = 120.0, 900.0


@dataclass(frozen=True, slots=True)
class Kill:
    """One OOM kill: when, whom, how much private memory it had (bytes, 0 unknown), who told, in which cgroup."""

    time: float
    pid: int
    name: str
    anon: float
    source: str
    cgroup: str = ""


@per_view
def kills(view: View) -> list[Kill]:
    """OOM kills of the last minutes, from the kernel log and from tracing, each once."""
    since = view.observation.end - RECENT
    recent = [r for r in view.observation.logs if r.time >= since and r.source == "kmsg"]
    places = {int(m.group(2)): m.group(1) for r in recent if (m := _PLACE.search(r.text))}
    found: dict[int, Kill] = {}
    for event in view.observation.events:
        if event.kind == "oom_kill" and event.pid and event.time >= since:
            anon = float(event.attributes.get("anon_rss_bytes", 0) or 0)
            found[event.pid] = Kill(event.time, event.pid, event.comm, anon, "ebpf", places.get(event.pid, ""))
    for record in recent:
        if match := _KILLED.search(record.text):
            pid, anon = int(match.group(1)), float(m.group(1)) * 1024 if (m := _RSS.search(record.text)) else 0.0
            found[pid] = Kill(record.time, pid, match.group(2), anon, "kmsg", places.get(pid, ""))
    return sorted(found.values(), key=lambda k: k.time)


def _oom_suspects(view: View) -> list[Culprit]:
    seen = kills(view)
    by_name: dict[str, list[Kill]] = {}
    for kill in seen:
        by_name.setdefault(kill.name, []).append(kill)
    suspects = [_killed_culprit(view, group) for group in by_name.values()]
    if not suspects:
        suspects = [
            process_culprit(p)
            for path in view.window.entities("linux.cgroup.memory.events", "cgroup", key="oom_kill")
            if rise(view, "linux.cgroup.memory.events", cgroup=path, key="oom_kill") > 0
            and (p := largest_in(view, path))
        ]
    return suspects[:3]


def _killed_culprit(view: View, group: list[Kill]) -> Culprit:
    """What used the memory: the killed program, by the largest of its kills."""
    largest = max(group, key=lambda k: (k.anon, k.time))
    process = view.processes.get(largest.pid)
    name = process.name if process else largest.name
    return Culprit("process", name, largest.pid, (("killed", str(len(group))),))


def _killed(view: View, culprit: Culprit) -> Finding | None:
    mine = [k for k in kills(view) if k.name[:15] == culprit.name[:15] or k.pid == culprit.pid]
    if not mine:
        return None
    last, number = mine[-1], len(mine)
    age = view.observation.end - last.time
    anon = max(k.anon for k in mine)
    if last.time >= view.observation.start:
        told = f"the OOM killer ended {culprit.name} {times(number)}, last {age:.0f} s ago"
    else:
        told = f"no OOM kill in this window; {culprit.name} was ended {times(number)} before, last {age:.0f} s ago"
    return Finding(
        value=_present(view, last),
        statement=f"{told}, with {size(anon)} of private memory",
        values={"kills": number, "seconds_ago": age, "anon_bytes": anon},
        unit="{kill}",
        reproduce="dmesg -T | grep -i 'killed process'; grep oom_kill /proc/vmstat",
        source=f"collectors.{last.source}",
        kind="event",
        series=("linux.vmstat{key=oom_kill}",),
        onset=mine[0].time,
    )


def _present(view: View, kill: Kill) -> float:
    """How far a kill is the present fault: within the window fully; before it only while what it hit is still there."""
    if kill.time >= view.observation.start:
        return 1.0
    if kill.cgroup in ("", "/"):
        concerned = any(p.name[:15] == kill.name[:15] for p in view.users.values())
    else:
        concerned = kill.cgroup in view.observation.after.cgroups
    age = view.observation.start - kill.time
    if not concerned:
        return 0.15
    return 1.0 if age <= FRESH else max(1.0 - (age - FRESH) / (RECENT - FRESH), 0.15)


def _kill_counted(view: View, _: Culprit) -> Finding | None:
    """The kernel's own counter: log lines can be forged by nobody but root, counters by nobody."""
    if not view.window.columns("linux.vmstat", key="oom_kill"):
        return None
    total = float(filled(view.window.values[:, view.window.columns("linux.vmstat", key="oom_kill")])[-1].sum())
    counted = rise(view, "linux.vmstat", key="oom_kill")
    return Finding(
        value=counted if counted else (0.5 if total > 0 else 0.0),
        statement=f"the kernel counts {counted:.0f} OOM kills in the window and {total:.0f} since boot",
        values={"kills_in_window": counted, "kills_since_boot": total},
        unit="{kill}",
        reproduce="grep oom_kill /proc/vmstat",
        source="collectors.memory",
        series=("linux.vmstat{key=oom_kill}",),
        onset=series_onset(view.window, view.window.level("linux.vmstat", key="oom_kill")),
    )


OOM = FaultModel(
    fault="mem.oom",
    culprit="process",
    prior=0.15,
    suspects=_oom_suspects,
    features=(
        Feature("killed", "log.kernel", _killed, Curve((0.0, -4.0), (0.15, -0.5), (0.5, 1.5), (1.0, 3.5)), needed=True),
        Feature("kill_counted", "metric.memory", _kill_counted, Curve((0.0, -3.0), (0.5, 0.0), (1.0, 1.5))),
    ),
    headline=lambda c, f: (
        f"the OOM killer ended {c.name} (pid {c.pid}): it used {size(f['killed'].values['anon_bytes'] or 0)} "
        "of private memory when memory ran out."
    ),
    symptoms=("proc.crash_loop", "engine.down", "mem.exhaustion", "mem.thrashing", "mem.leak", "proc.zombies"),
    effects=("linux.vmstat", "linux.cgroup.memory.events", "linux.psi.memory.some"),
    chain=("memory ran out", "the kernel chose a victim by its size", "its work is lost"),
    severity="critical",
    actions=("service.inspect_failure", "cgroup.set_memory_limit", "service.restart"),
)


MODELS = (OOM,)
