"""The slab allocator (SLUB) from inside: caches, free lists, and which object an address lies in.

Source: ``slab_caches``, ``struct kmem_cache`` with its node and CPU parts, ``struct slab`` in the map of page frames.
Free objects are those on a slab's own list and on the lists of all possible CPUs (a panic takes CPUs offline, their
lists stay); hardened list pointers are decoded. Where slab debugging is on, an object carries who allocated and who
freed it. Kernels whose CPUs keep sheaves of objects (6.18): objects there count as in use. SLAB and SLOB are not read.
"""

from __future__ import annotations

from dataclasses import dataclass

from drgn import FaultError, Program

from collectors.vmcore.layout import Layout, cpu_offsets, each_node, layout, slab_layout
from collectors.vmcore.pages import PAGE_SHIFT, page_map
from collectors.vmcore.walk import nodes
from collectors.vmcore.words import words

MOST_CACHES = 4096
_MOST_OBJECTS = 32_768  # a slab counts its objects in 15 bits
_MOST_PARTIAL = 20_000
_MOST_CPU_PARTIAL = 1024
_RECLAIMABLE = 0x10  # ___GFP_RECLAIMABLE, the same since 2.6
# slab flags by their names since 6.10 and their values before
_FLAGS = {"_SLAB_STORE_USER": 0x10000, "_SLAB_RED_ZONE": 0x400, "_SLAB_POISON": 0x800}


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache's constants. `size` is an object's stride in its slab, `object_size` what its user asked for, `users`
    how many caches were merged into one (the kernel's own of boot count as -1)."""

    address: int
    name: str
    size: int
    object_size: int
    pages: int
    per_slab: int
    users: int
    reclaimable: bool
    store_user: bool
    red_zone: bool
    poison: bool
    inuse: int
    next_at: int
    left_pad: int
    random: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Objects in use and in all, and slabs."""

    active: int
    total: int
    slabs: int


@dataclass(frozen=True, slots=True)
class SlabObject:
    """The object that an address lies in. `free` is None where its lists are damaged; `allocated_by` and `freed_by`
    are code addresses, known where slab debugging stores them."""

    cache: Cache
    address: int
    slab: int
    free: bool | None
    allocated_by: int | None = None
    freed_by: int | None = None


class Slabs:
    """The caches of a dump."""

    def __init__(self, prog: Program) -> None:
        """:raises LookupError, FaultError: the dump does not know the allocator's structures"""
        self.prog, self.words = prog, words(prog)
        self._cache, self._slab = layout(prog, "struct kmem_cache"), slab_layout(prog)
        self._node, self._cpu = layout(prog, "struct kmem_cache_node"), _cpu_layout(prog, self._cache)
        self._used, self._objects = self._slab.bits("inuse"), self._slab.bits("objects")
        self._flags = {name: _flag(prog, name, old) for name, old in _FLAGS.items()}
        self._random_at = self._cache.at("random") if self._cache.has("random") else None
        self._taken: dict[int, frozenset[int]] = {}
        self.caches: dict[int, Cache] = {}
        for node in nodes(prog, prog.symbol("slab_caches").address, MOST_CACHES, "slab caches"):
            address = node - self._cache.at("list")
            try:
                self.caches[address] = self._read(address)
            except FaultError:
                continue

    def _read(self, address: int) -> Cache:
        at, memory = self._cache.at, self.words
        order = memory.u32(address + at("oo"))
        flags = memory.u32(address + at("flags"))
        on = {name: bool(flags & bit) for name, bit in self._flags.items()}
        return Cache(
            address=address,
            name=memory.text(memory.u64(address + at("name"))),
            size=memory.u32(address + at("size")),
            object_size=memory.u32(address + at("object_size")),
            pages=1 << min(order >> 16, 16),
            per_slab=order & 0xFFFF,
            users=memory.s32(address + at("refcount")),
            reclaimable=bool(memory.u32(address + at("allocflags")) & _RECLAIMABLE),
            store_user=on["_SLAB_STORE_USER"],
            red_zone=on["_SLAB_RED_ZONE"],
            poison=on["_SLAB_POISON"],
            inuse=memory.u32(address + at("inuse")),
            next_at=memory.u32(address + at("offset")),
            left_pad=memory.u32(address + at("red_left_pad")) if self._cache.has("red_left_pad") else 0,
            random=memory.u64(address + self._random_at) if self._random_at is not None else None,
        )

    # --- how much ---

    def usage(self, cache: Cache) -> Usage:
        """Count a cache's objects without looking at each. :raises LookupError, FaultError: the counters are not there

        The kernel counts objects in all; the free ones are those in partly used slabs and in the CPUs' lists."""
        slabs = total = free = 0
        for node in self._nodes(cache):
            slabs += self.words.s64(node + self._node.at("nr_slabs"))
            total += self.words.s64(node + self._node.at("total_objects"))
            for entry in each_node(self.prog, node + self._node.at("partial"), _MOST_PARTIAL):
                free += self._free_in(entry - self._slab.at("slab_list"))
        free += sum(self._free_on_cpu(cache, base) for base in self._cpus(cache))
        return Usage(max(0, total - free), max(0, total), max(0, slabs))

    def _nodes(self, cache: Cache) -> list[int]:
        count = min(self.words.u32(self.prog.symbol("nr_node_ids").address), 64)
        if self._cache.has("per_node"):
            entry = layout(self.prog, "struct kmem_cache_per_node_ptrs")
            first = cache.address + self._cache.at("per_node") + entry.at("node")
            found = [self.words.u64(first + entry.size * index) for index in range(count)]
        else:
            found = list(self.words.many(cache.address + self._cache.at("node"), count))
        return [node for node in found if node]

    def _free_in(self, slab: int) -> int:
        return max(0, self.words.bits(slab, self._objects) - self.words.bits(slab, self._used))

    def _cpus(self, cache: Cache) -> list[int]:
        """Addresses of the CPUs' parts of a cache."""
        if self._cpu is None:
            return []
        base = self.words.u64(cache.address + self._cache.at("cpu_slab"))
        return [(base + offset) % (1 << 64) for offset in cpu_offsets(self.prog)] if base else []

    def _free_on_cpu(self, cache: Cache, cpu: int) -> int:
        """Free objects that a CPU keeps: its list, what others gave back to its slab, and its partly used slabs."""
        assert self._cpu is not None
        free = len(self._list(cache, self.words.u64(cpu + self._cpu.at("freelist")))[0])
        if slab := self.words.u64(cpu + self._cpu.at("slab", "page")):
            free += self._free_in(slab)
        return free + sum(self._free_in(slab) for slab in self._cpu_partial(cpu))

    def _cpu_partial(self, cpu: int) -> list[int]:
        found: list[int] = []
        if self._cpu is not None and self._cpu.has("partial"):
            slab = self.words.u64(cpu + self._cpu.at("partial"))
            while slab and slab not in found[-64:] and len(found) < _MOST_CPU_PARTIAL:
                found.append(slab)
                slab = self.words.u64(slab + self._slab.at("next"))
        return found

    # --- which are free ---

    def _list(self, cache: Cache, first: int) -> tuple[set[int], bool]:
        """Return a free list's objects and whether it ended well."""
        found: set[int] = set()
        node = first
        while node:
            if node in found or len(found) > _MOST_OBJECTS:
                return found, False
            found.add(node)
            try:
                node = self._next(cache, node + cache.next_at)
            except FaultError:
                return found, False
        return found, True

    def _next(self, cache: Cache, at: int) -> int:
        value = self.words.u64(at)
        if cache.random is None:
            return value
        return value ^ cache.random ^ int.from_bytes(at.to_bytes(8, "little"), "big")

    def kept_by_cpus(self, cache: Cache) -> frozenset[int]:
        """Free objects on the CPUs' own lists, which a slab's counters take for used."""
        if cache.address not in self._taken:
            found: set[int] = set()
            for cpu in self._cpus(cache):
                try:
                    assert self._cpu is not None
                    found |= self._list(cache, self.words.u64(cpu + self._cpu.at("freelist")))[0]
                except FaultError:
                    continue
            self._taken[cache.address] = frozenset(found)
        return self._taken[cache.address]

    def free_in_slab(self, cache: Cache, slab: int) -> tuple[set[int], bool]:
        """Return the addresses of a slab's free objects, and whether its list ended well."""
        found, whole = self._list(cache, self.words.u64(slab + self._slab.at("freelist")))
        return found | self.kept_by_cpus(cache), whole

    def objects(self, cache: Cache, slab: int) -> range:
        """Return the addresses of all objects of a slab. :raises LookupError, FaultError: no page map"""
        first = page_map(self.prog).address(slab) + cache.left_pad
        count = min(self.words.bits(slab, self._objects), (cache.pages << PAGE_SHIFT) // max(cache.size, 1))
        return range(first, first + count * cache.size, max(cache.size, 1))

    def find(self, address: int) -> SlabObject | None:
        """Return the object that an address lies in; None where it is in no slab."""
        try:
            slab = page_map(self.prog).head(address)
            cache = self.caches.get(self.words.u64(slab + self._slab.at("slab_cache"))) if slab else None
            if slab is None or cache is None:
                return None
            objects = self.objects(cache, slab)
            # the left red zone belongs to the object after it
            index = (address - (objects.start - cache.left_pad)) // max(cache.size, 1)
            if not 0 <= index < len(objects):
                return None
            start = objects[index]
            free, whole = self.free_in_slab(cache, slab)
            by = self._tracks(cache, start)
        except (LookupError, FaultError):
            return None
        state = True if start in free else False if whole else None
        return SlabObject(cache, start, slab, state, *by)

    def _tracks(self, cache: Cache, start: int) -> tuple[int | None, int | None]:
        """Who allocated and who freed an object last: two records behind it, where slab debugging is on."""
        if not cache.store_user:
            return None, None
        track = layout(self.prog, "struct track")
        at = start + cache.inuse + (8 if cache.next_at >= cache.inuse else 0)
        found = [self.words.u64(at + n * track.size + track.at("addr")) or None for n in range(2)]
        return found[0], found[1]


def _cpu_layout(prog: Program, cache: Layout) -> Layout | None:
    """The CPUs' parts; newer kernels have none."""
    return layout(prog, "struct kmem_cache_cpu") if cache.has("cpu_slab") else None


def _flag(prog: Program, name: str, old: int) -> int:
    """A slab flag: an enumerated bit since 6.10, whose numbers changed then."""
    try:
        return 1 << int(prog.constant(name).value_())
    except LookupError:
        return old


def slabs(prog: Program) -> Slabs:
    """Return a program's slab reader, made once. :raises LookupError, FaultError: as `Slabs`"""
    if "wardround_slabs" not in prog.cache:
        prog.cache["wardround_slabs"] = Slabs(prog)
    made: Slabs = prog.cache["wardround_slabs"]
    return made
