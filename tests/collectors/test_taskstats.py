"""Delay accounting against the kernel's own scheduler statistics."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import pytest

from collectors.base import Roots
from collectors.taskstats import MOVED, Taskstats, TaskstatsCollector, delays
from wardround.models.series import Catalogue


def channel() -> Taskstats:
    try:
        opened = Taskstats()
        opened.of(os.getpid())
    except OSError as error:
        pytest.skip(f"needs task statistics and CAP_NET_ADMIN: {error}")
    return opened


def run_delay() -> int:
    """Nanoseconds this process's live threads waited for a CPU (/proc/PID/task/TID/schedstat)."""
    return sum(int(path.read_text().split()[1]) for path in Path("/proc/self/task").glob("*/schedstat"))


def test_waiting_for_a_cpu_is_what_schedstat_says():
    """Two threads that fight for one CPU: the struct's layout is right and their waits are summed."""
    stats = channel()
    allowed = os.sched_getaffinity(0)
    stop = threading.Event()

    def spin() -> None:
        os.sched_setaffinity(0, {min(allowed)})
        while not stop.wait(0.0001):
            sum(range(2000))

    threads = [threading.Thread(target=spin) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        stop.wait(0.5)
        low = run_delay()
        waited = delays(stats.of(os.getpid()))["cpu"]
        high = run_delay()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        stats.close()
    if waited == 0 and Path("/proc/sys/kernel/task_delayacct").read_text().strip() == "0":
        pytest.skip("delay accounting is off")
    # threads of earlier tests that ended are in the kernel's sum, not in ours
    assert waited >= low * 1e-9 * 0.99
    assert high > 0


def test_a_switched_off_accounting_is_told_with_what_enables_it(tmp_path):
    """Read, never written."""
    (tmp_path / "sys/kernel").mkdir(parents=True)
    switch = tmp_path / "sys/kernel/task_delayacct"
    switch.write_text("0\n")
    capability = TaskstatsCollector(Catalogue(), Roots(proc=str(tmp_path))).probe()
    assert not capability.available
    assert "task_delayacct" in str(capability.enable)
    assert switch.read_text() == "0\n"


def test_a_process_that_is_gone_raises_oserror():
    """And the channel goes on working."""
    stats = channel()
    with pytest.raises(OSError, match=r"."):
        stats.of(2**22 + 1)
    assert struct.unpack_from("=H", stats.of(os.getpid()))[0] != MOVED
    stats.close()


def test_a_short_struct_of_an_old_kernel_gives_what_it_has():
    """Version 8 ends after the scaled times: no thrashing, compaction or irq."""
    assert set(delays(bytes(328))) == {"cpu", "blkio", "swapin", "freepages"}
    assert delays(struct.pack("=QQQQ", 8, 0, 3, 2_500_000_000))["cpu"] == 2.5
