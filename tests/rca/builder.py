"""Builds observations out of levels and rates, so that a test says only what matters to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from wardround.models.diagnosis import Coverage
from wardround.models.observation import Observation
from wardround.models.records import KernelEvent, LogRecord
from wardround.models.series import Baseline, Series, Window
from wardround.models.topology import Host, Process, TopologySnapshot

START = 1_790_000_000.0
CPUS = 2
HOST = Host("h1", "6.12", "b" * 32, START - 86400, CPUS, 8 * 2**30, 4096, 100, (1, 2), root=True)


def process(pid: int, name: str = "app", **facts: object) -> Process:
    """Return a process that has run for an hour, child of init."""
    base = Process(pid, 1, name, START - 3600, "S", cmdline=name, exe=f"/usr/bin/{name}", affinity=tuple(range(CPUS)))
    return replace(base, **facts)


class HostBuilder:
    """Collects series and topology; `build` makes the observation. Counters are given as rates per second."""

    def __init__(self, ticks: int = 11, idle: float = 0.9) -> None:
        self.clock = np.arange(float(ticks))
        self.columns: dict[Series, np.ndarray] = {}
        self.processes: list[Process] = []
        self.gone: list[Process] = []
        self.logs: list[LogRecord] = []
        self.events: list[KernelEvent] = []
        self.after: dict[str, object] = {}
        self.before: dict[str, object] = {}
        for cpu in range(CPUS):
            self.rate("system.cpu.time", idle, cpu=cpu, state="idle")
            self.rate("system.cpu.time", 1.0 - idle, cpu=cpu, state="user")
        for resource in ("cpu", "memory", "io"):
            self.rate(f"linux.psi.{resource}.some", 0.0)
        self.level("system.memory.limit", 8 * 2.0**30)
        self.level("system.memory.usage", 6 * 2.0**30, state="available")
        self.level("linux.tasks.runnable", 1.0)

    def level(self, name: str, value: float | Iterable[float], **labels: object) -> HostBuilder:
        """Set a gauge, one value or one a tick."""
        values = np.broadcast_to(np.asarray(value, dtype=float), self.clock.shape)
        self.columns[Series.of(name, **labels)] = values.copy()
        return self

    def rate(self, name: str, per_second: float, start: float = 100.0, **labels: object) -> HostBuilder:
        """Set a counter that rises evenly."""
        self.columns[Series.of(name, **labels)] = start + per_second * self.clock
        return self

    def runs(self, who: Process, cpu: float = 0.0, waits: float = 0.0) -> HostBuilder:
        """Add a process that uses and waits for so many CPUs."""
        self.processes.append(who)
        self.rate("process.cpu.time", cpu, pid=who.pid, state="user")
        self.rate("linux.process.run_delay", waits, pid=who.pid)
        return self

    def build(self) -> Observation:
        series = tuple(self.columns)
        window = Window(START + self.clock, 500.0 + self.clock, np.column_stack(list(self.columns.values())), series)
        living = {p.pid: p for p in self.processes}
        used = {p.pid: p for p in [*self.processes, *self.gone]}
        grown = {
            pid: replace(p, cpu_time=p.cpu_time + window.seconds * self._cpu(pid)) if self._cpu(pid) else p
            for pid, p in living.items()
        }
        return Observation(
            host=HOST,
            window=window,
            baseline=Baseline.unknown(len(series)),
            before=TopologySnapshot(START, used, **self.before),
            after=TopologySnapshot(START + window.seconds, grown, **self.after),
            logs=tuple(self.logs),
            events=tuple(self.events),
            coverage=Coverage(("collectors.host", "collectors.process", "collectors.memory")),
            own_pids=frozenset({1}),
        )

    def _cpu(self, pid: int) -> float:
        column = self.columns.get(Series.of("process.cpu.time", pid=pid, state="user"))
        return float(column[1] - column[0]) if column is not None else 0.0
