"""One window of one host: the topology at both ends, every tick between, and what was usual before.

The command that has no daemon behind it calls `observe`; the daemon builds the same `Observation` out of its ring.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TypeVar

import structlog

from collectors.base import Reading, Roots
from collectors.facts import read_host
from collectors.sampler import Sampler
from collectors.topology import snapshot
from collectors.vmcore.past import PastCrashes
from wardround.models.diagnosis import Coverage, Skipped
from wardround.models.observation import Observation
from wardround.models.records import KernelEvent, LogRecord
from wardround.models.series import Baseline, Catalogue, Window
from wardround.models.topology import TopologySnapshot

if TYPE_CHECKING:
    from wardround.models.vmcore import PastCrash

log = structlog.get_logger(__name__)

Record = TypeVar("Record", LogRecord, KernelEvent)
OnTick = Callable[[float, Reading], None]
BaselineProvider = Callable[[Window], Baseline]


def observe(
    seconds: float,
    *,
    on_tick: OnTick | None = None,
    catalogue: Catalogue | None = None,
    roots: Roots | None = None,
    only: Collection[str] | None = None,
    baseline: BaselineProvider | None = None,
    stop: threading.Event | None = None,
    own: Collection[int] = (),
) -> Observation:
    """Watch this host for `seconds` and return what was seen. `own` are roots of further process trees of ours.

    The first tick is taken at once, the last at the end; `on_tick` gets the seconds since the first tick and the
    reading. Ctrl-C, or setting `stop`, ends the window early: what was seen until then is returned. The newest crash
    that left files here is read meanwhile.
    """
    roots = roots or Roots()
    past = PastCrashes(roots)
    stop = stop or threading.Event()
    sampler = Sampler(catalogue if catalogue is not None else Catalogue(), roots, only)
    readings: list[Reading] = []
    before: TopologySnapshot | None = None
    try:
        past.start(seconds)
        sampler.start()
        for reading in sampler.run(seconds, stop):
            readings.append(reading)
            if before is None:
                before, _ = snapshot(roots, at_start=True)
            if on_tick is not None:
                on_tick(reading.frame.clock - readings[0].frame.clock, reading)
    except KeyboardInterrupt:
        log.info("window_interrupted", ticks=len(readings))
    finally:
        coverage, helpers = sampler.coverage(), sampler.own_pids()
        sampler.stop()
    after, failed = snapshot(roots)
    crashes, looked = past.finish(), past.coverage()
    coverage = Coverage((*coverage.ran, *looked.ran), (*coverage.skipped, *looked.skipped))
    return assemble(
        sampler.catalogue,
        readings,
        before=before or after,
        after=after,
        coverage=_with_topology(coverage, failed),
        baseline=baseline,
        roots=roots,
        own={*own, *helpers, *past.pids},
        crashes=crashes,
    )


def assemble(
    catalogue: Catalogue,
    readings: Collection[Reading],
    *,
    before: TopologySnapshot,
    after: TopologySnapshot,
    coverage: Coverage,
    baseline: BaselineProvider | None = None,
    roots: Roots | None = None,
    own: Collection[int] = (),
    crashes: tuple[PastCrash, ...] = (),
) -> Observation:
    """Return the observation made of these readings; `baseline` is asked once the window's columns are known."""
    window = Window.of(catalogue, (reading.frame for reading in readings))
    return Observation(
        host=read_host(roots),
        window=window,
        baseline=baseline(window) if baseline is not None else Baseline.unknown(len(window.series)),
        before=before,
        after=after,
        logs=_in_order([record for reading in readings for record in reading.logs]),
        events=_in_order([event for reading in readings for event in reading.events]),
        coverage=coverage,
        own_pids=own_pids(before, own) | own_pids(after, own),
        crashes=crashes,
    )


def own_pids(topology: TopologySnapshot, more_roots: Collection[int] = ()) -> frozenset[int]:
    """Return this process, `more_roots` (the watch daemon) and their descendants: never culprits."""
    ours = {os.getpid(), *more_roots}
    parents = {process.pid: process.ppid for process in topology.processes.values()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return frozenset(ours)


def _in_order(records: list[Record]) -> tuple[Record, ...]:
    return tuple(sorted(records, key=lambda record: record.time))


def _with_topology(coverage: Coverage, failed: dict[str, str]) -> Coverage:
    skipped = tuple(Skipped(f"topology.{subject}", reason) for subject, reason in failed.items())
    return Coverage(coverage.ran, coverage.skipped + skipped)
