"""Direct reclaim by the process that stalls in it, pages migrated by reason (``programs/memory.c``)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from collectors.ebpf.subjects.reader import Moment, open_map
from collectors.tally import Sink, Tally
from wardround.models.records import KernelEvent
from wardround.models.series import Catalogue


class MemoryReader:
    def __init__(self, maps: Mapping[str, int], catalogue: Catalogue, reasons: Mapping[int, str]) -> None:
        self._stalls = open_map(maps, "reclaim_stalls", "u4", [("ns", "u8"), ("count", "u8")])
        self._migrations = open_map(maps, "page_migrations", "u4", "u8")
        self._time = Tally("linux.process.reclaim.stall", lambda pid: {"pid": pid}, least=1e-6)
        self._count = Tally("linux.process.reclaim.count", lambda pid: {"pid": pid})
        self._catalogue, self._reasons = catalogue, reasons

    def read(self, sink: Sink, moment: Moment) -> list[KernelEvent]:
        pids, stalls = self._stalls.drain()
        self._time.add(pids.tolist(), stalls["ns"] * 1e-9, self._catalogue)
        self._count.add(pids.tolist(), stalls["count"].astype(np.float64), self._catalogue)
        self._time.emit(sink)
        self._count.emit(sink)
        _, pages = self._migrations.read()
        for reason in np.flatnonzero(pages).tolist():
            name = self._reasons.get(reason, str(reason)).removeprefix("MR_").lower()
            sink.count(self._catalogue.id("linux.page_migrations", reason=name), float(pages[reason]))
        return []
