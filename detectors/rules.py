"""The declared saturation and error rules: which level against which limit, and which counters should stay at zero.

Each row is judgement written down, not learnt; `detectors.saturation` evaluates them. A ratio's entities are joined
by the labels that both metrics carry. `above` is in the ratio's or the level's unit (per second for counters).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Part = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Rule:
    """`top` over the sum of `bottom` (over 1 where that is empty) is beyond `beyond`.

    `least` is the smallest bottom to judge by: two of three packets lost is no loss rate.
    """

    shape: Literal["saturation", "error"]
    top: Part
    bottom: tuple[Part, ...]
    beyond: float
    below: bool = False
    least: float = 0.0


def _part(name: str, **labels: str) -> Part:
    return name, tuple(sorted(labels.items()))


def _full(beyond: float, top: Part, *bottom: Part, below: bool = False, least: float = 0.0) -> Rule:
    return Rule("saturation", top, bottom, beyond, below, least)


def _error(name: str, beyond: float = 0.0, **labels: str) -> Rule:
    return Rule("error", _part(name, **labels), (), beyond)


def _used_of(beyond: float, name: str) -> Rule:
    used = _part(name, state="used")
    return _full(beyond, used, used, _part(name, state="free"))


# Protocol counters that only rise when the kernel gives something up.
_PROTOCOL_ERRORS = (
    "TcpExt.ListenOverflows", "TcpExt.ListenDrops", "TcpExt.TCPBacklogDrop", "TcpExt.TCPRcvQDrop",
    "TcpExt.TCPAbortOnMemory", "TcpExt.TCPMemoryPressures", "TcpExt.TCPReqQFullDrop",
    "Udp.RcvbufErrors", "Udp.SndbufErrors", "Udp.MemErrors",
)  # fmt: skip

# Errors of system calls that say a resource is used up or broken (EAGAIN and the like are daily life).
_RESOURCE_ERRNOS = ("EMFILE", "ENFILE", "ENOSPC", "EDQUOT", "EROFS", "EIO", "ENOMEM", "EADDRNOTAVAIL", "ENOBUFS")

RULES: tuple[Rule, ...] = (
    # stalls: share of time
    _full(0.60, _part("linux.psi.cpu.some")),
    _full(0.10, _part("linux.psi.memory.some")),
    _full(0.05, _part("linux.psi.memory.full")),
    _full(0.40, _part("linux.psi.io.some")),
    _full(0.25, _part("linux.psi.io.full")),
    _full(0.10, _part("linux.psi.irq.full")),
    _full(0.10, _part("linux.cgroup.psi", resource="memory", kind="full")),
    _full(0.30, _part("linux.cgroup.psi", resource="io", kind="full")),
    # CPU
    _full(0.10, _part("system.cpu.time", state="steal")),
    _full(0.50, _part("system.cpu.time", state="softirq")),
    _full(
        0.10,
        _part("linux.cgroup.cpu.throttled_periods"),
        _part("linux.cgroup.cpu.periods"),
        least=2,
    ),
    # memory
    _full(0.05, _part("system.memory.usage", state="available"), _part("system.memory.limit"), below=True),
    _used_of(0.90, "system.paging.usage"),
    _full(0.90, _part("linux.cgroup.memory.anon"), _part("linux.cgroup.memory.limit")),
    _error("linux.vmstat", key="oom_kill"),
    _error("linux.cgroup.memory.events", key="oom_kill"),
    # tables and descriptors
    _full(0.90, _part("linux.tasks.count"), _part("linux.tasks.limit")),
    _full(0.90, _part("linux.cgroup.pids"), _part("linux.cgroup.pids.limit")),
    _error("linux.cgroup.pids.refused"),
    _full(0.90, _part("linux.fd.open"), _part("linux.fd.limit")),
    _full(0.90, _part("process.open_file_descriptor.count"), _part("linux.process.fd.limit")),
    _full(0.90, _part("linux.conntrack.count"), _part("linux.conntrack.limit")),
    _full(100, _part("linux.processes.zombie")),
    # storage
    _used_of(0.97, "system.filesystem.usage"),
    _used_of(0.97, "linux.filesystem.inodes"),
    _full(0.97, _part("system.disk.io_time")),
    _error("linux.filesystem.errors"),
    # network
    _full(0.90, _part("linux.tcp.listen.queue"), _part("linux.tcp.listen.backlog"), least=1),
    _full(0.90, _part("linux.tcp.ports.used"), _part("linux.tcp.ports.range")),
    _full(0.02, _part("linux.snmp", key="Tcp.RetransSegs"), _part("linux.snmp", key="Tcp.OutSegs"), least=10),
    *(_error("linux.snmp", key=key) for key in _PROTOCOL_ERRORS),
    _error("linux.softnet.dropped"),
    _error("system.network.errors"),
    _error("system.network.dropped", beyond=1.0),
    _error("linux.network.carrier_changes"),
    # system calls
    *(_error("linux.process.syscall.errors", errno=errno, beyond=0.2) for errno in _RESOURCE_ERRNOS),
    # hardware
    _error("linux.edac", kind="ue"),
    _error("linux.edac", kind="ce"),
    _error("linux.mce"),
    _error("linux.cpu.throttle"),
    _error("hw.gpu.errors", kind="uncorrected"),
    _full(0.97, _part("hw.gpu.memory.usage"), _part("hw.gpu.memory.limit")),
    # engine
    Rule("error", _part("wardround.engine.up"), (), 0.5, below=True),
)
