"""NUMA nodes: where pages were allocated, how full each node is, and where large processes' memory lies.

Source: /sys/devices/system/node/node*/{numastat,meminfo}, /proc/PID/numa_maps. Needs root for other users' processes.
Measured cost: 0.2 ms a node, every fifth tick. numa_maps costs the kernel a walk of the whole address space, so it is
read only on hosts with several nodes, for processes above 512 MiB, every thirty seconds, within a deadline.

It cannot know whether remote memory hurts: that depends on the distance and on what the process does with it.
"""

from __future__ import annotations

import os
import re
from glob import glob
from time import monotonic

import numpy as np

from collectors.base import Capability, Reading, Roots
from wardround.models.series import Catalogue, Frame

LARGE = 512 << 20  # bytes resident
MAPS_EVERY = 30.0  # seconds
MAPS_SECONDS = 0.2
MOST = 16  # processes, largest first
KEYS = frozenset({"numa_hit", "numa_miss", "numa_foreign", "local_node", "other_node", "interleave_hit"})
STATES = {"MemTotal": "total", "MemFree": "free"}
_MEMORY = re.compile(r"^Node \d+ (\w+):\s+(\d+) kB", re.MULTILINE)
_PLACED = re.compile(rb" N(\d+)=(\d+)")
_PAGE_SIZE = re.compile(rb"kernelpagesize_kB=(\d+)")


class NumaCollector:
    """Collector of NUMA counters and placements."""

    name = "collectors.numa"
    every = 5

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._roots = roots
        self._nodes: list[tuple[str, str]] = []
        self._next_maps = float("-inf")

    def probe(self) -> Capability:
        self.start()
        return Capability(True) if self._nodes else Capability(False, "the kernel has no NUMA nodes (CONFIG_NUMA)")

    def start(self) -> None:
        folders = glob(f"{self._roots.sys}/devices/system/node/node[0-9]*")
        self._nodes = sorted((folder.rpartition("node")[2], folder) for folder in folders)

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []
        for node, folder in self._nodes:
            for line in _text(f"{folder}/numastat").splitlines():
                key, _, number = line.partition(" ")
                if key in KEYS and number.isdigit():
                    ids.append(self._catalogue.id("linux.numa", node=node, key=key))
                    values.append(float(number))
            for key, number in _MEMORY.findall(_text(f"{folder}/meminfo")):
                if key in STATES:
                    ids.append(self._catalogue.id("linux.numa.memory", node=node, state=STATES[key]))
                    values.append(float(number) * 1024)
        if len(self._nodes) > 1 and clock >= self._next_maps:
            self._next_maps = clock + MAPS_EVERY
            end = monotonic() + MAPS_SECONDS
            for pid in large_processes(self._roots):
                if monotonic() > end:
                    break
                for node, size in placement(f"{self._roots.proc}/{pid}/numa_maps").items():
                    ids.append(self._catalogue.id("linux.process.numa", pid=pid, node=node))
                    values.append(float(size))
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        return


def large_processes(roots: Roots, least: int = LARGE) -> list[int]:
    """Return the pids of processes with at least `least` bytes resident, largest first."""
    page = os.sysconf("SC_PAGE_SIZE")
    found = []
    for name in os.listdir(roots.proc):
        if name.isdigit():
            fields = _text(f"{roots.proc}/{name}/statm").split()
            if len(fields) > 1 and int(fields[1]) * page >= least:
                found.append((-int(fields[1]), int(name)))
    return [pid for _, pid in sorted(found)[:MOST]]


def placement(path: str) -> dict[str, int]:
    """Return ``{node: bytes}`` of one numa_maps; empty where it cannot be read."""
    sizes: dict[str, int] = {}
    try:
        with open(path, "rb") as file:
            for line in file:
                page = _PAGE_SIZE.search(line)
                unit = int(page[1]) * 1024 if page else 4096
                for node, pages in _PLACED.findall(line):
                    key = node.decode()
                    sizes[key] = sizes.get(key, 0) + int(pages) * unit
    except OSError:
        return {}
    return sizes


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
