"""Run-queue latency of the host, waits for a CPU and off-CPU time by reason of each process (``programs/sched.c``).

A wait is counted when it ends. Off-CPU "io" is uninterruptible sleep that the kernel marks as I/O wait (also page
faults from disk and throttled block I/O), "futex" is sleep inside a futex call.
Processes enter with 5 ms of a kind in one tick; the 64 largest of a tick come first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from collectors.ebpf.histogram import log_linear_edges, quantiles
from collectors.ebpf.subjects.reader import Moment, open_map
from collectors.tally import Sink, Tally, largest
from wardround.models.records import KernelEvent
from wardround.models.series import Catalogue

REASONS = ("preempted", "sleep", "uninterruptible", "io", "futex", "runqueue")
FUTEX, RUNQUEUE = 4, 5
QUANTILES = (0.5, 0.99, 1.0)
LEAST, MOST = 5e-3, 64


class SchedReader:
    def __init__(self, maps: Mapping[str, int], catalogue: Catalogue) -> None:
        self._waits = open_map(maps, "sched_waits", "u4", [("ns", "u8", 6), ("count", "u8", 6)])
        self._histogram = open_map(maps, "sched_histogram", "u4", "u8")
        self._edges = log_linear_edges()
        self._before = np.zeros(len(self._edges) - 1)
        self._quantiles = [catalogue.id("linux.sched.runqueue.latency", quantile=f"{q:g}") for q in QUANTILES]
        self._host = [catalogue.id(f"linux.sched.runqueue.{part}") for part in ("wait", "count")]
        self._sums = [0.0, 0.0]
        self._runqueue = Tally("linux.process.runqueue.wait", _pid, LEAST)
        self._offcpu = Tally("linux.process.offcpu", lambda key: {"pid": key[0], "reason": REASONS[key[1]]}, LEAST)
        self._futex = Tally("linux.process.futex.wait", _pid, LEAST)
        self._futexes = Tally("linux.process.futex.count", _pid)
        self._catalogue = catalogue

    def read(self, sink: Sink, moment: Moment) -> list[KernelEvent]:
        if moment.scale is not None:
            self._collect(moment.scale, sink)
        for number, value in zip(self._host, self._sums, strict=True):
            sink.count(number, value)
        for tally in (self._runqueue, self._offcpu, self._futex, self._futexes):
            tally.emit(sink)
        return []

    def _collect(self, scale: float, sink: Sink) -> None:
        _, per_cpu = self._histogram.read()
        now = per_cpu.sum(axis=1).astype(np.float64)
        counts, self._before = now - self._before, now
        for number, value in zip(self._quantiles, quantiles(counts, self._edges, QUANTILES), strict=True):
            if value == value:
                sink.put(number, value)
        pids, waits = self._waits.drain()
        seconds = waits["ns"].astype(np.float64) * (1e-9 * scale)
        times = waits["count"].astype(np.float64) * scale
        self._sums[0] += float(seconds[:, RUNQUEUE].sum())
        self._sums[1] += float(times[:, RUNQUEUE].sum())
        for reason in range(RUNQUEUE):
            rows = largest(seconds[:, reason], 1e-6, MOST)
            found = pids[rows].tolist()
            self._offcpu.add([(pid, reason) for pid in found], seconds[rows, reason], self._catalogue)
            if reason == FUTEX:
                self._futex.add(found, seconds[rows, reason], self._catalogue)
                self._futexes.add(found, times[rows, reason], self._catalogue)
        rows = largest(seconds[:, RUNQUEUE], 1e-6, MOST)
        self._runqueue.add(pids[rows].tolist(), seconds[rows, RUNQUEUE], self._catalogue)


def _pid(key: int) -> dict[str, object]:
    return {"pid": key}
