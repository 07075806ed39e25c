"""Time in hard interrupts by line and in soft interrupts by vector, all CPUs together (``programs/interrupts.c``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from collectors.ebpf.subjects.reader import Moment, open_map
from collectors.tally import Sink
from wardround.models.records import KernelEvent
from wardround.models.series import Catalogue

SOFT = ("hi", "timer", "net_tx", "net_rx", "block", "irq_poll", "tasklet", "sched", "hrtimer", "rcu")


class InterruptReader:
    def __init__(self, maps: Mapping[str, int], catalogue: Catalogue, table: Path = Path("/proc/interrupts")) -> None:
        total = [("ns", "u8"), ("count", "u8")]
        self._maps = {kind: open_map(maps, f"{kind}irq_time", "u4", total) for kind in ("soft", "hard")}
        self._before: dict[tuple[str, int], int] = {}
        self._sums: dict[int, float] = {}  # by series: lines may share a name
        self._series: dict[tuple[str, int], int] = {}
        self._names: dict[int, str] = {}
        self._catalogue, self._table = catalogue, table

    def read(self, sink: Sink, moment: Moment) -> list[KernelEvent]:
        for kind, entry in self._maps.items() if moment.scale is not None else ():
            vectors, values = entry.read()
            times = values["ns"].sum(axis=1) if values.ndim > 1 else values["ns"]
            for vector, now in zip(vectors.tolist(), times.tolist(), strict=True):
                key = (kind, vector)
                if now:
                    grown = (now - self._before.get(key, 0)) * 1e-9 * (moment.scale or 1.0)
                    number = self._id(kind, vector)
                    self._sums[number] = self._sums.get(number, 0.0) + grown
                    self._before[key] = now
        for number, seconds in self._sums.items():
            sink.count(number, seconds)
        return []

    def _id(self, kind: str, vector: int) -> int:
        known = self._series.get((kind, vector))
        if known is None:
            if kind == "soft":
                name = SOFT[vector] if vector < len(SOFT) else str(vector)
            else:
                name = self._line(vector)
            known = self._catalogue.id("linux.interrupt.time", kind=kind, vector=name)
            self._series[kind, vector] = known
        return known

    def _line(self, number: int) -> str:
        """Name a line as /proc/interrupts does in its last column; its number where that says nothing."""
        if number not in self._names:
            try:
                rows = [row.split() for row in self._table.read_text(errors="replace").splitlines()]
            except OSError:
                rows = []
            named = {int(row[0][:-1]): row[-1] for row in rows if row and row[0][:-1].isdigit()}
            self._names[number] = named.get(number, str(number))
        return self._names[number]
