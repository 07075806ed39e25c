"""Control groups: CPU use and throttling, memory against limits and its events, tasks, I/O, pressure.

Source: of v1 cpu.stat, cpuacct.usage, memory.{usage_in_bytes,stat,failcnt,oom_control} with limits, pids.*,
blkio.throttle.*; of v2 cpu.stat, memory.{current,stat,events,swap.current} with limits, pids.*, io.stat and the
pressure files. On a hybrid host each path is one group: what a v1 controller accounts is taken from it, the rest from
v2. Needs mounted cgroup filesystems. A group that used no CPU since the last look is looked at again only every
fifth tick (its memory may have been reclaimed by others meanwhile). At most `MAX_GROUPS` are followed, those with
processes first. Measured: 80 µs a tick and group where half of the groups are busy in six v1 hierarchies.
"""

from __future__ import annotations

import resource

import numpy as np

from collectors.base import Capability, Reading, Roots
from collectors.cgroup_record import CgroupRecord
from collectors.cgroup_tree import Hierarchy, hierarchies, walk
from wardround.models.series import Catalogue, Frame

MAX_GROUPS = 2000
SWEEP_EVERY = 5


class CgroupCollector:
    """Follows the control groups of the host."""

    name = "collectors.cgroup"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._roots = roots
        self._hierarchies: tuple[Hierarchy, ...] = ()
        self._groups: dict[str, CgroupRecord] = {}
        self._members: dict[str, tuple[int, ...]] = {}
        self._files_left = 0
        self._reads = 0
        self.partial = ""

    def probe(self) -> Capability:
        if not hierarchies(self._roots):
            return Capability(False, "no cgroup filesystem is mounted", "mount -t cgroup2 none /sys/fs/cgroup")
        return Capability(True)

    def start(self) -> None:
        self.stop()
        self._reads = 0
        self._hierarchies = hierarchies(self._roots)
        self._files_left = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4

    def read(self, time: float, clock: float) -> Reading:
        sweep = self._reads % SWEEP_EVERY == 0
        if sweep:
            self._choose()
        self._reads += 1
        ids: list[int] = []
        values: list[float] = []
        for record in self._groups.values():
            record.update(sweep)
            ids += record.values.keys()
            values += record.values.values()
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        for path in list(self._groups):
            self._drop(path)

    def _choose(self) -> None:
        """Follow the groups that exist now, with the hierarchies each is in."""
        members: dict[str, list[int]] = {}
        for number, hierarchy in enumerate(self._hierarchies):
            for path in walk(hierarchy.mount):
                members.setdefault(path, []).append(number)
        if len(members) > MAX_GROUPS:
            self.partial = f"{len(members)} control groups, {MAX_GROUPS} are followed, those with processes first"
            chosen = sorted(members, key=lambda path: (not self._has_processes(path, members[path]), path.count("/")))
            members = {path: members[path] for path in chosen[:MAX_GROUPS]}
        for path in list(self._groups):
            if self._members[path] != tuple(members.get(path, ())):
                self._drop(path)
        for path, numbers in members.items():
            if path not in self._groups:
                self._follow(path, tuple(numbers))

    def _has_processes(self, path: str, numbers: list[int]) -> bool:
        for number in numbers:
            try:
                with open(self._hierarchies[number].folder(path) + "/cgroup.procs", "rb") as file:
                    if file.read(1):
                        return True
            except OSError:
                continue
        return False

    def _follow(self, path: str, numbers: tuple[int, ...]) -> None:
        record = CgroupRecord(self._catalogue, self._roots, path, [self._hierarchies[n] for n in numbers])
        record.keep = self._files_left >= record.files
        self._files_left -= record.files if record.keep else 0
        self._groups[path] = record
        self._members[path] = numbers

    def _drop(self, path: str) -> None:
        record = self._groups.pop(path)
        del self._members[path]
        record.close()
        self._files_left += record.files if record.keep else 0
