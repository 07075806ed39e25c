"""Crashes for the rounds: real kernel logs, and one made by hand as a dump would have told it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from collectors.vmcore.fromlog import read_log
from tests.agents import observations
from wardround.models.observation import Observation
from wardround.models.vmcore import Lock, LockCycle, LogLine, PastCrash, StackFrame, Task, Vmcore

LOGS = Path(__file__).parents[1] / "vmcore" / "logs"
BOOTED = observations.START - 86400
CRASHED = BOOTED - 120.0
SECRET = "hunter2hunter2"


def null_write() -> Vmcore:
    """A module that followed a null pointer; its host's name is not in the log."""
    return read_log(LOGS / "null_write_6.12.log")


def logged_deadlock() -> Vmcore:
    """Two tasks that wait for each other's mutexes, as a kernel that prints likely owners logs it."""
    return read_log(LOGS / "mutex_owners_6.18.log")


def deadlock(path: str = "/var/crash/1/vmcore") -> Vmcore:
    """Two tasks of two modules that wait for each other's mutexes, as a dump tells it."""
    told = logged_deadlock()
    one, two = 0xFFFF888100010000, 0xFFFF888100020000
    locks = (
        Lock("mutex", 0xFFFFFFFFC0A01000, "index_lock", owner=two, waiters=(one,)),
        Lock("mutex", 0xFFFFFFFFC0A02000, "journal_lock", owner=one, waiters=(two,)),
    )
    header = replace(told.header, path=path, tier="dump", format="elf", hostname="infer-07")
    return replace(
        told,
        header=replace(header, time=CRASHED, uptime=300.0),
        tasks=(_task(one, 143, "jt_commit", "jt_update"), _task(two, 144, "jt_compact", "jt_drop")),
        locks=locks,
        cycles=(LockCycle((one, two), (locks[0].address, locks[1].address)),),
        log=(*told.log, LogLine(12.0, f"worker: login with password={SECRET}")),
        ran=("vmcore.log", "vmcore.tasks", "vmcore.locks"),
    )


def _task(address: int, pid: int, comm: str, function: str) -> Task:
    names = ("__schedule", "schedule_preempt_disabled", "__mutex_lock", function, "kthread", "ret_from_fork")
    stack = tuple(StackFrame(name, 0x10, module="jtable" if name == function else "") for name in names)
    return Task(address, pid, pid, comm, "D", 0, waiting=130.0, stack=stack)


def after(observation: Observation, vmcore: Vmcore, at: float = CRASHED) -> Observation:
    """The observation of a host that was rebooted from this crash."""
    dump, log = (vmcore.header.path, "") if vmcore.header.tier != "log" else ("", vmcore.header.path)
    return replace(observation, crashes=(PastCrash(at, dump, log, 4096, vmcore),))
