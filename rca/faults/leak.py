"""Memory leaks: private memory that grows without levelling off, and reaches its limit within a working day.

A collected heap goes up and down, a start-up grows and stops: the floors of the window's thirds tell. It cannot know
a leak slower than the window shows; the watch daemon's history can.
"""

from __future__ import annotations

import numpy as np

from rca.faults.room import anon_levels, room
from rca.faults.shared import MIB, cgroup_file, process_culprit, size, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, filled, per_view
from wardround.models.diagnosis import Culprit
from wardround.models.series import FloatArray
from wardround.shell import command

# A leak matters where it reaches its limit within a working day.
HORIZON = 8 * 3600.0
YOUNG = 4.0  # windows: a program this young may still be starting


def floors(level: FloatArray) -> FloatArray:
    """Return the least level of each third of the window, ``[3, ...]``: a collected heap falls back to its floor."""
    return np.stack([part.min(axis=0) for part in np.array_split(level, 3)])


@per_view
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
        last = view.observation.after.processes.get(pid)
        if last is None or last.state in ("Z", "X"):
            continue  # what has ended leaks no more, reaped or not
        grown = speed * view.seconds
        if grown >= 2 * MIB and room(view, view.users[pid]).free / speed < HORIZON:
            found.append((speed, view.users[pid]))
    return [process_culprit(p) for _, p in sorted(found, key=lambda f: -f[0])[:3]]


def _growing(view: View, culprit: Culprit) -> Finding | None:
    """How even the growth is: the lesser step between the floors of the thirds against their mean.

    1 is a straight line.
    """
    _, level = anon_levels(view, culprit.pid or 0)
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
    _, level = anon_levels(view, culprit.pid or 0)
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
        statement=(
            f"at this speed {limit} ({size(space.limit)}, {size(space.free)} free) "
            f"is reached in {left / 60:.0f} minutes"
        ),
        values={"seconds_left": left, "minutes_left": left / 60, "limit_bytes": space.limit, "free_bytes": space.free},
        unit="s",
        reproduce="grep -E 'MemTotal|MemAvailable' /proc/meminfo"
        if space.cgroup is None
        else (command("cat {}", cgroup_file(view, space.cgroup, "memory", "memory.usage_in_bytes", "memory.current"))),
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


def _starting(view: View, culprit: Culprit) -> Finding | None:
    """A program that works at full speed since it began builds up what it needs; it is no leak yet."""
    process = view.processes.get(culprit.pid or 0)
    if process is None or view.observation.end - process.start > YOUNG * view.seconds:
        return None
    demand = view.cpu.get(process.pid, 0.0) + view.per_pid("linux.process.run_delay").get(process.pid, 0.0)
    return Finding(
        value=demand,
        statement=f"{who(culprit)} began lately and computes: it wants {demand:.2f} CPUs",
        values={"cpus_wanted": demand},
        unit="{cpu}",
        reproduce=f"ps -o etimes,time,comm -p {process.pid}",
        source="collectors.process",
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
        Feature("age", "topology.process", _started_lately, Curve((0.5, -1.5), (1.2, -0.6), (3.0, 0.0), (10.0, 0.5))),
        Feature("starting", "metric.cpu", _starting, Curve((0.3, 0.0), (0.6, -1.6), (0.9, -2.6))),
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


MODELS = (LEAK,)
