"""The host as a graph at one moment: processes, threads, cgroups, units, sockets, mounts, devices, engines.

Edges are not stored twice: they follow from the fields (a process names its cgroup, a mount its device, a
socket its owner), and `rca.topology` walks them. Snapshots are taken at both ends of a window, so that what
died, restarted or stood still between them can be told.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread. `cpu_time` s and `switches` are cumulative; `wchan` and `syscall` are empty where not permitted.

    `syscall` is the line of /proc/PID/task/TID/syscall (``running`` or number and hexadecimal arguments).
    """

    tid: int
    name: str
    state: str
    cpu_time: float
    switches: int
    wchan: str = ""
    syscall: str = ""


@dataclass(frozen=True, slots=True)
class FutexWait:
    """A thread asleep on a user-space lock.

    `owner` is the thread that holds it, read from the lock word's owner field where the lock records one (pthread
    mutexes); None where it does not (semaphores, condition variables). `private` locks can only be released
    from inside the process; `timed` waits end by themselves.
    """

    tid: int
    address: int
    private: bool
    timed: bool
    owner: int | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """One process. `start` is Unix time; (`pid`, `start`) is its identity, pids are reused.

    `cgroups` maps controller (``""`` for v2) to path; `netns`, `mntns`, `pidns` are inode numbers. `affinity` are the
    CPUs it may use; `numa_policy` a short text. `threads` and `locks` are filled for suspects or on small hosts.
    """

    pid: int
    ppid: int
    name: str
    start: float
    state: str
    cmdline: str = ""
    exe: str = ""
    uid: int = 0
    nice: int = 0
    policy: str = "other"
    cgroups: tuple[tuple[str, str], ...] = ()
    unit: str = ""
    netns: int = 0
    mntns: int = 0
    affinity: tuple[int, ...] = ()
    mems: tuple[int, ...] = ()
    rss: int = 0
    anon: int = 0
    cpu_time: float = 0.0
    fds: int | None = None
    fd_limit: int | None = None
    thread_count: int = 1
    kernel: bool = False
    traced: bool = False
    threads: tuple[Thread, ...] = ()
    locks: tuple[FutexWait, ...] = ()

    def cgroup(self, controller: str) -> str:
        """Return the path in the v1 hierarchy of `controller`, else the v2 path, else ``/``."""
        known = dict(self.cgroups)
        return known.get(controller) or known.get("") or "/"


@dataclass(frozen=True, slots=True)
class Socket:
    """One TCP listener, or the `count` like sockets of one process towards one remote address.

    Addresses are ``ip:port`` (``local`` is empty for a group); queue and backlog hold for listeners. `netns` is 0 for
    the host's own namespace (its label in series is empty). `pid` is None where no process holds it or none was found.
    """

    state: str
    local: str
    remote: str
    netns: int
    pid: int | None = None
    queue: int = 0
    backlog: int = 0
    inode: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted filesystem as seen by the processes of `mntns` (0 for the host's own namespace).

    `mountpoint` is what an operator would type; `seen_by` a pid whose root shows it where it is not the host's.
    `failed` where the kernel made it read-only after an error. Filled for nearly full ones only: `largest` are the
    files and folders (with a slash at the end) that hold most, in bytes, or in files where `largest_unit` is
    ``{file}``; `writers` are the pids with files open for writing there.
    """

    mountpoint: str
    device: str
    fstype: str
    options: tuple[str, ...]
    major_minor: str
    source: str
    mntns: int = 0
    seen_by: int | None = None
    super_options: tuple[str, ...] = ()
    failed: bool = False
    largest: tuple[tuple[str, int], ...] = ()
    largest_unit: str = "By"
    writers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """One disk, partition, loop or device-mapper device. `backing` is a loop's file or the parent disk's name."""

    name: str
    major_minor: str
    size: int
    rotational: bool
    readonly: bool
    backing: str = ""
    scheduler: str = ""


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface of a namespace. `netns` is 0 for the host's own namespace (its label in series is empty).

    `peer_netns` and `peer_index` tell where the other end of a veth lies, if known; `master` is the index of its bridge
    or bond; `up` is what an administrator asked for, `operstate` what came of it.
    """

    name: str
    netns: int
    index: int
    kind: str
    operstate: str
    mtu: int
    addresses: tuple[str, ...] = ()
    qdisc: str = ""
    up: bool = True
    peer_netns: int | None = None
    peer_index: int = 0
    master: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """One systemd unit. `restarts` is NRestarts; `result` why it last failed."""

    name: str
    active: str
    sub: str
    result: str
    restarts: int
    main_pid: int
    cgroup: str


@dataclass(frozen=True, slots=True)
class Engine:
    """One inference engine: found by its process, its loaded model library or its port, or configured.

    `threads` is the number of compute threads it was started with (None if not said), `healthy` the health check.
    """

    kind: str
    pid: int | None
    address: str
    model: str = ""
    threads: int | None = None
    healthy: bool | None = None
    detail: str = ""
    configured: bool = False


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One control group that has processes, limits or both. Limits are None where there is none.

    `cpu_quota` is in CPUs; `cpu_period` is the seconds it is granted over, None where there is no CPU controller.
    """

    path: str
    version: int
    cpu_quota: float | None = None
    memory_limit: int | None = None
    pids_limit: int | None = None
    cpus: tuple[int, ...] = ()
    io_limits: tuple[str, ...] = ()
    cpu_period: float | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """Facts that do not change within a window. `boot_time` is Unix seconds; sizes are bytes."""

    name: str
    kernel: str
    boot_id: str
    boot_time: float
    cpus: int
    memory: int
    page_size: int
    clock_ticks: int
    cgroup_versions: tuple[int, ...] = ()
    numa_nodes: tuple[int, ...] = (0,)
    virtual: str = ""
    root: bool = False
    distribution: str = ""


@dataclass(frozen=True)
class TopologySnapshot:
    """The host at `time` (Unix seconds). Mappings are keyed by what identifies the thing on this host."""

    time: float
    processes: dict[int, Process] = field(default_factory=dict)
    cgroups: dict[str, Cgroup] = field(default_factory=dict)
    sockets: tuple[Socket, ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: dict[str, BlockDevice] = field(default_factory=dict)
    interfaces: tuple[Interface, ...] = ()
    units: dict[str, Unit] = field(default_factory=dict)
    engines: tuple[Engine, ...] = ()

    def children(self, pid: int) -> list[Process]:
        return [p for p in self.processes.values() if p.ppid == pid]
