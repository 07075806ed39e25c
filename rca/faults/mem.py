"""Memory: exhaustion, leak, OOM kills, thrashing, remote NUMA memory, fragmentation.

The same host runs out of memory in several ways; what tells them apart is the shape over time: steady and near the
limit (exhaustion), growing (leak), killed (OOM), or read again and again because it does not fit (thrashing).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from rca.faults.shared import group_culprits, over_group, pressure, process_culprit, rise, size, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.topology import in_cgroup
from rca.view import View, filled, series_onset
from wardround.models.diagnosis import Culprit
from wardround.models.series import FloatArray
from wardround.models.topology import Process

MIB = 2.0**20
# A leak matters where it reaches its limit within a working day.
HORIZON = 8 * 3600.0


@dataclass(frozen=True, slots=True)
class Room:
    """The memory a process may still take: its nearest cgroup limit, else the host. Bytes."""

    limit: float
    used: float
    cgroup: str | None

    @property
    def free(self) -> float:
        return max(self.limit - self.used, 0.0)


def room(view: View, process: Process) -> Room:
    """Return the tightest limit over a process, by free space."""
    window = view.window
    total = window.last("system.memory.limit")
    available = window.last("system.memory.usage", state="available")
    best = Room(total, total - available, None)
    for path in window.entities("linux.cgroup.memory.limit", "cgroup"):
        if path != "/" and in_cgroup(process, path):
            limit = window.last("linux.cgroup.memory.limit", cgroup=path)
            used = window.last("linux.cgroup.memory.usage", cgroup=path)
            if not np.isnan(limit) and not np.isnan(used) and limit - used < best.free:
                best = Room(limit, used, path)
    return best


def _limited_cgroups(view: View) -> dict[str, float]:
    """Cgroups with a memory limit below the host's memory, and the share of it in use."""
    total = view.window.last("system.memory.limit")
    out = {}
    for path in view.window.entities("linux.cgroup.memory.limit", "cgroup"):
        limit = view.window.last("linux.cgroup.memory.limit", cgroup=path)
        used = view.window.mean("linux.cgroup.memory.usage", cgroup=path)
        if 0 < limit < total and not np.isnan(used):
            out[path] = used / limit
    return out


def _largest_in(view: View, path: str | None) -> Process | None:
    """The process with most private memory, host-wide or in a cgroup."""
    inside = [p for p in view.users.values() if path is None or in_cgroup(p, path)]
    anon = view.per_pid("linux.process.memory.anon")
    return max(inside, key=lambda p: anon.get(p.pid, float(p.anon)), default=None)


# --- growth ---


def _levels(view: View, pid: int) -> tuple[FloatArray, FloatArray]:
    """(times, private bytes) of a process where seen."""
    level = view.pid_levels("linux.process.memory.anon", pid)
    seen = ~np.isnan(level)
    return view.window.clock[seen], level[seen]


def floors(level: FloatArray) -> FloatArray:
    """Return the least level of each third of the window, ``[3, ...]``: a collected heap falls back to its floor."""
    return np.stack([part.min(axis=0) for part in np.array_split(level, 3)])


def _growth(view: View) -> dict[int, float]:
    """Growth of private memory by process, bytes per second between the floors of the first and last third."""
    columns = view.window.columns("linux.process.memory.anon")
    if not columns or len(view.window.clock) < 6:
        return {}
    level = filled(view.window.values[:, columns])
    low = floors(level)
    speed = (low[2] - low[0]) / (view.seconds * 2 / 3)
    pids = [int(view.window.series[c].label("pid") or 0) for c in columns]
    return {pid: float(s) for pid, s in zip(pids, speed, strict=True) if pid in view.users and s > 0}


def _leak_suspects(view: View) -> list[Culprit]:
    growth = _growth(view)
    found = []
    for pid, speed in growth.items():
        grown = speed * view.seconds
        if grown >= 2 * MIB and room(view, view.users[pid]).free / speed < HORIZON:
            found.append((speed, view.users[pid]))
    return [process_culprit(p) for _, p in sorted(found, key=lambda f: -f[0])[:3]]


def _growing(view: View, culprit: Culprit) -> Finding | None:
    """How even the growth is: the lesser step between the floors of the thirds against their mean; 1 is a straight line."""
    _, level = _levels(view, culprit.pid or 0)
    if len(level) < 6 or level[-1] <= 0:
        return None
    steps = np.diff(floors(level))
    grown = float(steps.sum())
    speed = grown / (view.seconds * 2 / 3)
    evenness = float(max(steps.min(), 0.0) / steps.mean()) if grown > 0 else 0.0
    return Finding(
        value=evenness,
        statement=(
            f"private memory of {who(culprit)} grows by {size(speed)}/s; its floor rose by "
            f"{size(float(steps[0]))} and then by {size(float(steps[1]))} from third to third of the window"
        ),
        values={
            "bytes_per_second": speed,
            "first_step_bytes": float(steps[0]),
            "second_step_bytes": float(steps[1]),
            "anon_bytes": float(level[-1]),
        },
        unit="By",
        reproduce=f"grep -E 'RssAnon|VmSwap' /proc/{culprit.pid}/status   # repeat",
        source="collectors.process",
        series=(f"linux.process.memory.anon{{pid={culprit.pid}}}",),
        onset=_growth_onset(view, culprit, speed),
    )


def _growth_onset(view: View, culprit: Culprit, speed: float) -> float | None:
    """When growth at this speed would have begun from nothing, if the process is that young; else unknown."""
    process = view.users.get(culprit.pid or 0)
    _, level = _levels(view, culprit.pid or 0)
    if process is None or speed <= 0 or not len(level):
        return None
    return max(process.start, view.observation.end - float(level[-1]) / speed)


def _time_left(view: View, culprit: Culprit) -> Finding | None:
    """Time to exhaustion at the present speed."""
    process = view.users.get(culprit.pid or 0)
    if process is None:
        return None
    speed = _growth(view).get(process.pid, 0.0)
    if speed <= 0:
        return None
    space = room(view, process)
    left = space.free / speed
    limit = f"the limit of {space.cgroup}" if space.cgroup else "the host's memory"
    return Finding(
        value=left,
        statement=f"at this speed {limit} ({size(space.limit)}, {size(space.free)} free) is reached in {left / 60:.0f} minutes",
        values={"seconds_left": left, "minutes_left": left / 60, "limit_bytes": space.limit, "free_bytes": space.free},
        unit="s",
        reproduce="grep -E 'MemTotal|MemAvailable' /proc/meminfo"
        if space.cgroup is None
        else f"cat /sys/fs/cgroup/memory{space.cgroup}/memory.usage_in_bytes /sys/fs/cgroup{space.cgroup}/memory.current",
        source="collectors.process",
        kind="test",
    )


def _started_lately(view: View, culprit: Culprit) -> Finding | None:
    """Age: every program grows while it starts."""
    process = view.users.get(culprit.pid or 0)
    if process is None:
        return None
    age = view.observation.end - process.start
    return Finding(
        value=age / view.seconds,
        statement=f"{who(culprit)} has run for {age:.0f} s",
        values={"age_seconds": age},
        unit="s",
        reproduce=f"ps -o etimes,comm -p {process.pid}",
        source="collectors.process",
        kind="topology",
    )


LEAK = FaultModel(
    fault="mem.leak",
    culprit="process",
    prior=0.08,
    suspects=_leak_suspects,
    features=(
        Feature(
            "growth",
            "metric.process_memory",
            _growing,
            Curve((0.0, -3.5), (0.2, -1.0), (0.5, 2.0), (0.8, 3.0)),
            needed=True,
            ask="private memory keeps growing: watch RssAnon in /proc/PID/status for some minutes",
        ),
        Feature(
            "time_left",
            "metric.process_memory",
            _time_left,
            Curve((60.0, 2.0), (1800.0, 1.2), (HORIZON, -1.0)),
            needed=True,
        ),
        Feature("age", "topology.process", _started_lately, Curve((0.5, -1.5), (1.2, 0.0), (10.0, 0.5))),
    ),
    headline=lambda c, f: (
        f"{who(c)} leaks memory: {size(f['growth'].values['bytes_per_second'] or 0)}/s without levelling off, "
        f"its limit is reached in {f['time_left'].values['minutes_left']:.0f} minutes."
    ),
    symptoms=("mem.exhaustion", "mem.oom", "mem.thrashing", "io.saturation", "proc.hung", "proc.crash_loop"),
    effects=("linux.process.memory.anon", "system.memory.usage", "linux.cgroup.memory.usage", "linux.psi.memory.some"),
    chain=("private memory grows without levelling off", "free memory shrinks", "reclaim, then the OOM killer, follow"),
    severity="warning",
    actions=("process.capture_memory_profile", "service.restart", "cgroup.set_memory_limit"),
)


# --- exhaustion ---


def _exhaustion_suspects(view: View) -> list[Culprit]:
    found: list[Process] = []
    total = view.window.last("system.memory.limit")
    available = view.window.last("system.memory.usage", state="available")
    if total > 0 and available / total < 0.12 and (largest := _largest_in(view, None)):
        found.append(largest)
    for path, share in sorted(_limited_cgroups(view).items(), key=lambda i: -i[1]):
        if share > 0.85 and (largest := _largest_in(view, path)) and len(found) < 4:
            found.append(largest)
    return [process_culprit(view.leader(p), view.group_of(p.pid)) for p in dict.fromkeys(found)]


def _scope(view: View, culprit: Culprit) -> str | None:
    """The memory-limited cgroup the culprit fills, None for the host."""
    process = view.users.get(culprit.pid or 0)
    return room(view, process).cgroup if process else None


def _little_left(view: View, culprit: Culprit) -> Finding | None:
    process = view.users.get(culprit.pid or 0)
    if process is None:
        return None
    space = room(view, process)
    left = space.free / space.limit if space.limit > 0 else 1.0
    where = f"cgroup {space.cgroup}" if space.cgroup else "the host"
    return Finding(
        value=left,
        statement=f"{where} has {size(space.free)} of {size(space.limit)} left ({left:.1%})",
        values={"free_bytes": space.free, "limit_bytes": space.limit, "free_share": left},
        unit="By",
        reproduce="free -m"
        if space.cgroup is None
        else f"cat /sys/fs/cgroup/memory{space.cgroup}/memory.usage_in_bytes /sys/fs/cgroup{space.cgroup}/memory.current",
        source="collectors.memory" if space.cgroup is None else "collectors.cgroup",
        series=("system.memory.usage{state=available}",)
        if space.cgroup is None
        else (f"linux.cgroup.memory.usage{{cgroup={space.cgroup}}}",),
    )


def _holds_it(view: View, culprit: Culprit) -> Finding | None:
    """The culprit's private memory as a share of what is in use."""
    process = view.users.get(culprit.pid or 0)
    if process is None:
        return None
    space = room(view, process)
    anon = over_group(view, culprit, view.per_pid("linux.process.memory.anon"))
    share = anon / space.used if space.used > 0 else 0.0
    return Finding(
        value=share,
        statement=f"{who(culprit)} holds {size(anon)} of private memory, {share:.0%} of what is in use there",
        values={"anon_bytes": anon, "share": share},
        unit="By",
        reproduce=f"grep -E 'RssAnon|VmSwap' /proc/{culprit.pid}/status",
        source="collectors.process",
        series=(f"linux.process.memory.anon{{pid={culprit.pid}}}",),
    )


def _steady(view: View, culprit: Culprit) -> Finding | None:
    """Change of the culprit's private memory over the window, against its size: exhaustion is level, a leak is not."""
    _, level = _levels(view, culprit.pid or 0)
    if len(level) < 3 or level[-1] <= 0:
        return None
    change = float(level[-1] - level[0])
    return Finding(
        value=abs(change) / float(level[-1]),
        statement=f"its private memory changed by {size(change)} in the window",
        values={"change_bytes": change, "anon_bytes": float(level[-1])},
        unit="By",
        reproduce=f"grep RssAnon /proc/{culprit.pid}/status   # repeat",
        source="collectors.process",
        series=(f"linux.process.memory.anon{{pid={culprit.pid}}}",),
    )


def _read_back(view: View, culprit: Culprit) -> Finding | None:
    """Refaults where it lives: memory that is evicted and needed again is a working set too large, not just held memory."""
    return _refault_rate(view, Culprit("cgroup", _scope(view, culprit) or "/"))


def _reclaim(view: View, culprit: Culprit) -> Finding | None:
    """Reclaim under pressure: the host's scans, or a cgroup that keeps hitting its limit."""
    path = _scope(view, culprit)
    if path is None:
        rate = sum(np.nan_to_num(view.vmstat(k)) for k in ("pgscan_direct", "pgscan_kswapd"))
        what, command = "pages scanned for reclaim", "grep -E 'pgscan_(direct|kswapd) ' /proc/vmstat"
    else:
        rate = rise(view, "linux.cgroup.memory.events", cgroup=path, key="max") / view.seconds
        what = f"times a second {path} hit its limit"
        command = f"cat /sys/fs/cgroup/memory{path}/memory.failcnt /sys/fs/cgroup{path}/memory.events"
    return Finding(
        value=rate,
        statement=f"{rate:.1f} {what}" if path else f"{rate:.0f} {what} a second",
        values={"rate": rate},
        unit="{event}/s",
        reproduce=command,
        source="collectors.memory" if path is None else "collectors.cgroup",
        series=("linux.vmstat{key=pgscan_kswapd}",)
        if path is None
        else (f"linux.cgroup.memory.events{{cgroup={path}, key=max}}",),
    )


EXHAUSTION = FaultModel(
    fault="mem.exhaustion",
    culprit="process",
    prior=0.06,
    suspects=_exhaustion_suspects,
    features=(
        Feature(
            "memory_left",
            "metric.memory",
            _little_left,
            Curve((0.01, 2.2), (0.04, 1.5), (0.08, 0.0), (0.15, -3.0)),
            needed=True,
        ),
        Feature("holder", "metric.process_memory", _holds_it, Curve((0.1, -3.0), (0.35, 0.3), (0.6, 1.5)), needed=True),
        Feature("steady", "metric.process_memory", _steady, Curve((0.01, 0.8), (0.05, 0.2), (0.15, -2.5))),
        Feature(
            "memory_pressure",
            "metric.memory",
            pressure("memory"),
            Curve((0.0, -1.5), (0.01, 0.0), (0.1, 1.5), (0.4, 2.0)),
        ),
        Feature("read_back", "metric.memory", _read_back, Curve((100.0, 0.5), (1000.0, -0.5), (5000.0, -3.0))),
        Feature("reclaim", "metric.memory", _reclaim, Curve((0.0, -2.0), (0.5, 0.0), (10.0, 1.5), (1000.0, 2.0))),
    ),
    headline=lambda c, f: (
        f"{who(c)} holds {size(f['holder'].values['anon_bytes'] or 0)} and leaves "
        f"{size(f['memory_left'].values['free_bytes'] or 0)} of {size(f['memory_left'].values['limit_bytes'] or 0)}: "
        "tasks stall on memory."
    ),
    symptoms=("mem.oom", "io.saturation", "io.latency", "proc.hung", "mem.fragmentation"),
    effects=("system.memory.usage", "linux.psi.memory.some", "linux.vmstat", "linux.cgroup.memory.usage"),
    chain=("private memory fills the limit", "the kernel reclaims page cache again and again", "tasks stall on memory"),
    severity="critical",
    actions=("cgroup.set_memory_limit", "service.restart", "process.terminate"),
)


# --- OOM ---

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
        for path in view.window.entities("linux.cgroup.memory.events", "cgroup", key="oom_kill"):
            if rise(view, "linux.cgroup.memory.events", cgroup=path, key="oom_kill") > 0 and (
                p := _largest_in(view, path)
            ):
                suspects.append(process_culprit(p))
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
    return Finding(
        value=_present(view, last),
        statement=(
            f"the OOM killer ended {culprit.name} {number} times, last {age:.0f} s ago, with {size(anon)} of private memory"
        ),
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
    concerned = any(p.name[:15] == kill.name[:15] for p in view.users.values())
    if kill.cgroup not in ("", "/"):
        concerned = concerned or kill.cgroup in view.observation.after.cgroups
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
    actions=("cgroup.set_memory_limit", "service.restart"),
)


# --- thrashing ---


def _refaults(view: View, path: str) -> float:
    """Working-set refaults of a cgroup (``/``: the host), pages per second."""
    if path == "/":
        return float(sum(np.nan_to_num(view.vmstat(k)) for k in ("workingset_refault_anon", "workingset_refault_file")))
    return (
        sum(
            rise(view, "linux.cgroup.memory.faults", cgroup=path, key=k)
            for k in ("workingset_refault_anon", "workingset_refault_file")
        )
        / view.seconds
    )


def _thrashing_suspects(view: View) -> list[Culprit]:
    shares = _limited_cgroups(view)
    found = [(_refaults(view, path), path) for path, share in shares.items() if share > 0.7]
    found = [f for f in found if f[0] > 50]
    if not found and _refaults(view, "/") > 500:
        found = [(_refaults(view, "/"), "/")]
    suspects = []
    for _, path in sorted(found, reverse=True)[:3]:
        largest = _largest_faulter(view, path)
        suspects.append(Culprit("cgroup", path, largest))
    return suspects


def _largest_faulter(view: View, path: str) -> int | None:
    major = view.per_pid("process.paging.faults", type="major")
    inside = [pid for pid, p in view.users.items() if in_cgroup(p, path)]
    return max(inside, key=lambda pid: (major.get(pid, 0.0), view.users[pid].rss), default=None)


def _refault_rate(view: View, culprit: Culprit) -> Finding | None:
    rate = _refaults(view, culprit.name)
    key = "linux.cgroup.memory.faults" if culprit.name != "/" else "linux.vmstat"
    labels = (
        f"{{cgroup={culprit.name}, key=workingset_refault_file}}"
        if culprit.name != "/"
        else "{key=workingset_refault_file}"
    )
    return Finding(
        value=rate,
        statement=f"{rate:.0f} pages a second of {culprit.name} are read back soon after they were evicted",
        values={"refaults": rate},
        unit="{page}/s",
        reproduce="grep refault /proc/vmstat"
        if culprit.name == "/"
        else f"grep refault /sys/fs/cgroup/memory{culprit.name}/memory.stat /sys/fs/cgroup{culprit.name}/memory.stat",
        source="collectors.cgroup",
        series=(key + labels,),
        onset=None,
    )


def _at_limit(view: View, culprit: Culprit) -> Finding | None:
    if culprit.name == "/":
        total = view.window.last("system.memory.limit")
        share = 1.0 - view.window.last("system.memory.usage", state="available") / total
        limit = total
    else:
        limit = view.window.last("linux.cgroup.memory.limit", cgroup=culprit.name)
        share = view.window.mean("linux.cgroup.memory.usage", cgroup=culprit.name) / limit
    if np.isnan(share):
        return None
    return Finding(
        value=share,
        statement=f"{culprit.name} fills {share:.0%} of its {size(limit)}",
        values={"share": share, "limit_bytes": limit},
        unit="1",
        reproduce=f"cat /sys/fs/cgroup/memory{culprit.name}/memory.usage_in_bytes /sys/fs/cgroup{culprit.name}/memory.current",
        source="collectors.cgroup",
        series=(f"linux.cgroup.memory.usage{{cgroup={culprit.name}}}",),
    )


def _major_faults(view: View, culprit: Culprit) -> Finding | None:
    """Major faults and swap-ins of its processes: memory that had to come from a device again."""
    inside = [pid for pid, p in view.users.items() if in_cgroup(p, culprit.name)]
    rate = sum(view.per_pid("process.paging.faults", type="major").get(pid, 0.0) for pid in inside)
    swapped = float(np.nan_to_num(view.vmstat("pswpin")))
    return Finding(
        value=rate + swapped,
        statement=f"its processes take {rate:.0f} major faults a second; the host swaps in {swapped:.0f} pages a second",
        values={"major_faults": rate, "swapped_in": swapped},
        unit="{fault}/s",
        reproduce="vmstat 1 5   # columns si bi; ps -eo pid,maj_flt,comm --sort=-maj_flt | head",
        source="collectors.process",
        series=("linux.vmstat{key=pgmajfault}",),
    )


THRASHING = FaultModel(
    fault="mem.thrashing",
    culprit="cgroup",
    prior=0.08,
    suspects=_thrashing_suspects,
    features=(
        Feature(
            "refaults",
            "metric.memory",
            _refault_rate,
            Curve((10.0, -3.0), (100.0, 0.0), (1000.0, 2.0), (10000.0, 3.0)),
            needed=True,
        ),
        Feature("at_limit", "metric.memory", _at_limit, Curve((0.6, -2.5), (0.85, 0.3), (0.95, 1.2)), needed=True),
        Feature("major_faults", "metric.process_memory", _major_faults, Curve((0.0, -0.8), (20.0, 0.2), (200.0, 1.2))),
        Feature("memory_pressure", "metric.memory", pressure("memory"), Curve((0.0, -1.8), (0.02, 0.0), (0.2, 1.5))),
    ),
    headline=lambda c, f: (
        f"the working set of {c.name} does not fit: at {f['at_limit'].value:.0%} of "
        f"{size(f['at_limit'].values['limit_bytes'] or 0)} it reads back {f['refaults'].value:.0f} evicted pages a second."
    ),
    symptoms=("mem.exhaustion", "io.saturation", "io.latency", "proc.hung", "cpu.saturation", "net.backlog", "mem.oom"),
    effects=("linux.psi.memory.some", "linux.psi.io.some", "linux.cgroup.memory.faults", "system.disk.io"),
    chain=(
        "the working set exceeds the limit",
        "pages are evicted and needed again",
        "tasks wait for them from the device",
    ),
    severity="critical",
    actions=("cgroup.set_memory_limit",),
)


# --- NUMA and fragmentation ---


def _placement(view: View, pid: int) -> tuple[float, float, int] | None:
    """(bytes on the nodes it runs on, bytes elsewhere, node with most) of a process on a host with several nodes."""
    process = view.users.get(pid)
    columns = view.window.columns("linux.process.numa", pid=pid)
    if process is None or not columns or len(view.host.numa_nodes) < 2:
        return None
    held = {
        int(view.window.series[c].label("node") or 0): float(filled(view.window.values[:, [c]])[-1, 0]) for c in columns
    }
    runs_on = _nodes_of_cpus(view, process)
    near = sum(b for node, b in held.items() if node in runs_on)
    return near, sum(held.values()) - near, max(held, key=lambda n: held[n])


def _nodes_of_cpus(view: View, process: Process) -> set[int]:
    """The nodes whose CPUs a process may use (CPUs are taken as split evenly in order where topology is not read)."""
    per_node = max(view.cpus // len(view.host.numa_nodes), 1)
    allowed = process.affinity or tuple(range(view.cpus))
    return {view.host.numa_nodes[min(cpu // per_node, len(view.host.numa_nodes) - 1)] for cpu in allowed}


def _numa_suspects(view: View) -> list[Culprit]:
    if len(view.host.numa_nodes) < 2:
        return []

    def remote(pid: int) -> float:
        placed = _placement(view, pid)
        return placed[1] if placed and placed[1] > placed[0] else 0.0

    return group_culprits(view, lambda g: max((remote(p.pid) for p in g.members), default=0.0), 256 * MIB)


def _remote_share(view: View, culprit: Culprit) -> Finding | None:
    placed = _placement(view, culprit.pid or 0)
    if placed is None:
        return None
    near, far, node = placed
    share = far / max(near + far, 1.0)
    return Finding(
        value=share,
        statement=f"{share:.0%} of its memory ({size(far)}) lies on nodes it does not run on, most on node {node}",
        values={"remote_share": share, "remote_bytes": far, "node": node},
        unit="1",
        reproduce=f"numastat -p {culprit.pid}",
        source="collectors.numa",
        series=(f"linux.process.numa{{node={node}, pid={culprit.pid}}}",),
    )


def _remote_access(view: View, _: Culprit) -> Finding | None:
    other, local = rise(view, "linux.numa", key="other_node"), rise(view, "linux.numa", key="local_node")
    if other + local <= 0:
        return None
    share = other / (other + local)
    return Finding(
        value=share,
        statement=f"{share:.0%} of page allocations came from another node than the one asked from",
        values={"other_node_share": share},
        unit="1",
        reproduce="numastat",
        source="collectors.numa",
        series=("linux.numa",),
    )


NUMA = FaultModel(
    fault="mem.numa_remote",
    culprit="process",
    prior=0.05,
    suspects=_numa_suspects,
    features=(
        Feature(
            "remote_share",
            "topology.numa",
            _remote_share,
            Curve((0.3, -3.0), (0.5, 0.5), (0.7, 2.5), (0.9, 3.5)),
            needed=True,
        ),
        Feature("other_node", "metric.numa", _remote_access, Curve((0.0, -0.3), (0.2, 0.5), (0.6, 1.0))),
    ),
    headline=lambda c, f: (
        f"{who(c)} runs on one NUMA node while {f['remote_share'].value:.0%} of its memory is on another."
    ),
    effects=("linux.numa", "linux.process.numa"),
    chain=(
        "threads and memory sit on different nodes",
        "every access crosses the interconnect",
        "memory bandwidth and latency suffer",
    ),
    severity="warning",
    actions=("process.rebind_numa",),
)


def _fragmentation_suspects(view: View) -> list[Culprit]:
    stalls = np.nan_to_num(view.vmstat("compact_stall"))
    return [Culprit("host", view.host.name)] if stalls > 1.0 else []


def _compaction(view: View, _: Culprit) -> Finding | None:
    stalls, fails = (float(np.nan_to_num(view.vmstat(k))) for k in ("compact_stall", "compact_fail"))
    return Finding(
        value=stalls,
        statement=f"{stalls:.1f} allocations a second stall in compaction, {fails:.1f} of them in vain",
        values={"compact_stalls": stalls, "compact_fails": fails},
        unit="{event}/s",
        reproduce="grep -E 'compact_(stall|fail)' /proc/vmstat; cat /proc/buddyinfo",
        source="collectors.memory",
        series=("linux.vmstat{key=compact_stall}",),
    )


def _free_but_scattered(view: View, _: Culprit) -> Finding | None:
    total = view.window.last("system.memory.limit")
    free = view.window.last("system.memory.usage", state="free")
    if np.isnan(free) or total <= 0:
        return None
    return Finding(
        value=free / total,
        statement=f"{size(free)} are free ({free / total:.0%}), in small pieces",
        values={"free_bytes": free, "free_share": free / total},
        unit="By",
        reproduce="cat /proc/buddyinfo",
        source="collectors.memory",
    )


FRAGMENTATION = FaultModel(
    fault="mem.fragmentation",
    culprit="host",
    prior=0.03,
    suspects=_fragmentation_suspects,
    features=(
        Feature(
            "compaction",
            "metric.memory",
            _compaction,
            Curve((0.5, -3.0), (5.0, 0.5), (50.0, 3.0), (200.0, 4.0)),
            needed=True,
        ),
        Feature("free_memory", "metric.memory", _free_but_scattered, Curve((0.01, -2.5), (0.05, -0.5), (0.15, 1.0))),
        Feature("memory_pressure", "metric.memory", pressure("memory"), Curve((0.0, -1.0), (0.02, 0.2), (0.2, 1.0))),
    ),
    headline=lambda c, f: (
        f"allocations on {c.name} stall in compaction ({f['compaction'].value:.0f} a second) though memory is free."
    ),
    effects=("linux.vmstat", "linux.psi.memory.some", "linux.buddy.free"),
    chain=("free memory is scattered", "large allocations wait for compaction", "tasks stall"),
    severity="warning",
    actions=("host.compact_memory",),
)


MODELS = (EXHAUSTION, LEAK, OOM, THRASHING, NUMA, FRAGMENTATION)
