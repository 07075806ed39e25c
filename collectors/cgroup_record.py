"""One followed control group: its files, how each is understood, and its latest values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from collectors.base import Roots
from collectors.cgroup_tree import Hierarchy, cpu_quota, device_name, limit
from collectors.procfile import KeptFile, read_or_none
from wardround.models.series import Catalogue

V1_LEVELS = {"rss": "memory.anon", "cache": "memory.file", "swap": "memory.swap"}
V2_LEVELS = {"anon": "memory.anon", "file": "memory.file"}
V2_FAULTS = ("pgfault", "pgmajfault", "pgscan", "pgsteal", "workingset_refault_anon", "workingset_refault_file")
V1_FAULTS = ("pgfault", "pgmajfault", "pgpgin", "pgpgout", "workingset_refault_anon", "workingset_refault_file")
RETRY_EVERY = 12  # sweeps
EVENT_KEYS = ("low", "high", "max", "oom", "oom_kill")
PRESSURE = re.compile(rb"^(some|full) .*?\btotal=(\d+)", re.MULTILINE)
IO_STAT = {"rbytes": ("io", "read"), "wbytes": ("io", "write"),
           "rios": ("io.operations", "read"), "wios": ("io.operations", "write")}  # fmt: skip


class Row:
    """The values of a group by series id; numbering a series is remembered."""

    def __init__(self, catalogue: Catalogue, roots: Roots, path: str) -> None:
        self.values: dict[int, float] = {}
        self.roots = roots
        self._catalogue = catalogue
        self._path = path
        self._ids: dict[tuple[str, ...], int] = {}
        self._devices: dict[str, str] = {}

    def put(self, name: str, value: float | None, key: str = "", **labels: str) -> None:
        """Set ``linux.cgroup.<name>``; None takes it away (a limit that was lifted)."""
        number = self._id(name, key, **labels)
        if value is None:
            self.values.pop(number, None)
        else:
            self.values[number] = value

    def _id(self, name: str, key: str, **labels: str) -> int:
        known = self._ids.get((name, key, *labels.values()))
        if known is None:
            extra = {"key": key} if key else {}
            known = self._catalogue.id(f"linux.cgroup.{name}", cgroup=self._path, **extra, **labels)
            self._ids[name, key, *labels.values()] = known
        return known

    def device(self, major_minor: str) -> str:
        known = self._devices.get(major_minor)
        if known is None:
            known = self._devices[major_minor] = device_name(self.roots, major_minor)
        return known


def _pairs(text: bytes) -> dict[str, int]:
    fields = text.decode("ascii", "replace").split()
    return {key: int(value) for key, value in zip(fields[::2], fields[1::2], strict=False) if value.isdigit()}


def _v1_cpu_stat(text: bytes, row: Row) -> None:
    _throttling(_pairs(text), "throttled_time", 1e-9, row)


def _v2_cpu_stat(text: bytes, row: Row) -> None:
    stat = _pairs(text)
    if "usage_usec" in stat:
        row.put("cpu.usage", stat["usage_usec"] * 1e-6)
    _throttling(stat, "throttled_usec", 1e-6, row)


def _throttling(stat: dict[str, int], time_key: str, unit: float, row: Row) -> None:
    if "nr_periods" in stat:
        row.put("cpu.periods", stat["nr_periods"])
        row.put("cpu.throttled_periods", stat.get("nr_throttled", 0))
        row.put("cpu.throttled_time", stat.get(time_key, 0) * unit)


def _memory_stat(levels: dict[str, str], faults: tuple[str, ...], prefix: str = "") -> Callable[[bytes, Row], None]:
    """Return a parser of the chosen keys of memory.stat, whose 40 to 80 lines are too many to take all."""
    keys = "|".join((*levels, *faults))
    chosen = re.compile(rf"^{prefix}({keys}) (\d+)$".encode(), re.MULTILINE)

    def parse(text: bytes, row: Row) -> None:
        for found, number in chosen.findall(text):
            key = found.decode()
            if key in levels:
                row.put(levels[key], int(number))
            else:
                row.put("memory.faults", int(number), key)

    return parse


def _memory_events(text: bytes, row: Row) -> None:
    events = _pairs(text)
    for key in EVENT_KEYS:
        if key in events:
            row.put("memory.events", events[key], key)


def _v1_failcnt(text: bytes, row: Row) -> None:
    row.put("memory.events", int(text), "max")


def _pids_events(text: bytes, row: Row) -> None:
    events = _pairs(text)
    if "max" in events:
        row.put("pids.refused", events["max"])


def _v1_blkio(name: str) -> Callable[[bytes, Row], None]:
    def parse(text: bytes, row: Row) -> None:
        for line in text.decode("ascii", "replace").splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[1] in ("Read", "Write"):
                row.put(name, int(fields[2]), device=row.device(fields[0]), direction=fields[1].lower())

    return parse


def _v2_io_stat(text: bytes, row: Row) -> None:
    for line in text.decode("ascii", "replace").splitlines():
        major_minor, _, rest = line.partition(" ")
        for entry in rest.split():
            key, _, value = entry.partition("=")
            if key in IO_STAT and value.isdigit():
                name, direction = IO_STAT[key]
                row.put(name, int(value), device=row.device(major_minor), direction=direction)


def _pressure(resource: str) -> Callable[[bytes, Row], None]:
    def parse(text: bytes, row: Row) -> None:
        for kind, total in PRESSURE.findall(text):
            row.put("psi", int(total) * 1e-6, resource=resource, kind=kind.decode())

    return parse


def _number(name: str, unit: float = 1.0) -> Callable[[bytes, Row], None]:
    return lambda text, row: row.put(name, int(text) * unit)


def _limit(name: str) -> Callable[[bytes, Row], None]:
    return lambda text, row: row.put(name, limit(text.decode("ascii", "replace").strip()))


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a group. `activity` changes whenever the group ran; `slow` ones are read on sweeps only."""

    file: str
    parse: Callable[[bytes, Row], None]
    activity: bool = False
    slow: bool = False


V1: dict[str, tuple[Source, ...]] = {
    "cpuacct": (Source("cpuacct.usage", _number("cpu.usage", 1e-9), activity=True),),
    "cpu": (Source("cpu.stat", _v1_cpu_stat, activity=True),),
    "memory": (
        Source("memory.usage_in_bytes", _number("memory.usage"), activity=True),
        Source("memory.stat", _memory_stat(V1_LEVELS, V1_FAULTS, prefix="total_")),
        Source("memory.failcnt", _v1_failcnt),
        Source("memory.oom_control", _memory_events),
        Source("memory.limit_in_bytes", _limit("memory.limit"), slow=True),
        Source("memory.soft_limit_in_bytes", _limit("memory.high"), slow=True),
    ),
    "pids": (
        Source("pids.current", _number("pids"), activity=True),
        Source("pids.events", _pids_events),
        Source("pids.max", _limit("pids.limit"), slow=True),
    ),
    "blkio": (
        Source("blkio.throttle.io_service_bytes_recursive", _v1_blkio("io"), activity=True),
        Source("blkio.throttle.io_serviced_recursive", _v1_blkio("io.operations")),
    ),
}
V2: tuple[Source, ...] = (
    Source("cpu.stat", _v2_cpu_stat, activity=True),
    Source("memory.current", _number("memory.usage"), activity=True),
    Source("memory.stat", _memory_stat(V2_LEVELS, V2_FAULTS)),
    Source("memory.events", _memory_events),
    Source("memory.swap.current", _number("memory.swap")),
    Source("memory.max", _limit("memory.limit"), slow=True),
    Source("memory.high", _limit("memory.high"), slow=True),
    Source("pids.current", _number("pids"), activity=True),
    Source("pids.events", _pids_events),
    Source("pids.max", _limit("pids.limit"), slow=True),
    Source("io.stat", _v2_io_stat),
    Source("cpu.pressure", _pressure("cpu")),
    Source("memory.pressure", _pressure("memory")),
    Source("io.pressure", _pressure("io")),
)
# what a v1 controller accounts is not read again from v2
V2_FILES_OF = {"cpuacct": ("cpu.stat",), "memory": ("memory.",), "pids": ("pids.",), "blkio": ("io.stat",)}


class CgroupRecord:
    """The files and values of one group. A file that is missing or goes away is tried again after a minute."""

    def __init__(self, catalogue: Catalogue, roots: Roots, path: str, hierarchies: list[Hierarchy]) -> None:
        self._row = Row(catalogue, roots, path)
        self._path = path
        self._sources: list[tuple[Source, KeptFile]] = []
        self._absent: list[tuple[Source, KeptFile]] = []
        self._last: dict[str, bytes] = {}
        self._sweeps = 0
        self.keep = True
        accounted: tuple[str, ...] = ()
        for hierarchy in hierarchies:
            for controller in hierarchy.controllers:
                self._add(V1.get(controller, ()), hierarchy)
                accounted += V2_FILES_OF.get(controller, ())
            if hierarchy.version == 2:
                self._add(tuple(s for s in V2 if not s.file.startswith(accounted or ("/",))), hierarchy)
        self._quota_from = [h for h in hierarchies if h.version == 2 or "cpu" in h.controllers]

    @property
    def values(self) -> dict[int, float]:
        return self._row.values

    @property
    def files(self) -> int:
        return sum(not source.slow for source, _ in self._sources)

    def _add(self, sources: tuple[Source, ...], hierarchy: Hierarchy) -> None:
        self._sources += [(s, KeptFile(f"{hierarchy.folder(self._path)}/{s.file}")) for s in sources]

    def update(self, sweep: bool) -> None:
        """Read the files that tell whether the group was active, and if so (or on a sweep) the others."""
        active = sweep
        if sweep:
            self._sweeps += 1
            if self._sweeps % RETRY_EVERY == 0:  # a controller may have been switched on since
                self._sources += self._absent
                self._absent = []
        gone: list[tuple[Source, KeptFile]] = []
        for entry in self._sources:
            source, file = entry
            if (source.slow and not sweep) or not (active or source.activity):
                continue
            text = read_or_none(file)
            if source.slow or not self.keep:
                file.close()
            if text is None:
                gone.append(entry)
                continue
            if text == self._last.get(file.path):
                continue
            active = True
            self._last[file.path] = text
            try:
                source.parse(text, self._row)
            except ValueError:
                gone.append(entry)  # not the format we know
        if gone:
            self._forget(gone)
        if sweep:
            quotas = (cpu_quota(hierarchy, self._path)[0] for hierarchy in self._quota_from)
            self._row.put("cpu.quota", next((quota for quota in quotas if quota is not None), None))

    def _forget(self, gone: list[tuple[Source, KeptFile]]) -> None:
        """Leave these files out, and every value until its file is read again: the whole group may be gone."""
        for entry in gone:
            self._sources.remove(entry)
            entry[1].close()
        self._absent += gone
        if any(file.path in self._last for _, file in gone):
            self._row.values.clear()
            self._last.clear()

    def close(self) -> None:
        for _, file in self._sources:
            file.close()
