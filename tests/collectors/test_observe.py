"""A whole observation of this host."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from collectors.base import Roots
from collectors.observe import observe, own_pids
from tests.collectors.workload import program
from wardround.models.series import Baseline
from wardround.models.topology import Process, TopologySnapshot

PROC = ("collectors.host", "collectors.memory", "collectors.process", "collectors.cgroup")


def test_a_window_holds_both_ends_the_ticks_between_and_what_ran():
    ticks = []
    seen = observe(1.0, only=PROC, on_tick=lambda elapsed, reading: ticks.append(elapsed))
    assert len(seen.window.times) == len(ticks) == 2
    assert ticks[0] == 0.0
    assert ticks[-1] >= 1.0
    assert seen.before.time <= seen.window.times[-1] <= seen.after.time
    assert set(PROC[:3]) <= set(seen.coverage.ran)
    assert seen.window.mean("system.cpu.time") > 0.5
    assert len(seen.baseline.level) == len(seen.window.series)


def test_a_process_started_within_the_window_is_in_the_second_snapshot_only():
    with program("") as early:
        late = []

        def start_one(elapsed, reading):
            if not late:
                late.append(program(""))
                late.append(late[0].__enter__())

        seen = observe(1.0, only=PROC, on_tick=start_one)
        late[0].__exit__(None, None, None)
    assert {early.pid} <= seen.before.processes.keys() & seen.after.processes.keys()
    assert late[1].pid not in seen.before.processes
    assert late[1].pid in seen.after.processes


def test_ours_are_this_process_and_what_it_started_but_not_who_started_it():
    def process(pid, ppid):
        return Process(pid, ppid, "x", 0.0, "S")

    me = os.getpid()
    tree = {p.pid: p for p in (process(me, 1), process(50001, me), process(50002, 50001), process(50003, 1))}
    assert own_pids(TopologySnapshot(0.0, tree)) == {me, 50001, 50002}
    assert own_pids(TopologySnapshot(0.0, tree), [50003]) == {me, 50001, 50002, 50003}


def test_an_interrupt_ends_the_window_early_with_what_was_seen():
    interrupt = threading.Timer(1.3, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    began = time.monotonic()
    seen = observe(60.0, only=PROC)
    interrupt.join()
    assert time.monotonic() - began < 30
    assert len(seen.window.times) >= 1
    assert seen.window.mean("linux.tasks.count") > 0


def test_no_time_at_all_gives_one_tick():
    seen = observe(0.0, only=PROC)
    assert len(seen.window.times) == 1
    assert np.isnan(seen.window.mean("system.context_switches"))


def test_a_baseline_is_asked_for_the_columns_of_the_window():
    asked = []

    def usual(window):
        asked.append(window)
        return Baseline.unknown(len(window.series))

    seen = observe(0.0, only=PROC, baseline=usual)
    assert asked == [seen.window]


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's host facts are the same but for root")
def test_the_host_is_described():
    host = observe(0.0, only=("collectors.host",)).host
    assert host.cpus == len(os.sched_getaffinity(0)) or host.cpus >= 1
    assert host.memory > 1 << 20
    assert abs(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - host.boot_time) < 5
    assert host.root


def test_a_crash_that_left_files_is_read_beside_the_window(tmp_path):
    log = tmp_path / "crash" / "1" / "dmesg.202611210800"
    log.parent.mkdir(parents=True)
    told = (Path(__file__).parents[1] / "vmcore/logs/null_write_6.12.log").read_text()
    log.write_text(told.replace("setting system clock", ""))  # then the file's time counts: now
    seen = observe(1.0, only=PROC, roots=Roots(var=str(tmp_path)))
    assert [crash.log for crash in seen.crashes] == [str(log)]
    assert seen.crashes[0].vmcore.panic.kind == "null_pointer"
    assert "collectors.vmcore" in seen.coverage.ran
