"""The observation as the fault models read it: what each process, cgroup, device and namespace did in the window.

Everything is derived once, from whole arrays, and kept. Own processes are left out of every table, so that looking
at a host is never blamed for its state.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from wardround.models.anomaly import Anomaly
from wardround.models.observation import Observation
from wardround.models.series import FloatArray, Window
from wardround.models.topology import Host, Process

# Programs that run others: two of them are alike only when they run the same thing.
_INTERPRETERS = ("python", "perl", "ruby", "node", "java", "bash", "sh", "dash", "zsh", "php", "busybox")


@dataclass(frozen=True)
class Group:
    """Like workers and their leader: same program under the same parent, or forked from the leader itself."""

    leader: Process
    members: tuple[Process, ...]

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(p.pid for p in self.members)


P = ParamSpec("P")
T = TypeVar("T")


def per_view(table: Callable[Concatenate[View, P], T]) -> Callable[Concatenate[View, P], T]:
    """Keep what `table` returns with the view it was asked of: several questions read the same table.

    Arguments must be hashable, and callers share the result: they do not change it.
    """

    @wraps(table)
    def remembered(view: View, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (table, args, tuple(sorted(kwargs.items())))
        if key not in view.tables:
            view.tables[key] = table(view, *args, **kwargs)
        kept: T = view.tables[key]
        return kept

    return remembered


class View:
    """Read-only access to one observation. Rates are per second over the window; sizes are bytes."""

    def __init__(self, observation: Observation, anomalies: tuple[Anomaly, ...] = ()) -> None:
        self.observation = observation
        self.anomalies = anomalies
        self.tables: dict[Hashable, Any] = {}  # what `per_view` keeps

    @property
    def window(self) -> Window:
        return self.observation.window

    @property
    def host(self) -> Host:
        return self.observation.host

    @cached_property
    def seconds(self) -> float:
        return max(self.window.seconds, 1e-3)

    @cached_property
    def uptime(self) -> float:
        return max(self.observation.start - self.host.boot_time, 1.0)

    # --- processes ---

    @cached_property
    def processes(self) -> dict[int, Process]:
        """Every user process seen at either end of the window, as last seen, ours left out."""
        own = self.observation.own_pids
        seen = {**self.observation.before.processes, **self.observation.after.processes}
        return {pid: p for pid, p in seen.items() if pid not in own}

    @cached_property
    def users(self) -> dict[int, Process]:
        return {pid: p for pid, p in self.processes.items() if not p.kernel}

    def both(self, pid: int) -> tuple[Process, Process] | None:
        """Return a process as it stood at both ends, None unless the same one lived through the whole window."""
        first, last = self.observation.before.processes.get(pid), self.observation.after.processes.get(pid)
        if first is None or last is None or abs(first.start - last.start) > 1.0:
            return None
        return first, last

    @per_view
    def per_pid(self, name: str, /, **labels: object) -> dict[int, float]:
        """Return ``{pid: rate}`` of a counter, or ``{pid: last level}`` of a gauge, summed over other labels."""
        columns = self.window.columns(name, **labels)
        if not columns or not len(self.window.times):
            return {}
        values = self.window.values[:, columns]
        if self.window.series[columns[0]].metric.kind == "counter":
            if len(values) < 2:
                return {}
            steps = np.diff(filled(values), axis=0)
            amounts = np.nansum(np.where(steps > 0, steps, 0.0), axis=0) / self.seconds
        else:
            amounts = filled(values)[-1]
        out: dict[int, float] = {}
        own = self.observation.own_pids
        for column, amount in zip(columns, amounts, strict=True):
            pid = int(self.window.series[column].label("pid") or 0)
            if pid not in own and not np.isnan(amount):
                out[pid] = out.get(pid, 0.0) + float(amount)
        return out

    def pid_levels(self, name: str, pid: int, **labels: object) -> FloatArray:
        """Return ``[T]`` levels of one process (counters as rates)."""
        return self.window.level(name, pid=pid, **labels)

    @cached_property
    def cpu(self) -> dict[int, float]:
        """CPUs kept busy, by process."""
        return self.per_pid("process.cpu.time")

    @cached_property
    def run_delay(self) -> dict[int, float]:
        """CPUs waited for, by process: seconds per second its threads were runnable without one."""
        return self.per_pid("linux.process.run_delay")

    @cached_property
    def groups(self) -> list[Group]:
        """Every user process in the group of its like, the busiest group first."""
        members: dict[int, list[Process]] = {}
        for process in self.users.values():
            members.setdefault(self.leader(process).pid, []).append(process)
        found = [Group(self.users[pid], tuple(group)) for pid, group in members.items()]
        return sorted(found, key=lambda g: -sum(self.cpu.get(p.pid, 0.0) for p in g.members))

    @cached_property
    def _group_by_pid(self) -> dict[int, Group]:
        return {process.pid: group for group in self.groups for process in group.members}

    @cached_property
    def _first_alike(self) -> dict[tuple[int, str, str], int]:
        """The oldest process of each (parent, program, command line)."""
        first: dict[tuple[int, str, str], Process] = {}
        for process in self.users.values():
            key = (process.ppid, *_program(process))
            if key not in first or (process.start, process.pid) < (first[key].start, first[key].pid):
                first[key] = process
        return {key: process.pid for key, process in first.items()}

    def leader(self, process: Process) -> Process:
        """Return who stands for a process: its topmost like ancestor, else the oldest like sibling."""
        seen = {process.pid}
        while (parent := self.users.get(process.ppid)) is not None and alike(parent, process):
            if parent.pid in seen:
                break
            seen.add(parent.pid)
            process = parent
        if process.ppid in (0, 1) and not process.cmdline:
            return process
        first = self._first_alike.get((process.ppid, *_program(process)), process.pid)
        return self.users.get(first, process)

    def group_of(self, pid: int) -> Group:
        """Return the group a process belongs to (of its own if it is unknown)."""
        if (group := self._group_by_pid.get(pid)) is not None:
            return group
        process = self.processes.get(pid) or Process(pid, 0, "?", 0.0, "?")
        return Group(process, (process,))

    def name(self, pid: int) -> str:
        process = self.processes.get(pid)
        return process.name if process else "?"

    # --- host ---

    @cached_property
    def cpus(self) -> int:
        return max(self.host.cpus, 1)

    @cached_property
    def cpu_shares(self) -> dict[str, float]:
        """Share of all CPU time by state over the window; sums to 1."""
        states = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
        spent = {s: max(np.nan_to_num(self.window.increase("system.cpu.time", state=s)), 0.0) for s in states}
        total = sum(spent.values())
        return {s: v / total for s, v in spent.items()} if total > 0 else {}

    @cached_property
    def idle(self) -> float:
        """Share of CPU time with nothing to run (idle and iowait); NaN if unknown."""
        shares = self.cpu_shares
        return shares["idle"] + shares["iowait"] if shares else float("nan")

    @cached_property
    def idle_by_cpu(self) -> dict[int, float]:
        """Share of each CPU's time in which it had nothing to run."""
        out: dict[int, float] = {}
        for cpu, columns in self.window.entities("system.cpu.time", "cpu").items():
            steps = np.nansum(np.diff(self.window.values[:, columns], axis=0), axis=0)
            total = steps.sum()
            quiet = sum(
                step
                for column, step in zip(columns, steps, strict=True)
                if self.window.series[column].label("state") in ("idle", "iowait")
            )
            if total > 0 and cpu.isdigit():
                out[int(cpu)] = float(quiet / total)
        return out

    def pressure(self, resource: str, kind: str = "some") -> float:
        """Share of the window in which some (or all) tasks stalled on `resource`; NaN without PSI."""
        rise = self.window.increase(f"linux.psi.{resource}.{kind}")
        return rise / self.seconds

    def vmstat(self, key: str) -> float:
        """Rate of a /proc/vmstat counter."""
        return self.window.increase("linux.vmstat", key=key) / self.seconds


def _program(process: Process) -> tuple[str, str]:
    """What makes two processes alike: the program, and for an interpreter also what it runs."""
    program = process.exe or process.name
    base = os.path.basename(program)
    if base.startswith(_INTERPRETERS):
        return program, process.cmdline
    return program, ""


def alike(parent: Process, child: Process) -> bool:
    """Whether a child is one more worker of its parent (a fork, or the same program with its own title)."""
    return _program(parent) == _program(child) and not child.kernel and parent.pid > 1


def filled(values: FloatArray) -> FloatArray:
    """Carry the last seen value forward over gaps ``[T, S]`` (sources read less often leave NaN between)."""
    known = ~np.isnan(values)
    rows = np.where(known, np.arange(len(values))[:, None], 0)
    np.maximum.accumulate(rows, axis=0, out=rows)
    return values[rows, np.arange(values.shape[1])[None, :]]


def series_onset(window: Window, levels: FloatArray) -> float | None:
    """Return when a level left the half of its own range it started in; None if it was there from the start."""
    seen = ~np.isnan(levels)
    if seen.sum() < 4:
        return None
    times, level = window.times[seen], levels[seen]
    low, high = np.percentile(level, [10, 90])
    if high <= low or level[0] > (low + high) / 2:
        return None
    above = np.flatnonzero(level > (low + high) / 2)
    return float(times[above[0]]) if len(above) else None
