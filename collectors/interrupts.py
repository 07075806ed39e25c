"""Hard interrupts by line, soft interrupts by vector, and packets dropped before the stack saw them, by CPU.

Source: /proc/interrupts, /proc/softirqs, /proc/net/softnet_stat. Needs nothing. Of the interrupt lines those are
followed that fired at least `BUSY` times a second since the last look (at most `LINES`): a machine may have
thousands, nearly all silent. It counts; how long they took only the eBPF collector knows. Measured: 0.33 ms a tick.
"""

from __future__ import annotations

import numpy as np

from collectors.base import Capability, Reading, Roots
from collectors.procfile import KeptFile, read_or_none
from wardround.models.series import Catalogue, Frame

BUSY = 20.0
LINES = 32


class InterruptsCollector:
    """Counters of hard and soft interrupts and of the network backlog."""

    name = "collectors.interrupts"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._interrupts = KeptFile(f"{roots.proc}/interrupts")
        self._softirqs = KeptFile(f"{roots.proc}/softirqs")
        self._softnet = KeptFile(f"{roots.proc}/net/softnet_stat")
        self._ids: dict[tuple[str, bytes, bytes], int] = {}
        self._totals: dict[bytes, int] = {}
        self._followed: set[bytes] = set()
        self._clock = float("nan")

    def probe(self) -> Capability:
        if all(read_or_none(file) is None for file in (self._interrupts, self._softirqs, self._softnet)):
            return Capability(False, f"{self._interrupts.path} cannot be read", "mount /proc")
        return Capability(True)

    def start(self) -> None:
        self._totals, self._followed, self._clock = {}, set(), float("nan")

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[int] = []
        self._read_interrupts(clock, ids, values)
        self._read_softirqs(ids, values)
        self._read_softnet(ids, values)
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        for file in (self._interrupts, self._softirqs, self._softnet):
            file.close()

    def _id(self, metric: str, key: str, what: bytes, cpu: bytes) -> int:
        known = self._ids.get((metric, what, cpu))
        if known is None:
            name, number = what.decode("ascii", "replace"), cpu.decode("ascii", "replace")
            known = self._catalogue.id(metric, **({key: name} if key else {}), cpu=number)
            self._ids[metric, what, cpu] = known
        return known

    def _read_interrupts(self, clock: float, ids: list[int], values: list[int]) -> None:
        cpus, rows = _table(read_or_none(self._interrupts) or b"")
        seconds = clock - self._clock
        self._clock = clock
        for head, counts, about in rows:
            total = sum(counts)
            grown = total - self._totals.get(head, total)
            self._totals[head] = total
            if head not in self._followed:
                if not grown > BUSY * seconds or len(self._followed) >= LINES:
                    continue
                self._followed.add(head)
            line = head + b":" + about.split()[-1] if head.isdigit() and about.split() else head
            for cpu, count in zip(cpus, counts, strict=False):
                if count:
                    ids.append(self._id("linux.interrupts", "irq", line, cpu))
                    values.append(count)

    def _read_softirqs(self, ids: list[int], values: list[int]) -> None:
        cpus, rows = _table(read_or_none(self._softirqs) or b"")
        for head, counts, _ in rows:
            for cpu, count in zip(cpus, counts, strict=False):
                if count:
                    ids.append(self._id("linux.softirqs", "vector", head.lower(), cpu))
                    values.append(count)

    def _read_softnet(self, ids: list[int], values: list[int]) -> None:
        """Columns are hexadecimal: processed, dropped, squeezed, …, and the CPU's number as the 13th (Linux 5.10)."""
        for row, line in enumerate((read_or_none(self._softnet) or b"").splitlines()):
            fields = line.split()
            if len(fields) < 3:
                continue
            cpu = str(int(fields[12], 16) if len(fields) > 12 else row).encode()
            for metric, field in (("linux.softnet.dropped", fields[1]), ("linux.softnet.squeezed", fields[2])):
                ids.append(self._id(metric, "", b"", cpu))
                values.append(int(field, 16))


def _table(text: bytes) -> tuple[list[bytes], list[tuple[bytes, list[int], bytes]]]:
    """Return the CPU numbers of the heading and, per line, its head, a count for each CPU, and the text behind."""
    heading, _, body = text.partition(b"\n")
    cpus = [name[3:] for name in heading.split() if name[:3] == b"CPU"]
    rows = []
    for line in body.split(b"\n"):
        head, colon, rest = line.partition(b":")
        fields = rest.split(None, len(cpus))
        counts = [int(field) for field in fields[: len(cpus)] if field.isdigit()]
        if colon and len(counts) == len(cpus):
            rows.append((head.strip(), counts, fields[-1] if len(fields) > len(cpus) else b""))
    return cpus, rows
