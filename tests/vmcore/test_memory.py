"""Where the memory is, compared with what the kernel itself printed."""

from __future__ import annotations

import re

import pytest
from drgn import Object

from collectors.vmcore.memory import read_memory
from tests.vmcore.conftest import SERIES, Dump, Vmcores
from tests.vmcore.opened import opened

PAGE = 4096


def test_the_parts_add_up(dump: Dump) -> None:
    memory = read_memory(opened(dump.path))
    parts = dict(memory.parts)
    assert sum(parts.values()) == memory.total
    assert 0 <= parts["unaccounted"] < 0.05 * memory.total
    assert 64 << 20 < memory.total < 128 << 20


@pytest.mark.parametrize("series", SERIES)
def test_an_account_equals_the_kernel_s_own_report(vmcores: Vmcores, series: str) -> None:
    dump = vmcores.get("oom", series)
    parts = dict(read_memory(opened(dump.path)).parts)
    text = dump.log.read_text(errors="replace")

    def pages(name: str) -> int:
        return int(re.findall(rf"\b{name}:(\d+)(?!\d|kB)", text)[-1])

    assert parts["slab_unreclaimable"] == pytest.approx(PAGE * pages("slab_unreclaimable"), rel=0.02)
    assert parts["slab_reclaimable"] == pytest.approx(PAGE * pages("slab_reclaimable"), rel=0.02)
    assert parts["page_tables"] == PAGE * pages("pagetables")
    assert parts["shared"] == PAGE * pages("shmem")
    assert parts["free"] == pytest.approx(PAGE * (pages("free") + pages("free_pcp")), abs=256 << 10)
    stack_kib = int(re.findall(r"kernel_stack:(\d+)kB", text)[-1])
    assert parts["kernel_stacks"] == pytest.approx(stack_kib << 10, abs=64 << 10)


@pytest.mark.parametrize("series", SERIES)
def test_resident_pages_of_processes_equal_the_kernel_s_table(vmcores: Vmcores, series: str) -> None:
    """Plain counters in 6.1, per-CPU ones since 6.2; 6.1 keeps up to 64 pages of a task back from its process."""
    dump = vmcores.get("oom", series)
    prog = opened(dump.path).prog
    table = re.findall(r"\] \[ *(\d+)\] +\d+ +\d+ +\d+ +(\d+) ", dump.log.read_text(errors="replace"))
    told = {int(pid): int(rss) for pid, rss in table}
    assert told
    for address, size in read_memory(opened(dump.path)).largest_tasks:
        pid = Object(prog, "struct task_struct", address=address).pid.value_()
        if pid in told:  # the table leaves out kernel threads
            assert size == pytest.approx(PAGE * told[pid], abs=64 * PAGE)
            told.pop(pid)
    assert not told
