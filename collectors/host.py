"""CPUs, tasks, load and host-wide limits.

Source: /proc/stat, /proc/schedstat (where the kernel has schedstats), /proc/loadavg; every fifth tick also
/proc/sys/fs/file-nr, the pid and thread limits, entropy, and cpufreq's current and nominal clock. Needs nothing.
Times of /proc/stat are in clock ticks, so a CPU's share over one second is good to 1 %. Measured: 0.26 ms a tick
with two CPUs.
"""

from __future__ import annotations

import os
import re
from glob import glob

import numpy as np

from collectors.base import Capability, Reading, Roots
from collectors.procfile import KeptFile, read_or_none
from wardround.models.series import Catalogue, Frame

CPU_STATES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
STAT_LINES = {
    b"intr": "system.interrupts",
    b"ctxt": "system.context_switches",
    b"processes": "system.process.created",
    b"procs_running": "linux.tasks.runnable",
    b"procs_blocked": "linux.tasks.blocked",
}
SLOW_EVERY = 5
SCHEDSTAT_RUN_DELAY = 8  # field of a cpu line, after its name: ns that tasks waited on this run queue
KHZ = 1e3


class HostCollector:
    """Host-wide CPU time, tasks, load and limits."""

    name = "collectors.host"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._roots = roots
        self._stat = KeptFile(f"{roots.proc}/stat")
        self._schedstat = KeptFile(f"{roots.proc}/schedstat")
        self._loadavg = KeptFile(f"{roots.proc}/loadavg")
        self._has_schedstat = False
        self._tick = 1.0 / os.sysconf("SC_CLK_TCK")
        self._cpu_ids: dict[bytes, list[int]] = {}
        self._frequencies: list[tuple[int, KeptFile]] = []
        self._reads = 0

    def probe(self) -> Capability:
        if read_or_none(self._stat) is None:
            return Capability(False, f"{self._stat.path} cannot be read", "mount /proc")
        return Capability(True)

    def start(self) -> None:
        self._reads = 0
        self._has_schedstat = read_or_none(self._schedstat) is not None
        self._frequencies = list(self._find_frequencies())

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []
        self._read_stat(ids, values)
        self._read_loadavg(ids, values)
        if self._has_schedstat:
            self._read_schedstat(ids, values)
        if self._reads % SLOW_EVERY == 0:
            self._read_limits(ids, values)
            self._read_frequencies(ids, values)
        self._reads += 1
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        for file in (self._stat, self._schedstat, self._loadavg, *(file for _, file in self._frequencies)):
            file.close()

    def _read_stat(self, ids: list[int], values: list[float]) -> None:
        cpus = 0
        for line in (read_or_none(self._stat) or b"").split(b"\n"):
            name, _, rest = line.partition(b" ")
            if name[:3] == b"cpu" and name[3:].isdigit():
                times = rest.split()[: len(CPU_STATES)]
                ids += self._ids_of_cpu(name)[: len(times)]
                values += [int(value) * self._tick for value in times]
                cpus += 1
            elif name in STAT_LINES and rest:
                ids.append(self._catalogue.id(STAT_LINES[name]))
                values.append(float(rest.split(b" ", 1)[0]))
        if cpus:
            ids.append(self._catalogue.id("system.cpu.logical.count"))
            values.append(cpus)

    def _ids_of_cpu(self, name: bytes) -> list[int]:
        known = self._cpu_ids.get(name)
        if known is None:
            cpu = name[3:].decode()
            known = [self._catalogue.id("system.cpu.time", cpu=cpu, state=state) for state in CPU_STATES]
            self._cpu_ids[name] = known
        return known

    def _read_loadavg(self, ids: list[int], values: list[float]) -> None:
        fields = (read_or_none(self._loadavg) or b"").split()
        if len(fields) < 4:
            return
        _, _, tasks = fields[3].partition(b"/")
        ids += [self._catalogue.id("linux.load_1m"), self._catalogue.id("linux.tasks.count")]
        values += [float(fields[0]), float(tasks)]

    def _read_schedstat(self, ids: list[int], values: list[float]) -> None:
        for line in (read_or_none(self._schedstat) or b"").split(b"\n"):
            if line[:3] == b"cpu" and len(fields := line.split()) > SCHEDSTAT_RUN_DELAY:
                ids.append(self._catalogue.id("linux.cpu.run_delay", cpu=fields[0][3:].decode()))
                values.append(int(fields[SCHEDSTAT_RUN_DELAY]) * 1e-9)

    def _read_limits(self, ids: list[int], values: list[float]) -> None:
        open_files = self._sysctl("fs/file-nr")
        limits = self._sysctl("kernel/threads-max")[:1] + self._sysctl("kernel/pid_max")[:1]
        entropy = self._sysctl("kernel/random/entropy_avail")
        if len(open_files) >= 3:
            ids += [self._catalogue.id("linux.fd.open"), self._catalogue.id("linux.fd.limit")]
            values += [open_files[0], open_files[2]]
        if limits:
            ids.append(self._catalogue.id("linux.tasks.limit"))
            values.append(min(limits))
        if entropy:
            ids.append(self._catalogue.id("linux.entropy"))
            values.append(entropy[0])

    def _sysctl(self, name: str) -> list[float]:
        file = KeptFile(f"{self._roots.proc}/sys/{name}")
        text = read_or_none(file) or b""
        file.close()
        return [float(word) for word in text.split() if word.isdigit()]

    def _find_frequencies(self) -> list[tuple[int, KeptFile]]:
        """Return cpufreq's files with the series each feeds; the nominal clock is the base where the driver says it."""
        found = []
        for folder in glob(f"{self._roots.sys}/devices/system/cpu/cpu[0-9]*/cpufreq"):
            match = re.search(r"/cpu(\d+)/cpufreq$", folder)
            nominal = next((f for f in ("base_frequency", "cpuinfo_max_freq") if os.path.exists(f"{folder}/{f}")), None)
            if match is None:
                continue
            now = self._catalogue.id("system.cpu.frequency", cpu=match[1])
            found.append((now, KeptFile(f"{folder}/scaling_cur_freq")))
            if nominal is not None:
                usual = self._catalogue.id("linux.cpu.frequency.nominal", cpu=match[1])
                found.append((usual, KeptFile(f"{folder}/{nominal}")))
        return found

    def _read_frequencies(self, ids: list[int], values: list[float]) -> None:
        for number, file in self._frequencies:
            text = (read_or_none(file) or b"").strip()
            if text.isdigit():
                ids.append(number)
                values.append(int(text) * KHZ)
