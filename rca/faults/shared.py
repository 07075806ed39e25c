"""Questions and small tools that several families use."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from rca.model import Finding, Measure
from rca.view import Group, View, series_onset
from wardround.models.diagnosis import Culprit
from wardround.models.topology import Process
from wardround.shell import command

MIB = 2.0**20


def process_culprit(process: Process, group: Group | None = None) -> Culprit:
    """Name a process as an operator would; a group of like workers by its leader, with how many it stands for."""
    labels = [("cmdline", process.cmdline[:120])] if process.cmdline else []
    if process.unit:
        labels.append(("unit", process.unit))
    if group is not None and len(group.members) > 1:
        labels.append(("workers", str(len(group.members))))
    return Culprit("process", process.name, process.pid, tuple(labels))


def group_culprits(view: View, amount: Callable[[Group], float], least: float, most: int = 3) -> list[Culprit]:
    """Name the groups with the largest amounts of something, from `least` on."""
    scored = [(amount(group), group) for group in view.groups]
    chosen = sorted((s for s in scored if s[0] >= least), key=lambda s: -s[0])[:most]
    return [process_culprit(group.leader, group) for _, group in chosen]


def over_group(view: View, culprit: Culprit, table: dict[int, float]) -> float:
    """Sum a per-process table over the culprit's group."""
    if culprit.pid is None:
        return 0.0
    return sum(table.get(pid, 0.0) for pid in view.group_of(culprit.pid).pids)


def who(culprit: Culprit) -> str:
    """``name (pid 12)``, or ``name (pid 12 and workers)`` where it stands for a group."""
    group = " and workers" if culprit.label("workers") else ""
    return f"{culprit.name} (pid {culprit.pid}{group})" if culprit.pid else culprit.name


def times(count: float) -> str:
    """``once``, ``twice``, ``7 times``."""
    return {1: "once", 2: "twice"}.get(round(count), f"{count:.0f} times")


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit in ("B", "KiB") else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def pressure(resource: str, kind: str = "some") -> Measure:
    """Build the question: how much of the window did tasks stall on a resource?"""

    def measure(view: View, _: Culprit) -> Finding | None:
        share = view.pressure(resource, kind)
        if np.isnan(share):
            return None
        usual = view.window.since_boot(view.uptime, f"linux.psi.{resource}.{kind}")
        tasks = "some task" if kind == "some" else "every task"
        return Finding(
            value=share,
            statement=f"{tasks} waited for {resource} during {share:.0%} of the window",
            values={"stalled_share": share},
            unit="1",
            baseline={"stalled_share_since_boot": usual},
            reproduce=f"cat /proc/pressure/{resource}",
            source="collectors.psi",
            series=(f"linux.psi.{resource}.{kind}",),
            onset=series_onset(view.window, view.window.level(f"linux.psi.{resource}.{kind}")),
        )

    return measure


def rise(view: View, name: str, **labels: object) -> float:
    """How much a counter rose over the window; 0 where it was not seen."""
    value = view.window.increase(name, **labels)
    return 0.0 if np.isnan(value) else value


def syscall_errors(view: View, *names: str) -> dict[int, float]:
    """Failing calls by process and second, for some errno names."""
    total: dict[int, float] = {}
    for name in names:
        for pid, rate in view.per_pid("linux.process.syscall.errors", errno=name).items():
            total[pid] = total.get(pid, 0.0) + rate
    return total


def cgroup_file(view: View, path: str, controller: str, v1: str = "", v2: str = "") -> str:
    """Return where a cgroup's file (or its folder) lies on this host; `v2` is left out where both have one name."""
    versions = view.host.cgroup_versions
    group = view.observation.after.cgroups.get(path)
    if (group.version if group is not None else min(versions, default=2)) == 1:
        return f"/sys/fs/cgroup/{controller}{path.rstrip('/')}/{v1}"
    unified = "/sys/fs/cgroup/unified" if 1 in versions else "/sys/fs/cgroup"
    return f"{unified}{path.rstrip('/')}/{v2 or v1}"


def in_logs(view: View, text: str) -> str:
    """Return the command that finds a text in this host's logs: its journal, or its log files where none is kept."""
    if "collectors.journal" in view.observation.coverage.ran:
        return command("journalctl -e -g {}", re.escape(text))
    return command("grep -rhF -- {} /var/log | tail", text)
