"""Where the memory is: what the kernel's own counters say, and which processes hold most.

Sources: ``vm_node_stat``, ``vm_zone_stat`` with what the CPUs have not yet added to them, the free pages that CPUs
keep, ``nr_vmalloc_pages``, the per-CPU allocator, huge page pools; ``mm_struct.rss_stat`` of every process. Items are
found by their enumerators' names. What the counters do not add up to is ``unaccounted``: pages that drivers took
straight from the page allocator; it is negative where counters overlap. It cannot know who took those.
Cost: 20 to 30 ms with 60 tasks, 35 µs for each further process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from drgn import FaultError, Program

from collectors.vmcore.layout import Layout, cpu_offsets, each_node, enumerators, layout, page_size
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.words import words
from wardround.models.vmcore import MemoryUse

MOST_TASKS = 10
_MOST_NODES = 64
# parts by the node counters (pages) that make them up
_NODE_PARTS = {
    "anonymous": ("NR_ANON_MAPPED",),
    "shared": ("NR_SHMEM",),
    "slab_reclaimable": ("NR_SLAB_RECLAIMABLE_B", "NR_SLAB_RECLAIMABLE"),
    "slab_unreclaimable": ("NR_SLAB_UNRECLAIMABLE_B", "NR_SLAB_UNRECLAIMABLE"),
    "page_tables": ("NR_PAGETABLE", "NR_SECONDARY_PAGETABLE"),
    "kernel_reclaimable": ("NR_KERNEL_MISC_RECLAIMABLE",),
    "iommu": ("NR_IOMMU_PAGES",),
    "balloon": ("NR_BALLOON_PAGES",),
}
_ZONE_PARTS = {"bounce": ("NR_BOUNCE",), "compressed": ("NR_ZSPAGES",), "unaccepted": ("NR_UNACCEPTED",)}


def read_memory(dump: Dump) -> MemoryUse:
    """Return totals and the largest processes (task address of the leader, bytes resident); slab caches are
    `slab.read_slab`'s. :raises LookupError, FaultError: the counters are not in the dump"""
    prog, page = dump.prog, page_size(dump.info)
    with_pages = zones(prog)
    node = _counters(prog, "node_stat_item", "vm_node_stat", _node_differences(prog))
    zone = _counters(prog, "zone_stat_item", "vm_zone_stat", _zone_differences(prog, with_pages))
    total = _word(prog, "_totalram_pages", "totalram_pages")
    if not total:
        raise LookupError("the dump does not tell how much memory there was")
    parts = {"free": zone.get("NR_FREE_PAGES", 0) + _kept_by_cpus(prog, with_pages)}
    parts |= {part: sum(node.get(name, 0) for name in names) for part, names in _NODE_PARTS.items()}
    parts |= {part: sum(zone.get(name, 0) for name in names) for part, names in _ZONE_PARTS.items()}
    # pages of files: shared memory and the swap cache are counted among them
    parts["page_cache"] = max(0, node.get("NR_FILE_PAGES", 0) - node.get("NR_SHMEM", 0) - node.get("NR_SWAPCACHE", 0))
    parts["kernel_stacks"] = node.get("NR_KERNEL_STACK_KB", 0) * 1024 // page
    parts["vmalloc"] = _vmalloc(prog, node, parts["kernel_stacks"])
    parts["percpu"] = _percpu(prog)
    parts["huge_pages"] = _huge_pages(prog)
    parts["unaccounted"] = total - sum(parts.values())
    return MemoryUse(
        total=total * page,
        parts=tuple((name, pages * page) for name, pages in sorted(parts.items(), key=lambda one: -one[1]) if pages),
        largest_tasks=tuple(_largest(prog, page)),
    )


def _word(prog: Program, *symbols: str) -> int:
    """A variable of one word by its symbol, 0 where there is none."""
    for symbol in symbols:
        try:
            return words(prog).u64(prog.symbol(symbol).address)
        except (LookupError, FaultError):
            continue
    return 0


def _counters(prog: Program, enumeration: str, symbol: str, differences: dict[int, int]) -> dict[str, int]:
    """Counters by their enumerators' names: the global sums and what CPUs still held back."""
    start = prog.symbol(symbol).address
    found: dict[str, int] = {}
    for name, index in enumerators(prog, enumeration).items():
        if not name.startswith("NR_VM_") and 0 <= index < 256:
            found[name] = max(0, words(prog).s64(start + 8 * index) + differences.get(index, 0))
    return found


def _nodes(prog: Program) -> Iterator[int]:
    try:
        yield prog.symbol("contig_page_data").address
        return
    except LookupError:
        start = prog.symbol("node_data").address
    for index in range(min(words(prog).u32(prog.symbol("nr_node_ids").address), _MOST_NODES)):
        if node := words(prog).u64(start + 8 * index):
            yield node


def zones(prog: Program) -> list[int]:
    """Addresses of the zones that have pages, as far as they can be read."""
    found: list[int] = []
    with suppress(LookupError, FaultError):
        found.extend(_zones(prog))
    return found


def _zones(prog: Program) -> Iterator[int]:
    data, zone = layout(prog, "struct pglist_data"), layout(prog, "struct zone")
    for node in _nodes(prog):
        first = node + data.at("node_zones")
        for address in range(first, first + data.length("node_zones") * zone.size, zone.size):
            if words(prog).u64(address + zone.at("present_pages")):
                yield address


def _summed(prog: Program, bases: list[int], members: Layout, array: str) -> dict[int, int]:
    """Sum the signed bytes of per-CPU differences by item."""
    sums: dict[int, int] = {}
    at, length = members.at(array), members.length(array)
    for base in bases:
        for offset in cpu_offsets(prog):
            raw = words(prog).read(base + offset + at, length)
            for index in range(length):
                sums[index] = sums.get(index, 0) + raw[index] - (256 if raw[index] > 127 else 0)
    return sums


def _node_differences(prog: Program) -> dict[int, int]:
    try:
        at = layout(prog, "struct pglist_data").at("per_cpu_nodestats")
        bases = [words(prog).u64(node + at) for node in _nodes(prog)]
        return _summed(prog, bases, layout(prog, "struct per_cpu_nodestat"), "vm_node_stat_diff")
    except (LookupError, FaultError):
        return {}


def _zone_differences(prog: Program, with_pages: list[int]) -> dict[int, int]:
    try:
        at = layout(prog, "struct zone").at("per_cpu_zonestats")
        bases = [words(prog).u64(zone + at) for zone in with_pages]
        return _summed(prog, bases, layout(prog, "struct per_cpu_zonestat"), "vm_stat_diff")
    except (LookupError, FaultError):
        return {}


def _kept_by_cpus(prog: Program, with_pages: list[int]) -> int:
    """Free pages in the CPUs' own lists, which the free counter leaves out."""
    try:
        at, count = layout(prog, "struct zone").at("per_cpu_pageset"), layout(prog, "struct per_cpu_pages").at("count")
        bases = [words(prog).u64(zone + at) + count for zone in with_pages]
        return sum(words(prog).u32(base + offset) for base in bases for offset in cpu_offsets(prog))
    except (LookupError, FaultError):
        return 0


def _vmalloc(prog: Program, node: dict[str, int], stacks: int) -> int:
    """Pages of vmalloc without the kernel stacks, which come from there where the kernel maps them so."""
    pages = node.get("NR_VMALLOC") or _word(prog, "nr_vmalloc_pages")
    mapped = layout(prog, "struct task_struct").has("stack_vm_area") is not None
    return max(0, pages - stacks) if mapped else pages


def _percpu(prog: Program) -> int:
    """Pages the per-CPU allocator took since boot; its first chunk was set aside before memory was counted."""
    try:
        chunk = words(prog).u64(prog.symbol("pcpu_first_chunk").address)
        first = words(prog).u32(chunk + layout(prog, "struct pcpu_chunk").at("nr_pages"))
        units = words(prog).u32(prog.symbol("pcpu_nr_units").address)
    except (LookupError, FaultError):
        return 0
    return max(0, _word(prog, "pcpu_nr_populated") - first) * units


def _huge_pages(prog: Program) -> int:
    try:
        start, pool = prog.symbol("hstates").address, layout(prog, "struct hstate")
        count = words(prog).u32(prog.symbol("hugetlb_max_hstate").address)
        pools = range(start, start + min(count, 8) * pool.size, pool.size)
        return sum(
            words(prog).u64(at + pool.at("nr_huge_pages")) << min(words(prog).u32(at + pool.at("order")), 24)
            for at in pools
        )
    except (LookupError, FaultError):
        return 0


def _largest(prog: Program, page: int) -> list[tuple[int, int]]:
    """The processes with most resident memory; one that is damaged is left out."""
    task = layout(prog, "struct task_struct")
    held: dict[int, tuple[int, int]] = {}
    for node in each_node(prog, prog.symbol("init_task").address + task.at("tasks")):
        leader = node - task.at("tasks")
        try:
            mm = words(prog).u64(leader + task.at("mm"))
            if mm and mm not in held:
                held[mm] = (leader, page * _resident(prog, mm))
        except DAMAGE:
            continue
    return sorted(held.values(), key=lambda one: -one[1])[:MOST_TASKS]


def _resident(prog: Program, mm: int) -> int:
    """Pages of a process: plain counters, or per-CPU ones since 6.2."""
    members, names = layout(prog, "struct mm_struct"), _resident_items(prog)
    start = mm + members.at("rss_stat")
    if members.has("rss_stat.count"):
        return sum(max(0, words(prog).s64(start + 8 * index)) for index in names)
    counter = layout(prog, "struct percpu_counter")
    pages = 0
    for index in names:
        one = start + counter.size * index
        base = words(prog).u64(one + counter.at("counters"))
        value = words(prog).s64(one + counter.at("count"))
        for offset in cpu_offsets(prog) if base else ():
            value += words(prog).s32(base + offset)
        pages += max(0, value)
    return pages


def _resident_items(prog: Program) -> tuple[int, ...]:
    cached = prog.cache.get("wardround_rss_items")
    if cached is None:
        names = ("MM_FILEPAGES", "MM_ANONPAGES", "MM_SHMEMPAGES")
        cached = prog.cache["wardround_rss_items"] = tuple(prog.constant(name).value_() for name in names)
    found: tuple[int, ...] = cached
    return found
