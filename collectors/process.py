"""Every process: CPU, memory, faults, I/O, threads, files, waiting, state, and what its dead children used.

Source: /proc/PID/stat every tick; where that changed or the process runs or is blocked, also statm, io, schedstat and
the number of open files; every fifth tick status (context switches, swap) for all, and limits now and then. Times of
stat are clock ticks (10 ms); blkio delay needs delay accounting (``kernel.task_delayacct``). io needs root or the
same user. Run delay and context switches are summed over the threads while the tick's budget of threads lasts, so
on hosts with thousands of busy threads some processes are read less often.

It cannot follow a process that lives for less than two ticks (they show in their parent's reaped children, in
`endings` and in the eBPF events), and it follows at most `MAX_PROCESSES`. A pid that is reused within a window
continues its series.
Measured: 33 µs a tick and process where a third are busy; 5 µs for one at rest, 7 µs for each further busy thread.
"""

from __future__ import annotations

import os
import resource

import numpy as np

from collectors.base import Capability, Reading, Roots
from collectors.endings import Endings
from collectors.process_record import Budget, ProcessRecord, Vanished
from wardround.models.series import Catalogue, FloatArray, Frame, IntArray

MAX_PROCESSES = 4096
SWEEP_EVERY = 5
REST_FROM = 300  # followed processes above which those at rest are read on sweeps only
THREADS_A_TICK = 256
THREADS_A_SWEEP = 1024


class ProcessCollector:
    """Follows the processes of the host."""

    name = "collectors.process"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._proc = roots.proc
        self._zombie_id = catalogue.id("linux.processes.zombie")
        self._followed: dict[str, ProcessRecord] = {}
        self._zombies: set[str] = set()
        self._fresh: set[str] = set()
        self._reads = 0
        self._endings = Endings(catalogue, roots.proc)
        self._budget = Budget(files=resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self.partial = ""

    def probe(self) -> Capability:
        try:
            if any(name.isdigit() for name in os.listdir(self._proc)):
                return Capability(True)
        except OSError:
            pass
        return Capability(False, f"{self._proc} shows no processes", "mount /proc")

    def start(self) -> None:
        self.stop()
        self._reads = 0
        self._budget.learn(self._proc)
        if os.geteuid() != 0:
            self.partial = "I/O and open files of other users' processes need root"

    def read(self, time: float, clock: float) -> Reading:
        sweep = self._reads % SWEEP_EVERY == 0
        self._budget.threads = THREADS_A_SWEEP if sweep else THREADS_A_TICK
        self._choose(sweep)
        rest_allowed = len(self._followed) > REST_FROM and not sweep
        ids: list[IntArray] = []
        values: list[FloatArray] = []
        for pid, record in list(self._followed.items()):
            if rest_allowed and record.at_rest:
                continue
            try:
                record.update(self._budget, sweep)
            except (ProcessLookupError, FileNotFoundError):
                self._endings.ended(pid, record.stat)
                self._drop(pid)
                continue
            except (Vanished, OSError, ValueError):
                self._drop(pid)
                continue
            if record.zombie:
                self._endings.ended(pid, record.stat, zombie=True)
                self._drop(pid)
                self._zombies.add(pid)
                continue
            ids.append(record.ids)
            values.append(record.values)
        endings = self._endings.frame(time, clock)
        ids += [np.array([self._zombie_id], np.int64), endings.ids]
        values += [np.array([float(len(self._zombies))]), endings.values]
        self._reads += 1
        all_values = np.concatenate(values)
        seen = ~np.isnan(all_values)
        return Reading(Frame(time, clock, np.concatenate(ids)[seen], all_values[seen]))

    def stop(self) -> None:
        for pid in list(self._followed):
            self._drop(pid)
        self._zombies.clear()
        self._fresh.clear()
        self._endings.clear()

    def _choose(self, sweep: bool) -> None:
        """Follow what is there for the second time (at the first read, all), let go of what has gone."""
        present = {name for name in os.listdir(self._proc) if name.isdigit()}
        for pid in self._followed.keys() - present:
            self._endings.ended(pid, self._followed[pid].stat)
            self._drop(pid)
        if sweep:  # a zombie's pid may have been reaped and given away since
            self._fresh |= self._zombies
            self._zombies.clear()
        else:
            self._zombies &= present
        unknown = present - self._followed.keys() - self._zombies
        old_enough = unknown if self._reads == 0 else unknown & self._fresh
        self._fresh = unknown - old_enough
        self._endings.look(present, self._fresh)
        room = MAX_PROCESSES - len(self._followed)
        if len(old_enough) > room:
            self.partial = f"{len(present)} processes, the busiest {MAX_PROCESSES} are followed"
            old_enough = set(sorted(old_enough, key=self._weight, reverse=True)[: max(0, room)])
        for pid in old_enough:
            self._followed[pid] = ProcessRecord(self._catalogue, self._proc, pid)

    def _weight(self, pid: str) -> float:
        """Return roughly how much a process matters: CPU seconds so far plus a second for each 10 MiB."""
        try:
            with open(f"{self._proc}/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            return (int(fields[11]) + int(fields[12])) / 100 + int(fields[21]) / 2560
        except (OSError, ValueError, IndexError):
            return 0.0

    def _drop(self, pid: str) -> None:
        self._followed.pop(pid).close(self._budget)
