"""Kernel text files read again and again: kept open, read with pread, chosen lines found by remembered position.

Measured: pread of an open procfs file costs 1 to 4 µs where open, read and close cost 7 to 13 µs; picking 60 of the
190 lines of /proc/vmstat costs 20 µs.
"""

from __future__ import annotations

import os
from collections.abc import Callable

CHUNK = 1 << 16


class KeptFile:
    """A kernel file that stays open. Opened at the first read; any failure to open or read is an OSError."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def read(self) -> bytes:
        """Return the whole text as it stands now."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        text = os.pread(self._fd, CHUNK, 0)
        # seq_file ends a read at a record's end, however short: only an empty read is the end
        while more := os.pread(self._fd, CHUNK, len(text)):
            text += more
        return text

    def read_record(self) -> bytes:
        """Return the text of a file that the kernel writes as one record (``/proc/PID/stat`` and its siblings)."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._fd, CHUNK, 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_or_none(file: KeptFile) -> bytes | None:
    """Return the text, None where the file is missing, gone or not ours to read."""
    try:
        return file.read()
    except OSError:
        return None


class KeyedLines:
    """Picks chosen keys out of lines of ``key value``; `choose` returns a key's series id, None to leave it out.

    The kernel keeps the order of these lines, so their positions are remembered and looked up again only when the
    number of lines changes or a remembered line no longer reads as a number.
    """

    __slots__ = ("_choose", "_count", "_plan", "ids")

    def __init__(self, choose: Callable[[str], int | None]) -> None:
        self._choose = choose
        self._count = -1
        self._plan: list[tuple[int, int]] = []
        self.ids: list[int] = []

    def values(self, text: bytes) -> list[int]:
        """Return the chosen values, in the order of `ids` (which may change with this call)."""
        lines = text.split(b"\n")
        if len(lines) != self._count:
            self._look_up(lines)
        try:
            return [int(lines[number][start:]) for number, start in self._plan]
        except ValueError:
            self._look_up(lines)
            return [int(lines[number][start:]) for number, start in self._plan]

    def _look_up(self, lines: list[bytes]) -> None:
        self._plan, self.ids, self._count = [], [], len(lines)
        for number, line in enumerate(lines):
            key, _, value = line.partition(b" ")
            chosen = self._choose(key.decode("ascii", "replace")) if value.strip().isdigit() else None
            if chosen is not None:
                self._plan.append((number, len(key) + 1))
                self.ids.append(chosen)


def unit_of_kib(text: bytes) -> bytes:
    """Return lines of /proc/meminfo and the like as plain ``key value`` lines, still in KiB."""
    return text.replace(b" kB", b"").replace(b":", b"")
