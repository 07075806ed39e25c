"""The snapshot against real processes: identity, threads, and locks with their owners."""

from __future__ import annotations

import os
import signal
import time

import pytest

from collectors.process_table import read_process, read_threads, snapshot_processes
from tests.collectors.workload import ABBA, CONDITION, PYTHON_DEADLOCK, program

root = pytest.mark.skipif(os.geteuid() != 0, reason="reading another process's memory needs root")


def test_this_process_is_described_as_it_is():
    me = snapshot_processes()[os.getpid()]
    assert me.ppid == os.getppid()
    assert me.uid == os.geteuid()
    assert me.affinity == tuple(sorted(os.sched_getaffinity(0)))
    assert me.netns == os.stat("/proc/self/ns/net").st_ino
    assert me.exe == os.readlink("/proc/self/exe")
    assert me.fds is not None
    assert me.fds > 0
    assert os.getpid() in {thread.tid for thread in me.threads}


def test_a_start_time_is_the_same_in_every_snapshot_and_lies_in_the_past():
    first, second = snapshot_processes()[os.getpid()], snapshot_processes()[os.getpid()]
    assert first.start == second.start
    assert first.start < time.time()


def test_a_stopped_process_is_seen_stopped():
    with program("") as child:
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(0.05)
        stopped = snapshot_processes()[child.pid]
        os.kill(child.pid, signal.SIGCONT)
    assert stopped.state == "T"
    assert stopped.locks == ()


def test_kernel_threads_are_told_apart():
    processes = snapshot_processes()
    assert not processes[os.getpid()].kernel
    if 2 in processes and processes[2].name == "kthreadd":
        assert processes[2].kernel


@root
def test_two_threads_that_hold_each_others_mutex_are_a_cycle():
    with program(ABBA) as child:
        process = snapshot_processes()[child.pid]
    owners = {lock.tid: lock.owner for lock in process.locks if lock.owner is not None}
    assert len(owners) == 2
    one, other = owners
    assert owners == {one: other, other: one}
    assert all(lock.private and not lock.timed for lock in process.locks if lock.owner is not None)


@root
@pytest.mark.parametrize("code", [CONDITION, PYTHON_DEADLOCK], ids=["condition variable", "python locks"])
def test_a_lock_that_records_no_owner_has_none(code):
    with program(code) as child:
        process = snapshot_processes()[child.pid]
    assert process.locks
    assert {lock.owner for lock in process.locks} == {None}


@root
def test_a_wait_with_a_time_limit_is_told_from_one_without():
    code = "import threading\nthreading.Thread(target=threading.Event().wait, args=(60,), daemon=True).start()"
    with program(code + "\nimport time\ntime.sleep(0.2)") as child:
        process = snapshot_processes()[child.pid]
    assert [lock.timed for lock in process.locks] == [True]


def test_a_process_that_is_gone_is_none():
    with program("") as child:
        pass
    assert read_process("/proc", child.pid) is None


def test_threads_are_read_for_as_long_as_there_is_time():
    many = "import threading\nfor _ in range(200): threading.Thread(target=threading.Event().wait, daemon=True).start()"
    with program(many) as child:
        whole = read_threads("/proc", child.pid)
        part = read_threads("/proc", child.pid, deadline=time.monotonic())
    assert len(whole) == 201
    assert len(part) < len(whole)


def test_a_thread_that_makes_no_progress_has_the_same_switches_in_both_snapshots():
    with program("") as child:
        first, second = (snapshot_processes()[child.pid].threads[0] for _ in range(2))
    assert (first.switches, first.cpu_time) == (second.switches, second.cpu_time)
    assert first.switches > 0
