"""The memory a process or a group may still take: its nearest cgroup limit, else the host's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rca.topology import in_cgroup
from rca.view import View, per_view
from wardround.models.series import FloatArray
from wardround.models.topology import Process


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


@per_view
def limited_cgroups(view: View) -> dict[str, float]:
    """Cgroups with a memory limit below the host's memory, and the share of it in use."""
    total = view.window.last("system.memory.limit")
    out = {}
    for path in view.window.entities("linux.cgroup.memory.limit", "cgroup"):
        limit = view.window.last("linux.cgroup.memory.limit", cgroup=path)
        used = view.window.mean("linux.cgroup.memory.usage", cgroup=path)
        if 0 < limit < total and not np.isnan(used):
            out[path] = used / limit
    return out


def largest_in(view: View, path: str | None) -> Process | None:
    """The process with most private memory, host-wide or in a cgroup."""
    inside = [p for p in view.users.values() if path is None or in_cgroup(p, path)]
    anon = view.per_pid("linux.process.memory.anon")
    return max(inside, key=lambda p: anon.get(p.pid, float(p.anon)), default=None)


def anon_levels(view: View, pid: int) -> tuple[FloatArray, FloatArray]:
    """(times, private bytes) of a process where seen."""
    level = view.pid_levels("linux.process.memory.anon", pid)
    seen = ~np.isnan(level)
    return view.window.clock[seen], level[seen]
