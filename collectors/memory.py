"""Memory of the host: levels, paging and reclaim counters, free blocks by order.

Source: /proc/meminfo; of /proc/vmstat the keys pgfault pgmajfault pgpgin pgpgout pswpin pswpout oom_kill and those
beginning with allocstall_ compact_ kswapd_ numa_ pgmigrate_ pgscan_ pgsteal_ workingset_ (but the level
workingset_nodes), and of thp_ what tells success from fall-back; /proc/buddyinfo every fifth tick. Needs nothing.
It cannot tell who holds the memory. Measured: 0.22 ms a tick.
"""

from __future__ import annotations

import numpy as np

from collectors.base import Capability, Reading, Roots
from collectors.procfile import KeptFile, KeyedLines, read_or_none, unit_of_kib
from wardround.models.series import Catalogue, Frame

KIB = 1024.0
STATES = {
    "MemFree": "free",
    "MemAvailable": "available",
    "Buffers": "buffers",
    "Cached": "cached",
    "SUnreclaim": "slab_unreclaimable",
    "SReclaimable": "slab_reclaimable",
    "AnonPages": "anon",
    "Shmem": "shmem",
    "Dirty": "dirty",
    "Writeback": "writeback",
    "PageTables": "page_tables",
    "KernelStack": "kernel_stack",
    "Mlocked": "mlocked",
    "Committed_AS": "committed",
    "Hugetlb": "hugepages",
}
PAGING_KEYS = ("pgfault", "pgmajfault", "pgpgin", "pgpgout", "pswpin", "pswpout", "oom_kill")
THP_KEYS = (
    "thp_fault_alloc",
    "thp_fault_fallback",
    "thp_collapse_alloc",
    "thp_collapse_alloc_failed",
    "thp_split_page",
)
VMSTAT_PREFIXES = ("allocstall_", "compact_", "kswapd_", "numa_", "pgmigrate_", "pgscan_", "pgsteal_", "workingset_")
LEVELS_IN_VMSTAT = frozenset(["workingset_nodes"])
BUDDY_EVERY = 5


class MemoryCollector:
    """Levels and counters of /proc/meminfo, /proc/vmstat and /proc/buddyinfo."""

    name = "collectors.memory"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._meminfo = KeptFile(f"{roots.proc}/meminfo")
        self._vmstat = KeptFile(f"{roots.proc}/vmstat")
        self._buddyinfo = KeptFile(f"{roots.proc}/buddyinfo")
        self._mem_lines = KeyedLines(self._meminfo_series)
        self._vm_lines = KeyedLines(self._vmstat_series)
        self._swap_used = catalogue.id("system.paging.usage", state="used")
        self._reads = 0

    def probe(self) -> Capability:
        if read_or_none(self._meminfo) is None:
            return Capability(False, f"{self._meminfo.path} cannot be read", "mount /proc")
        return Capability(True)

    def start(self) -> None:
        self._reads = 0

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []
        if (text := read_or_none(self._meminfo)) is not None:
            self._add_meminfo(text, ids, values)
        if (text := read_or_none(self._vmstat)) is not None:
            values += self._vm_lines.values(text)
            ids += self._vm_lines.ids
        if self._reads % BUDDY_EVERY == 0 and (text := read_or_none(self._buddyinfo)) is not None:
            self._add_buddyinfo(text, ids, values)
        self._reads += 1
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        for file in (self._meminfo, self._vmstat, self._buddyinfo):
            file.close()

    def _meminfo_series(self, key: str) -> int | None:
        if key == "MemTotal":
            return self._catalogue.id("system.memory.limit")
        if key == "SwapFree":
            return self._catalogue.id("system.paging.usage", state="free")
        if key == "SwapTotal":  # becomes used = total - free
            return self._swap_used
        return self._catalogue.id("system.memory.usage", state=STATES[key]) if key in STATES else None

    def _add_meminfo(self, text: bytes, ids: list[int], values: list[float]) -> None:
        levels = [value * KIB for value in self._mem_lines.values(unit_of_kib(text))]
        found = self._mem_lines.ids
        free = self._catalogue.id("system.paging.usage", state="free")
        if self._swap_used in found and free in found:
            levels[found.index(self._swap_used)] -= levels[found.index(free)]
        ids += found
        values += levels

    def _vmstat_series(self, key: str) -> int | None:
        chosen = key in PAGING_KEYS or key in THP_KEYS or key.startswith(VMSTAT_PREFIXES)
        return self._catalogue.id("linux.vmstat", key=key) if chosen and key not in LEVELS_IN_VMSTAT else None

    def _add_buddyinfo(self, text: bytes, ids: list[int], values: list[float]) -> None:
        """Each line is ``Node 0, zone   Normal  93  2  357 …``: free blocks of order 0, 1, 2 …"""
        for line in text.decode("ascii", "replace").splitlines():
            fields = line.replace(",", " ").split()
            if len(fields) < 5 or fields[0] != "Node" or not all(f.isdigit() for f in fields[4:]):
                continue
            for order, blocks in enumerate(fields[4:]):
                ids.append(self._catalogue.id("linux.buddy.free", node=fields[1], zone=fields[3], order=order))
                values.append(float(blocks))
