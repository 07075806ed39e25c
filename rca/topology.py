"""Whether a path leads from one entity to another: the same process or group, its cgroup, the device under its files.

A path is needed before one fault is called the symptom of another. It cannot see dependencies that leave no trace
on this host (a remote database's disk).
"""

from __future__ import annotations

from rca.view import View
from wardround.models.diagnosis import Culprit
from wardround.models.topology import Process


def pids_behind(view: View, culprit: Culprit) -> set[int]:
    """Return the processes an entity stands for: the group of a process, the members of a cgroup, an engine's own."""
    if culprit.kind == "cgroup":
        inside = {pid for pid, p in view.processes.items() if in_cgroup(p, culprit.name)}
        return inside | ({culprit.pid} if culprit.pid else set())
    if culprit.pid is not None:
        return set(view.group_of(culprit.pid).pids) | {culprit.pid}
    if culprit.kind == "filesystem":
        mine = [m for m in view.observation.after.mounts if m.mountpoint == culprit.name]
        return {pid for m in mine for pid in (*m.writers, m.seen_by) if pid}
    return set()


def in_cgroup(process: Process, path: str) -> bool:
    """Whether a process is in a cgroup or below it, in any hierarchy."""
    if path == "/":
        return True
    return any(own == path or own.startswith(path.rstrip("/") + "/") for _, own in process.cgroups)


def devices_behind(view: View, culprit: Culprit) -> set[str]:
    """Return the block devices an entity rests on or feeds."""
    if culprit.kind == "device":
        return {culprit.name} | _backing(view, culprit.name)
    if culprit.kind == "filesystem":
        names = {m.device for m in view.observation.after.mounts if m.mountpoint == culprit.name}
        return names | {b for name in names for b in _backing(view, name)}
    pids = pids_behind(view, culprit)
    window = view.window
    used = {
        device
        for device, columns in window.entities("linux.disk.process_io", "device").items()
        if any(int(window.series[c].label("pid") or 0) in pids for c in columns)
    }
    return used | {below for device in used for below in _backing(view, device)}


def _backing(view: View, name: str) -> set[str]:
    """The whole disk of a partition, and the device under the filesystem that holds a loop's file."""
    after = view.observation.after
    backing = after.devices[name].backing if name in after.devices else ""
    if backing.startswith("/"):
        under = [m for m in after.mounts if backing.startswith(m.mountpoint.rstrip("/") + "/")]
        backing = max(under, key=lambda m: len(m.mountpoint)).device if under else ""
    return {backing} if backing in after.devices else set()


def related(view: View, cause: Culprit, effect: Culprit) -> bool:
    """Whether a fault of `cause` can reach `effect` on this host."""
    if "host" in (cause.kind, effect.kind) or cause.key == effect.key:
        return True
    if cause.kind == effect.kind == "interface":
        return True  # two ends of one path
    if cause.kind == effect.kind == "process" and cause.name == effect.name:
        return True  # one program, restarted or in several workers
    mine, theirs = pids_behind(view, cause), pids_behind(view, effect)
    if mine & theirs:
        return True
    if _ancestry(view, mine) & theirs or _ancestry(view, theirs) & mine:
        return True
    return bool(devices_behind(view, cause) & devices_behind(view, effect))


def _ancestry(view: View, pids: set[int]) -> set[int]:
    """The parents of some processes (init and what is gone left out)."""
    return {p.ppid for pid in pids if (p := view.processes.get(pid)) is not None and p.ppid > 1}
