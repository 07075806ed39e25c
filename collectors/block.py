"""Block devices: volume, operations, time and queue of every disk, loop, device-mapper and RAID device in use.

Source: /proc/diskstats (the kernel's Documentation/admin-guide/iostats.rst), /sys/block for facts, /proc/self/mountinfo
to keep mounted partitions. Needs nothing. Measured cost: 0.05 ms a tick for ten devices.

Counters of a device that did nothing since boot are left out until it does. Partitions are left out while their
disk is listed, unless mounted. It cannot know which process caused a request (see the eBPF and process collectors),
nor the latency of single requests: only sums, so a mean over a tick.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from collectors.base import Capability, Reading, Roots
from wardround.models.series import Catalogue, Frame
from wardround.models.topology import BlockDevice

SECTOR = 512  # the unit of diskstats whatever the device's own block size
MILLI = 1e-3

# column of diskstats (counted after major, minor, name) -> metric, direction, unit of the column
COLUMNS: tuple[tuple[int, str, str, float], ...] = (
    (0, "system.disk.operations", "read", 1.0),
    (2, "system.disk.io", "read", SECTOR),
    (3, "system.disk.operation_time", "read", MILLI),
    (4, "system.disk.operations", "write", 1.0),
    (6, "system.disk.io", "write", SECTOR),
    (7, "system.disk.operation_time", "write", MILLI),
    (8, "linux.disk.inflight", "", 1.0),
    (9, "system.disk.io_time", "", MILLI),
    (10, "linux.disk.queue_time", "", MILLI),
    (11, "system.disk.operations", "discard", 1.0),
    (14, "system.disk.operation_time", "discard", MILLI),
    (15, "system.disk.operations", "flush", 1.0),
    (16, "system.disk.operation_time", "flush", MILLI),
)
MOUNTS_EVERY = 10  # reads between looks at what is mounted


class BlockCollector:
    """Collector of /proc/diskstats."""

    name = "collectors.block"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._stats = Path(roots.proc, "diskstats")
        self._mountinfo = Path(roots.proc, "self/mountinfo")
        self._sys = Path(roots.sys)
        self._mounted: set[bytes] = set()
        self._reads = 0
        self._known: dict[bytes, tuple[list[int], list[int], list[float]] | None] = {}

    def probe(self) -> Capability:
        if not os.access(self._stats, os.R_OK):
            return Capability(False, f"{self._stats} cannot be read", "a kernel with block devices and /proc mounted")
        return Capability(True)

    def start(self) -> None:
        self._reads = 0

    def read(self, time: float, clock: float) -> Reading:
        if self._reads % MOUNTS_EVERY == 0:
            self._look_at_mounts()
        self._reads += 1
        ids: list[int] = []
        values: list[float] = []
        try:
            text = self._stats.read_bytes()
        except OSError:
            return Reading(Frame.empty(time, clock))
        for line in text.splitlines():
            fields = line.split()
            if len(fields) < 14:
                continue
            plan = self._plan(fields)
            if plan is None:
                continue
            numbers, columns, units = plan
            ids += numbers
            values += [int(fields[3 + column]) * unit for column, unit in zip(columns, units, strict=True)]
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        self._known.clear()

    def _plan(self, fields: list[bytes]) -> tuple[list[int], list[int], list[float]] | None:
        """Return the series ids of a device with their columns and units; None for one that is left out."""
        key = fields[2]
        known = self._known.get(key)
        if known is not None:
            return known
        if fields[3] == b"0" and fields[7] == b"0" and fields[0] + b":" + fields[1] not in self._mounted:
            return None
        if key in self._known:  # a partition, looked at before
            return None
        name = key.decode("utf-8", "replace")
        if self._is_partition(name) and fields[0] + b":" + fields[1] not in self._mounted:
            self._known[key] = None
            return None
        columns = [row for row in COLUMNS if 3 + row[0] < len(fields)]
        numbers = [
            self._catalogue.id(metric, device=name, direction=direction)
            if direction
            else self._catalogue.id(metric, device=name)
            for _, metric, direction, _ in columns
        ]
        plan = (numbers, [row[0] for row in columns], [row[3] for row in columns])
        self._known[key] = plan
        return plan

    def _is_partition(self, name: str) -> bool:
        return (self._sys / "class/block" / name.replace("/", "!") / "partition").exists()

    def _look_at_mounts(self) -> None:
        try:
            lines = self._mountinfo.read_bytes().splitlines()
        except OSError:
            return
        mounted = {fields[2] for line in lines if len(fields := line.split(b" ", 4)) > 3}
        if mounted != self._mounted:
            self._mounted = mounted
            for key in [key for key, plan in self._known.items() if plan is None]:
                del self._known[key]  # a partition may have been mounted since


def snapshot_devices(roots: Roots | None = None) -> dict[str, BlockDevice]:
    """Return the block devices with a size, by kernel name (``sda``, ``loop0``), partitions included.

    `backing` is a loop's file, a partition's disk, or what a device-mapper or RAID device lies on, comma-separated.
    """
    base = Path((roots or Roots()).sys, "class/block")
    try:
        names = sorted(os.listdir(base))
    except OSError:
        return {}
    devices = {}
    for name in names:
        device = _device(base / name, name.replace("!", "/"))
        if device is not None:
            devices[device.name] = device
    return devices


def _device(folder: Path, name: str) -> BlockDevice | None:
    size = _text(folder / "size")
    if not size.isdigit() or size == "0":
        return None
    partition = (folder / "partition").exists()
    disk = Path(os.path.realpath(folder)).parent if partition else folder
    if partition:
        backing = disk.name.replace("!", "/")
    elif loop := _text(folder / "loop/backing_file"):
        backing = loop
    else:
        backing = ",".join(_list(folder / "slaves"))
    scheduler = _text(disk / "queue/scheduler")
    if "[" in scheduler:  # "none [mq-deadline] kyber"
        scheduler = scheduler.partition("[")[2].partition("]")[0]
    return BlockDevice(
        name=name,
        major_minor=_text(folder / "dev"),
        size=int(size) * SECTOR,
        rotational=_text(disk / "queue/rotational") == "1",
        readonly=_text(folder / "ro") == "1",
        backing=backing,
        scheduler=scheduler,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _list(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []
