"""Every slab cache: how many objects, how many bytes, and of the largest whose they are.

Source: the allocator's own counters (`slabs`), the links below ``/sys/kernel/slab`` for the names of merged caches, a
sample of objects (`owners`). Bytes are those of whole slabs. It cannot know large allocations that bypass the caches
(kmalloc above 8 KiB): they are in the part ``slab_unreclaimable`` of `memory` but in no cache.
Cost: 60 to 90 ms with 150 caches, of 600,000 objects too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from drgn import FaultError, Program

from collectors.vmcore.layout import layout
from collectors.vmcore.modules import AddressMap, address_map
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.owners import OwnerFinder
from collectors.vmcore.pages import PAGE_SHIFT
from collectors.vmcore.slabs import Cache, Slabs, slabs
from collectors.vmcore.words import words
from wardround.models.vmcore import CacheUse

MOST_SAMPLED = 6  # caches whose objects are looked at
_LEAST_SAMPLED = 1 << 20
_MOST_LINKS = 8192
_KERNFS_LINK = 4


def read_slab(dump: Dump, areas: AddressMap | None = None) -> tuple[CacheUse, ...]:
    """Return all caches, largest first. :raises LookupError, FaultError: the dump's allocator cannot be read"""
    prog = dump.prog
    allocator = slabs(prog)
    names = _aliases(prog, allocator)
    uses = [_use(allocator, cache, names.get(cache.address, ())) for cache in allocator.caches.values()]
    found = sorted((use for use in uses if use is not None), key=lambda use: -use.bytes)
    try:
        known = areas or address_map(dump)
        return tuple(_with_owners(prog, allocator, known, found))
    except DAMAGE as error:
        dump.lost["slab owners"] = f"whose slab objects are cannot be told ({error})"
        return tuple(found)


def _use(allocator: Slabs, cache: Cache, aliases: Sequence[str]) -> CacheUse | None:
    """One cache's use; None where its counters are damaged."""
    try:
        usage = allocator.usage(cache)
    except DAMAGE:
        return None
    return CacheUse(
        name=cache.name,
        address=cache.address,
        object_size=cache.object_size,
        active=usage.active,
        total=usage.total,
        bytes=usage.slabs * cache.pages << PAGE_SHIFT,
        merged=max(0, cache.users - 1),
        reclaimable=cache.reclaimable,
        aliases=tuple(aliases),
    )


def _with_owners(prog: Program, allocator: Slabs, areas: AddressMap, found: Sequence[CacheUse]) -> Iterable[CacheUse]:
    """Add owners to the largest caches: what the kernel could take back at will is nobody's leak, so it comes last."""
    finder = OwnerFinder(prog, allocator, areas)
    ranked = sorted(found, key=lambda use: (use.reclaimable, -use.bytes))
    chosen = {use.address for use in ranked[:MOST_SAMPLED] if use.bytes >= _LEAST_SAMPLED}
    for use in found:
        if use.address not in chosen:
            yield use
            continue
        told = finder.owners(allocator.caches[use.address])
        yield replace(
            use,
            sampled=told.sampled,
            owners=told.owners,
            allocators=told.allocators,
            variables=told.variables,
            module=told.module,
            certainty=told.certainty,
            alike=told.alike,
            aliases=tuple(_own_first(prog, areas, told.module, use.aliases)),
        )


def _own_first(prog: Program, areas: AddressMap, module: str, aliases: Sequence[str]) -> list[str]:
    """Put those names first that are strings of the module."""
    if not module or not aliases:
        return list(aliases)
    text = b"\0"
    for region in areas.regions:
        if region.module == module and region.part == "data":
            text += words(prog).some(region.start, (region.end - region.start) // 8).tobytes() + b"\0"
    own = [name for name in aliases if b"\0" + name.encode() + b"\0" in text]
    return own + [name for name in aliases if name not in own]


def _aliases(prog: Program, allocator: Slabs) -> dict[int, list[str]]:
    """Names of merged caches by the cache they were merged into: links in sysfs, whose tree lies in memory."""
    found: dict[int, list[str]] = {}
    try:
        node, at_kobj = layout(prog, "struct kernfs_node"), layout(prog, "struct kmem_cache").at("kobj")
        directory = words(prog).u64(
            words(prog).u64(prog.symbol("slab_kset").address)
            + layout(prog, "struct kset").at("kobj")
            + layout(prog, "struct kobject").at("sd")
        )
        waiting = [words(prog).u64(directory + node.at("dir.children"))]
        tree = layout(prog, "struct rb_node")
        rb, left, right = node.at("rb"), tree.at("rb_left"), tree.at("rb_right")
    except (LookupError, FaultError):
        return found
    for _ in range(_MOST_LINKS):
        if not waiting:
            break
        entry = waiting.pop()
        if not entry:
            continue
        try:
            waiting += [words(prog).u64(entry + left), words(prog).u64(entry + right)]
            link = entry - rb
            if not words(prog).u32(link + node.at("flags")) & _KERNFS_LINK:
                continue
            target = words(prog).u64(link + node.at("symlink.target_kn"))
            cache = words(prog).u64(target + node.at("priv")) - at_kobj
            name = words(prog).text(words(prog).u64(link + node.at("name")))
        except (LookupError, FaultError):
            continue
        if cache in allocator.caches and name != allocator.caches[cache].name:
            found.setdefault(cache, []).append(name)
    return found
