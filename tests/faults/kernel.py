"""The kernel's own counters by which an injector proves that its fault bites.

Read here on purpose without the collectors: a check that shares code with what it checks proves nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path


def rate(counter: Callable[[], float], seconds: float = 1.0) -> float:
    """How fast a counter rises, per second, over a short window."""
    start, before = time.monotonic(), counter()
    time.sleep(seconds)
    return (counter() - before) / (time.monotonic() - start)


def psi_us(resource: str, kind: str = "some") -> int:
    """Total stall time since boot, microseconds (`/proc/pressure/<resource>`)."""
    for line in Path("/proc/pressure", resource).read_text().splitlines():
        if line.startswith(kind):
            return int(line.rsplit("total=", 1)[1])
    raise LookupError(f"no {kind!r} line in /proc/pressure/{resource}")


def idle_s() -> float:
    """Idle CPU seconds since boot, all CPUs, I/O wait included."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def runnable() -> int:
    """Tasks that run or wait for a CPU now."""
    return int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])


def stat(pid: int, tid: int | None = None) -> list[str]:
    """Fields of `/proc/<pid>/stat` from the state on (index 0 is the state)."""
    path = f"/proc/{pid}/stat" if tid is None else f"/proc/{pid}/task/{tid}/stat"
    return Path(path).read_text().rsplit(")", 1)[1].split()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, all its threads."""
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def major_faults(pid: int) -> int:
    """Major page faults of a process."""
    return int(stat(pid)[9])


def threads(pid: int) -> list[int]:
    """Thread ids of a process."""
    return [int(tid) for tid in os.listdir(f"/proc/{pid}/task")]


def futex_waiters(pid: int) -> int:
    """Threads that are in the futex system call now (x86-64 202, arm64 98)."""
    number = {"x86_64": "202", "aarch64": "98"}[os.uname().machine]
    count = 0
    for tid in threads(pid):
        try:
            count += Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()[0] == number
        except OSError:
            continue
    return count


def status(pid: int, key: str) -> str:
    """One value of `/proc/<pid>/status`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return line.split(":", 1)[1].strip()
    raise LookupError(f"{key} is not in /proc/{pid}/status")


def anon_bytes(pid: int) -> int:
    """Resident anonymous memory of a process."""
    return int(status(pid, "RssAnon").split()[0]) * 1024


def children(pid: int) -> list[int]:
    """Direct children of a process, zombies included."""
    found = []
    for tid in threads(pid):
        found += [int(child) for child in Path(f"/proc/{pid}/task/{tid}/children").read_text().split()]
    return found


def zombies(pid: int) -> int:
    """Children that ended and were not waited for."""
    count = 0
    for child in children(pid):
        try:
            count += stat(child)[0] == "Z"
        except OSError:
            continue
    return count


def open_files(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def forks() -> int:
    """Processes and threads made since boot."""
    match = re.search(r"^processes (\d+)", Path("/proc/stat").read_text(), re.M)
    assert match is not None
    return int(match[1])


def netstat(pid: int, name: str) -> int:
    """A TCP counter in the network namespace of `pid` (`TcpExt` or `Tcp`), such as `ListenOverflows`."""
    for table in ("netstat", "snmp"):
        lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()
        for header, values in zip(lines[::2], lines[1::2], strict=True):
            names = header.split()
            if name in names:
                return int(values.split()[names.index(name)])
    raise LookupError(f"no counter {name}")


def disk(device: str) -> dict[str, int]:
    """Counters of a block device since boot: `ios`, `bytes`, `wait_ms` (sum over requests), `busy_ms`, `inflight`."""
    fields = [int(value) for value in Path("/sys/block", device, "stat").read_text().split()]
    return {
        "ios": fields[0] + fields[4],
        "bytes": (fields[2] + fields[6]) * 512,
        "wait_ms": fields[3] + fields[7],
        "inflight": fields[8],
        "busy_ms": fields[9],
    }


def vmstat(name: str) -> int:
    """A counter of `/proc/vmstat`."""
    match = re.search(rf"^{name} (\d+)", Path("/proc/vmstat").read_text(), re.M)
    if match is None:
        raise LookupError(f"no {name} in /proc/vmstat")
    return int(match[1])


def mount_options(path: Path) -> set[str]:
    """Options of a mount and of its filesystem, from `/proc/self/mountinfo`."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ", 1)
        fields = left.split()
        if fields[4] == str(path):
            return set(fields[5].split(",")) | set(right.split()[2].split(","))
    raise LookupError(f"{path} is not mounted")
