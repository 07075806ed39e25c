"""Log files: the end of each when we begin, then what is added.

Source: the system's text logs, files named in the setting `log_files`, files under /var/log that a process
holds open for writing, and files that processes have as their standard output or error. Needs read permission.
Measured cost: 4 µs a file and tick when nothing is new, 15 µs a line, 8 ms every quarter of a minute to look for files.

Follows rotation and truncation; a line of any length costs its reading but is cut. Access times stay as they are.
A line without a time of its own is dated when it was read. Where journald runs, the system's own text logs are its
copies and left to it; the kernel's lines are left to the kernel log.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from collectors.base import Capability, Reading, Roots
from collectors.logline import parse
from collectors.namespaces import Paced
from wardround.models.records import LogRecord
from wardround.models.series import Catalogue, Frame

SYSTEM = ("/var/log/syslog", "/var/log/messages", "/var/log/kern.log", "/var/log/daemon.log", "/var/log/auth.log")
FOLDER = "/var/log/"
HISTORY = 256 << 10  # bytes before the window
MOST_A_TICK = 1 << 20  # bytes of one file; the rest is read in the next tick
LONGEST = 1 << 20  # bytes of a line kept while its end has not come
MOST_FILES = 64
LOOK_SECONDS = 0.2
NAMES = (".log", ".out", ".err")
NOT_TEXT = frozenset({"wtmp", "btmp", "lastlog", "faillog"})


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes a log, as far as known."""

    name: str = ""
    pid: int | None = None


class Tail:
    """The end of one file, by lines."""

    def __init__(self, path: str, *, history: int = HISTORY) -> None:
        """Open and stand `history` bytes before the end. Raises OSError where it is no readable regular file."""
        self.path = path
        self._handle = _open(path)
        self._rest = b""
        status = os.fstat(self._handle)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(f"{path} is not a regular file")
        self._offset = max(0, status.st_size - history)
        self._skip = self._offset > 0  # the first line is cut off
        self.binary = b"\0\0" in os.pread(self._handle, 512, 0)

    def lines(self) -> list[bytes]:
        """Return the complete lines that came since the last call."""
        size = os.fstat(self._handle).st_size
        if size < self._offset:  # truncated in place
            self._offset, self._rest, self._skip = 0, b"", False
        found = self._read()
        if not found and self._replaced():
            if self._rest:
                found.append(self._rest)
            self._reopen()
            found += self._read()
        return found

    def _read(self) -> list[bytes]:
        data = os.pread(self._handle, MOST_A_TICK, self._offset)
        if not data:
            return []
        self._offset += len(data)
        *complete, self._rest = (self._rest + data).split(b"\n")
        if self._skip and complete:
            del complete[0]
            self._skip = False
        if len(self._rest) > LONGEST:
            complete.append(self._rest)
            self._rest, self._skip = b"", True  # what follows up to the end of the line belongs to it
        return complete

    def _replaced(self) -> bool:
        try:
            now, ours = os.stat(self.path), os.fstat(self._handle)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino)

    def _reopen(self) -> None:
        with suppress(OSError):
            handle = _open(self.path)
            self.close()
            self._handle, self._offset, self._rest, self._skip = handle, 0, b"", False

    def close(self) -> None:
        os.close(self._handle)


def _open(path: str) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)  # only a file's owner and root may leave its access time alone


class LogfilesCollector:
    """Collector of log lines from files."""

    name = "collectors.logfiles"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._roots = roots
        self._configured = [str(path) for path in roots.log_files]
        self._tails: dict[tuple[int, int], tuple[Tail, Writer]] = {}
        self._look = Paced(lambda: held_logs(roots), least=15.0)
        self._kmsg = os.access(f"{roots.dev}/kmsg", os.R_OK)
        self._began = False

    def probe(self) -> Capability:
        return Capability(True)

    def start(self) -> None:
        return

    def read(self, time: float, clock: float) -> Reading:
        history = 0 if self._began else HISTORY
        held = self._look(clock)
        wanted = {path: Writer() for path in [*self._configured, *(() if _journald() else SYSTEM)]} | held
        for path, writer in list(wanted.items())[:MOST_FILES]:
            # files that appear later began after we did: all of them is new
            self._follow(path, writer, history if not self._began else LONGEST)
        self._began = True
        found: list[LogRecord] = []
        for key, (tail, writer) in list(self._tails.items()):
            try:
                lines = tail.lines()
            except OSError:
                tail.close()
                del self._tails[key]
                continue
            records = (parse(line, tail.path, time, unit=writer.name, pid=writer.pid) for line in lines if line)
            found += [r for r in records if r.text and not (self._kmsg and r.unit == "kernel")]
        return Reading(Frame.empty(time, clock), logs=tuple(found))

    def _follow(self, path: str, writer: Writer, history: int) -> None:
        try:
            status = os.stat(path)
            key = (status.st_dev, status.st_ino)
            # a rotated file is followed by the tail that has its path
            if key in self._tails or any(tail.path == path for tail, _ in self._tails.values()):
                return
            tail = Tail(path, history=history)
        except OSError:
            return
        if tail.binary:
            tail.close()
        else:
            self._tails[key] = (tail, writer)

    def stop(self) -> None:
        for tail, _ in self._tails.values():
            tail.close()
        self._tails.clear()


def _journald() -> bool:
    return os.path.exists("/run/systemd/journal/stdout")


def held_logs(roots: Roots, deadline: float = LOOK_SECONDS) -> dict[str, Writer]:
    """Return the log files that other processes hold open for writing, by path, with one of their writers."""
    end = monotonic() + deadline
    found: dict[str, Writer] = {}
    for name in os.listdir(roots.proc):
        if monotonic() > end or len(found) >= MOST_FILES:
            break
        if not name.isdigit() or int(name) == os.getpid():
            continue
        for path in _written(f"{roots.proc}/{name}"):
            found.setdefault(path, Writer(_comm(f"{roots.proc}/{name}"), int(name)))
    return found


def _written(process: str) -> Iterator[str]:
    try:
        descriptors = os.listdir(f"{process}/fd")
    except OSError:
        return
    for descriptor in descriptors:
        link = f"{process}/fd/{descriptor}"
        try:
            path = os.readlink(link)
            standard = descriptor in ("1", "2") and path.startswith("/") and path.endswith(NAMES)
            if not (standard or path.startswith(FOLDER)) or os.path.basename(path) in NOT_TEXT:
                continue
            if os.lstat(link).st_mode & stat.S_IWUSR and not path.endswith((" (deleted)", ".journal")):
                yield path
        except OSError:
            continue


def _comm(process: str) -> str:
    try:
        with open(f"{process}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
