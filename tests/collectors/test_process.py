"""What real child processes do is found in their series."""

from __future__ import annotations

import os
import signal
import time

import pytest

from collectors.base import Roots
from collectors.process import SWEEP_EVERY, ProcessCollector
from collectors.process_record import PerThread
from tests.collectors.workload import proceed, program, read, value
from wardround.models.series import Catalogue

MIB = 1 << 20


@pytest.fixture
def catalogue():
    return Catalogue()


@pytest.fixture
def collector(catalogue):
    built = ProcessCollector(catalogue, Roots())
    built.start()
    yield built
    built.stop()


def sweep(collector):
    """Read until every slow value has been read again."""
    for _ in range(SWEEP_EVERY):
        frame = read(collector)
    return frame


def test_half_a_second_of_cpu_is_found(collector, catalogue):
    burn = "import time\nwhile time.process_time() < 0.6: pass"
    with program("import time", prepare=burn) as child:
        first = read(collector)
        proceed(child)
        second = read(collector)
    spent = [
        value(second, catalogue, "process.cpu.time", pid=child.pid, state=s)
        - value(first, catalogue, "process.cpu.time", pid=child.pid, state=s)
        for s in ("user", "system")
    ]
    assert 0.4 < sum(spent) < 0.8


def test_fifty_mebibytes_are_found_as_private_memory(collector, catalogue):
    with program("", prepare=f"kept = bytearray({50 * MIB})\nkept[::4096] = b'x' * len(kept[::4096])") as child:
        first = read(collector)
        proceed(child)
        second = read(collector)
    grown = [
        value(second, catalogue, name, pid=child.pid) - value(first, catalogue, name, pid=child.pid)
        for name in ("linux.process.memory.anon", "process.memory.usage")
    ]
    assert grown == pytest.approx([50 * MIB, 50 * MIB], rel=0.1)


def test_twenty_three_open_files_are_counted(collector, catalogue):
    with program("", prepare="kept = [open('/dev/null') for _ in range(23)]") as child:
        first = read(collector)
        proceed(child)
        second = sweep(collector)
    name = "process.open_file_descriptor.count"
    opened = value(second, catalogue, name, pid=child.pid) - value(first, catalogue, name, pid=child.pid)
    assert opened == 23
    assert value(second, catalogue, "linux.process.fd.limit", pid=child.pid) > 23


def test_bytes_written_through_calls_are_counted(collector, catalogue):
    with program("", prepare="import os\nfor _ in range(11): os.write(os.open('/dev/null', 1), b'x' * 10007)") as child:
        first = read(collector)
        proceed(child)
        second = sweep(collector)
    name = "linux.process.syscall_io"
    labels = {"pid": child.pid, "direction": "write"}
    assert value(second, catalogue, name, **labels) - value(first, catalogue, name, **labels) >= 11 * 10007


def test_threads_and_their_switches_are_summed_over_the_process(collector, catalogue):
    code = """
import threading, time
def nap():
    for _ in range(50): time.sleep(0.001)
    threading.Event().wait()
"""
    start = "for _ in range(7): threading.Thread(target=nap, daemon=True).start()\ntime.sleep(0.5)"
    with program(code, prepare=start) as child:
        first = read(collector)
        proceed(child)
        second = sweep(collector)
        third = read(collector)
    assert value(second, catalogue, "process.thread.count", pid=child.pid) == 8
    switches = {"pid": child.pid, "type": "voluntary"}
    counts = [value(frame, catalogue, "process.context_switches", **switches) for frame in (first, second, third)]
    assert max(c for c in counts[1:] if c == c) - counts[0] >= 7 * 50


def test_the_work_of_short_lived_children_shows_in_their_parent(collector, catalogue):
    fork = "import os\nfor _ in range(20):\n if os.fork() == 0: bytearray(MB)[::4096]; os._exit(0)\n os.wait()"
    with program("MB = 1 << 20", prepare=fork) as child:
        first = read(collector)
        proceed(child)
        second = sweep(collector)
    name = "linux.process.children.reaped_faults"
    assert value(second, catalogue, name, pid=child.pid) - value(first, catalogue, name, pid=child.pid) > 20 * 20


def test_waiting_for_a_cpu_is_counted_in_every_thread(collector, catalogue):
    """Four threads of one process on one CPU wait three quarters of their time, but the leader sleeps."""
    code = """
import hashlib, os, threading
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
def work():
    while True: hashlib.pbkdf2_hmac("sha256", b"x", b"y", 20000)
"""
    with program(code, prepare="for _ in range(4): threading.Thread(target=work, daemon=True).start()") as child:
        first = read(collector)
        proceed(child)
        delay, deadline = 0.0, time.monotonic() + 5
        while not delay >= 0.5 and time.monotonic() < deadline:
            time.sleep(0.1)
            frame = read(collector)
            delay = value(frame, catalogue, "linux.process.run_delay", pid=child.pid) - value(
                first, catalogue, "linux.process.run_delay", pid=child.pid
            )
    assert delay >= 0.5


def test_states_and_zombies_are_told(collector, catalogue):
    with program("", prepare="import os\nfor _ in range(5):\n if os.fork() == 0: os._exit(0)") as child:
        before = value(read(collector), catalogue, "linux.processes.zombie")
        proceed(child)
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(0.05)
        frame = sweep(collector)
        os.kill(child.pid, signal.SIGCONT)
    assert value(frame, catalogue, "linux.processes.zombie") - before >= 5
    assert value(frame, catalogue, "linux.process.state", pid=child.pid, state="T") == 1.0


def test_a_process_is_followed_once_seen_twice_and_left_out_when_gone(collector, catalogue):
    read(collector)
    with program("") as child:
        first, second = read(collector), read(collector)
    third = read(collector)
    name = "process.memory.usage"
    seen = [value(frame, catalogue, name, pid=child.pid) > 0 for frame in (first, second, third)]
    assert seen == [False, True, False]


def test_with_no_files_to_spare_it_reads_all_the_same(monkeypatch, catalogue):
    monkeypatch.setattr("collectors.process.resource.getrlimit", lambda _: (16, 16))
    collector = ProcessCollector(catalogue, Roots())
    collector.start()
    before = len(os.listdir("/proc/self/fd"))
    frame = read(collector)
    assert len(os.listdir("/proc/self/fd")) - before <= 8
    collector.stop()
    assert value(frame, catalogue, "process.memory.usage", pid=os.getpid()) > 0


def test_more_processes_than_it_can_follow_are_told(monkeypatch, catalogue):
    monkeypatch.setattr("collectors.process.MAX_PROCESSES", 3)
    collector = ProcessCollector(catalogue, Roots())
    collector.start()
    frame = read(collector)
    collector.stop()
    pids = {catalogue[int(number)].label("pid") for number in frame.ids} - {None}
    assert len(pids) == 3
    assert "the busiest 3 are followed" in collector.partial


STAT = "77 (odd) name) S 1 77 77 0 -1 4194304 10 0 2 0 5 6 0 0 20 0 1 0 100 4096000 25 18446744073709551615" + " 0" * 40


def fake_process(tmp_path, stat):
    folder = tmp_path / "77"
    folder.mkdir()
    (folder / "stat").write_text(stat)
    (folder / "statm").write_text("1000 25 5 1 0 1 0")
    (folder / "limits").write_text("Max open files            1024                 4096                 files\n")
    collector = ProcessCollector(catalogue := Catalogue(), Roots(proc=str(tmp_path)))
    collector.start()
    frame = read(collector)
    collector.stop()
    return frame, catalogue


def test_new_fields_and_odd_names_in_stat_are_taken_in_stride(tmp_path):
    frame, catalogue = fake_process(tmp_path, STAT + " 1 2 3 new\n")
    ticks = os.sysconf("SC_CLK_TCK")
    assert value(frame, catalogue, "process.cpu.time", pid=77, state="user") == pytest.approx(5 / ticks)
    assert value(frame, catalogue, "linux.process.fd.limit", pid=77) == 1024


@pytest.mark.parametrize("stat", ["", "77 (cut", "77 (short) S 1 2", "77 (letters) S " + "x " * 45])
def test_a_stat_line_it_cannot_read_leaves_the_process_out(tmp_path, stat):
    frame, _ = fake_process(tmp_path, stat)
    assert len(frame.ids) == 1


def test_sums_over_threads_do_not_fall_when_one_ends_nor_jump_when_all_are_seen_again():
    sums = PerThread(1)
    assert sums.add({"1": (10,), "2": (100,)}, complete=True) == [110]
    assert sums.add({"1": (15,)}, complete=True) == [115]
    assert sums.add({"1": (15,), "3": (7,)}, complete=True) == [122]
    assert sums.add({"1": (20,)}, complete=False) == [127]
    assert sums.add({"1": (20,), "3": (500,)}, complete=True) == [127]


RESTARTS = """
import subprocess, time
for _ in range(5):
    with subprocess.Popen(["sleep", "0.5"]): pass
"""


def test_a_child_that_is_started_again_and_again_is_counted_under_its_parent(collector, catalogue):
    """Each sleep lives for two looks at least; a child that is never waited for counts once, as a zombie."""
    vanished = "linux.process.children.vanished"
    total = {"sleep": 0.0, "sh": 0.0}
    keeps = "import subprocess\nkept = subprocess.Popen(['sh', '-c', 'sleep 1; true'])\n"
    with program(keeps, prepare=RESTARTS) as child:
        child.stdin.write("\n")
        child.stdin.flush()
        deadline = time.monotonic() + 10
        while min(total.values()) < 1 or total["sleep"] < 5:
            assert time.monotonic() < deadline, total
            time.sleep(0.1)
            frame = read(collector)
            for comm in total:
                told = value(frame, catalogue, vanished, pid=child.pid, comm=comm)
                total[comm] = max(total[comm], told if told == told else 0.0)
        for _ in range(2 * SWEEP_EVERY):
            frame = read(collector)
    assert total == {"sleep": 5, "sh": 1}
    assert value(frame, catalogue, vanished, pid=child.pid, comm="sh") == 1
