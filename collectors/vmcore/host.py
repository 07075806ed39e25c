"""Which host crashed: its name, CPUs, memory, and how long it had run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from drgn.helpers.linux.cpumask import for_each_present_cpu

from collectors.vmcore.open import DAMAGE, Dump
from wardround.models.vmcore import DumpHeader, LogLine


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
    return replace(header, uptime=log[-1].time) if log else header
