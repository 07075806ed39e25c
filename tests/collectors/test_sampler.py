"""The sampler's promises, with collectors made for the purpose."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from collectors.base import Capability, Reading
from collectors.sampler import Sampler
from wardround.models.records import KernelEvent, LogRecord
from wardround.models.series import Catalogue, Frame, Window


class Scripted:
    """Counts its reads; subclasses misbehave."""

    every = 1

    def __init__(self, catalogue: Catalogue, roots: object) -> None:
        self.id = catalogue.id("linux.load_1m")
        self.reads = 0
        self.stopped = 0

    def probe(self) -> Capability:
        return Capability(True)

    def start(self) -> None:
        self.reads = 0

    def read(self, time: float, clock: float) -> Reading:
        self.reads += 1
        frame = Frame(time, clock, np.array([self.id], np.int64), np.array([float(self.reads)]))
        return Reading(frame, (LogRecord(time, "test", "line"),), (KernelEvent(time, "fork"),))

    def stop(self) -> None:
        self.stopped += 1


def sampler_of(*kinds: type, interval: float = 0.02, catalogue: Catalogue | None = None) -> Sampler:
    known = [(kind.__name__, kind) for kind in kinds]
    return Sampler(catalogue if catalogue is not None else Catalogue(), interval=interval, known=known)


@pytest.fixture(autouse=True)
def calm_log(monkeypatch):
    monkeypatch.setattr("collectors.sampler.READ_PATIENCE", 0.05)
    monkeypatch.setattr("collectors.sampler.START_PATIENCE", 0.05)


def test_a_window_begins_at_once_and_its_last_tick_is_at_its_end():
    sampler = sampler_of(Scripted)
    sampler.start()
    began = time.monotonic()
    clocks = [reading.frame.clock for reading in sampler.run(0.1)]
    sampler.stop()
    assert len(clocks) >= 3
    assert clocks[0] - began < clocks[1] - clocks[0]
    assert clocks[-1] - clocks[0] >= 0.1


def test_ticks_go_on_when_the_wall_clock_jumps_back(monkeypatch):
    sampler = sampler_of(Scripted)
    sampler.start()
    jumps = iter([5e9, 1e9, 4e9, 2e9] + [1e9] * 100)
    monkeypatch.setattr("collectors.sampler.clocks.time", lambda: next(jumps))
    clocks = [reading.frame.clock for reading in sampler.run(0.1)]
    sampler.stop()
    assert np.all(np.diff(clocks) > 0)
    assert clocks[-1] - clocks[0] >= 0.1


def test_a_slow_source_is_read_when_due_and_on_the_last_tick():
    class EveryThird(Scripted):
        every = 3

    catalogue = Catalogue()
    sampler = sampler_of(EveryThird, catalogue=catalogue)
    sampler.start()
    frames = [sampler.tick().frame for _ in range(5)] + [sampler.tick(everything=True).frame]
    sampler.stop()
    seen = ~np.isnan(Window.of(catalogue, frames).level("linux.load_1m"))
    assert seen.tolist() == [True, False, False, True, False, True]


def test_logs_and_events_are_gathered_and_own_cost_is_told():
    sampler = sampler_of(Scripted)
    sampler.start()
    reading = sampler.tick()
    sampler.stop()
    assert [record.text for record in reading.logs] == ["line"]
    assert [event.kind for event in reading.events] == ["fork"]
    names = {sampler.catalogue[int(number)].name for number in reading.frame.ids}
    assert names == {"linux.load_1m", "wardround.collector.time", "wardround.tick.delay"}


def test_a_collector_that_keeps_raising_is_dropped_with_its_reason_and_the_others_go_on():
    class Broken(Scripted):
        def read(self, time: float, clock: float) -> Reading:
            raise ValueError("no such field")

    sampler = sampler_of(Broken, Scripted)
    sampler.start()
    for _ in range(5):
        sampler.tick()
    coverage = sampler.coverage()
    sampler.stop()
    assert coverage.ran == ("Scripted",)
    assert coverage.skipped[0].name == "Broken"
    assert "ValueError: no such field" in coverage.skipped[0].reason


def test_one_failed_read_does_not_drop_a_collector():
    class Hiccup(Scripted):
        def read(self, time: float, clock: float) -> Reading:
            if self.reads == 1:
                self.reads += 1
                raise OSError("too many open files")
            return super().read(time, clock)

    sampler = sampler_of(Hiccup)
    sampler.start()
    for _ in range(4):
        sampler.tick()
    assert sampler.coverage().ran == ("Hiccup",)
    sampler.stop()


def test_a_collector_that_cannot_run_here_is_skipped_with_what_would_enable_it():
    class Absent(Scripted):
        def probe(self) -> Capability:
            return Capability(False, "no such device", "plug one in")

    sampler = sampler_of(Absent)
    sampler.start()
    sampler.tick()
    (skipped,) = sampler.coverage().skipped
    sampler.stop()
    assert (skipped.name, skipped.reason, skipped.enable) == ("Absent", "no such device", "plug one in")


def test_a_collector_that_cannot_be_built_is_skipped():
    class Unbuildable(Scripted):
        def __init__(self, catalogue: Catalogue, roots: object) -> None:
            raise ModuleNotFoundError("No module named 'bcc'")

    sampler = sampler_of(Unbuildable, Scripted)
    sampler.start()
    sampler.tick()
    assert sampler.coverage().ran == ("Scripted",)
    sampler.stop()


def test_a_read_that_hangs_holds_up_nobody_and_joins_when_it_comes_back():
    release = threading.Event()

    class Hanging(Scripted):
        def read(self, time: float, clock: float) -> Reading:
            release.wait(30)
            return super().read(time, clock)

    sampler = sampler_of(Hanging, Scripted)
    sampler.start()
    first = sampler.tick()
    second = sampler.tick()
    while_hanging = sampler.coverage()
    release.set()
    deadline = time.monotonic() + 5
    while "Hanging" not in sampler.coverage().ran and time.monotonic() < deadline:
        time.sleep(0.01)
        sampler.tick()
    came_back = sampler.coverage()
    sampler.stop()
    assert len(first.logs) == len(second.logs) == 1
    assert while_hanging.ran == ("Scripted",)
    assert while_hanging.skipped[0].reason == "did not come back from read 1"
    assert set(came_back.ran) == {"Hanging", "Scripted"}


def test_what_a_late_read_alone_told_is_kept():
    """A long survey comes back after its tick: its levels join the next tick's, where that did not read them anew."""
    release = threading.Event()

    class Surveying(Scripted):
        def __init__(self, catalogue: Catalogue, roots: object) -> None:
            super().__init__(catalogue, roots)
            self.survey = catalogue.id("linux.tasks.blocked")

        def read(self, time: float, clock: float) -> Reading:
            self.reads += 1
            if self.reads > 1:
                return Reading(Frame(time, clock, np.array([self.id], np.int64), np.array([2.0])))
            release.wait(30)
            return Reading(Frame(time, clock, np.array([self.survey, self.id], np.int64), np.array([7.0, 1.0])))

    catalogue = Catalogue()
    sampler = sampler_of(Surveying, catalogue=catalogue)
    sampler.start()
    frames = [sampler.tick().frame]
    release.set()
    deadline = time.monotonic() + 5
    while "Surveying" not in sampler.coverage().ran and time.monotonic() < deadline:
        time.sleep(0.01)
    frames.append(sampler.tick().frame)
    sampler.stop()
    window = Window.of(catalogue, frames)
    assert window.last("linux.tasks.blocked") == 7.0
    assert window.last("linux.load_1m") == 2.0
    assert len(np.unique(frames[-1].ids)) == len(frames[-1].ids)


def test_a_slow_start_does_not_delay_the_first_tick():
    release = threading.Event()

    class Compiling(Scripted):
        def start(self) -> None:
            release.wait(30)

    sampler = sampler_of(Compiling, Scripted)
    sampler.start()
    sampler.tick()
    starting = sampler.coverage()
    release.set()
    deadline = time.monotonic() + 5
    while "Compiling" not in sampler.coverage().ran and time.monotonic() < deadline:
        time.sleep(0.01)
        sampler.tick()
    started = sampler.coverage()
    sampler.stop()
    assert starting.ran == ("Scripted",)
    assert starting.skipped[0].reason == "was still starting at the end"
    assert set(started.ran) == {"Compiling", "Scripted"}


def test_setting_stop_ends_the_window_after_one_last_reading():
    sampler = sampler_of(Scripted, interval=30.0)
    sampler.start()
    stop = threading.Event()
    readings = sampler.run(stop=stop)
    next(readings)
    stop.set()
    rest = list(readings)
    sampler.stop()
    sampler.stop()
    assert len(rest) == 1


def test_what_a_running_collector_leaves_out_is_told_beside_that_it_ran():
    class Half(Scripted):
        partial = "files of others need root"

        def probe(self) -> Capability:
            return Capability(True, "only our own namespace", "run as root")

    sampler = sampler_of(Half)
    sampler.start()
    sampler.tick()
    coverage = sampler.coverage()
    sampler.stop()
    (told,) = coverage.skipped
    assert coverage.ran == ("Half",)
    assert (told.name, told.enable) == ("Half.partial", "run as root")
    assert told.reason == "only our own namespace; files of others need root"


def test_a_collector_that_failed_after_its_start_did_not_run_and_its_helpers_are_ours():
    class Loading(Scripted):
        failure = "the kernel refused the programs"
        own_pids = (4711,)

    sampler = sampler_of(Loading)
    sampler.start()
    sampler.tick()
    coverage = sampler.coverage()
    sampler.stop()
    assert coverage.ran == ()
    assert [(s.name, s.reason) for s in coverage.skipped] == [("Loading", "the kernel refused the programs")]
    assert sampler.own_pids() == {4711}
