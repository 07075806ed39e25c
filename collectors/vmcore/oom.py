"""Who holds the memory, for a kernel that ran out of it: slab caches, processes, vmalloc, page cache, by bytes.

Joins the kernel's counters (`memory`), the slab caches with their owners (`slab`) and vmalloc by caller into one ranked
list. A holder is told with what shows that it does not let go: a cache whose objects are nearly all in use, none of
which the kernel could take back. It cannot know which holder grew last: a dump is one moment.
Cost: 1 ms, with vmalloc's areas where they hold much 5 ms.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from collectors.vmcore import takers
from collectors.vmcore.memory import read_memory
from collectors.vmcore.modules import address_map
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.slab import read_slab
from collectors.vmcore.vmalloc import read_vmalloc
from wardround.models.vmcore import CacheUse, MemoryHolder, MemoryUse

MOST_HOLDERS = 12
_LEAST_SHARE = 0.005
_MUCH = 0.05
_ALL_USED = 0.95
# parts of memory that hold it themselves; slab, vmalloc and the processes' pages are told by who has them
_PARTS = {
    "anonymous": "memory of processes, together",
    "page_cache": "page cache",
    "shared": "shared memory and tmpfs",
    "page_tables": "page tables",
    "kernel_stacks": "kernel stacks",
    "percpu": "per-CPU memory",
    "huge_pages": "huge page pools",
    "compressed": "compressed swap",
    "balloon": "memory given back to the hypervisor",
    "iommu": "page tables of the IOMMU",
    "unaccounted": "pages that no counter covers (drivers, tables of boot)",
}

Allocations = Sequence[tuple[str, str, int]]


def read_oom(dump: Dump, names: Mapping[int, str], suspected: Collection[str] = ()) -> MemoryUse:
    """Return the account with its caches and ranked holders. `names` are those of tasks by address.

    The code of the `suspected` modules is searched for who takes such memory, where the largest holder names nobody.

    :raises LookupError, FaultError: neither the counters nor the caches can be read
    """
    memory = MemoryUse(0)
    caches: tuple[CacheUse, ...] = ()
    try:
        memory = read_memory(dump)
    except DAMAGE as error:
        dump.lost["memory"] = f"the counters of memory cannot be read ({error})"
    try:
        caches = read_slab(dump)
    except DAMAGE as error:
        if not memory.total:
            raise
        dump.lost["slab"] = f"the slab caches cannot be read ({error})"
    allocations: Allocations = ()
    if dict(memory.parts).get("vmalloc", 0) > _MUCH * memory.total:
        try:
            allocations = read_vmalloc(dump)
        except DAMAGE as error:
            dump.lost["vmalloc callers"] = f"who holds memory of vmalloc cannot be told ({error})"
    ranked = holders(memory, caches, allocations, names)
    if suspected and ranked:
        ranked = (_with_takers(dump, ranked[0], caches, suspected), *ranked[1:])
    return replace(memory, caches=caches, holders=ranked)


def _with_takers(
    dump: Dump, largest: MemoryHolder, caches: Sequence[CacheUse], suspected: Collection[str]
) -> MemoryHolder:
    """The largest holder with the functions whose code takes such memory."""
    if largest.kind == "unaccounted":
        return replace(largest, takers=takers.of_pages(dump.prog, address_map(dump), suspected))
    cache = next((cache for cache in caches if largest.kind == "slab" and largest.name == cache.name), None)
    if cache is None or cache.module:
        return largest
    return replace(largest, takers=takers.of_cache(dump.prog, address_map(dump), cache.address, suspected))


def holders(
    memory: MemoryUse, caches: Sequence[CacheUse], allocations: Allocations, names: Mapping[int, str]
) -> tuple[MemoryHolder, ...]:
    """Rank who holds memory; those with less than half a percent are left out."""
    # without the kernel's total, what is known stands for all
    total = memory.total or sum(cache.bytes for cache in caches) or 1
    found = [
        *_slab(memory, caches),
        *(_process(address, size, names.get(address, "")) for address, size in memory.largest_tasks),
        *_vmalloc(memory, allocations),
        *_parts(memory),
    ]
    ranked = sorted((one for one in found if one.bytes >= _LEAST_SHARE * total), key=lambda one: -one.bytes)
    return tuple(
        replace(one, share=one.bytes / total, statement=f"{one.statement}: {_size(one.bytes)}, {one.bytes / total:.0%}")
        for one in ranked[:MOST_HOLDERS]
    )


def _slab(memory: MemoryUse, caches: Sequence[CacheUse]) -> Iterable[MemoryHolder]:
    for cache in caches:
        yield MemoryHolder(
            kind="slab",
            name=cache.aliases[0] if cache.module and cache.aliases else cache.name,
            bytes=cache.bytes,
            share=0.0,
            module=cache.module,
            functions=_functions(cache),
            statement=_told(cache),
            certainty=cache.certainty,
        )
    parts = dict(memory.parts)
    large = parts.get("slab_unreclaimable", 0) - sum(cache.bytes for cache in caches if not cache.reclaimable)
    if caches and large > 0:
        yield MemoryHolder("slab", "kmalloc-large", large, 0.0, statement="allocations too large for a slab cache")


def _functions(cache: CacheUse) -> tuple[str, ...]:
    """Who allocated, then what objects point to; of the module only, where one is known."""
    names = [name for name, _ in (*cache.allocators, *cache.owners)]
    if cache.module:
        names = [name for name in names if f"[{cache.module}]" in name]
    return tuple(dict.fromkeys(names))[:4]


def _told(cache: CacheUse) -> str:
    """What makes a cache's objects somebody's."""
    parts = [f"slab cache {cache.name}"]
    if cache.aliases:
        parts.append(f"(shared with {', '.join(cache.aliases[:3])})")
    if cache.module:
        parts.append(f"of module {cache.module}")
    text = f"{' '.join(parts)}, {cache.active} objects of {cache.object_size} bytes"
    most = [name for name, count in cache.owners if 2 * count >= cache.sampled > 0]
    if cache.module:
        text += _shown(cache)
    elif most:
        text += f", most point to {', '.join(most[:3])}"
    elif cache.alike:
        text += f", alike: {cache.alike}"
    if cache.total and cache.active >= _ALL_USED * cache.total and not cache.reclaimable:
        text += ", nearly none free"
    return text


def _shown(cache: CacheUse) -> str:
    """What shows that a cache's objects are its module's."""
    for told, verb in ((cache.allocators, "were allocated by"), (cache.owners, "point to")):
        for name, count in told:
            if f"[{cache.module}]" in name:
                return f", {count} of {cache.sampled} sampled {verb} {name}"
    return f", reached from {cache.variables[0]}" if cache.variables else ""


def _process(address: int, size: int, name: str) -> MemoryHolder:
    return MemoryHolder(
        "process", f"{address:#x}", size, 0.0, statement=f"process {name or hex(address)}", certainty="read"
    )


def _vmalloc(memory: MemoryUse, allocations: Allocations) -> Iterable[MemoryHolder]:
    for function, module, size in allocations:
        whose = f"{function} [{module}]" if module else function
        yield MemoryHolder("vmalloc", function, size, 0.0, module, (whose,), f"vmalloc by {whose}")
    if not allocations:
        held = dict(memory.parts).get("vmalloc", 0)
        yield MemoryHolder("vmalloc", "vmalloc", held, 0.0, statement="vmalloc", certainty="read")


def _parts(memory: MemoryUse) -> Iterable[MemoryHolder]:
    for part, size in memory.parts:
        if part in _PARTS:
            yield MemoryHolder(part, part, size, 0.0, statement=_PARTS[part], certainty="read")


def _size(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB" if size < 1 << 30 else f"{size / (1 << 30):,.2f} GiB"
