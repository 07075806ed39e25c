"""Actions on one control group: its CPU quota, memory limit, pids limit and I/O limits.

The preview names the file of the hierarchy that the group is in. New limits are modest steps from what was seen in
the window, so that one step can be verified before the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from remediation.action import LOCAL, Draft, Params, Spec, Target
from wardround.models.topology import Cgroup

Path = Annotated[str, Field(pattern=r"^/[^\x00\n]+$", max_length=4096)]
PAGE = 4096
USUAL_PERIOD = 0.1  # seconds: the kernel's default


class CpuQuota(Params):
    """CPUs a group may use; None lifts the quota."""

    cgroup: Path
    cpus: float | None = Field(default=None, gt=0.01, le=4096)


class MemoryLimit(Params):
    """The hard memory limit of a group, bytes."""

    cgroup: Path
    limit: int = Field(ge=1024 * 1024, le=2**50)


class PidsLimit(Params):
    """How many tasks a group may have."""

    cgroup: Path
    limit: int = Field(ge=10, le=2**22)


class IoThrottle(Params):
    """The I/O limits to lift, as the kernel writes them."""

    cgroup: Path
    rules: str = Field(min_length=1, max_length=2000)


class IoRate(Params):
    """The bytes a second that a group may read and write on a device."""

    cgroup: Path
    device: str = Field(pattern=r"^[\w:-]+$", max_length=64)
    rate: int = Field(ge=64 * 1024, le=2**40)


def _radius(target: Target, group: Cgroup) -> str:
    count = target.members(group.path)
    unit = target.hypothesis.culprit.label("unit")
    return f"1 cgroup, {count} processes" + (f", service {unit}" if unit else "")


def _quota(cpus: float | None, group: Cgroup) -> str:
    """Write a quota as the kernel's file does for the group's period."""
    if cpus is None:
        return "max" if group.version == 2 else "-1 (none)"
    period = round((group.cpu_period or USUAL_PERIOD) * 1e6)
    return f"{round(cpus * period)} per {period} us ({cpus:g} CPUs)"


def set_cpu_quota(target: Target) -> Iterator[Draft]:
    """Lift a quota that throttles; or put one on what overloads the host."""
    group = target.cgroup("cpu", "cpu,cpuacct", "cpuacct,cpu", "")
    if group is None:
        return
    if group.cpu_quota is not None:
        wanted = None
    elif target.hypothesis.fault == "cpu.saturation":
        wanted = max(0.5, math.floor(target.observation.host.cpus * 0.5 * 10) / 10)
    else:
        return
    file = "cpu.max" if group.version == 2 else "cpu.cfs_quota_us"
    now, then = _quota(group.cpu_quota, group), _quota(wanted, group)
    yield Draft(
        params=CpuQuota(cgroup=group.path, cpus=wanted),
        preview=f"{file} of {group.path}: {now} -> {then}",
        blast_radius=_radius(target, group),
        rollback=f"{file} of {group.path}: {then} -> {now}",
        precheck=f"{file} of {group.path} still reads the same",
        verify=target.metrics,
    )


def set_memory_limit(target: Target) -> Iterator[Draft]:
    """Give a group that lacks memory half as much again, where the host has it."""
    group = target.cgroup("memory", "")
    if group is None or group.memory_limit is None:
        return
    wanted = int(group.memory_limit * 1.5) // PAGE * PAGE
    available = target.observation.window.last("system.memory.usage", state="available")
    if math.isnan(available) or wanted - group.memory_limit > available / 2:
        return
    file = "memory.max" if group.version == 2 else "memory.limit_in_bytes"
    yield Draft(
        params=MemoryLimit(cgroup=group.path, limit=wanted),
        preview=f"{file} of {group.path}: {group.memory_limit} -> {wanted} "
        f"({_mib(group.memory_limit)} -> {_mib(wanted)} MiB)",
        blast_radius=f"{_radius(target, group)}; the host keeps {_mib(available - wanted + group.memory_limit)} MiB",
        rollback=f"{file} of {group.path}: {wanted} -> {group.memory_limit} (fails while more is in use)",
        precheck=f"{file} of {group.path} still reads the same and the host has the memory",
        verify=target.metrics,
    )


def _mib(count: float) -> int:
    return round(count / 2**20)


def set_pids_limit(target: Target) -> Iterator[Draft]:
    """Hold what forks without end; raise the limit of what ran into it."""
    group = target.cgroup("pids", "")
    if group is None:
        return
    members = target.members(group.path)
    if target.hypothesis.fault == "proc.fork_storm":
        wanted = max(64, 2 * members)
        if group.pids_limit is not None and group.pids_limit <= wanted:
            return
    elif group.pids_limit is not None:
        wanted = group.pids_limit * 2
    else:
        return
    now = group.pids_limit if group.pids_limit is not None else "max"
    yield Draft(
        params=PidsLimit(cgroup=group.path, limit=wanted),
        preview=f"pids.max of {group.path}: {now} -> {wanted}",
        blast_radius=f"{_radius(target, group)}; forks beyond the limit fail",
        rollback=f"pids.max of {group.path}: {wanted} -> {now}",
        precheck=f"pids.max of {group.path} still reads the same",
        verify=target.metrics,
    )


def lift_throttle(target: Target) -> Iterator[Draft]:
    """Lift the I/O limits that make a device look slow."""
    culprit = target.hypothesis.culprit
    for group in target.observation.after.cgroups.values():
        rules = [rule for rule in group.io_limits if rule.split()[:1] == [culprit.name]]
        if culprit.kind == "cgroup" and group.path == culprit.name:
            rules = list(group.io_limits)
        if not rules:
            continue
        file = "io.max" if group.version == 2 else "blkio.throttle.*"
        told = "; ".join(rules)
        yield Draft(
            params=IoThrottle(cgroup=group.path, rules=told[:2000]),
            preview=f"{file} of {group.path}: {told} -> no limit",
            blast_radius=f"{_radius(target, group)}; others on the device share it with them",
            rollback=f"{file} of {group.path}: no limit -> {told}",
            precheck=f"{file} of {group.path} still reads the same",
            verify=target.metrics,
        )


def limit_process(target: Target) -> Iterator[Draft]:
    """Hold the group of the process that fills a device to half of what it moved in the window."""
    group = target.cgroup("blkio", "io", "")
    name = target.hypothesis.culprit.label("device") or ""
    device = target.observation.after.devices.get(name)
    window, process = target.observation.window, target.process
    if group is None or device is None or process is None:
        return
    moved = window.mean("process.disk.io", pid=process.pid)
    if not moved > 0:
        return
    wanted = max(int(moved / 2), 64 * 1024)
    file = "io.max" if group.version == 2 else "blkio.throttle.{read,write}_bps_device"
    now = "; ".join(rule for rule in group.io_limits if rule.split()[:1] == [name]) or "no limit"
    yield Draft(
        params=IoRate(cgroup=group.path, device=name, rate=wanted),
        preview=f"{file} of {group.path} for {name} ({device.major_minor}): {now}, {moved:.0f} bytes/s moved "
        f"-> {wanted} bytes/s each way",
        blast_radius=f"{_radius(target, group)}; their I/O takes about twice as long",
        rollback=f"{file} of {group.path} for {name}: {wanted} -> {now}",
        precheck=f"{file} of {group.path} still reads the same; buffered writes are held on v2 only",
        verify=target.metrics,
    )


ACTIONS = (
    Spec("cgroup.set_cpu_quota", "lift or set a CPU quota", CpuQuota, LOCAL, set_cpu_quota),
    Spec("cgroup.set_memory_limit", "raise a memory limit", MemoryLimit, LOCAL, set_memory_limit),
    Spec("cgroup.set_pids_limit", "set or raise the limit of tasks", PidsLimit, LOCAL, set_pids_limit),
    Spec("io.lift_throttle", "lift I/O limits of control groups on a device", IoThrottle, LOCAL, lift_throttle),
    Spec("io.limit_process", "hold the I/O of a process's control group", IoRate, LOCAL, limit_process),
)
