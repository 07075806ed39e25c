"""The control groups of a host: where the hierarchies are mounted, which groups exist, their limits, and a snapshot.

A group is named by its path below the mount, the same string in every v1 controller and in v2, so one that exists
in several hierarchies is one group here. Source: /proc/self/mounts and the cgroup filesystems. Inside a container
the paths are those of its own cgroup namespace. Measured: a walk costs 3 µs a group, a snapshot 60 µs a group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from collectors.base import Roots
from collectors.facts import cpu_list, read_text
from wardround.models.topology import Cgroup

UNLIMITED = 1 << 62  # v1 writes "no limit" as the largest multiple of the page size
V1_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "blkio", "cpuset")
V1_IO_LIMITS = ("read_bps", "write_bps", "read_iops", "write_iops")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy. `controllers` is empty for v2, where each group tells its own by its files."""

    version: int
    mount: str
    controllers: tuple[str, ...] = ()

    def folder(self, path: str) -> str:
        return self.mount if path == "/" else self.mount + path


def hierarchies(roots: Roots) -> tuple[Hierarchy, ...]:
    """Return the mounted hierarchies that account something, v1 first."""
    found: dict[str, Hierarchy] = {}
    for line in read_text(f"{roots.proc}/self/mounts").splitlines():
        fields = line.split()
        if len(fields) < 4 or fields[2] not in ("cgroup", "cgroup2"):
            continue
        mount = fields[1].replace("\\040", " ")
        if roots.sys != "/sys" and mount.startswith("/sys/"):
            mount = roots.sys + mount.removeprefix("/sys")
        controllers = tuple(c for c in V1_CONTROLLERS if c in fields[3].split(","))
        if fields[2] == "cgroup2":
            found.setdefault("", Hierarchy(2, mount))
        elif controllers:
            found.setdefault(",".join(controllers), Hierarchy(1, mount, controllers))
    return tuple(sorted(found.values(), key=lambda h: h.version))


def walk(mount: str) -> Iterator[str]:
    """Yield the paths of all groups of a hierarchy, parents first, ``/`` the first."""
    pending = ["/"]
    while pending:
        path = pending.pop()
        folder = mount if path == "/" else mount + path
        try:
            # kernfs counts subfolders as links: a leaf need not be listed
            has_children = os.stat(folder).st_nlink != 2
            yield path
            if has_children:
                with os.scandir(folder) as entries:
                    children = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
                pending += [f"{path.rstrip('/')}/{name}" for name in sorted(children, reverse=True)]
        except OSError:
            continue  # gone since its parent was listed


def limit(text: str) -> int | None:
    """Return a limit as a number, None where the text says there is none (``max``, ``-1``, v1's huge number)."""
    return int(text) if text.isdigit() and int(text) < UNLIMITED else None


def cpu_quota(hierarchy: Hierarchy, path: str) -> tuple[float | None, float | None]:
    """Return how many CPUs the group may use, None without a quota, and the seconds that are granted at a time."""
    folder = hierarchy.folder(path)
    if hierarchy.version == 2:
        quota, _, period = read_text(f"{folder}/cpu.max").partition(" ")
    else:
        quota, period = read_text(f"{folder}/cpu.cfs_quota_us"), read_text(f"{folder}/cpu.cfs_period_us")
    if not (period.isdigit() and int(period)):
        return None, None
    return int(quota) / int(period) if quota.isdigit() else None, int(period) * 1e-6


def device_name(roots: Roots, major_minor: str) -> str:
    """Return the kernel's name of a block device (``sda``), its numbers where sysfs does not know it."""
    try:
        return os.path.basename(os.readlink(f"{roots.sys}/dev/block/{major_minor}"))
    except OSError:
        return major_minor


def snapshot_cgroups(roots: Roots | None = None) -> dict[str, Cgroup]:
    """Return the groups that have processes or limits, by path."""
    roots = roots or Roots()
    found: dict[str, Cgroup] = {}
    for hierarchy in hierarchies(roots):
        for path in walk(hierarchy.mount):
            group = _read_group(roots, hierarchy, path)
            if group is None:
                continue
            known = found.get(path)
            found[path] = group if known is None else _joined(known, group)
    return found


def _read_group(roots: Roots, hierarchy: Hierarchy, path: str) -> Cgroup | None:
    folder = hierarchy.folder(path)
    v2 = hierarchy.version == 2
    of = hierarchy.controllers

    def number(name: str) -> int | None:
        return limit(read_text(f"{folder}/{name}"))

    cpus = read_text(f"{folder}/cpuset.cpus") if path != "/" and (v2 or "cpuset" in of) else ""
    quota, period = cpu_quota(hierarchy, path) if v2 or "cpu" in of else (None, None)
    group = Cgroup(
        path=path,
        version=hierarchy.version,
        cpu_quota=quota,
        memory_limit=number("memory.max" if v2 else "memory.limit_in_bytes") if v2 or "memory" in of else None,
        pids_limit=number("pids.max") if v2 or "pids" in of else None,
        cpus=cpu_list(cpus),
        io_limits=_io_limits(roots, hierarchy, folder),
    )
    limited = group != Cgroup(path, hierarchy.version)
    return replace(group, cpu_period=period) if limited or read_text(f"{folder}/cgroup.procs") else None


def _joined(first: Cgroup, second: Cgroup) -> Cgroup:
    """Return one group out of what two hierarchies say of the same path."""
    return Cgroup(
        path=first.path,
        version=min(first.version, second.version),
        cpu_quota=first.cpu_quota if first.cpu_quota is not None else second.cpu_quota,
        memory_limit=first.memory_limit if first.memory_limit is not None else second.memory_limit,
        pids_limit=first.pids_limit if first.pids_limit is not None else second.pids_limit,
        cpus=first.cpus or second.cpus,
        io_limits=first.io_limits or second.io_limits,
        cpu_period=first.cpu_period if first.cpu_period is not None else second.cpu_period,
    )


def _io_limits(roots: Roots, hierarchy: Hierarchy, folder: str) -> tuple[str, ...]:
    """Return the I/O limits as ``device what limit`` (bytes or operations a second)."""
    if hierarchy.version == 2:
        lines = (line.split() for line in read_text(f"{folder}/io.max").splitlines())
        pairs = ((fields[0], entry.partition("=")) for fields in lines for entry in fields[1:])
        return tuple(
            f"{device_name(roots, device)} {key} {value}" for device, (key, _, value) in pairs if value != "max"
        )
    if "blkio" not in hierarchy.controllers:
        return ()
    return tuple(
        f"{device_name(roots, fields[0])} {kind} {fields[1]}"
        for kind in V1_IO_LIMITS
        for line in read_text(f"{folder}/blkio.throttle.{kind}_device").splitlines()
        if len(fields := line.split()) == 2
    )
