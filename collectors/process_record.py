"""One followed process: its open files under /proc, its latest values, and what of it is read again on a tick."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import numpy as np

from collectors.procfile import KeptFile
from wardround.models.series import Catalogue, Series

TICK = 1.0 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PF_KTHREAD = 0x00200000
LIMITS_EVERY = 12  # sweeps
MAX_THREADS = 2000  # above this only the leader's waiting is read

# position of each value in a record's row
COLUMNS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("process.cpu.time", (("state", "user"),)),
    ("process.cpu.time", (("state", "system"),)),
    ("linux.process.run_delay", ()),
    ("process.memory.usage", ()),
    ("process.memory.virtual", ()),
    ("process.paging.faults", (("type", "minor"),)),
    ("process.paging.faults", (("type", "major"),)),
    ("process.thread.count", ()),
    ("linux.process.children.cpu_time", ()),
    ("linux.process.children.reaped_faults", ()),
    ("linux.process.blkio_delay", ()),
    ("linux.process.memory.anon", ()),
    ("process.disk.io", (("direction", "read"),)),
    ("process.disk.io", (("direction", "write"),)),
    ("linux.process.syscall_io", (("direction", "read"),)),
    ("linux.process.syscall_io", (("direction", "write"),)),
    ("process.open_file_descriptor.count", ()),
    ("linux.process.fd.limit", ()),
    ("process.context_switches", (("type", "voluntary"),)),
    ("process.context_switches", (("type", "involuntary"),)),
    ("linux.process.state", ()),  # its series changes with the state
)
RUN_DELAY, CHILDREN, BLKIO, ANON, IO, FDS, FD_LIMIT, SWITCHES, STATE = 2, 8, 10, 11, 12, 16, 17, 18, 20
OF_KERNEL_THREADS = (0, 1, RUN_DELAY, STATE)

IO_FIELDS = re.compile(rb"rchar: (\d+)\nwchar: (\d+)\n.*?read_bytes: (\d+)\nwrite_bytes: (\d+)\n", re.DOTALL)
SWITCH_FIELDS = re.compile(rb"voluntary_ctxt_switches:\s+(\d+)\nnonvoluntary_ctxt_switches:\s+(\d+)")
SWAP_FIELD = re.compile(rb"VmSwap:\s+(\d+) kB")
NOFILE_FIELD = re.compile(rb"Max open files\s+(\d+)")


class Vanished(Exception):  # noqa: N818 - a state of the world, not an error
    """The process ended, or its stat line cannot be understood."""


class Budget:
    """What a tick may spend, and what this kernel offers. `files` and `threads` are counted down."""

    def __init__(self, files: int) -> None:
        self.files = files
        self.threads = 0
        self.counts_fds = True
        self.delay_accounting = True

    def learn(self, proc: str) -> None:
        """Find out whether /proc/PID/fd tells its number of entries as its size (Linux 6.2), and delay accounting."""
        try:
            self.counts_fds = os.stat(f"{proc}/self/fd").st_size > 0
        except OSError:
            self.counts_fds = False
        try:
            with open(f"{proc}/sys/kernel/task_delayacct", "rb") as file:
                self.delay_accounting = file.read().strip() != b"0"
        except OSError:
            self.delay_accounting = True  # kernels before 5.14 account always


class PerThread:
    """Sums counters over threads that come and go: the sum never falls when a thread ends."""

    __slots__ = ("_complete", "_last", "total")

    def __init__(self, width: int) -> None:
        self.total = [0] * width
        self._last: Mapping[str, tuple[int, ...]] = {}
        self._complete = True

    def add(self, now: Mapping[str, tuple[int, ...]], complete: bool) -> list[int]:
        """Take the threads' counters as they stand; `complete` where `now` holds all threads of the process."""
        nothing = (0,) * len(self.total)
        for tid, counters in now.items():
            # a thread first seen now began since the last look, unless that look did not cover all threads
            before = self._last.get(tid, nothing if self._complete else counters)
            for column, value in enumerate(counters):
                self.total[column] += max(0, value - before[column])
        self._last = now
        self._complete = complete
        return self.total


class ProcessRecord:
    """The files and the row of one process. `values` is NaN where nothing was read; `stat` is the line last read."""

    __slots__ = (
        "_catalogue", "_delays", "_files", "_folder", "_keep", "_pid", "_states", "_swap", "_sweeps", "_switches",
        "_user", "at_rest", "ids", "stat", "values", "zombie",
    )  # fmt: skip

    def __init__(self, catalogue: Catalogue, proc: str, pid: str) -> None:
        self._catalogue = catalogue
        self._pid = pid
        self._folder = f"{proc}/{pid}"
        self._files = {name: KeptFile(f"{self._folder}/{name}") for name in ("stat", "statm", "io", "schedstat")}
        self._keep: bool | None = None
        self.stat = b""
        self._user = True
        self._states: dict[bytes, int] = {}
        self._swap = 0
        self._sweeps = 0
        self._delays = PerThread(1)
        self._switches = PerThread(2)
        self.at_rest = False
        self.zombie = False
        self.ids = np.empty(0, np.int64)
        self.values = np.empty(0)

    def update(self, budget: Budget, sweep: bool) -> None:
        """Read what has to be read on this tick. :raises Vanished, OSError, ValueError: the process cannot be read"""
        raw = self._read("stat", budget)
        due = sweep and self._user  # a kernel thread at rest has nothing that moves without its stat line
        if raw == self.stat and not due and raw[raw.rindex(b")") + 2 :][:1] not in b"RD":
            return
        self.at_rest = raw == self.stat
        self.stat = raw
        fields = raw[raw.rindex(b")") + 2 :].split() if b")" in raw else []
        if len(fields) < 22:
            raise Vanished(self._pid)
        self.zombie = fields[0] in (b"Z", b"X")
        if self.zombie:
            return
        if not len(self.ids):
            self._lay_out(user=not int(fields[6]) & PF_KTHREAD)
        threads = self._take_stat(fields, budget)
        self._take_run_delay(threads, budget)
        if self._user:
            self._take_memory_and_io(budget)
            if sweep or budget.counts_fds:
                self._take_fds(budget)
            if sweep:
                self._take_switches(threads, budget)
                if self._sweeps % LIMITS_EVERY == 0:
                    self._take_limit()
                self._sweeps += 1
            else:
                self.values[SWITCHES : SWITCHES + 2] = np.nan

    def close(self, budget: Budget) -> None:
        for file in self._files.values():
            file.close()
        if self._keep:
            budget.files += len(self._files)
        self._keep = False

    def _lay_out(self, user: bool) -> None:
        self._user = user
        columns = range(len(COLUMNS)) if user else OF_KERNEL_THREADS
        self.ids = np.zeros(len(COLUMNS), np.int64)
        self.values = np.full(len(COLUMNS), np.nan)
        for column in columns:
            name, labels = COLUMNS[column]
            if column != STATE:
                self.ids[column] = self._number(name, labels)

    def _number(self, name: str, labels: tuple[tuple[str, str], ...]) -> int:
        """Number a series of this process; thousands may come at once, so its sorted labels are put together here."""
        pid = ("pid", self._pid)
        return self._catalogue.add(Series(name, (*labels, pid) if labels and labels[0][0] < "pid" else (pid, *labels)))

    def _read(self, name: str, budget: Budget) -> bytes:
        if self._keep is None:
            self._keep = budget.files >= len(self._files)
            budget.files -= len(self._files) if self._keep else 0
        file = self._files[name]
        try:
            return file.read_record()
        finally:
            if not self._keep:
                file.close()

    def _take_stat(self, fields: list[bytes], budget: Budget) -> int:
        """Fields are counted from the state, the third of proc_pid_stat(5); returns the number of threads."""
        state = fields[0]
        if state not in self._states:
            self._states[state] = self._number("linux.process.state", (("state", state.decode()),))
        row = self.values
        self.ids[STATE] = self._states[state]
        row[STATE] = 1.0
        row[0] = int(fields[11]) * TICK
        row[1] = int(fields[12]) * TICK
        threads = int(fields[17])
        if self._user:
            row[3] = int(fields[21]) * PAGE
            row[4] = int(fields[20])
            row[5] = int(fields[7])
            row[6] = int(fields[9])
            row[7] = threads
            row[CHILDREN] = (int(fields[13]) + int(fields[14])) * TICK
            row[CHILDREN + 1] = int(fields[8])
            if budget.delay_accounting and len(fields) > 39:
                row[BLKIO] = int(fields[39]) * TICK
        return threads

    def _take_run_delay(self, threads: int, budget: Budget) -> None:
        try:
            if threads == 1:
                fields = self._read("schedstat", budget).split()
                total = self._delays.add({self._pid: (int(fields[1]),)}, complete=True)
            else:
                waits = self._per_thread("schedstat", threads, budget)
                if waits is None:
                    self.values[RUN_DELAY] = np.nan
                    return
                now = {tid: (int(text.split()[1]),) for tid, text in waits.items()}
                total = self._delays.add(now, complete=len(now) >= threads)
            self.values[RUN_DELAY] = total[0] * 1e-9
        except (OSError, IndexError):
            self.values[RUN_DELAY] = np.nan  # a kernel without schedstats, or it is ending

    def _per_thread(self, name: str, threads: int, budget: Budget) -> dict[str, bytes] | None:
        """Return a file of every thread (of the leader only where they are too many), None if the budget is spent."""
        if threads == 1 or threads > MAX_THREADS:
            tids = [self._pid]
        elif threads > budget.threads:
            return None
        else:
            tids = os.listdir(f"{self._folder}/task")
        budget.threads -= len(tids)
        texts = {}
        for tid in tids:
            try:
                fd = os.open(f"{self._folder}/task/{tid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    texts[tid] = os.pread(fd, 4096, 0)
                finally:
                    os.close(fd)
            except OSError:
                continue
        return texts

    def _take_memory_and_io(self, budget: Budget) -> None:
        row = self.values
        sizes = self._read("statm", budget).split()
        row[ANON] = (int(sizes[1]) - int(sizes[2])) * PAGE + self._swap  # resident less file and shared pages
        try:
            match = IO_FIELDS.search(self._read("io", budget))
        except (PermissionError, FileNotFoundError):  # not ours, or a kernel without I/O accounting
            match = None
        if match is not None:
            row[IO : IO + 4] = int(match[3]), int(match[4]), int(match[1]), int(match[2])

    def _take_fds(self, budget: Budget) -> None:
        try:
            folder = f"{self._folder}/fd"
            self.values[FDS] = os.stat(folder).st_size if budget.counts_fds else len(os.listdir(folder))
        except (PermissionError, FileNotFoundError):
            self.values[FDS] = np.nan

    def _take_switches(self, threads: int, budget: Budget) -> None:
        texts = self._per_thread("status", threads, budget)
        if texts is None:
            self.values[SWITCHES : SWITCHES + 2] = np.nan
            return
        now = {}
        for tid, text in texts.items():
            match = SWITCH_FIELDS.search(text)
            if match is not None:
                now[tid] = (int(match[1]), int(match[2]))
        self.values[SWITCHES : SWITCHES + 2] = self._switches.add(now, complete=len(now) >= threads)
        swap = SWAP_FIELD.search(texts.get(self._pid, b""))
        self._swap = int(swap[1]) * 1024 if swap else 0

    def _take_limit(self) -> None:
        try:
            with open(f"{self._folder}/limits", "rb") as file:
                match = NOFILE_FIELD.search(file.read())
        except (PermissionError, FileNotFoundError):
            return
        if match is not None:
            self.values[FD_LIMIT] = int(match[1])
