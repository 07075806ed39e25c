"""Ticks: once a second every due collector is read and what they bring is merged into one reading.

Ticks follow CLOCK_MONOTONIC, so a wall clock that jumps neither bunches nor stops them; ticks that a suspended or
overloaded host missed are left out, not made up for. A collector that is slow to start joins when it is ready; one
that does not come back from a read is waited for in a thread of its own while the others go on, and what it brings
joins the next tick. Measured: the machinery costs about 0.15 ms of CPU a tick beside the collectors' own time.
"""

from __future__ import annotations

import threading
import time as clocks
from collections.abc import Collection, Iterable, Iterator
from functools import partial

import numpy as np
import structlog

from collectors.base import Capability, Collector, Reading, Roots
from collectors.lanes import Lanes
from collectors.registry import Factory, factories
from wardround.models.diagnosis import Coverage, Skipped
from wardround.models.series import Catalogue, Frame

log = structlog.get_logger(__name__)

START_PATIENCE = 0.25
READ_PATIENCE = 0.5
STOP_PATIENCE = 0.5
FAILURES_ALLOWED = 3  # in a row: a host that is out of files for a moment is not a broken collector


class _Slot:
    """One collector and how it is doing. `busy` while a call into it is under way in a worker thread."""

    def __init__(self, name: str, factory: Factory) -> None:
        self.name = name
        self.factory = factory
        self.collector: Collector | None = None
        self.ready = False
        self.busy = False
        self.reads = 0
        self.failures = 0
        self.last_tick: int | None = None
        self.cpu = float("nan")
        self.skipped: Skipped | None = None
        self.capability = Capability(False)
        self.readings: list[Reading] = []

    def fail(self, error: Exception) -> None:
        self.failures += 1
        log.warning("collector_failed", collector=self.name, error=str(error), kind=type(error).__name__)
        if not self.ready or self.failures >= FAILURES_ALLOWED:
            self.ready = False
            when = f" after {self.reads} reads" if self.reads else ""
            self.skipped = Skipped(self.name, f"failed{when}: {type(error).__name__}: {error}")

    @property
    def partial(self) -> Skipped | None:
        """Return what a collector that runs leaves out, if it says so."""
        if self.collector is None or self.status() is not None:
            return None
        about = "; ".join(filter(None, (self.capability.reason, getattr(self.collector, "partial", ""))))
        return Skipped(f"{self.name}.partial", about, self.capability.enable) if about else None

    def status(self) -> Skipped | None:
        """Return why this collector is not among those that ran, None if it is."""
        if self.skipped is not None:
            return self.skipped
        failure = getattr(self.collector, "failure", "")
        if failure:
            return Skipped(self.name, failure)
        if self.reads and not self.busy:
            return None
        doing = f"did not come back from read {self.reads + 1}" if self.ready else "was still starting at the end"
        return Skipped(self.name, doing) if self.busy else Skipped(self.name, "was not read")


class Sampler:
    """Builds, starts, reads and stops the collectors of the registry, or those named in `only`."""

    def __init__(
        self,
        catalogue: Catalogue,
        roots: Roots | None = None,
        only: Collection[str] | None = None,
        *,
        interval: float = 1.0,
        known: Iterable[tuple[str, Factory]] | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.roots = roots or Roots()
        self.interval = interval
        chosen = factories() if known is None else known
        self._slots = [_Slot(name, factory) for name, factory in chosen if only is None or name in only]
        self._lanes = Lanes()
        self._tick = 0
        self._stopped = False
        self._time_ids = {s.name: catalogue.id("wardround.collector.time", collector=s.name) for s in self._slots}
        self._delay_id = catalogue.id("wardround.tick.delay")

    def start(self) -> None:
        """Build, probe and start all; returns within `START_PATIENCE` of each, slow ones join later."""
        for slot in self._slots:
            slot.busy = True
        self._lanes.run((partial(self._start_one, slot) for slot in self._slots), START_PATIENCE)

    def _start_one(self, slot: _Slot) -> None:
        try:
            collector = slot.factory(self.catalogue, self.roots)
            slot.capability = capability = collector.probe()
            if capability.available:
                collector.start()
                slot.collector = collector
                slot.ready = not self._stopped
                if self._stopped:
                    collector.stop()
            else:
                slot.skipped = Skipped(slot.name, capability.reason, capability.enable)
        except Exception as error:  # noqa: BLE001 - plugin boundary: one broken collector must not end the round
            slot.fail(error)
        finally:
            slot.busy = False

    def tick(self, *, delay: float = 0.0, everything: bool = False) -> Reading:
        """Read the collectors that are due (all of them if `everything`) and return the merged reading."""
        time, clock = clocks.time(), clocks.monotonic()
        due = [s for s in self._slots if s.ready and not s.busy and (everything or self._is_due(s))]
        for slot in due:
            slot.busy = True
            slot.last_tick = self._tick
        self._lanes.run((partial(self._read_one, slot, time, clock) for slot in due), READ_PATIENCE)
        self._tick += 1
        return self._merge(time, clock, delay)

    def _is_due(self, slot: _Slot) -> bool:
        assert slot.collector is not None
        return slot.last_tick is None or self._tick - slot.last_tick >= slot.collector.every

    def _read_one(self, slot: _Slot, time: float, clock: float) -> None:
        assert slot.collector is not None
        try:
            began = clocks.thread_time()
            reading = slot.collector.read(time, clock)
            slot.cpu = clocks.thread_time() - began
            slot.readings.append(reading)
            slot.reads += 1
            slot.failures = 0
        except Exception as error:  # noqa: BLE001 - task boundary: one broken collector must not end the round
            slot.fail(error)
        finally:
            slot.busy = False

    def _merge(self, time: float, clock: float, delay: float) -> Reading:
        arrived: list[Reading] = []
        frames: list[Frame] = []
        own_ids, own_values = [self._delay_id], [delay]
        for slot in self._slots:
            if slot.busy or not slot.readings:
                continue
            arrived += slot.readings
            frames.append(_newest([reading.frame for reading in slot.readings]))
            slot.readings = []
            own_ids.append(self._time_ids[slot.name])
            own_values.append(slot.cpu)
        own = Frame(time, clock, np.array(own_ids, np.int64), np.array(own_values))
        return Reading(
            Frame.merge(time, clock, [own, *frames]),
            tuple(record for r in arrived for record in r.logs),
            tuple(event for r in arrived for event in r.events),
        )

    def run(self, seconds: float = float("inf"), stop: threading.Event | None = None) -> Iterator[Reading]:
        """Yield a reading at once, then one an interval, the last (of every collector) `seconds` after the first.

        Ends early, after a last reading, when `stop` is set.
        """
        stop = stop or threading.Event()
        began = clocks.monotonic()
        yield self.tick(everything=True)
        step = 0
        while seconds > 0:
            step = max(step + 1, int((clocks.monotonic() - began) / self.interval))
            due = began + min(step * self.interval, seconds)
            stopped = stop.wait(max(0.0, due - clocks.monotonic()))
            last = stopped or due >= began + seconds
            yield self.tick(delay=max(0.0, clocks.monotonic() - due), everything=last)
            if last:
                return

    def coverage(self) -> Coverage:
        """Return which collectors brought readings so far, why the others did not, and what those that ran left out."""
        states = [(slot.name, slot.status()) for slot in self._slots]
        partial = [slot.partial for slot in self._slots]
        return Coverage(
            ran=tuple(name for name, skipped in states if skipped is None),
            skipped=tuple(s for s in (*(skipped for _, skipped in states), *partial) if s is not None),
        )

    def own_pids(self) -> frozenset[int]:
        """Return the processes that collectors started for themselves, ended ones too."""
        return frozenset(pid for slot in self._slots for pid in getattr(slot.collector, "own_pids", ()))

    def stop(self) -> None:
        """Stop all collectors; safe to call twice and while some are stuck."""
        self._stopped = True
        started = [s for s in self._slots if s.collector is not None and not s.busy]
        self._lanes.run((partial(self._stop_one, slot) for slot in started), STOP_PATIENCE)
        self._lanes.close()

    def _stop_one(self, slot: _Slot) -> None:
        assert slot.collector is not None
        slot.ready = False
        try:
            slot.collector.stop()
        except Exception as error:  # noqa: BLE001 - task boundary: the others still have to be stopped
            log.warning("collector_stop_failed", collector=slot.name, error=str(error), kind=type(error).__name__)


def _newest(frames: list[Frame]) -> Frame:
    """A late frame and this tick's, oldest first, as one: where both tell a series the newer level holds."""
    last = frames[-1]
    merged = Frame.merge(last.time, last.clock, reversed(frames))
    ids, first = np.unique(merged.ids, return_index=True)
    return last if len(frames) == 1 else Frame(last.time, last.clock, ids, merged.values[first])
