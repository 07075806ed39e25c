"""Control groups for the injectors, in version 1 hierarchies or the unified one, whichever holds the controller."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def hierarchy(controller: str) -> tuple[Path, int] | None:
    """Where a controller can be used: its mount and version, None where the kernel has neither."""
    if (ROOT / controller / "cgroup.procs").exists():
        return ROOT / controller, 1
    enabled = ROOT / "cgroup.subtree_control"
    if enabled.exists() and controller in enabled.read_text().split():
        return ROOT, 2
    return None


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One control group of a scenario; the stage makes it and the janitor removes it."""

    path: Path
    version: int

    @property
    def name(self) -> str:
        """Path below the hierarchy's mount, as `/proc/<pid>/cgroup` shows it."""
        return f"/{self.path.name}"

    def write(self, file: str, text: str) -> None:
        (self.path / file).write_text(text)

    def counter(self, file: str, key: str) -> int:
        """One number of a flat keyed file such as `cpu.stat`; 0 where the key is absent."""
        for line in (self.path / file).read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
        return 0

    def limit_cpu(self, cpus: float, period_us: int = 100_000) -> None:
        """Quota of `cpus` CPU seconds a second."""
        quota = int(cpus * period_us)
        if self.version == 2:
            self.write("cpu.max", f"{quota} {period_us}")
        else:
            self.write("cpu.cfs_period_us", str(period_us))
            self.write("cpu.cfs_quota_us", str(quota))

    def throttled_periods(self) -> int:
        return self.counter("cpu.stat", "nr_throttled")

    def confine(self, cpus: str) -> None:
        """Allow only these CPUs (cpuset), on the memory nodes of the parent."""
        if self.version == 1:
            self.write("cpuset.mems", (self.path.parent / "cpuset.mems").read_text())
        self.write("cpuset.cpus", cpus)

    def limit_memory(self, size: int) -> None:
        self.write("memory.max" if self.version == 2 else "memory.limit_in_bytes", str(size))

    def memory(self) -> int:
        """Bytes charged now."""
        return int((self.path / ("memory.current" if self.version == 2 else "memory.usage_in_bytes")).read_text())

    def limit_hits(self) -> int:
        """How often a charge met the limit."""
        if self.version == 2:
            return self.counter("memory.events", "max")
        return int((self.path / "memory.failcnt").read_text())

    def oom_kills(self) -> int:
        return self.counter("memory.events" if self.version == 2 else "memory.oom_control", "oom_kill")

    def throttle(self, device: str, *, ops: int = 0, rate: int = 0) -> None:
        """Limit reads and writes to a block device (`major:minor`): operations and bytes a second, 0 for no limit."""
        if self.version == 2:
            self.write("io.max", f"{device} " + " ".join(f"{k}={v or 'max'}" for k, v in _io_max(ops, rate)))
            return
        for way in ("read", "write"):
            self.write(f"blkio.throttle.{way}_iops_device", f"{device} {ops}")
            self.write(f"blkio.throttle.{way}_bps_device", f"{device} {rate}")

    def unthrottle_writes(self, device: str) -> list[tuple[Path, str]]:
        """The writes that lift `throttle`, for the janitor."""
        if self.version == 2:
            return [(self.path / "io.max", f"{device} rbps=max wbps=max riops=max wiops=max")]
        names = [f"blkio.throttle.{way}_{unit}_device" for way in ("read", "write") for unit in ("iops", "bps")]
        return [(self.path / name, f"{device} 0") for name in names]


def _io_max(ops: int, rate: int) -> list[tuple[str, int]]:
    return [("rbps", rate), ("wbps", rate), ("riops", ops), ("wiops", ops)]
