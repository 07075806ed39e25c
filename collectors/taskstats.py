"""What processes waited for, by the kernel's delay accounting: CPU, block I/O, swap-in, reclaim, thrashing and more.

Source: generic netlink TASKSTATS (Documentation/accounting/taskstats.rst), asked by thread group. Needs CAP_NET_ADMIN
and `kernel.task_delayacct`, which is off on most kernels since 5.14 and is only ever read here. Measured cost: 12 µs a
process, every fifth tick; for the 256 processes that waited most lately.

Sums over the group's threads, dead ones included. Tasks that began before the accounting was switched on do not
count.
"""

from __future__ import annotations

import os
import socket
import struct

import numpy as np

from collectors import netlink
from collectors.base import Capability, Reading, Roots
from wardround.models.series import Catalogue, Frame

CTRL, CTRL_GET_FAMILY, CTRL_NAME, CTRL_ID = 0x10, 3, 2, 1
GET, BY_TGID = 1, 2
AGGREGATE_TGID, STATS = 5, 3
_GENERIC = struct.Struct("=BBH")  # command, version, reserved
_U64 = struct.Struct("=Q")
# offsets of the *_delay_total fields in struct taskstats; they have only ever been added to at its end, but for
# version 15, which was withdrawn for moving them
CAUSES: tuple[tuple[str, int], ...] = (
    ("cpu", 24), ("blkio", 40), ("swapin", 56), ("freepages", 320), ("thrashing", 336), ("compact", 360),
    ("wpcopy", 408), ("irq", 424),
)  # fmt: skip
MOVED = 15
NANO = 1e-9
TELLING = 0.01  # seconds waited between two reads from which a process is told
MOST = 256
EVERY_PROCESS = 6  # reads between looks at all processes, quiet ones too


class Taskstats:
    """An open channel to the kernel's task statistics."""

    def __init__(self) -> None:
        """:raises OSError: where the kernel has no task statistics or does not let us ask"""
        self._link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink.GENERIC)
        try:
            self._link.settimeout(1.0)
            name = netlink.attribute(CTRL_NAME, b"TASKSTATS\0")
            answer = netlink.converse(self._link, CTRL, _GENERIC.pack(CTRL_GET_FAMILY, 1, 0) + name)
            found = next((netlink.attributes(body, _GENERIC.size) for _, body in netlink.messages(answer)), {})
            self._family = int.from_bytes(found[CTRL_ID], "little" if struct.pack("=H", 1)[0] else "big")
        except (OSError, KeyError) as error:
            self._link.close()
            raise OSError(f"the kernel offers no task statistics: {error}") from None

    def of(self, tgid: int) -> bytes:
        """Return struct taskstats of a thread group. :raises OSError: gone, or not permitted"""
        body = _GENERIC.pack(GET, 1, 0) + netlink.attribute(BY_TGID, struct.pack("=I", tgid))
        for _, answer in netlink.messages(netlink.converse(self._link, self._family, body)):
            inner = netlink.attributes(answer, _GENERIC.size).get(AGGREGATE_TGID, b"")
            stats = netlink.attributes(inner, 0).get(STATS)
            if stats:
                return stats
        raise OSError(f"no statistics of {tgid}")

    def close(self) -> None:
        self._link.close()


def delays(stats: bytes) -> dict[str, float]:
    """Return seconds waited by cause; causes that this kernel does not know are left out."""
    return {cause: _U64.unpack_from(stats, at)[0] * NANO for cause, at in CAUSES if at + _U64.size <= len(stats)}


class TaskstatsCollector:
    """Collector of processes' delays."""

    name = "collectors.taskstats"
    every = 5

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._roots = roots
        self._channel: Taskstats | None = None
        self._last: dict[int, float] = {}  # pid -> seconds waited in all
        self._told: set[int] = set()
        self._reads = 0

    def probe(self) -> Capability:
        try:
            with open(f"{self._roots.proc}/sys/kernel/task_delayacct", encoding="ascii") as file:
                off = file.read().strip() == "0"
        except OSError:
            off = False  # older kernels count always, or their answer tells
        if off:
            return Capability(
                False,
                "delay accounting is off",
                "sysctl kernel.task_delayacct=1, or delayacct on the kernel command line",
            )
        try:
            channel = Taskstats()
        except OSError as error:
            return Capability(False, str(error), "a kernel with CONFIG_TASKSTATS and CONFIG_TASK_DELAY_ACCT")
        try:
            version = struct.unpack_from("=H", channel.of(os.getpid()))[0]
        except OSError as error:
            return Capability(False, f"task statistics are refused: {error.strerror or error}", "run as root")
        finally:
            channel.close()
        if version == MOVED:
            return Capability(False, "this kernel's task statistics have another layout", "a newer or older kernel")
        return Capability(True)

    def start(self) -> None:
        self._channel = Taskstats()

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []
        if self._channel is None:
            return Reading(Frame.empty(time, clock))
        for pid in self._chosen():
            try:
                waited = delays(self._channel.of(pid))
            except OSError:
                self._last.pop(pid, None)
                continue
            total = sum(waited.values())
            if total - self._last.get(pid, total) >= TELLING:
                self._told.add(pid)
            self._last[pid] = total
            if pid in self._told:
                ids += (self._catalogue.id("linux.process.delay", pid=pid, cause=cause) for cause in waited)
                values += waited.values()
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def _chosen(self) -> list[int]:
        """Those that waited of late, and now and then everyone."""
        everyone = self._reads % EVERY_PROCESS < 2  # twice in a row: growth needs two looks
        self._reads += 1
        try:
            alive = {int(name) for name in os.listdir(self._roots.proc) if name.isdigit()}
        except OSError:
            return []
        self._told &= alive
        self._last = {pid: total for pid, total in self._last.items() if pid in alive}
        rest = sorted(alive - self._told, key=lambda pid: -self._last.get(pid, 0.0)) if everyone else []
        return [*self._told, *rest][:MOST]

    def stop(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
