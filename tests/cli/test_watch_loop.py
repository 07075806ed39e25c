"""The daemon's loop around a sampler whose ticks are scripted, for what a healthy host does not do by itself."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import numpy as np
import pytest

from cli import watch as module
from cli.service import Notifier
from cli.watch import Daemon
from collectors.base import Reading, Roots
from wardround.models.diagnosis import Coverage
from wardround.models.series import Catalogue, Frame
from wardround.settings import HistorySettings, Settings

PIDS = itertools.count(1)


class Scripted:
    """Brings one new pid a tick; takes as long for a tick as `pauses` says."""

    pauses: dict[int, float] = {}  # noqa: RUF012 - set by a test, read by every instance

    def __init__(self, catalogue: Catalogue, roots: Roots, interval: float) -> None:
        self.catalogue = catalogue
        self.stopped = False
        self.ticks = 0

    def start(self) -> None: ...

    def stop(self) -> None:
        self.stopped = True

    def coverage(self) -> Coverage:
        return Coverage()

    def tick(self, *, delay: float, everything: bool) -> Reading:
        time.sleep(self.pauses.get(self.ticks, 0.0))
        self.ticks += 1
        ids = [self.catalogue.id("linux.load_1m"), self.catalogue.id("process.memory.usage", pid=next(PIDS))]
        return Reading(Frame(time.time(), time.monotonic(), np.array(ids), np.array([1.0, 2.0])))


class After:
    """A stop signal that comes after so many ticks."""

    def __init__(self, ticks: int) -> None:
        self.left = ticks

    def sleep(self, seconds: float) -> bool:
        time.sleep(max(0.0, seconds))
        self.left -= 1
        return self.left <= 0


class Listener:
    """Follows the daemon and keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[Reading] = []
        self.catalogues: list[Catalogue] = []

    def follow(self, reading: Reading) -> None:
        self.seen.append(reading)

    def move_to(self, catalogue: Catalogue) -> None:
        self.catalogues.append(catalogue)


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    monkeypatch.setattr("collectors.sampler.Sampler", Scripted)
    monkeypatch.setattr(module, "INTERVAL", 0.02)
    monkeypatch.setattr(Scripted, "pauses", {})
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(Daemon, "_settle", lambda self: None)  # the test's own garbage collector stays on
    return Daemon(Settings(state_dir=tmp_path, ring=60, history=HistorySettings(step=1)))


def test_ticks_that_came_too_late_are_counted_and_not_made_up(daemon, monkeypatch):
    monkeypatch.setattr(Scripted, "pauses", {3: 0.2})
    began = time.monotonic()
    daemon.run(After(10), Notifier())
    slots = (time.monotonic() - began) / module.INTERVAL
    assert daemon.ticks == 10
    assert daemon.missed >= 8
    assert daemon.ticks + daemon.missed <= slots + 1


def test_every_reading_reaches_those_that_asked(daemon):
    listener = Listener()
    daemon.followers.append(listener)
    daemon.run(After(4), Notifier())
    assert len(listener.seen) == daemon.ticks == 4


def test_names_of_the_vanished_do_not_pile_up_and_the_ring_survives(daemon, monkeypatch):
    monkeypatch.setattr(module, "MOST_SERIES", 10)
    monkeypatch.setattr(module, "UPKEEP", 0.0)
    first = daemon.sampler
    listener = Listener()
    daemon.followers.append(listener)
    daemon.run(After(30), Notifier())
    assert listener.catalogues[-1] is daemon.sampler.catalogue
    assert daemon.sampler is not first
    assert first.stopped
    window = daemon.ring.window()
    assert len(window.times) == daemon.ticks == 30
    assert not np.isnan(window.level("linux.load_1m")).any()
    assert len(window.series) == 1 + daemon.ticks


def test_a_host_that_has_many_series_from_the_start_is_not_begun_anew_for_them(daemon, monkeypatch):
    monkeypatch.setattr(module, "MOST_SERIES", 10)
    monkeypatch.setattr(module, "UPKEEP", 0.0)
    first = daemon.sampler
    for pid in range(20):
        first.catalogue.id("process.memory.virtual", pid=pid)
    daemon.run(After(15), Notifier())
    assert daemon.sampler is first


def test_the_daemon_may_have_as_many_files_open_as_the_system_allows_it():
    script = (
        "import resource; from cli.service import allow_files; kind = resource.RLIMIT_NOFILE;"
        "resource.setrlimit(kind, (64, resource.getrlimit(kind)[1])); allow_files();"
        "soft, hard = resource.getrlimit(kind); assert soft == hard > 64"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
