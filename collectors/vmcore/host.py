"""Which host crashed, when, its name, CPUs, memory, and how long it had run.

The time is the kernel's own: the wall clock's offset to its running time, plus the time of the log's last line. A
kernel that was never told the date counts from 1970, and then the time is not known.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from drgn.helpers.linux.cpumask import for_each_present_cpu

from collectors.vmcore.layout import layout
from collectors.vmcore.open import DAMAGE, Dump
from wardround.models.vmcore import DumpHeader, LogLine

_DATES = (631152000.0, 4102444800.0)  # 1990 to 2100: a clock outside was not set
_OFFSETS = (8, 16, 4, 64, 128)  # of the timekeeper behind its sequence count, where no type tells


def read_host(dump: Dump, header: DumpHeader, log: tuple[LogLine, ...]) -> DumpHeader:
    """Return the header with what memory tells of the host; what cannot be read stays as it was.

    CPUs are the present ones: after a panic all but one are offline. The uptime is the log's last word.
    """
    prog = dump.prog
    with suppress(*DAMAGE):
        header = replace(header, hostname=prog["init_uts_ns"].name.nodename.string_().decode("utf-8", "replace"))
    with suppress(*DAMAGE):
        header = replace(header, cpus=sum(1 for _ in for_each_present_cpu(prog)))
    with suppress(*DAMAGE):
        header = replace(header, memory=int(prog["_totalram_pages"].counter) * int(prog["PAGE_SIZE"]))
    if not log:
        return header
    header = replace(header, uptime=log[-1].time)
    booted = _booted(dump) if header.time is None else None
    return header if booted is None else replace(header, time=booted + log[-1].time)


def _booted(dump: Dump) -> float | None:
    """The Unix time of the boot by the kernel's clock; None where there is no clock that agrees with itself."""
    with suppress(*DAMAGE):
        clock = layout(dump.prog, "struct timekeeper")
        seconds, running, offset = clock.at("xtime_sec"), clock.at("ktime_sec"), clock.at("offs_real")
        for address in _clocks(dump):
            with suppress(*DAMAGE):
                now, since = dump.prog.read_u64(address + seconds), dump.prog.read_u64(address + running)
                real: int = struct.unpack("<q", dump.prog.read(address + offset, 8))[0]
                if _DATES[0] < now < _DATES[1] and abs(now - since - real / 1e9) <= 2.0:
                    return real / 1e9
    return None


def _clocks(dump: Dump) -> Iterator[int]:
    """Yield the addresses at which the timekeeper may lie: as a member of its data, else behind a sequence count."""
    prog = dump.prog
    for symbol in ("timekeeper_data", "tk_core"):
        with suppress(LookupError):
            start = prog.symbol(symbol).address
            with suppress(LookupError):
                yield start + layout(prog, "struct tk_data").at("timekeeper")
            yield from (start + offset for offset in _OFFSETS)
