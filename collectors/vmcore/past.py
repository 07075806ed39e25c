"""Reads the newest crash that left files on this host, while the host is observed.

Only a crash of the last days is read: its log first, which is small and tells most, then the dump in the limited worker
(`read`) as long as there is time and memory. Costs nothing where no such file lies there; else about 1.5 s of another
process' CPU at low priority, beside the window. It cannot know what no dump and no pstore record tells.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.base import Roots
from collectors.facts import read_host, read_text
from collectors.vmcore.found import Found, Left, find, folders
from wardround.errors import WardroundError
from wardround.models.diagnosis import Coverage, Skipped
from wardround.shell import command

if TYPE_CHECKING:
    from wardround.models.vmcore import PastCrash, Vmcore

NAME = "collectors.vmcore"
GRACE = 0.2  # seconds waited for the reader after the window
MARGIN = 0.5  # seconds before its end at which a dump is given up
LEAST = 2.0  # a dump is not opened for less
_LOG_BYTES = 4 << 20
_LOG_LINES = 400
_TASKS = 300
_FREE_MEMORY = 512 << 20
_NICE = 10


class PastCrashes:
    """The crashes of this host: `start` looks and begins to read, `finish` returns what there is by then.

    `pids` are the readers' process ids.
    """

    def __init__(self, roots: Roots, now: Callable[[], float] = time.time) -> None:
        self._roots, self._now = roots, now
        self._found = Found()
        self._read: PastCrash | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.pids: set[int] = set()

    def start(self, seconds: float) -> None:
        """Look for crashes, and read the newest in a thread for at most `seconds`."""
        if not self._roots.crash_days:
            return
        self._found = find(folders(self._roots.var, self._roots.sys, self._roots.crash_dirs))
        newest = next(iter(self._found.crashes), None)
        if newest is None or self._old(newest.time):
            return
        end = time.monotonic() + seconds - MARGIN
        self._thread = threading.Thread(target=self._work, args=(newest, end), name="past-crash", daemon=True)
        self._thread.start()

    def finish(self, grace: float = GRACE) -> tuple[PastCrash, ...]:
        """Return the crashes, the newest first; what the reader has not told by now is left out."""
        if not self._found.crashes:
            return ()
        newest, *older = (_listed(left) for left in self._found.crashes)
        if self._thread is None:
            return (replace(newest, why=self._too_old), *older)
        self._thread.join(grace)
        with self._lock:
            read = self._read or replace(newest, why="it could not be read in time")
        return (read, *older)

    def coverage(self) -> Coverage:
        """Say what was looked at, what may not be listed, and which crashes were not read."""
        if not self._roots.crash_days:
            return Coverage()
        skipped = []
        if refused := self._found.refused:
            closed = ", ".join(folder for folder, _ in refused)
            skipped.append(Skipped(NAME, f"{closed} cannot be listed ({refused[0][1]})", "run it as root"))
        crashes = self.finish(0.0)
        if crashes and crashes[0].why:
            skipped.append(Skipped(NAME, _not_read(crashes), command("diagnose vmcore {}", crashes[0].path)))
        return Coverage((NAME,), tuple(skipped))

    @property
    def _too_old(self) -> str:
        return f"it is older than {self._roots.crash_days:g} days"

    def _old(self, crashed: float) -> bool:
        return self._now() - crashed > self._roots.crash_days * 86400.0

    def _work(self, crash: Left, end: float) -> None:
        told, why = self._of_log(crash.log) if crash.log else (None, "")
        recent = self._keep(crash, told, "only its log was read so far" if crash.dump and told else why)
        if crash.dump and recent:
            whole, why = self._of_dump(crash.dump, end)
            if whole is None and told is not None:
                why = f"only its log was read: {why}"
            self._keep(crash, whole or told, why)

    def _of_log(self, path: str) -> tuple[Vmcore | None, str]:
        from collectors.vmcore.fromlog import read_log

        try:
            vmcore = read_log(Path(path), _LOG_BYTES)
        except OSError as error:
            return None, f"{path} cannot be read ({error.strerror})"
        if vmcore.panic is None or (vmcore.panic.kind == "warning" and not any(r.fatal for r in vmcore.reports)):
            return None, f"{path} holds no report of a crash"
        return vmcore, ""

    def _of_dump(self, path: str, end: float) -> tuple[Vmcore | None, str]:
        from collectors.vmcore.read import read_crash

        if end - time.monotonic() < LEAST:
            return None, "the window is too short to read the dump in"
        if _available(self._roots) < _FREE_MEMORY:
            return None, "too little memory is free to read the dump"
        try:
            vmcore = read_crash(Path(path), seconds=end - time.monotonic(), started=self._started)
        except WardroundError as error:
            return None, f"{error.what} ({error.why})"
        if vmcore.panic is None and not vmcore.tasks:
            return None, "the dump told nothing in the time there was"
        return vmcore, ""

    def _started(self, pid: int) -> None:
        self.pids.add(pid)
        with suppress(OSError):  # it ended already
            os.setpriority(os.PRIO_PROCESS, pid, _NICE)

    def _keep(self, crash: Left, vmcore: Vmcore | None, why: str) -> bool:
        """Keep what was read so far; return False where its own clock says that the crash is an old one."""
        told = crash.time
        if vmcore is not None:
            vmcore = essential(vmcore)
            own = vmcore.header.time
            boot = read_host(self._roots).boot_time
            # Records that are moved after the reboot bear its time.
            told = own if own is not None else min(told, boot) if boot and not crash.dump else told
            if self._old(told):  # a file copied here lately
                vmcore, why = None, self._too_old
        with self._lock:
            self._read = replace(_listed(crash), time=told, vmcore=vmcore, why=why)
        return not self._old(told)


def _listed(left: Left) -> PastCrash:
    from wardround.models.vmcore import PastCrash  # loaded only where there is a crash

    return PastCrash(left.time, left.dump, left.log, left.size)


def essential(vmcore: Vmcore) -> Vmcore:
    """Return what a judgement leans on: tasks that hang, run or are named by something, and the end of the log."""
    named = {vmcore.panic.task if vmcore.panic else None, *(item.task for item in vmcore.work)}
    named |= {task for cycle in vmcore.cycles for task in (*cycle.tasks, *cycle.bystanders)}
    named |= {task for blocker in vmcore.blockers for task in (blocker.task, *blocker.waiters)}
    named |= {task for lock in vmcore.locks for task in (lock.owner, *lock.waiters, *lock.holders)}
    named |= {task for task, _ in (vmcore.memory.largest_tasks if vmcore.memory else ())}
    telling = [t for t in vmcore.tasks if t.address in named or t.on_cpu or t.state.startswith("D")]
    telling.sort(key=lambda task: task.address not in named)
    return replace(vmcore, tasks=tuple(telling[:_TASKS]), log=vmcore.log[-_LOG_LINES:])


def _available(roots: Roots) -> int:
    """Free memory, bytes; where it cannot be told there is enough."""
    for line in read_text(f"{roots.proc}/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return _FREE_MEMORY


def _not_read(crashes: tuple[PastCrash, ...]) -> str:
    newest = crashes[0]
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(newest.time))
    more = f", and {len(crashes) - 1} before it" if len(crashes) > 1 else ""
    return f"a kernel crash of {day} left files here{more}; {newest.why}"
