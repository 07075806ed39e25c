"""The kernel log since boot, then what is added to it.

Source: /dev/kmsg (Documentation/ABI/testing/dev-kmsg). Needs CAP_SYSLOG, or kernel.dmesg_restrict=0. Measured cost:
3 µs a tick when nothing is new; 12 µs a record.

Kernel time does not run while the host is suspended, so after a suspend older records are dated too late. Records
that programs wrote into the kernel log are told from the kernel's own: their `unit` is ``user``, the kernel's is
``kernel``. Overwritten records are gone; their number is told in a record of our own.
"""

from __future__ import annotations

import errno
import os
import re
import time as clocks
from dataclasses import replace
from pathlib import Path

from collectors.base import Capability, Reading, Roots
from wardround.models.records import SEVERITIES, LogRecord
from wardround.models.series import Catalogue, Frame
from wardround.text import clean

MOST_A_TICK = 20_000  # a kernel that logs faster is read on in the next tick
_RECORD = 8192  # the kernel's own limit of one record with its escapes
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def parse(record: bytes, offset: float) -> tuple[int, bool, LogRecord] | None:
    """Return the sequence number, whether it continues the record before, and the record; None for one that is none.

    `offset` is Unix time minus the kernel's clock, in seconds.
    """
    head, semicolon, rest = record.partition(b";")
    parts = head.split(b",")
    if not semicolon or len(parts) < 3:
        return None
    try:
        priority, sequence, microseconds = (int(part) for part in parts[:3])
    except ValueError:
        return None
    line = rest.partition(b"\n")[0]  # lines after it, with a blank before them, hold the device as KEY=value
    if b"\\x" in line:
        line = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), line)
    continues = len(parts) > 3 and parts[3] == b"+"
    return (
        sequence,
        continues,
        LogRecord(
            time=microseconds * 1e-6 + offset,
            source="kmsg",
            text=clean(line.decode("utf-8", "replace")),
            severity=SEVERITIES[priority & 7],
            unit="kernel" if priority >> 3 == 0 else "user",
        ),
    )


class KmsgCollector:
    """Collector of kernel log records."""

    name = "collectors.kmsg"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._path = Path(roots.dev, "kmsg")
        self._handle: int | None = None
        self._next: int | None = None

    def probe(self) -> Capability:
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            return Capability(
                False, f"{self._path}: {error.strerror}", "run as root, or sysctl kernel.dmesg_restrict=0"
            )
        os.close(handle)
        return Capability(True)

    def start(self) -> None:
        self.stop()
        self._handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self, time: float, clock: float) -> Reading:
        found: list[LogRecord] = []
        # the kernel stamps records with its own clock, which runs with CLOCK_MONOTONIC
        offset = clocks.time() - clocks.monotonic()
        while len(found) < MOST_A_TICK and (record := self._record()) is not None:
            parsed = parse(record, offset)
            if parsed is None:
                continue
            sequence, continues, line = parsed
            if self._next is not None and sequence > self._next:
                lost = f"{sequence - self._next} kernel messages were overwritten before they could be read"
                found.append(LogRecord(line.time, "kmsg", lost, "warning", "wardround"))
            self._next = sequence + 1
            if continues and found and found[-1].unit == line.unit:
                found[-1] = replace(found[-1], text=clean(found[-1].text + line.text))
            else:
                found.append(line)
        return Reading(Frame.empty(time, clock), logs=tuple(found))

    def _record(self) -> bytes | None:
        """Return the next record, None where there is no newer one."""
        while self._handle is not None:
            try:
                return os.read(self._handle, _RECORD) or None
            except OSError as error:
                if error.errno == errno.EPIPE:
                    continue  # overwritten meanwhile: the next read goes on with the oldest there is
                return None
        return None

    def stop(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
